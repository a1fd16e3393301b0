"""SPT: which matrices get a LoRA, and which single entries of the others are trained, within one budget.

Source: He et al. 2023 (arXiv:2303.08566). An entry's sensitivity is its squared gradient, summed over batches
before training; as the loss counts the cross-entropy of the gold responses, whatever the method. Where the
authors' code gives a LoRA to a matrix with a tenth as many sensitive entries as that has values, nearly all
matrices of a language model get one; here it is half (SHARE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdutils import encoding, losses
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.noise import generator
from kdutils.spec import RunSpec

BATCHES, PASS_ROWS, SHARE = 16, 4, 0.5


def squared_gradients(
    model: LoadedModel, matrices: dict[str, nn.Parameter], items: Sequence[Item], spec: RunSpec
) -> dict[str, Tensor]:
    """Name -> sum over up to BATCHES batches of the squared gradient of the mean loss, float32."""
    encoded = encoding.encode(items, model.tokenizer, **spec.encoding).with_format("arrow")
    order = torch.randperm(len(encoded), generator=generator(spec.seed, "sensitivity")).tolist()
    model.network.requires_grad_(False)
    found = {
        name: torch.zeros_like(w.requires_grad_(True), dtype=torch.float32) for name, w in matrices.items()
    }
    for rows in [order[i : i + spec.batch_size] for i in range(0, len(order), spec.batch_size)][:BATCHES]:
        batch = encoding.collate(encoded, rows, pad_id=model.pad_id)
        for part in batch.passes(max_rows=PASS_ROWS):
            hidden_NH = model.scoring_states(part)
            labels_N = part.input_ids_BT[part.scored_BT].to(hidden_NH.device)
            size = {"vocabulary_size": model.vocabulary_size}
            with model.policy.computing():
                loss = losses.cross_entropy(hidden_NH, model.head, labels_N, **size)
            (loss.total / batch.scored_BT.sum()).backward()
        for name, w in matrices.items():
            if w.grad is not None:
                found[name] += w.grad.float().square()
            w.grad = None
    model.network.requires_grad_(False)
    return found


def allocated(measured: dict[str, Tensor], *, rank: int, budget: int) -> tuple[list[str], Tensor]:
    """Names of the matrices that get a LoRA, and the entries of the others, flat over these end to end.

    The entries above one threshold are sensitive. A matrix with at least SHARE times as many of them as its
    LoRA has values gets that; the threshold is the lowest at which both together are at most `budget` values.
    """
    values = {name: rank * sum(tensor.shape) for name, tensor in measured.items()}

    def cost(threshold: float) -> dict[str, int]:
        """Values of each matrix; as many as its LoRA's are its LoRA's."""
        counts = {name: int((tensor > threshold).sum()) for name, tensor in measured.items()}
        return {name: values[name] if n >= SHARE * values[name] else n for name, n in counts.items()}

    def is_within(threshold: float) -> bool:
        return sum(cost(threshold).values()) <= budget

    high = max(float(tensor.max()) for tensor in measured.values())
    low = high * 1e-30
    while not is_within(low) and high / low > 1 + 1e-6:  # costs fall as the threshold rises
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (low, middle) if is_within(middle) else (middle, high)
    threshold = low if is_within(low) else high
    adapted = [name for name, n in cost(threshold).items() if n == values[name]]
    loose = [tensor.flatten() > threshold for name, tensor in measured.items() if name not in adapted]
    return adapted, torch.cat(loose).nonzero()[:, 0] if loose else torch.zeros(0, dtype=torch.int64)
