"""What steps the weights: AdamW alone, or Muon for the matrices of linear layers and AdamW for all others.

Muon makes the moving average of a gradient nearly orthogonal and steps by that. The spectral norm of a step
is about rate x max(1, sqrt(outputs / inputs)) by `muon`, torch's own, and rate x sqrt(outputs / inputs) by
`muon_spectral`, whose best rate should be the same at every width. Embedding, head, norms and biases, which
are no maps between hidden states, have AdamW at the same rate, so that a study searches one number. Beware
of it in wide models: AdamW moves an entry by about the rate, Muon one of a d x d matrix by rate / sqrt(d).
Sources: Jordan et al. 2024, "Muon" (torch.optim.Muon); the spectral condition: arXiv:2310.17813, 2601.01306.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdutils.data.model_files import ModelError
from kdutils.models import LoadedModel
from kdutils.spec import RunSpec

LARGEST_NORMS = 1_000_000_000  # parameters; of larger models no `norm_band`, which takes minutes


class Parts:
    """Several optimisers of different weights as one: their groups and the state of all their weights."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts, self.state = parts, parts[0].state
        self.param_groups = [group for part in parts for group in part.param_groups]
        for part in parts:
            part.state = self.state

    def step(self) -> None:
        for part in self.parts:
            part.step()


def make(student: LoadedModel, spec: RunSpec, rate: float) -> torch.optim.Optimizer | Parts:
    """The optimiser of what a student trains; the learning rate of a group is the step's x `rate_factor`."""
    linear = of_muon(student, spec)
    is_linear = set(map(id, linear))
    others = [w for w in student.trained().values() if w.requires_grad and id(w) not in is_linear]
    split = ([w for w in others if w.ndim > 1], spec.weight_decay), ([w for w in others if w.ndim <= 1], 0.0)
    groups = [{"params": own, "weight_decay": decay, "rate_factor": 1.0} for own, decay in split if own]
    parts = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), fused=True)] if groups else []
    if not linear:
        return parts[0]
    groups = []
    for shape in dict.fromkeys(w.shape for w in linear):
        factor = min(1.0, math.sqrt(shape[0] / shape[1])) if spec.optimiser == "muon_spectral" else 1.0
        own = {"params": [w for w in linear if w.shape == shape], "rate_factor": factor, "lr": rate * factor}
        groups.append(own | {"weight_decay": spec.weight_decay / factor})  # which Muon multiplies by lr
    return Parts(*parts, torch.optim.Muon(groups, lr=rate))


def of_muon(student: LoadedModel, spec: RunSpec) -> list[Tensor]:
    """The `matrices` that Muon steps, none for AdamW; ModelError if Muon is asked for and there are none."""
    found = [] if spec.optimiser == "adamw" else matrices(student)
    if spec.optimiser != "adamw" and not found:
        how = f"adapter={spec.adapter!r}, student_build={spec.student_build!r}"
        lost = f"no linear layer of {student.name} has a trained matrix with {how}"
        raise ModelError(f"optimiser={spec.optimiser!r}: {lost}; use optimiser='adamw'")
    return found


def matrices(student: LoadedModel) -> list[Tensor]:
    """The trained matrices (outputs, inputs) of linear layers but the output head."""
    head = student.causal.get_output_embeddings()
    layers = [m for m in student.network.modules() if isinstance(m, nn.Linear) and m is not head]
    return [w for m in layers for w in m.parameters(recurse=False) if w.ndim == 2 and w.requires_grad]


@torch.no_grad()
def norm_band(student: LoadedModel) -> dict[str, float]:
    """Least and largest ||W||_2 / sqrt(outputs / inputs) over `matrices`; empty for large models."""
    norms = []
    for w in matrices(student) if student.causal.num_parameters() <= LARGEST_NORMS else ():
        short = w.float() if w.shape[0] <= w.shape[1] else w.float().T  # of the smaller Gram matrix
        largest = float(torch.linalg.eigvalsh(short @ short.T)[-1])
        norms.append(math.sqrt(max(0.0, largest) * w.shape[1] / w.shape[0]))
    return {"least_norm": min(norms), "largest_norm": max(norms)} if norms else {}
