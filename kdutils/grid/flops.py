"""FLOPs and bytes of transformer work, one formula each, from shapes alone.

A product of (a, b) and (b, c) is 2abc FLOPs, as torch counts them.
"""

from __future__ import annotations

import math

from kdutils.grid.model_shapes import LORA_MATRICES, Architecture

# --- FLOPs --------------------------------------------------------------------------------------------------


def forward_flops(
    shape: Architecture, tokens: float, *, context: float, scored: float, rank: int = 0
) -> float:
    """FLOPs of a forward pass over `tokens` positions that each look at `context` positions.

    Two a weight of the blocks and of the adapter, 4 x context x width a layer for attention (scores and
    values, the masked half not left out), and two a weight of the head for each of the `scored` positions.
    Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1.
    """
    attention = 4 * context * shape.query_width * shape.layers
    return tokens * (2 * (shape.body + shape.adapter(rank)) + attention) + 2 * shape.head * scored


def training_flops(
    shape: Architecture, tokens: float, *, context: float, scored: float, rank: int = 0
) -> float:
    """FLOPs of forward and backward; `rank` 0 trains every weight, else a LoRA of that rank.

    Backward costs two products a matrix, for the gradients of inputs and of weights. With LoRA frozen
    matrices need the first alone, the first layer's q, k and v neither, and the head's logits are made, and
    made a gradient, in one go (losses): two products for LoRA, three for all weights.
    """
    attention = 4 * context * shape.query_width * shape.layers
    if rank == 0:
        return 3 * forward_flops(shape, tokens, context=context, scored=scored)
    first = sum(math.prod(shape.matrices[name]) for name in ("q", "k", "v"))
    first_adapter = rank * sum(shape.matrices[name][0] for name in ("q", "k", "v"))
    weights = 2 * shape.body - first + 3 * shape.adapter(rank) - first_adapter
    return tokens * (2 * weights + 3 * attention) + 2 * 2 * shape.head * scored


def generation_flops(shape: Architecture, texts: float, *, prompt: float, new: float, rank: int = 0) -> float:
    """FLOPs of texts of `new` tokens after `prompt` ones, with a KV cache.

    The prompt goes through at once and gives the first token; each later one takes a pass of one position
    that looks at all before it. The head works on one position a token.
    """
    steps = max(new - 1, 0)
    prefill = forward_flops(shape, texts * prompt, context=prompt, scored=texts, rank=rank)
    context = prompt + (steps + 1) / 2
    return prefill + forward_flops(shape, texts * steps, context=context, scored=texts * steps, rank=rank)


# --- memory -------------------------------------------------------------------------------------------------


def activation_bytes(shape: Architecture, tokens: float, *, context: float, rank: int, eager: bool) -> float:
    """Bytes that the forward pass keeps for the backward one, in bf16; twice as many in float32.

    A token and layer: two norms with their float32 copies (16 x width), q, k, v before and after rotation,
    attention's output and two residuals (10 x width + 8 x key width), four products in the MLP (8 x
    intermediate). LoRA keeps a float32 copy of each of its inputs, that copy after dropout, and a mask (9
    bytes each). Eager attention keeps scores and softmax too (10 bytes a pair of positions and head).
    Counted in transformers' Qwen2 and peft; an upper estimate, since some are shared.
    """
    layer = 26 * shape.hidden + 8 * shape.key_width + 8 * shape.intermediate
    if rank:
        layer += 9 * sum(shape.matrices[name][0] for name in LORA_MATRICES)
    if eager:
        layer += 10 * shape.heads * context
    return tokens * layer * shape.layers


def state_bytes(shape: Architecture, *, rank: int, weight_bytes: int = 2) -> float:
    """Bytes of weights, and of gradients and Adam's two moments in float32, of what is trained.

    All weights: 16 bytes each. LoRA: the frozen weights, and 16 bytes each of its own.
    """
    if rank == 0:
        return 16 * shape.parameters
    return weight_bytes * shape.parameters + 16 * shape.adapter(rank)


def part_bytes(shape: Architecture, whole: float, *, gathered_bytes: int, devices: int) -> float:
    """Bytes on one of `devices` that divide the `whole` of a model among them (kdutils.devices.fsdp).

    Gathered at a time, `gathered_bytes` a weight: embedding, head and norms, and two layers, of which one is
    on its way.
    """
    if devices == 1:
        return whole
    return whole / devices + gathered_bytes * (shape.parameters - shape.body * (1 - 2 / shape.layers))


def decoding_bytes(shape: Architecture, rows: int, *, positions: float, weight_bytes: int = 2) -> float:
    """Bytes of the KV cache of `rows` texts, and of one step's logits with the noise that samples them."""
    cache = 2 * rows * positions * shape.key_width * shape.layers * weight_bytes
    return cache + rows * shape.rows * 34
