"""What an adaptation came to: values trained, updates of them, bytes, and the rank of the change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdutils.adapters.masked import MaskedStudent
from kdutils.adapters.side_network import ShadowStudent
from kdutils.adapters.trainable import matrices
from kdutils.builds.pruned import PrunedStudent
from kdutils.models import LoadedModel

RANK_PARAMETERS = 1_000_000_000  # of larger models no effective rank: their decompositions take hours


def of_training(student: LoadedModel, n_steps: int) -> dict[str, Any]:
    """`trainable` values, their sum over all steps (`coordinate_updates`), names of `adapted` modules.

    Of a mask that grows it is what it grows to, also where an earlier epoch is kept.
    """
    plain = sum(w.numel() for name, w in student.trained().items() if not name.startswith("entries/"))
    if isinstance(student, PrunedStudent):
        plain -= student.n_pruned(trained=True)
    mask = student.mask if isinstance(student, MaskedStudent) else None
    n, updates = (len(mask.index), mask.n_updates) if mask else (0, 0)
    found = {"trainable": plain + n, "coordinate_updates": plain * n_steps + updates}
    config = getattr(student.network, "peft_config", None)
    if config and not isinstance(student, ShadowStudent):  # which has modules of its own
        found["adapted"] = sorted({name.rpartition(".")[2] for name in config["default"].target_modules})
    return found


def of_storage(student: LoadedModel, folder: Path) -> dict[str, int]:
    """`stored_parameters`, numbers without those that are pruned or not the adapter's, and `file_bytes`."""
    if isinstance(student, MaskedStudent) or hasattr(student.network, "peft_config"):
        n = of_training(student, 0)["trainable"]
        if isinstance(student, MaskedStudent):
            n -= len(student.mask.index) - student.mask.n  # entries that the kept epoch does not have yet
    else:
        n_pruned = student.n_pruned() if isinstance(student, PrunedStudent) else 0
        n = sum(w.numel() for w in student.network.parameters()) - n_pruned
    return {"stored_parameters": n, "file_bytes": file_bytes(folder)}


def file_bytes(folder: Path) -> int:
    """Of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@torch.no_grad()
def effective_rank(before: nn.Module, after: nn.Module) -> float | None:
    """Mean over the adapted matrices that changed of `rank_of` their change; None if none changed."""
    first, second = matrices(before), matrices(after)
    changes = [second[name].float() - w.float() for name, w in first.items()]
    ranks = [rank_of(change) for change in changes if change.any()]
    return sum(ranks) / len(ranks) if ranks else None


def rank_of(matrix: Tensor) -> float:
    """exp of the entropy of the singular values, scaled to sum 1: r for r equal ones and else zeros.

    Source: Roy & Vetterli 2007, "The effective rank", EUSIPCO.
    """
    values = torch.linalg.svdvals(matrix)
    shares = values / values.sum()
    return math.exp(float(torch.special.entr(shares).sum()))
