"""The hidden states that score a batch's tokens, with their gradients.

`scoring_states` asks transformers, but for tiny Llama-like models in float32 on a CPU, where most of a pass
is not arithmetic: these are written out here, forward and backward, and take 0.6 to 0.8 of the time (14k to
296k parameters). Rows of like length stand in groups; norms, projections and MLPs take all tokens of all
groups at once, attention takes a group at a time, and the last layer goes no further than the positions that
score something. The two ways differ by rounding (tests/test_trunk.py).
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from kdutils.data import Batch, cuts
from kdutils.losses import shifted
from kdutils.models import LARGE_PARAMETERS, LoadedModel

KINDS = (LlamaConfig, Qwen2Config)  # whose layers are those below
GROUP_TOKENS = 100  # so many tokens of padding cost as much as one more group; measured at 14k to 296k
LEAST_POSITIONS = 256  # that rotations are made for at once
LARGEST_ATTENTION = 256 << 20  # bytes of attention weights kept for the backward pass; beyond, transformers

_rotations: weakref.WeakKeyDictionary[nn.Module, Tensor] = weakref.WeakKeyDictionary()  # of each decoder


def scoring_states(model: LoadedModel, batch: Batch) -> Tensor:
    """The hidden states (N, H) that score the batch's scored tokens, in their row-major order."""
    if fits(model, *batch.input_ids_BT.shape):
        return states(model, laid_out(model, batch))
    hidden_BTH = model.hidden_states(batch.input_ids_BT)
    return shifted(hidden_BTH, batch.scored_BT.to(hidden_BTH.device))


def is_written_out(model: LoadedModel) -> bool:
    """Whether this is a tiny decoder of a kind that is written out, here and in kdutils.stepping."""
    policy = model.policy
    is_plain = model.network is model.causal and policy.weights == torch.float32 and policy.autocast is None
    is_plain = is_plain and not (model.is_sharded or policy.checkpointing or policy.compiled)
    is_tiny = policy.device == "cpu" and model.n_parameters < LARGE_PARAMETERS
    return is_tiny and is_plain and _is_known(model.causal.config)


def _is_known(config: PreTrainedConfig) -> bool:
    return (
        type(config) in KINDS
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] == "default"
        and config.attention_dropout == 0
        and not getattr(config, "use_sliding_window", False)
        and not getattr(config, "mlp_bias", False)
        and not (type(config) is LlamaConfig and config.attention_bias)  # Qwen2 has its biases before q, k, v
    )


def fits(model: LoadedModel, n_rows: int, length: int) -> bool:
    """Whether it is written out, and the attention weights of such a batch are not too many to keep."""
    if not is_written_out(model):
        return False
    config = model.causal.config
    n_weights = n_rows * length**2 * config.num_attention_heads * config.num_hidden_layers
    return 4 * n_weights <= LARGEST_ATTENTION


class Layer:
    """The weights of a layer, joined where they read the same input.

    What rotates together, entries i and i + width/2 of a query or key, is made neighbours, 2i and 2i + 1: no
    product of a query and a key can tell.

    Args:
        heads: of queries, of keys.
    """

    def __init__(self, layer: nn.Module, heads: tuple[int, int]) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights, biases = [part.weight for part in parts], [part.bias for part in parts]
        for place, n_heads in enumerate(heads):
            weights[place] = _paired(weights[place], n_heads)
            biases[place] = biases[place] if biases[place] is None else _paired(biases[place], n_heads)
        self.qkv = torch.cat(weights)
        self.qkv_bias = None if biases[0] is None else torch.cat(biases)
        self.gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self.output, self.down = attention.o_proj.weight, mlp.down_proj.weight
        self.before_attention, self.before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self.scaling = attention.scaling


