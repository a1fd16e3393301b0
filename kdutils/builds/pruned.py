"""Students whose smallest weights are zero and stay so: magnitude pruning, the same share of every matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from kdutils.models import LoadedModel


@dataclass
class PrunedStudent(LoadedModel):
    """A student of whose matrices only the entries of a mask are trained; the others are zero."""

    masks: list[tuple[nn.Parameter, Tensor]]  # matrix, bool: which entries are kept

    def before_update(self, step: int, n_steps: int) -> None:
        for w, mask in self.masks:
            if w.grad is not None:
                w.grad.mul_(mask)

    @torch.no_grad()
    def after_update(self) -> None:
        """An optimiser that mixes entries (Muon) moves pruned ones, too."""
        for w, mask in self.masks:
            w.mul_(mask)

    def n_pruned(self, *, trained: bool = False) -> int:
        """Entries that are zero, in all matrices or in those that are trained."""
        return sum(int((~mask).sum()) for w, mask in self.masks if w.requires_grad or not trained)


def prune_(layers: Iterable[nn.Linear], compression: float) -> None:
    """Set all but the largest 1 / compression of each matrix to zero, in place."""
    for layer in layers:
        n = layer.weight.numel()
        prune.l1_unstructured(layer, "weight", n - round(n / compression))
        prune.remove(layer, "weight")


def kept(student: LoadedModel, layers: dict[str, nn.Linear]) -> PrunedStudent:
    """The student, whose zeros in these layers stay zero."""
    masks = [(layer.weight, layer.weight != 0) for layer in layers.values()]
    return PrunedStudent(**vars(student), masks=masks)
