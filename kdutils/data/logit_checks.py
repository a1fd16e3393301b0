"""Whether a model's logits are those that the training module computes: tried when it is loaded."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdutils import generation
from kdutils.data.model_files import ModelError
from kdutils.head import head_of
from kdutils.models import LoadedModel, is_out_of_memory


def check_logits(model: LoadedModel, token_ids: list[int], *, in_batches: bool) -> None:
    """Refuse a model whose logits are not its head's, or depend on how a row is padded and read."""
    kind, remedy = model.causal.config.model_type, "give a model of another architecture"
    try:
        of_head = error_of_head(model.causal, token_ids, n_rows=model.vocabulary_size)
        of_batches = error_of_batches(model, token_ids) if in_batches else (0.0, 0.0)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{model.name}: kdutils cannot ask a model of type {kind} ({reason}); {remedy}"
        ) from error
    for (error, rounding), why, more in (
        (of_head, "does more to its logits than kdutils knows", ", or add it to kdutils/head.py"),
        (of_batches, "has logits that depend on how a row is padded and read", ""),
    ):
        if error > rounding:
            how_much = f"off by up to {error:.3g}, rounding explains {rounding:.3g}"
            raise ModelError(f"{model.name}: {kind} {why}: they would be {how_much}; {remedy}{more}")


@torch.no_grad()
def error_of_head(network: PreTrainedModel, token_ids: list[int], *, n_rows: int) -> tuple[float, float]:
    """Largest difference of logits by `head_of` from the model's own, and the difference rounding explains.

    On the weights' device and in their dtype, over the first `n_rows` tokens of the vocabulary.
    """
    head = head_of(network)
    ids_BT = torch.tensor([token_ids], device=head.weight_VH.device)
    states_BTH = network.get_decoder()(input_ids=ids_BT, use_cache=False).last_hidden_state
    found = head.logits(states_BTH)[..., :n_rows].float()
    own = network(input_ids=ids_BT, use_cache=False).logits[..., :n_rows].float()
    rounding = max(1e-5, 4 * torch.finfo(head.weight_VH.dtype).eps)
    return float((found - own).abs().max()), rounding * float(own.abs().max())


@torch.no_grad()
def error_of_batches(model: LoadedModel, token_ids: list[int]) -> tuple[float, float]:
    """How far a row's logits depend on how it is asked, and how much of that rounding explains.

    Alone in one pass; in a batch, padded on the right (training); padded on the left and continued with the
    cache (generation). Models that take no notice of masks or positions given to them differ.
    """
    model = replace(model, policy=replace(model.policy, autocast=None))  # all in the dtype of the weights
    rows, new = [token_ids[:3], token_ids], token_ids[:2]
    step, errors, largest = generation.Decoder(model, rows, n_more=2), [], 0.0

    def read(token: int, n_rows: int) -> Tensor:
        ones_BT = step.real_BT.new_ones(n_rows, 1)
        return step.read(ones_BT * token, ones_BT)[:2]

    left = [step.read_prompts(), read(new[0], 2)]
    if step.can_select:
        step.select(torch.tensor([0, 1, 1], device=step.real_BT.device))
    left_BTH = torch.cat([*left, read(new[1], len(step.real_BT))], dim=1)
    right_BT, _ = generation.padded(
        [row + new for row in rows], model.pad_id, model.policy.device, on_left=False
    )
    right_BTH = model.hidden_states(right_BT)
    for place, row in enumerate(rows):
        alone_TV = model.head.logits(model.hidden_states(torch.tensor([row + new]))[0, -3:]).float()
        for states_TH in (left_BTH[place], right_BTH[place, len(row) - 1 : len(row) + 2]):
            errors.append(float((model.head.logits(states_TH).float() - alone_TV).abs().max()))
        largest = max(largest, float(alone_TV.abs().max()))
    return max(errors), max(1e-4, 8 * torch.finfo(model.policy.weights).eps) * largest
