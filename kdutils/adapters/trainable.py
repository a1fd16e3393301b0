"""What of a student is trained, how large that is, and how it is read and merged.

Each is sized by `lora_rank`, or so that it trains at most `adapter_parameters` values. All but `shadow` adapt
the matrices that LoRA adapts (`targets`), so that those of one size can be compared.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdutils.adapters import masked, sensitivity, side_network
from kdutils.builds import built
from kdutils.constants import ADAPTERS, LORA_TARGETS, MASKS
from kdutils.data.model_files import ModelError
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.noise import seeded
from kdutils.spec import RunSpec

FROZEN = {  # RunSpec.frozen -> what architectures call these modules of a block
    "attention": {"self_attn", "attn", "attention", "self_attention", "linear_attn"},
    "mlp": {"mlp", "feed_forward", "block_sparse_moe"},
}
LARGEST_RANK = 1_024
HASHED_RANK = 8  # of the LoRA whose entries are all read from the one vector of `unilora`
Shapes = list[tuple[int, int]]  # outputs and inputs of each matrix


def make_trainable(
    model: LoadedModel, spec: RunSpec, *, seed: int, items: Sequence[Item] = ()
) -> LoadedModel:
    """The model with gradients for what `spec` trains; new weights are in float32.

    Args:
        seed: of new weights, and of a random mask.
        items: training items, which spt measures sensitivity on.

    Raises:
        ModelError: if the adapter cannot be added, or there is nothing of what is to be frozen.
    """
    if spec.adapter == "full":
        model.network.requires_grad_(True)
        _freeze(model, spec.frozen)
        return model
    size = size_of(model.causal, spec)
    if spec.adapter == "spt":
        return _spt(model, spec, size, seed, items)
    if spec.adapter in MASKS:
        return masked.student_of(model, matrices(model.causal), spec, seed=seed)
    config = CONFIGS[spec.adapter](spec, size, targets(model.network))
    if spec.adapter == "osf":
        own = matrices(model.causal).items()  # name -> how many directions are frozen
        config.rank_pattern = {f"{name.removesuffix('.weight')}$": min(w.shape) - size for name, w in own}
    adapted = _with_peft(model, config, ADAPTERS[spec.adapter].label, seed)
    return side_network.attached(adapted) if spec.adapter == "shadow" else adapted


def _with_peft(model: LoadedModel, config: Any, label: str, seed: int) -> LoadedModel:
    """With an adapter of peft, which draws its weights from the global generator, hence `seeded`."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    try:
        with seeded(seed):
            network = get_peft_model(model.network, config, autocast_adapter_dtype=True)
        if lost := set_peft_model_state_dict(network, get_peft_model_state_dict(network)).unexpected_keys:
            raise ValueError(f"peft would not read {lost[0]} that it writes")
    except ValueError as error:
        remedy = "lora_dropout=0.0 or " * ("lora_dropout" in str(error)) + "adapter='full'"
        raise ModelError(f"{model.name}: no {label} can be added ({error}); use {remedy}") from error
    return replace(model, network=network)


def _spt(model: LoadedModel, spec: RunSpec, rank: int, seed: int, items: Sequence[Item]) -> LoadedModel:
    """A LoRA on the matrices with many sensitive entries, and the sensitive entries of the others."""
    own = matrices(model.causal)
    measured = sensitivity.squared_gradients(model, own, items, spec)
    adapted, index = sensitivity.allocated(measured, rank=rank, budget=spec.adapter_parameters)
    loose = {name: w for name, w in own.items() if name not in adapted}
    n_values = len(index) + rank * sum(sum(own[name].shape) for name in adapted)
    if spec.adapter_parameters >= 2 * n_values:
        told = f"adapter_parameters={spec.adapter_parameters}: adapter='spt' trains at most {n_values} values"
        raise ModelError(f"{told} of this model at lora_rank={rank}; give as many, or a higher rank")
    if adapted:
        modules = {"target_modules": [name.removesuffix(".weight") for name in adapted]}
        model = _with_peft(model, _lora(spec, rank, modules), "SPT", seed)
    return masked.student_of(model, loose, spec, seed=seed, index=index)


# --- configurations of peft, each of (spec, size, targets) --------------------------------------------------


def _lora(spec: RunSpec, rank: int, modules: dict[str, Any], **more: Any) -> Any:
    """With the scale of the spec, lora_alpha / lora_rank, also where the rank is solved for."""
    from peft import LoraConfig

    alpha = rank * spec.lora_alpha / spec.lora_rank
    dropout = {"lora_dropout": spec.lora_dropout if spec.adapter == "lora" else 0.0}
    return LoraConfig(r=rank, task_type="CAUSAL_LM", **{"lora_alpha": alpha} | dropout | modules | more)