def _paired(rows: Tensor, n_heads: int) -> Tensor:
    """Each head's rows (i, i + width/2) as neighbours."""
    return rows.view(n_heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class _Group:
    """Rows of like length, as consecutive tokens of all that go through the decoder."""

    n_rows: int
    length: int
    tokens: slice
    first: int  # position of the first token that scores something

    def of(self, x_NKD: Tensor, n_keys: int, first: int = 0) -> Tensor:
        """This group's tokens from position `first` on, to be multiplied as matrices.

        Of shape (row and key head, position and head that shares the key head, width).
        """
        x_BKTSD = self._by_key_head(x_NKD, n_keys, first)
        return x_BKTSD.reshape(self.n_rows * n_keys, x_BKTSD.shape[2] * x_BKTSD.shape[3], x_NKD.shape[-1])

    def put(self, place_NKD: Tensor, n_keys: int, found: Tensor, first: int = 0) -> None:
        """The reverse of `of`: what was found of this group's tokens goes to their place."""
        place_BKTSD = self._by_key_head(place_NKD, n_keys, first)
        place_BKTSD.copy_(found.view(place_BKTSD.shape))

    def _by_key_head(self, x_NKD: Tensor, n_keys: int, first: int) -> Tensor:
        n_heads, width = x_NKD.shape[1:]
        x_BTKSD = x_NKD[self.tokens].view(self.n_rows, self.length, n_keys, n_heads // n_keys, width)
        return (x_BTKSD[:, first:] if first else x_BTKSD).transpose(1, 2)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch stand, those left out that nothing can follow."""

    groups: list[_Group]
    row_N: Tensor  # of the batch; what fills a row up has places too
    position_N: Tensor
    ids_N: Tensor
    rotation_NKP: Tensor  # complex (token, head, pair)
    scoring_M: Tensor  # which tokens score something, in the row-major order of the batch


def laid_out(model: LoadedModel, batch: Batch) -> Layout:
    """The tokens of a batch in groups, for `states`."""
    scored_BT = batch.scored_BT.numpy()  # numpy, which is faster than torch with so little
    lengths_B = batch.attention_BT.numpy().sum(1)
    order_B = (-lengths_B).argsort(kind="stable")
    lengths = lengths_B[order_B].tolist()
    start_B = np.empty_like(order_B)  # of each row of the batch, among all tokens
    groups, rows, positions, n_tokens = [], [], [], 0
    for start, stop in cuts(lengths, max_rows=len(lengths), pass_tokens=GROUP_TOKENS):
        row_B, length = order_B[start:stop], lengths[start] - 1
        scored_T = scored_BT[row_B, 1 : length + 1].any(0)
        first = int(scored_T.argmax()) if scored_T.any() else length
        rows.append(row_B.repeat(length))
        positions.append(np.tile(np.arange(length), len(row_B)))
        start_B[row_B] = n_tokens + length * np.arange(len(row_B))
        n_tokens, before = n_tokens + len(rows[-1]), n_tokens
        groups.append(_Group(len(row_B), length, slice(before, n_tokens), first))
    row_N, position_N = np.concatenate(rows), np.concatenate(positions)
    ids_N = batch.input_ids_BT.numpy()[row_N, position_N]
    row_M, column_M = scored_BT.nonzero()
    scoring_M = start_B[row_M] + column_M - 1
    found = [torch.from_numpy(x) for x in (row_N, position_N, ids_N, scoring_M)]
    rotation_TKP = rotation(model, scored_BT.shape[1], model.causal.config.num_attention_heads)
    return Layout(groups, *found[:3], rotation_TKP.index_select(0, found[1]), found[3])


def rotation(model: LoadedModel, length: int, n_heads: int) -> Tensor:
    """Complex numbers (position, head, pair) that `turned` multiplies pairs by, the same for all heads."""
    decoder = model.causal.get_decoder()
    kept_TP = _rotations.get(decoder)
    if kept_TP is None or len(kept_TP) < length:
        positions = torch.arange(max(length, LEAST_POSITIONS))
        cos, sin = decoder.rotary_emb(decoder.embed_tokens.weight.detach(), positions[None])
        n_pairs = cos.shape[-1] // 2  # the second half repeats the first
        _rotations[decoder] = kept_TP = torch.complex(cos[0, :, :n_pairs], sin[0, :, :n_pairs])
    return kept_TP[:length, None].repeat(1, n_heads, 1)


Hear = Callable[[Layer, Tensor], None]


def states(model: LoadedModel, layout: Layout, hear: Hear | None = None) -> Tensor:
    """As `scoring_states`, written out.

    `hear` is told each layer's weights and joined queries, keys and values (token, features), not turned yet.
    """
    decoder, config = model.causal.get_decoder(), model.causal.config
    heads = config.num_attention_heads, config.num_key_value_heads
    states_NH = F.embedding(layout.ids_N, decoder.embed_tokens.weight)
    for number, module in enumerate(decoder.layers):
        layer, is_last = Layer(module, heads), number + 1 == len(decoder.layers)
        joined_NF = F.linear(_normed(states_NH, layer.before_attention), layer.qkv, layer.qkv_bias)
        if hear is not None:
            hear(layer, joined_NF)
        seen = _Attention.apply(joined_NF, layout, heads, layer.scaling, is_last)
        if is_last:
            seen, states_NH = (x.index_select(0, layout.scoring_M) for x in (seen, states_NH))
        states_NH = torch.addmm(states_NH, seen, layer.output.T)
        gate_up = F.linear(_normed(states_NH, layer.before_mlp), layer.gate_up)
        states_NH = torch.addmm(states_NH, _SwiGLU.apply(gate_up), layer.down.T)
    return _normed(states_NH, decoder.norm)


def _normed(states_NH: Tensor, norm: nn.Module) -> Tensor:
    return _RMSNorm.apply(states_NH, norm.weight, norm.variance_epsilon)


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + epsilon) * weight."""

    @staticmethod
    def forward(ctx, x_NH, weight_H, epsilon):
        squared_N1 = torch.linalg.vector_norm(x_NH, dim=-1, keepdim=True).square_()
        inverse_N1 = squared_N1.div_(x_NH.shape[-1]).add_(epsilon).rsqrt_()
        unit_NH = x_NH * inverse_N1
        ctx.save_for_backward(unit_NH, inverse_N1, weight_H)
        return unit_NH * weight_H

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream_NH):
        unit_NH, inverse_N1, weight_H = ctx.saved_tensors
        by_weight_NH = upstream_NH * unit_NH
        mean_N1 = (by_weight_NH @ weight_H[:, None]).div_(-len(weight_H))
        by_x_NH = (upstream_NH * weight_H).addcmul_(unit_NH, mean_N1).mul_(inverse_N1)
        return by_x_NH, by_weight_NH.sum(0), None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, of both side by side."""

    @staticmethod
    def forward(ctx, gate_up_NF):
        gate, up = gate_up_NF.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up_NF, opened)
        return opened * up

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        gate_up_NF, opened = ctx.saved_tensors
        gate, up = gate_up_NF.chunk(2, dim=-1)
        found_NF = torch.empty_like(gate_up_NF)
        by_gate, by_up = found_NF.chunk(2, dim=-1)
        torch.mul(upstream, opened, out=by_up)
        torch.ops.aten.silu_backward.grad_input(upstream * up, gate, grad_input=by_gate)
        return found_NF


class _Attention(torch.autograd.Function):
    """Causal attention with rotary positions, from joined queries, keys and values (token, features).

    Query heads that share a key head are that many rows of one matrix product. In the last layer queries
    that stand before all scored positions of their group are left out; there the result means nothing.
    """

    @staticmethod
    def forward(ctx, joined_NF, layout, heads, scaling, is_last):
        n_queries, n_keys = heads
        x_NKD = joined_NF.view(len(joined_NF), n_queries + 2 * n_keys, -1)
        query_NKD = turned(x_NKD[:, :n_queries], layout.rotation_NKP)
        key_NKD = turned(x_NKD[:, n_queries:-n_keys], layout.rotation_NKP[:, :n_keys])
        found_NKD = torch.empty_like(query_NKD)
        weights = []
        for group in layout.groups:
            first = group.first * is_last
            query, key = group.of(query_NKD, n_keys, first), group.of(key_NKD, n_keys)
            mask = _causal(group.length, n_queries // n_keys)[:, first * n_queries // n_keys :]
            scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling)
            weights.append(scores.softmax(-1))
            found = torch.bmm(weights[-1], group.of(x_NKD[:, -n_keys:], n_keys))
            group.put(found_NKD, n_keys, found, first)
        ctx.save_for_backward(x_NKD, query_NKD, key_NKD, *weights)
        ctx.layout, ctx.n_keys, ctx.scaling, ctx.is_last = layout, n_keys, scaling, is_last
        return found_NKD.view(len(found_NKD), -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream_NF):
        x_NKD, query_NKD, key_NKD, *weights = ctx.saved_tensors
        layout, n_keys, n_queries = ctx.layout, ctx.n_keys, query_NKD.shape[1]
        upstream_NKD = upstream_NF.view(query_NKD.shape)
        found_NKD, by_key_NKD = torch.empty_like(x_NKD), torch.empty_like(key_NKD)
        by_query_NKD = torch.zeros_like(query_NKD) if ctx.is_last else torch.empty_like(query_NKD)
        for group, weight in zip(layout.groups, weights, strict=True):
            first = group.first * ctx.is_last
            query, key = group.of(query_NKD, n_keys, first), group.of(key_NKD, n_keys)
            value, upstream = group.of(x_NKD[:, -n_keys:], n_keys), group.of(upstream_NKD, n_keys, first)
            group.put(found_NKD[:, -n_keys:], n_keys, torch.bmm(weight.transpose(1, 2), upstream))
            by_weight = torch.bmm(upstream, value.transpose(1, 2))
            by_score = torch._softmax_backward_data(by_weight, weight, -1, weight.dtype)
            group.put(by_query_NKD, n_keys, torch.bmm(by_score, key), first)
            group.put(by_key_NKD, n_keys, torch.bmm(by_score.transpose(1, 2), query))
        back_NKP = layout.rotation_NKP.conj() * ctx.scaling
        found_NKD[:, :n_queries] = turned(by_query_NKD, back_NKP)
        found_NKD[:, n_queries:-n_keys] = turned(by_key_NKD, back_NKP[:, :n_keys])
        return found_NKD.view(len(found_NKD), -1), None, None, None, None


def turned(x_NKD: Tensor, rotation_NKP: Tensor) -> Tensor:
    """Pairs (2i, 2i+1) of each head as complex numbers, multiplied."""
    pairs = torch.view_as_complex(x_NKD.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_NKP).flatten(-2)


@functools.lru_cache(maxsize=512)
def _causal(length: int, n_shared: int) -> Tensor:
    """Zero where a query may look, else minus infinity: (1, position and head of a group, position)."""
    hidden_TT = torch.full((length, length), -math.inf).triu(1)
    return hidden_TT.repeat_interleave(n_shared, dim=0)[None]
