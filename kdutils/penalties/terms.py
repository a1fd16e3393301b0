"""The terms of `constants.PENALTIES`: what is added to the loss of a step, before its strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdutils import losses
from kdutils.constants import PENALTIES
from kdutils.data.model_files import ModelError
from kdutils.encoding import Batch
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.penalties import intervals
from kdutils.spec import RunSpec

EPSILON = 1e-3  # of `perturbation`, as in PELA's script for ALBEF
Term = Callable[[Batch], Tensor]


def check(spec: RunSpec, network: nn.Module | None) -> None:
    """Refuse a penalty that could not act; `network` is the student's, without values, None: not known yet.

    Raises:
        ModelError: with the remedy.
    """
    told = f"penalty={spec.penalty!r}"
    if PENALTIES.get(spec.penalty) == "student_build" and spec.first_domain:
        raise ModelError(f"{told}: after a first domain the student was built before; drop one of them")
    if spec.penalty == "perturbation" and spec.student_build.startswith("hybrid"):
        raise ModelError(f"{told} compares matrices by place, which linear attention lacks; use 'features'")
    if spec.penalty == "intervals" and spec.adapter != "full":
        raise ModelError(f"{told} is of matrices, which adapter={spec.adapter!r} does not train; use 'full'")
    if spec.penalty == "intervals" and spec.frozen == "mlp":
        raise ModelError(
            f"{told} is of matrices of MLPs, which frozen='mlp' does not train; drop one of them"
        )
    if spec.penalty == "intervals" and network is not None:
        intervals.down_projections(network)


def attach(
    student: LoadedModel, spec: RunSpec, *, reference: LoadedModel | None = None, items: Sequence[Item] = ()
) -> LoadedModel:
    """The student, whose `penalty` is the spec's term times its strength; as it is without one.

    What a term compares with is taken now, so before the first step and before a checkpoint is read.

    Args:
        reference: `features`, `perturbation`: the model that the student was built from.
        items: `intervals`: the training items of the first domain.

    Raises:
        ModelError: as `check`.
    """
    if spec.penalty:
        term = TERMS[spec.penalty](student, spec, reference, items)
        student.penalty = lambda batch: spec.penalty_strength * term(batch)
    return student


def _l2_sp(student: LoadedModel, *_: object) -> Term:
    """Half the squared distance of the trained weights from where they start, summed over all of them.

    A sum, as in the source, so that the strength is that of a weight decay towards the start, whatever the
    size of the model.
    Source: Li et al. 2018 (arXiv:1802.01483), without the term for new weights, of which there are none.
    """
    weights = list(student.trained().values())
    pairs = list(zip(weights, [w.detach().clone() for w in weights], strict=True))
    return lambda batch: sum((w - start).square().sum() for w, start in pairs) / 2


def _intervals(student: LoadedModel, spec: RunSpec, _: object, items: Sequence[Item]) -> Term:
    """Mean square of the least and of the greatest drift of an output, added; mean over layers."""
    known, layers = intervals.boxes(student, items, spec), intervals.down_projections(student.causal)
    starts = {name: [w.detach().clone() for w in _affine(layer)] for name, layer in layers.items()}

    def term(batch: Batch) -> Tensor:
        found = []
        for name, layer in layers.items():
            change, *bias = (w - start for w, start in zip(_affine(layer), starts[name], strict=True))
            bounds = intervals.drift(change, bias[0] if bias else 0.0, known[name])
            found.append(sum(bound.square().mean() for bound in bounds))
        return torch.stack(found).mean()

    return term


def _affine(layer: nn.Module) -> list[Tensor]:
    """The matrix of a linear layer, and its bias if it has one."""
    return [layer.weight, *([] if layer.bias is None else [layer.bias])]


def _features(student: LoadedModel, spec: RunSpec, reference: LoadedModel, __: object) -> Term:
    """Mean over blocks of the mean squared difference of their outputs at the scored positions.

    Each position, or with `RunSpec.weighs_sequences` each sequence, has the same weight, as in the loss.
    Source: PELA, Guo et al. 2024 (arXiv:2310.10700), there over all positions of an image.
    """
    reference.network.requires_grad_(False).eval()
    passed = []
    decoder = student.causal.get_decoder()

    def wants_states(module: nn.Module, args: tuple, given: dict[str, object]) -> tuple:
        return args, given | {"output_hidden_states": module.training}

    decoder.register_forward_pre_hook(wants_states, with_kwargs=True)
    decoder.register_forward_hook(lambda module, _, output: passed.append(output.hidden_states))

    def term(batch: Batch) -> Tensor:
        own = passed.pop()
        passed.clear()  # of passes without a penalty
        ids_BT, scored_BT = batch.input_ids_BT.to(own[0].device), batch.scored_BT.to(own[0].device)
        with torch.no_grad(), reference.policy.computing():
            decoder = reference.causal.get_decoder()
            wanted = decoder(input_ids=ids_BT, use_cache=False, output_hidden_states=True).hidden_states
        errors = [
            (losses.shifted(x, scored_BT).float() - losses.shifted(y, scored_BT).float()).square().mean(1)
            for x, y in zip(own[1:], wanted[1:], strict=True)
        ]
        error_N = torch.stack(errors).mean(0)
        weights_N = torch.ones_like(error_N)
        if spec.weighs_sequences:
            weights_N = losses.sequence_mean_weights(scored_BT)
        return (weights_N * error_N).sum() / weights_N.sum().clamp_min(1.0)  # nothing may be scored

    return term


def _perturbation(student: LoadedModel, spec: RunSpec, reference: LoadedModel, _: object) -> Term:
    """Mean over built layers of (max |B A - W| - EPSILON)^2, W being the matrix that B A (any form) replaces.

    As released: a square around EPSILON, so that matrices nearer than it are pushed away, and a maximum,
    whose gradient touches one entry of each.
    Source: PELA, Guo et al. 2024 (arXiv:2310.10700).
    """
    before, head = dict(reference.causal.named_modules()), student.causal.get_output_embeddings()
    pairs = [
        (module, before[name].weight.detach())
        for name, module in student.causal.named_modules()
        if isinstance(before.get(name), nn.Linear)
        and module is not head
        and (spec.student_build == "pruned" or not isinstance(module, nn.Linear))
    ]

    def term(batch: Batch) -> Tensor:
        largest = torch.stack([(layer.weight - w).abs().amax() for layer, w in pairs])
        return (largest - EPSILON).square().mean()

    return term


TERMS: dict[str, Callable[..., Term]] = {
    "l2_sp": _l2_sp,
    "intervals": _intervals,
    "features": _features,
    "perturbation": _perturbation,
}