def _pissa(spec: RunSpec, rank: int, modules: dict[str, Any]) -> Any:
    """By the exact decomposition: peft's fast one is random, and another when the adapter is read."""
    return _lora(spec, rank, modules, lora_alpha=rank, init_lora_weights="pissa")


def _miss(spec: RunSpec, rank: int, modules: dict[str, Any]) -> Any:
    from peft import MissConfig

    kind = "bat" if spec.adapter == "miss_bat" else True
    return MissConfig(r=rank, init_weights=kind, miss_dropout=0.0, task_type="CAUSAL_LM", **modules)


def _osf(spec: RunSpec, rank: int, modules: dict[str, Any]) -> Any:
    """Without its ranks, which `make_trainable` adds: those of peft say how much is frozen."""
    from peft import OSFConfig

    return OSFConfig(task_type="CAUSAL_LM", **modules)


def _unilora(spec: RunSpec, length: int, modules: dict[str, Any]) -> Any:
    from peft import UniLoraConfig

    how = {"r": HASHED_RANK, "theta_d_length": length, "proj_seed": spec.seed}
    return UniLoraConfig(task_type="CAUSAL_LM", **how, **modules)


CONFIGS: dict[str, Callable[[RunSpec, int, dict[str, Any]], Any]] = {
    "lora": _lora,
    "dora": lambda spec, rank, modules: _lora(spec, rank, modules, use_dora=True),
    "pissa": _pissa,
    "miss": _miss,
    "miss_bat": _miss,
    "osf": _osf,
    "unilora": _unilora,
    "shadow": lambda spec, width, _: side_network.config(spec.lora_rank, width),
}


# --- sizes --------------------------------------------------------------------------------------------------


def _low_rank(shapes: Shapes, rank: int) -> int:
    return rank * sum(map(sum, shapes))


COUNTS: dict[str, Callable[[Shapes, int], int]] = {  # values that are trained at a rank
    "lora": _low_rank,
    "dora": lambda shapes, rank: _low_rank(shapes, rank) + sum(out for out, _ in shapes),
    "pissa": _low_rank,
    "miss": lambda shapes, rank: rank * sum(out for out, _ in shapes),
    "miss_bat": lambda shapes, rank: rank * sum(out for out, _ in shapes),
    "osf": lambda shapes, rank: _low_rank(shapes, rank) + rank * len(shapes),
    "unilora": lambda _, length: length,
}


def _sizes(spec: RunSpec, shapes: Shapes) -> Sequence[int]:
    """The ranks (shadow: widths) that are possible, in rising order."""
    if spec.adapter in ("pissa", "osf"):  # osf keeps at least one direction
        return range(1, min(map(min, shapes)) + (spec.adapter == "pissa"))
    if spec.adapter == "unilora":
        return range(1, _low_rank(shapes, HASHED_RANK) + 1)
    if spec.adapter == "miss":
        return range(1, min(into for _, into in shapes) + 1)
    if spec.adapter == "miss_bat":  # blocks of rank x rank that tile every matrix
        common = math.gcd(*(side for shape in shapes for side in shape))
        return [rank for rank in range(1, common + 1) if common % rank == 0]
    return range(1, 1 << 20) if spec.adapter == "shadow" else range(1, LARGEST_RANK + 1)


def size_of(network: nn.Module, spec: RunSpec) -> int:
    """The rank, for shadow the MLP's width, for masks the number of entries; without values of the weights.

    With `adapter_parameters` the largest that trains no more values than these.

    Raises:
        ModelError: if the model has no such size, or no matrix to adapt.
    """
    if spec.adapter_parameters is None and spec.adapter in ("lora", "dora"):
        return spec.lora_rank  # peft knows more kinds of layers, such as GPT-2's
    shapes = [tuple(w.shape) for w in matrices(network).values()]
    if not shapes:
        raise ModelError(f"no linear layer of this model can have adapter={spec.adapter!r}; use 'full'")
    asked, n_entries = spec.adapter_parameters, sum(map(math.prod, shapes))
    told = f"adapter_parameters={asked}: adapter={spec.adapter!r}"
    if asked is not None and asked > n_entries:
        raise ModelError(f"{told} has {n_entries} entries at most here; give fewer, or use adapter='full'")
    if spec.adapter in MASKS:
        return spec.lora_rank if spec.adapter == "spt" else asked

    def count(size: int) -> int:
        if spec.adapter == "shadow":
            return side_network.count(network, spec.lora_rank, size)
        return COUNTS[spec.adapter](shapes, size)

    sizes = _sizes(spec, shapes)
    if asked is None and spec.adapter == "shadow":
        return network.config.intermediate_size
    if asked is None:
        if spec.lora_rank not in sizes:
            ranks = f"1 to {sizes[-1]}" if isinstance(sizes, range) else sizes
            raise ModelError(
                f"lora_rank={spec.lora_rank}: adapter={spec.adapter!r} has ranks {ranks} here; use one"
            )
        return spec.lora_rank
    if not (place := bisect.bisect_right(sizes, asked, key=count)):
        raise ModelError(f"{told} trains at least {count(sizes[0])} values of this model; give as many")
    if place == len(sizes) and asked >= 2 * count(sizes[-1]):
        raise ModelError(f"{told} trains at most {count(sizes[-1])} values of this model; give as many")
    return sizes[place - 1]


