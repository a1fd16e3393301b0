"""The next hidden states of a tiny decoder, one token a row, in few operations.

A model of 100,000 parameters is done with the arithmetic of a token in a tenth of the time that
transformers' Python takes to get there. So for tiny Llama-like models on a CPU the step is written out here,
with the projections that read the same input joined; the prompt, and every other model, goes through
transformers. The two differ by rounding (tests/test_stepping.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from kdutils.models import LoadedModel
from kdutils.trunk import Layer, is_written_out


def stepper(model: LoadedModel, real_BT: Tensor, max_new_tokens: int) -> Stepper | None:
    """Steps for texts after these prompts (1 where a token is real), None if the model is of another kind."""
    return Stepper(model, real_BT, max_new_tokens) if is_written_out(model) else None


class Stepper:
    """The decoder of a model as it is now, and where the texts of a batch stand."""

    def __init__(self, model: LoadedModel, real_BT: Tensor, max_new_tokens: int) -> None:
        decoder, config = model.causal.get_decoder(), model.causal.config
        self.embedding, self.norm = decoder.embed_tokens.weight.detach(), decoder.norm
        self.layers = [Layer(layer) for layer in decoder.layers]
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.position = real_BT.shape[1]
        room = self.position + max_new_tokens
        cos, sin = decoder.rotary_emb(self.embedding, torch.arange(room)[None])  # (1, P, D)
        half = cos.shape[-1] // 2
        self.cos_PD, self.sin_PD = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        # Added to the scores of (batch, 1, 1, position); what is written later is always seen.
        self.mask_B11P: Tensor | None = None
        if not bool(real_BT.all()):
            hidden_BP = F.pad(real_BT == 0, (0, max_new_tokens))
            self.mask_B11P = torch.zeros(hidden_BP.shape).masked_fill_(hidden_BP, -torch.inf)[:, None, None]

    def __call__(self, ids_B: Tensor, position_B: Tensor, cache: DynamicCache) -> Tensor:
        """Final hidden states (B, H) at these tokens, after the last norm.

        Their keys and values are added to `cache`.
        """
        state_BH = self.embedding[ids_B]
        cos_B1D, sin_B1D = self.cos_PD[position_B][:, None], self.sin_PD[position_B][:, None]
        stop = self.position + 1
        mask = None if self.mask_B11P is None else self.mask_B11P[..., :stop]
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            joined = F.linear(_normed(state_BH, layer.before_attention), layer.qkv, layer.qkv_bias)
            joined = joined.view(len(ids_B), self.heads + 2 * self.key_heads, -1)
            query_key, value = joined.split([self.heads + self.key_heads, self.key_heads], dim=1)
            turned = torch.cat(query_key.chunk(2, dim=-1)[::-1], dim=-1)
            query_key = torch.addcmul(query_key * cos_B1D, turned, sin_B1D)
            query, key = query_key.split([self.heads, self.key_heads], dim=1)
            keys, values = kept.update(key[:, :, None], value[:, :, None])
            # The query heads that share a key head are that many positions of one head: none sees another.
            query = query.reshape(len(ids_B), self.key_heads, self.heads // self.key_heads, -1)
            seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            state_BH = state_BH + F.linear(seen.reshape(len(ids_B), -1), layer.output)
            gate, up = F.linear(_normed(state_BH, layer.before_mlp), layer.gate_up).chunk(2, dim=-1)
            state_BH = state_BH + F.linear(F.silu(gate) * up, layer.down)
        self.position = stop
        return _normed(state_BH, self.norm)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch alone."""
        if self.mask_B11P is not None:
            self.mask_B11P = self.mask_B11P[rows]


def _normed(state_BH: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(state_BH, state_BH.shape[-1:], norm.weight, norm.variance_epsilon)
