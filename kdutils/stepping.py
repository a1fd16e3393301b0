"""The next hidden states of a tiny decoder, one token a row, in few operations.

A model of 100,000 parameters is done with the arithmetic of a token in a tenth of the time that
transformers' Python takes to get there. So for the decoders that kdutils.trunk writes out the step is written
out as well, with the projections that read the same input joined; every other model goes through
transformers. The two differ by rounding (tests/test_stepping.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils import data, trunk
from kdutils.models import LoadedModel
from kdutils.trunk import Layer, turned


def stepper(model: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int) -> Stepper | None:
    """Steps for texts after these prompts, None if the model or the prompts are not for it."""
    fits = trunk.fits(model, len(prompts), max(map(len, prompts)))
    return Stepper(model, prompts, max_new_tokens) if fits else None


class Stepper:
    """The decoder of a model as it is now, and where the texts of a batch stand.

    Keys and values are (row, column, key head, width) in buffers of their final length. Prompts end in one
    column; what stands before the shorter ones is never looked at.
    """

    def __init__(self, model: LoadedModel, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
        decoder, config = model.causal.get_decoder(), model.causal.config
        self.model, self.prompts = model, prompts
        self.embedding, self.norm = decoder.embed_tokens.weight.detach(), decoder.norm
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.layers: list[Layer] = []  # and what of each is kept, from `read` on
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.position_B = torch.tensor([len(prompt) for prompt in prompts])
        self.column = int(self.position_B.max())
        room = self.column + max_new_tokens
        self.rotation_PKC = trunk.rotation(model, room, self.heads + self.key_heads)
        # Added to the scores of (batch, 1, 1, column); what is written later is always seen.
        self.mask_B11P: Tensor | None = None
        if len(set(map(len, prompts))) > 1:
            is_before_BP = torch.arange(room) < self.column - self.position_B[:, None]
            mask_BP = torch.zeros(is_before_BP.shape).masked_fill_(is_before_BP, -torch.inf)
            self.mask_B11P = mask_BP[:, None, None]

    def read(self) -> Tensor:
        """Final hidden states (B, H) at the last token of each prompt, after the last norm."""
        # A token more, that nothing looks at: the state that scores it is that of the prompt's last one.
        ids = [[*prompt, self.model.pad_id] for prompt in self.prompts]
        names, lengths = [str(row) for row in range(len(ids))], [len(prompt) for prompt in self.prompts]
        batch = data.batch_of(names, ids, lengths, pad_id=self.model.pad_id)
        layout = trunk.laid_out(self.model, batch)
        real_N = layout.position_N < self.position_B[layout.row_N]
        row_N, position_N = layout.row_N[real_N], layout.position_N[real_N]
        place = row_N, self.column - self.position_B[row_N] + position_N
        rotation_NKC = self.rotation_PKC[position_N, : self.key_heads]

        def keep(layer: Layer, joined_NF: Tensor) -> None:
            joined_NKD = joined_NF[real_N].unflatten(1, (self.heads + 2 * self.key_heads, -1))
            key_NKD, value_NKD = joined_NKD[:, self.heads :].chunk(2, dim=1)
            shape = (len(self.prompts), len(self.rotation_PKC), *value_NKD.shape[1:])
            keys, values = torch.zeros(shape), torch.zeros(shape)
            keys[place], values[place] = turned(key_NKD, rotation_NKC), value_NKD
            self.layers.append(layer)
            self.kept.append((keys, values))

        return trunk.states(self.model, layout, keep)

    def __call__(self, ids_B: Tensor) -> Tensor:
        """Final hidden states (B, H) at these tokens, the next of each row, after the last norm."""
        state_BH, column = self.embedding[ids_B], self.column
        rotation_BKC = self.rotation_PKC[self.position_B]
        mask = None if self.mask_B11P is None else self.mask_B11P[..., : column + 1]
        for layer, (keys, values) in zip(self.layers, self.kept, strict=True):
            joined = F.linear(_normed(state_BH, layer.before_attention), layer.qkv, layer.qkv_bias)
            joined_BKD = joined.view(len(ids_B), self.heads + 2 * self.key_heads, -1)
            query_key = turned(joined_BKD[:, : -self.key_heads], rotation_BKC)
            keys[:, column], values[:, column] = query_key[:, self.heads :], joined_BKD[:, -self.key_heads :]
            # The query heads that share a key head are that many positions of one head: none sees another.
            query = query_key[:, : self.heads].reshape(
                len(ids_B), self.key_heads, self.heads // self.key_heads, -1
            )
            past = (kept[:, : column + 1].transpose(1, 2) for kept in (keys, values))
            seen = F.scaled_dot_product_attention(query, *past, attn_mask=mask, scale=layer.scaling)
            state_BH = torch.addmm(state_BH, seen.reshape(len(ids_B), -1), layer.output.T)
            gate, up = F.linear(_normed(state_BH, layer.before_mlp), layer.gate_up).chunk(2, dim=-1)
            state_BH = torch.addmm(state_BH, F.silu(gate) * up, layer.down.T)
        self.column, self.position_B = column + 1, self.position_B + 1
        return _normed(state_BH, self.norm)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch alone."""
        self.position_B = self.position_B[rows]
        self.kept = [(keys[rows], values[rows]) for keys, values in self.kept]
        if self.mask_B11P is not None:
            self.mask_B11P = self.mask_B11P[rows]


def _normed(state_BH: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(state_BH, state_BH.shape[-1:], norm.weight, norm.variance_epsilon)
