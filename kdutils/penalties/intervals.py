"""InTAct: the outputs of a layer may not drift on the inputs that it had on the first domain.

The layers are the down projections of the MLPs. Their inputs on the first domain are a box a layer: for each
input its 5th and 95th percentile over tokens.
Source: arXiv:2511.17439; how ours differs from the released code is in the README of this folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdutils import encoding
from kdutils.data.model_files import ModelError
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.noise import generator
from kdutils.spec import RunSpec

SHARES = (0.05, 0.95)
TOKENS = 4_096  # recorded, of items in random order: bounds the memory, 0.5 GB for 24 layers of 1,280 inputs
Box = tuple[Tensor, Tensor]  # low and high (inputs of a layer)


def down_projections(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> the down projection of each block's MLP.

    Raises:
        ModelError: for an architecture that has not one a block.
    """
    found = {name: module for name, module in network.named_modules() if name.endswith(".down_proj")}
    if len(found) != (n := network.config.num_hidden_layers):
        raise ModelError(
            f"penalty='intervals': a {network.config.model_type} model of {n} blocks has {len(found)} layers "
            "named down_proj, not one a block; use penalty='l2_sp'"
        )
    return found


@torch.no_grad()
def boxes(model: LoadedModel, items: Sequence[Item], spec: RunSpec) -> dict[str, Box]:
    """Name of each down projection -> `box` of its inputs at TOKENS real tokens of the items, or at all.

    Prompts and responses are read, in evaluation mode; which items, is drawn from the seed.
    """
    encoded = encoding.encode(items, model.tokenizer, **spec.encoding).with_format("arrow")
    order = torch.randperm(len(encoded), generator=generator(spec.seed, "intervals")).tolist()
    layers, inputs, n_tokens = down_projections(model.causal), {}, 0

    def noted(_: nn.Module, args: tuple, *, name: str) -> None:
        inputs.setdefault(name, []).append(args[0])

    hooks = [layer.register_forward_pre_hook(partial(noted, name=name)) for name, layer in layers.items()]
    try:
        for start in range(0, len(order), spec.batch_size):
            rows = order[start : start + spec.batch_size]
            batch = encoding.collate(encoded, rows, pad_id=model.pad_id)
            model.hidden_states(batch.input_ids_BT)
            is_real_BT = batch.attention_BT.bool().to(model.policy.device)
            for of_layer in inputs.values():
                of_layer[-1] = of_layer[-1][is_real_BT].float()
            if (n_tokens := n_tokens + int(batch.attention_BT.sum())) >= TOKENS:
                break
    finally:
        for hook in hooks:
            hook.remove()
    return {name: box(torch.cat(of_layer)) for name, of_layer in inputs.items()}


def box(inputs_NI: Tensor) -> Box:
    """Low and high (I): of each input the values that lie at SHARES of the N tokens, to the nearest."""
    ranks = (1 + round(share * (len(inputs_NI) - 1)) for share in SHARES)
    low, high = (inputs_NI.kthvalue(rank, dim=0).values for rank in ranks)
    return low, high


def drift(change_OI: Tensor, bias_change_O: Tensor | float, box: Box) -> Box:
    """Least and greatest value (O) of each entry of change_OI @ x + bias_change_O, over all x in the box."""
    (low, high), rises, falls = box, change_OI.clamp(min=0), (-change_OI).clamp(min=0)
    return rises @ low - falls @ high + bias_change_O, rises @ high - falls @ low + bias_change_O
