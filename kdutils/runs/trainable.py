"""Which weights of a student are trained: all, all but those of some modules, or those of a LoRA."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kdutils.constants import LORA_TARGETS
from kdutils.data.model_files import ModelError
from kdutils.models import LoadedModel
from kdutils.noise import seeded
from kdutils.spec import RunSpec

FROZEN = {  # RunSpec.frozen -> what architectures call these modules of a block
    "attention": {"self_attn", "attn", "attention", "self_attention", "linear_attn"},
    "mlp": {"mlp", "feed_forward", "block_sparse_moe"},
}


def make_trainable(model: LoadedModel, spec: RunSpec, *, seed: int) -> LoadedModel:
    """The model with gradients for what `spec` trains; a new LoRA is in float32.

    peft draws the LoRA's weights from the global generator, hence `seeded`.

    Raises:
        ModelError: if no LoRA can be added, or there is nothing of what is to be frozen.
    """
    if spec.adapter == "full":
        model.network.requires_grad_(True)
        _freeze(model, spec.frozen)
        return model
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    ranks = {"r": spec.lora_rank, "lora_alpha": spec.lora_alpha, "lora_dropout": spec.lora_dropout}
    config = LoraConfig(**ranks, **lora_targets(model.network), task_type="CAUSAL_LM")
    try:
        with seeded(seed):
            network = get_peft_model(model.network, config, autocast_adapter_dtype=True)
        if lost := set_peft_model_state_dict(network, get_peft_model_state_dict(network)).unexpected_keys:
            raise ValueError(f"peft would not read {lost[0]} that it writes")
    except ValueError as error:
        remedy = "lora_dropout=0.0 or " * ("lora_dropout" in str(error)) + "adapter='full'"
        raise ModelError(f"{model.name}: no LoRA can be added ({error}); use {remedy}") from error
    return replace(model, network=network)


def _freeze(model: LoadedModel, part: str) -> None:
    """No gradients for the weights within modules of that part, their norms included; "" is none."""
    names = FROZEN.get(part, set())
    own = [w for name, w in model.network.named_parameters() if not names.isdisjoint(name.split("."))]
    if part and not own:
        known = f"no module of it is called one of {sorted(names)}"
        raise ModelError(f"frozen={part!r} has no effect on {model.name}: {known}; leave it out")
    for w in own:
        w.requires_grad_(False)


def lora_targets(network: nn.Module) -> dict[str, list[str] | str]:
    """As the authors', and gate_proj where experts hold it in one tensor with up_proj.

    Where matrices have other names, all linear layers but the head, and but routers, which return a tuple.
    """
    names = {name.rpartition(".")[2] for name, _ in (*network.named_modules(), *network.named_parameters())}
    if names.issuperset(LORA_TARGETS):
        return {"target_modules": [*LORA_TARGETS, *["gate_proj"] * ("gate_up_proj" in names)]}
    return {"target_modules": "all-linear", "exclude_modules": ["router"] * ("router" in names)}
