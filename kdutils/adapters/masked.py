"""Training of single entries of the matrices: which these are, is a list of flat indices.

Chosen are entries with large |g| / (|w| + EPSILON)^exponent, g being the gradient of a step: `static_mask`
takes all of them at the first step, `id3` an equal share at every step. Entries are never given up.
Source: ID3, Agarwal et al. 2025 (arXiv:2408.14470). As there, entries share the optimiser's count of steps,
so the first steps of one that comes late are larger (Adam's correction of its bias is small by then).

The gradient is dense for the length of a step; all else has the length of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdutils.models import LoadedModel
from kdutils.noise import key_of
from kdutils.spec import RunSpec

EPSILON = 1e-3
FILE = "entries.safetensors"  # <matrix>.index: flat positions, <matrix>.values: the weights there


class Mask:
    """Entries of some matrices that are trained, in the order in which they were chosen.

    `index` holds their places in the matrices laid end to end, `values` their weights in float32, `counts`
    how many there are by now and how often one was updated. What is beyond that number means nothing.
    """

    def __init__(self, matrices: dict[str, nn.Parameter], budget: int, index: Tensor | None = None) -> None:
        self.matrices = matrices
        device = next(iter(matrices.values())).device if matrices else "cpu"
        self.starts = torch.tensor([0, *(w.numel() for w in matrices.values())], device=device).cumsum(0)
        self.index = torch.zeros(budget, dtype=torch.int64, device=device)
        self.values = nn.Parameter(torch.zeros(1, budget, device=device))  # a matrix, so that they may decay
        self.counts = torch.zeros(2, dtype=torch.int64)
        self.n_updates = 0  # in all, also where `counts` is set back to the best epoch
        self.written = self.index[:0], self.values[0, :0].detach()  # entries as they were in the model
        if index is not None:
            self._add(index.to(device))

    @property
    def n(self) -> int:
        """Entries chosen so far."""
        return int(self.counts[0])

    def parts(self, index: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """For each matrix with some of these entries: name, flat positions in it, their places in `index`."""
        ordered, order = index.sort()
        bounds = torch.searchsorted(ordered, self.starts).tolist()
        for number, name in enumerate(self.matrices):
            if (own := slice(bounds[number], bounds[number + 1])).start < own.stop:
                yield name, ordered[own] - self.starts[number], order[own]

    def read(self, index: Tensor, source: Callable[[nn.Parameter], Tensor | None]) -> Tensor:
        """The entries, in float32, of `source` of each matrix; 0 where that is None."""
        found = torch.zeros(len(index), device=index.device)
        for name, local, place in self.parts(index):
            if (tensor := source(self.matrices[name])) is not None:
                found[place] = tensor.detach().flatten()[local].float()
        return found

    @torch.no_grad()
    def write(self, index: Tensor, values: Tensor) -> None:
        """Overwrite the entries in the model."""
        for name, local, place in self.parts(index):
            w = self.matrices[name]
            w.view(-1)[local] = values[place].to(w.dtype)

    @torch.no_grad()
    def _add(self, index: Tensor) -> None:
        n, new = self.n, len(index)
        self.index[n : n + new] = index
        self.values[0, n : n + new] = self.read(index, lambda w: w)
        self.counts[0] += new

    @torch.no_grad()
    def grow(self, n_new: int, exponent: float) -> None:
        """Take the best that are not taken, by the gradients that the matrices have now."""
        found, taken = [], {name: local for name, local, _ in self.parts(self.index[: self.n])}
        for (name, w), start in zip(self.matrices.items(), self.starts.tolist(), strict=False):
            if w.grad is None:
                continue
            scores = w.grad.abs().float().flatten()
            if exponent:
                scores /= (w.abs().float().flatten() + EPSILON) ** exponent
            scores[taken.get(name, slice(0))] = -1
            best = scores.topk(min(n_new, len(scores)))
            found.append((best.values, best.indices + start))
        scores, index = map(torch.cat, zip(*found, strict=True))
        self._add(index[scores.topk(n_new).indices])

    def settle(self) -> None:
        """Make the model agree with the list: entries no longer in it are as they were at first."""
        self.n_updates = max(self.n_updates, int(self.counts[1]))
        index, values = self.index[: self.n], self.values.detach()[0, : self.n]
        if len(index) < len(self.written[0]):  # it was set back to an earlier one
            self.write(*self.written)
            self.written = index[:0], values[:0]
        if new := len(index) - len(self.written[0]):
            added = index[-new:].clone()
            pairs = zip(self.written, (added, self.read(added, lambda w: w)), strict=True)
            self.written = tuple(map(torch.cat, pairs))
        self.write(index, values)


@dataclass
class MaskedStudent(LoadedModel):
    """A student of whose matrices single entries are trained, perhaps beside an adapter of peft (spt)."""

    mask: Mask
    grows_by_step: bool = False  # else all at the first step
    exponent: float = 0.0

    def trained(self) -> dict[str, Tensor]:
        dense = {id(w) for w in self.mask.matrices.values()}
        own = {name: w for name, w in super().trained().items() if id(w) not in dense}
        entries = {"values": self.mask.values, "index": self.mask.index, "counts": self.mask.counts}
        return own | {f"entries/{name}": tensor for name, tensor in entries.items()}

    def before_update(self, step: int, n_steps: int) -> None:
        mask, budget = self.mask, len(self.mask.index)
        wanted = budget * (step + 1) // n_steps if self.grows_by_step else budget
        if wanted > mask.n:
            mask.grow(wanted - mask.n, self.exponent)
        mask.values.grad = torch.zeros_like(mask.values)
        mask.values.grad[0, : mask.n] = mask.read(mask.index[: mask.n], lambda w: w.grad)
        mask.counts[1] += mask.n
        for w in mask.matrices.values():
            w.grad = None

    def after_update(self) -> None:
        self.mask.settle()

    def save_pretrained(self, folder: Path, **how: Any) -> None:
        """Write the entries, and the adapter of peft if there is one."""
        if hasattr(self.network, "peft_config"):
            self.network.save_pretrained(folder, **how)
        tensors = {}
        for name, local, _ in self.mask.parts(self.mask.index[: self.mask.n]):
            tensors[f"{name}.index"] = local.int().cpu()
            tensors[f"{name}.values"] = self.mask.matrices[name].detach().flatten()[local].cpu()
        save_file(tensors, folder / FILE)


def student_of(
    model: LoadedModel,
    matrices: dict[str, nn.Parameter],
    spec: RunSpec,
    *,
    seed: int,
    index: Tensor | None = None,
) -> MaskedStudent:
    """The model with gradients for these matrices, and the list of entries that are trained.

    Args:
        index: the entries, flat over the matrices; None: `spec.adapter_parameters` of them, see above.
    """
    if index is None:
        model.network.requires_grad_(False)
        budget = spec.adapter_parameters
        if spec.adapter == "random_mask":
            n_entries = sum(w.numel() for w in matrices.values())
            drawn = np.random.default_rng(key_of(seed, "mask")).choice(n_entries, budget, replace=False)
            index = torch.from_numpy(drawn)
    else:
        budget = len(index)
    for w in matrices.values():
        w.requires_grad_(True)
    of_model = {entry.name: getattr(model, entry.name) for entry in fields(LoadedModel)}
    how = {"grows_by_step": spec.adapter == "id3", "exponent": spec.mask_exponent}
    return MaskedStudent(**of_model, mask=Mask(matrices, budget, index), **how)


@torch.no_grad()
def read(network: nn.Module, folder: Path) -> None:
    """Overwrite the entries of a model by those that were saved in a folder."""
    stored, weights = load_file(folder / FILE), dict(network.named_parameters())
    for name in (key.removesuffix(".index") for key in stored if key.endswith(".index")):
        w, values = weights[name], stored[f"{name}.values"]
        w.view(-1)[stored[f"{name}.index"].long().to(w.device)] = values.to(w)
