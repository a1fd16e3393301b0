"""ShadowPEFT: a small decoder beside the frozen one, whose state is corrected and fed in at every block.

Source: Li et al. 2026 (arXiv:2604.19254), as peft has it. The side network has one layer and reads the
model's embedding; its final states go through the model's head as well, so it is a student of its own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from kdutils import losses
from kdutils.encoding import Batch
from kdutils.models import LoadedModel

ALPHA, DROPOUT = 1.0, 0.0  # of the correction; peft's own defaults changed between releases


class ShadowStudent(LoadedModel):
    """A student with a side network."""

    @property
    def side(self) -> nn.Module:
        """The side network, without embedding and head."""
        return self.network.base_model.shadow_backbone["default"]

    def side_states(self, batch: Batch) -> Tensor:
        tuner = self.network.base_model
        state_BTH, tuner._seed_shadow_state = tuner._seed_shadow_state, None  # it holds the graph of the pass
        return losses.shifted(state_BTH, batch.scored_BT.to(state_BTH.device))


def config(rank: int, width: int) -> Any:
    """Of peft: corrections of that rank, an MLP of that width."""
    from peft import ShadowConfig

    how = {"shadow_alpha": ALPHA, "shadow_dropout": DROPOUT, "auxiliary_loss_weight": 0.0}  # see training
    return ShadowConfig(r=rank, shadow_intermediate_size=width, task_type="CAUSAL_LM", **how)


def count(network: nn.Module, rank: int, width: int) -> int:
    """Values that are trained: the side network, and at each block a correction and an update of its state.

    The update after the last block is not used.
    """
    decoder = network.get_decoder()
    small = copy.deepcopy(decoder.config)
    small.num_hidden_layers, small.intermediate_size = 1, width
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    with torch.device("meta"):
        side = type(decoder)(small)
    hidden, blocks = small.hidden_size, decoder.config.num_hidden_layers
    own = sum(w.numel() for w in side.parameters()) - side.get_input_embeddings().weight.numel()
    correction, update = 2 * hidden * rank, 2 * (2 * hidden * rank + rank + hidden)
    return own + blocks * correction + (blocks - 1) * update


def attached(model: LoadedModel, folder: Path | None = None) -> ShadowStudent:
    """The student whose decoder runs the side network before its own blocks, with weights of a folder.

    peft's hooks sit on the whole model, whose forward pass computes logits of all tokens; ours are on the
    decoder. The keys and values of the side network are one more layer in the cache of the decoder.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    student = ShadowStudent(model.name, model.network, model.tokenizer, model.policy)
    tuner, decoder, side = model.network.base_model, model.causal.get_decoder(), student.side.float()
    if folder is not None:  # peft has read them in the format of the model, perhaps bfloat16
        set_peft_model_state_dict(model.network, load_peft_weights(folder, device="cpu"))
    for handle in tuner._boundary_hook_handles[:2]:
        handle.remove()
    n_blocks = len(decoder.layers)
    for module in side.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx += n_blocks

    def run_side(module: nn.Module, args: tuple, given: dict[str, Any]) -> None:
        tuner._seed_shadow_state = None
        if not tuner._shadow_path_active():  # it is disabled
            return
        embedded = module.get_input_embeddings()(given["input_ids"])
        cache = given.get("past_key_values")
        if cache is not None and len(cache.layers) == n_blocks:
            cache.layers.append(DynamicLayer())
        how = {name: given.get(name) for name in ("attention_mask", "position_ids")}
        how |= {"past_key_values": cache, "use_cache": cache is not None}
        states_BTH = side(inputs_embeds=embedded.float(), **how).last_hidden_state
        tuner._seed_shadow_state = states_BTH.to(embedded.dtype)

    decoder.register_forward_pre_hook(run_side, with_kwargs=True)
    last = decoder.layers[-1]
    for part in (last.shadow_update_transform, last.shadow_update_gate):
        part.requires_grad_(False)
    return student


@torch.no_grad()
def detached(student: ShadowStudent) -> LoadedModel:
    """The side network with the model's embedding and head: a causal language model of one layer."""
    causal, weights = student.causal, student.side.state_dict()
    network = type(causal)(copy.deepcopy(student.side.config))
    embedding = network.get_input_embeddings().weight
    network.get_decoder().load_state_dict(weights | {"embed_tokens.weight": embedding})
    embedding.copy_(causal.get_input_embeddings().weight)
    network.get_output_embeddings().load_state_dict(causal.get_output_embeddings().state_dict())
    network = network.to(device=student.policy.device, dtype=student.policy.weights).eval()
    return LoadedModel(student.name, network, student.tokenizer, student.policy)
