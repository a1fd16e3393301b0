"""A student made of a model before training, and how it is stored, read and made dense again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from kdutils.builds import hybrid, low_rank, pruned, shared
from kdutils.data.model_files import ModelError
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.spec import RunSpec

FILE = "student.safetensors"  # not model.safetensors: transformers would read that, and draw what it lacks
Layers = dict[str, nn.Linear]  # name -> linear layer, in the model's order


class Built(LoadedModel):
    """A student with layers of a form that transformers does not know in such a model."""

    def save_pretrained(self, folder: Path, **how: Any) -> None:
        """Write the configuration, and each parameter once."""
        self.causal.config.save_pretrained(folder)
        save_model(self.causal, str(Path(folder) / FILE))


def linear_layers(network: nn.Module) -> Layers:
    """All linear layers but the head.

    Raises:
        ModelError: if there are other matrices than theirs and the embeddings', which would stay as they are.
    """
    modules, head = dict(network.named_modules()), network.get_output_embeddings()
    known = {id(each.weight) for each in modules.values() if isinstance(each, nn.Linear | nn.Embedding)}
    for name, w in network.named_parameters():
        if w.ndim > 1 and id(w) not in known:
            other = f"{name} is neither a linear layer's nor an embedding's"
            raise ModelError(f"student_build changes linear layers alone, and {other}; use another model")
    return {name: each for name, each in modules.items() if isinstance(each, nn.Linear) and each is not head}


def _low_rank(student: LoadedModel, own: Layers, spec: RunSpec, items: Sequence[Item]) -> LoadedModel:
    moments = low_rank.moments(student, own, items, spec)
    low_rank.factorise(student.causal, own, spec.build_compression, moments)
    return Built(**vars(student))


def _low_rank_plain(student: LoadedModel, own: Layers, spec: RunSpec, items: Sequence[Item]) -> LoadedModel:
    low_rank.factorise(student.causal, own, spec.build_compression)
    return Built(**vars(student))


def _pruned(student: LoadedModel, own: Layers, spec: RunSpec, items: Sequence[Item]) -> LoadedModel:
    pruned.prune_(own.values(), spec.build_compression)
    return pruned.kept(student, own)


def _shared(student: LoadedModel, own: Layers, spec: RunSpec, items: Sequence[Item]) -> LoadedModel:
    shared.share(student.causal, own, spec.build_compression)
    return Built(**vars(student))


def _hybrid(student: LoadedModel, own: Layers, spec: RunSpec, items: Sequence[Item]) -> LoadedModel:
    hybrid.convert(student, spec, items)
    return Built(**vars(student))


def _empty_hybrid(network: nn.Module, own: Layers, n: float) -> None:
    hybrid.install(network, hybrid.mixers(network, n))


def _check_hybrid(network: nn.Module | None, n: float) -> None:
    hybrid.check(n)
    if network is not None:
        hybrid.attentions(network, n)


class Way(NamedTuple):
    """How one of `constants.BUILDS` is made."""

    make: Callable[[LoadedModel, Layers, RunSpec, Sequence[Item]], LoadedModel]
    empty: Callable[[nn.Module, Layers, float], None] | None  # the form alone, for values read from FILE
    check: Callable[[nn.Module | None, float], None] = lambda network, compression: None


HYBRID = Way(_hybrid, _empty_hybrid, _check_hybrid)
WAYS = {
    "low_rank": Way(_low_rank, partial(low_rank.factorise, is_empty=True)),
    "low_rank_plain": Way(_low_rank_plain, partial(low_rank.factorise, is_empty=True)),
    "pruned": Way(_pruned, None),  # stored as an ordinary model, zeros and all
    "shared": Way(_shared, partial(shared.share, is_folded=False)),
    "hybrid": HYBRID,
    "hybrid_distilled": HYBRID,
}


@torch.no_grad()
def build(student: LoadedModel, spec: RunSpec, *, items: Sequence[Item]) -> LoadedModel:
    """The student in the form that `spec.student_build` names, not yet trained; the one given is used up.

    Args:
        items: training items, on which `low_rank` measures what matters, and `hybrid` aligns its layers.

    Raises:
        ModelError: as `check`.
    """
    if not spec.student_build:
        return student
    return WAYS[spec.student_build].make(student, linear_layers(student.causal), spec, items)


def check(network: nn.Module | None, spec: RunSpec) -> None:
    """Check that the student can be built of this model; None: one that cannot be looked into before.

    Raises:
        ModelError: for a model with other matrices than those of linear layers and embeddings; for hybrid, as
            hybrid.check and hybrid.attentions.
    """
    if network is not None:
        linear_layers(network)
    WAYS[spec.student_build].check(network, spec.build_compression)


def kept(student: LoadedModel, name: str) -> LoadedModel:
    """A student that was built as `name` says, as it is trained on: one that is pruned keeps its zeros."""
    return pruned.kept(student, linear_layers(student.causal)) if name == "pruned" else student


@torch.no_grad()
def loaded(model: LoadedModel, name: str, compression: float, folder: Path | str) -> LoadedModel:
    """The built student in a folder, in place of the model that it was made of."""
    WAYS[name].empty(model.causal, linear_layers(model.causal), compression)
    load_model(model.causal, Path(folder) / FILE, device=model.policy.device)
    return Built(**vars(model))


@torch.no_grad()
def dense(student: LoadedModel) -> nn.Module:
    """The student as a causal language model of plain linear layers, in place; transformers can store it.

    Raises:
        ModelError: for a hybrid, whose linear attention is no layer of its class.
    """
    network = student.causal
    if any(isinstance(each, hybrid.LinearAttention) for each in network.modules()):
        raise ModelError(f"{student.name} has linear attention, so no dense form: read it with load_trained")
    if hasattr(network, "shared"):
        network.shared.refresh()
        network.shared.hook.remove()
    for name, module in list(network.named_modules()):
        if isinstance(module, low_rank.LowRank | shared.Shared):
            network.set_submodule(name, low_rank.linear(module.weight.clone(), module.bias))
    if hasattr(network, "shared"):
        del network.shared
    return network