# --- which matrices -----------------------------------------------------------------------------------------


def _freeze(model: LoadedModel, part: str) -> None:
    """No gradients for the weights within modules of that part, their norms included; "" is none."""
    names = FROZEN.get(part, set())
    own = [w for name, w in model.network.named_parameters() if not names.isdisjoint(name.split("."))]
    if part and not own:
        known = f"no module of it is called one of {sorted(names)}"
        raise ModelError(f"frozen={part!r} has no effect on {model.name}: {known}; leave it out")
    for w in own:
        w.requires_grad_(False)


def targets(network: nn.Module) -> dict[str, list[str] | str]:
    """As the authors', and gate_proj where experts hold it in one tensor with up_proj.

    Where matrices have other names, all linear layers but the head, and but routers, which return a tuple.
    """
    names = {name.rpartition(".")[2] for name, _ in (*network.named_modules(), *network.named_parameters())}
    if names.issuperset(LORA_TARGETS):
        return {"target_modules": [*LORA_TARGETS, *["gate_proj"] * ("gate_up_proj" in names)]}
    return {"target_modules": "all-linear", "exclude_modules": ["router"] * ("router" in names)}


def matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> weights (outputs, inputs) of the linear layers among `targets`, in the model's order."""
    wanted, head = targets(network)["target_modules"], network.get_output_embeddings()
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and (wanted == "all-linear" or name.rpartition(".")[2] in wanted)
    }


# --- stored, merged -----------------------------------------------------------------------------------------


def loaded(model: LoadedModel, spec: RunSpec, folder: Path, *, is_trained_on: bool = False) -> LoadedModel:
    """The model with the adapter in a folder, or in the form that is stored there (kdutils.builds).

    Args:
        is_trained_on: another run goes on with it.

    Raises:
        OSError, ValueError, SafetensorError: for files that are missing or damaged.
    """
    if spec.student_build:
        return built.loaded(model, spec.student_build, spec.build_compression, folder)
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        network = PeftModel.from_pretrained(model.network, folder, is_trainable=is_trained_on).eval()
        model = replace(model, network=network)
        model = model if is_trained_on else for_inference(model)
    if spec.adapter in MASKS:
        masked.read(model.causal, folder)
    return side_network.attached(model, folder) if spec.adapter == "shadow" else model


def for_inference(student: LoadedModel) -> LoadedModel:
    """The student with its LoRA, whose weights are float32, multiplied in the format of the model's weights.

    peft casts all activations to float32 instead: a 0.5B student in bfloat16 took 10.0 s, not 7.4, to read
    3,900 tokens on a core with AMX (6.1 without its LoRA). Not for training, whose steps took longer that way
    (5.0 s, not 3.3, of 250 tokens). PiSSA and SPT have a LoRA, too; DoRA stays as it is.
    """
    weights, configs = student.policy.weights, getattr(student.network, "peft_config", {}).values()
    is_lora = any(each.peft_type == "LORA" and not each.use_dora for each in configs)
    if weights == torch.float32 or not is_lora:
        return student
    for module in student.network.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return replace(student, policy=replace(student.policy, autocast=weights))


def stored(student: LoadedModel) -> Any:
    """What writes the student by `save_pretrained`."""
    return student if isinstance(student, masked.MaskedStudent | built.Built) else student.network


def merged(student: LoadedModel) -> nn.Module:
    """The causal language model with dense weights of its own and no adapter, which changes the student.

    Raises:
        ModelError: for a side network.
    """
    if isinstance(student, side_network.ShadowStudent):
        raise ModelError("a side network depends on the input and cannot be merged; use detached=True")
    if isinstance(student, built.Built):
        return built.dense(student)
    return student.network.merge_and_unload() if hasattr(student.network, "peft_config") else student.network
