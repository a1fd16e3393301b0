"""Shapes of models, and the sizes and FLOPs that follow from them. Without torch, hub and network.

A product of (a, b) and (b, c) is 2abc FLOPs, as torch counts them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from kdutils.constants import LORA_TARGETS
from kdutils.data import model_facts, model_files
from kdutils.data.model_files import ModelError, locate


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder as Qwen2 and Llama are: grouped attention, gated MLP, RMS norms."""

    layers: int
    hidden: int  # width
    heads: int
    key_heads: int  # of keys and values
    intermediate: int  # width within the MLP
    rows: int  # of embedding and head
    is_tied: bool  # embedding and head are one matrix
    has_bias: bool = False  # of q, k and v, as Qwen2
    head_size: int | None = None  # None: hidden / heads

    @property
    def query_width(self) -> int:
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def key_width(self) -> int:
        """Of the keys of one position in one layer; its values are as many."""
        return self.key_heads * (self.head_size or self.hidden // self.heads)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each matrix of a block."""
        width, query, key, inner = self.hidden, self.query_width, self.key_width, self.intermediate
        return {
            **{"q_proj": (width, query), "k_proj": (width, key), "v_proj": (width, key)},
            **{"o_proj": (query, width), "gate_proj": (width, inner), "up_proj": (width, inner)},
            "down_proj": (inner, width),
        }

    @property
    def body(self) -> int:
        """Weights in the matrices of all blocks: what a token is multiplied by, but for the head."""
        return self.layers * sum(map(math.prod, self.matrices.values()))

    @property
    def head(self) -> int:
        return self.rows * self.hidden

    @property
    def parameters(self) -> int:
        """Every weight, with those of norms, biases and the embedding."""
        biases = (self.query_width + 2 * self.key_width) * self.has_bias
        vectors = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.body + vectors + self.head * (1 if self.is_tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA of that rank on LORA_TARGETS."""
        return self.layers * rank * sum(sum(self.matrices[name]) for name in LORA_TARGETS)


def forward_flops(shape: Architecture, tokens: float, *, context: float, scored: float) -> float:
    """FLOPs of a forward pass over `tokens` positions that each look at `context` positions.

    Two a weight of the blocks, 4 x context x width a layer for attention (scores and
    values, the masked half not left out), and two a weight of the head for each of the `scored` positions.
    Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1.
    """
    attention = 4 * context * shape.query_width * shape.layers
    return tokens * (2 * shape.body + attention) + 2 * shape.head * scored


def training_flops(
    shape: Architecture, tokens: float, *, context: float, scored: float, rank: int = 0
) -> float:
    """FLOPs of forward and backward; `rank` 0 trains every weight, else a LoRA of that rank.

    Backward costs two products a matrix, for the gradients of inputs and of weights. With LoRA frozen
    matrices need the first alone, the first layer's q, k and v neither, and the head's logits are made, and
    made a gradient, in one go (losses): two products for LoRA, three for all weights.
    """
    if rank == 0:
        return 3 * forward_flops(shape, tokens, context=context, scored=scored)
    inputs = ("q_proj", "k_proj", "v_proj")
    first = sum(math.prod(shape.matrices[name]) + rank * shape.matrices[name][0] for name in inputs)
    weights = 2 * shape.body + 3 * shape.adapter(rank) - first
    attention = 3 * 4 * context * shape.query_width * shape.layers
    return tokens * (2 * weights + attention) + 2 * 2 * shape.head * scored


# --- which model has which shape ----------------------------------------------------------------------------

SHAPES = {  # of models that may not be here: as their config.json on the hub, or their GGUF file, says
    name: Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        key_heads=key_heads,
        intermediate=intermediate,
        rows=rows,
        is_tied=is_tied,
        has_bias=name.startswith("Qwen"),
    )
    for name, layers, hidden, heads, key_heads, intermediate, rows, is_tied in (
        ("Qwen/Qwen2.5-0.5B", 24, 896, 14, 2, 4_864, 151_936, True),
        ("Qwen/Qwen2.5-1.5B", 28, 1_536, 12, 2, 8_960, 151_936, True),
        ("Qwen/Qwen2.5-3B", 36, 2_048, 16, 2, 11_008, 151_936, True),
        ("Qwen/Qwen2.5-7B", 28, 3_584, 28, 4, 18_944, 152_064, False),
        ("Qwen/Qwen2.5-14B", 48, 5_120, 40, 8, 13_824, 152_064, False),
        ("Qwen/Qwen2.5-32B", 64, 5_120, 40, 8, 27_648, 152_064, False),
        ("meta-llama/Llama-3.2-1B", 16, 2_048, 32, 8, 8_192, 128_256, True),
        ("meta-llama/Llama-3.2-3B", 28, 3_072, 24, 8, 8_192, 128_256, True),
        ("meta-llama/Llama-3.1-8B", 32, 4_096, 32, 8, 14_336, 128_256, False),
        ("meta-llama/Llama-3.1-70B", 80, 8_192, 64, 8, 28_672, 128_256, False),
        ("SmolLM2-135M", 30, 576, 9, 3, 1_536, 49_152, True),
        ("SmolLM2-20-layers-99M", 20, 576, 9, 3, 1_536, 49_152, True),
    )
}


@cache
def architecture_of(name: str, source: str = "") -> Architecture:
    """The shape of a model: from its own files where they are on this disk, else from SHAPES.

    Raises:
        ModelError: if it is in neither; the message holds the remedy. For another kind of model than Qwen2
            and Llama, whose costs are not known.
    """
    try:
        place = locate(name, source)
    except ModelError:
        if name in SHAPES:  # that its files are missing is an error only when it is to be trained
            return SHAPES[name]
        raise
    folder = Path(place.source)
    if place.gguf_file is not None:
        whole = _of_config(_gguf_config(folder / place.gguf_file))
        return whole if place.layers is None else replace(whole, layers=len(place.layers))
    if place.source in SHAPES:
        return SHAPES[place.source]
    path = folder / "config.json" if folder.is_dir() else model_files.hub_file(place.source, "config.json")
    if path is None:
        raise ModelError(
            f"the shape of {name} is not known before it is downloaded; add its config.json to "
            "model_shapes.SHAPES, or download it"
        )
    return _of_config(json.loads(path.read_text(encoding="utf-8")))


_KEYS = {  # of config.json -> field here, and the end of the key in a GGUF file
    "num_hidden_layers": ("layers", "block_count"),
    "hidden_size": ("hidden", "embedding_length"),
    "num_attention_heads": ("heads", "attention.head_count"),
    "num_key_value_heads": ("key_heads", "attention.head_count_kv"),
    "intermediate_size": ("intermediate", "feed_forward_length"),
    "head_dim": ("head_size", "attention.key_length"),
}


def _of_config(config: dict[str, Any]) -> Architecture:
    kind = config.get("model_type")
    if kind not in ("qwen2", "llama"):
        raise ModelError(f"costs are known of models of type qwen2 and llama, not {kind!r}")
    fields = {field: config.get(key) for key, (field, _) in _KEYS.items()}
    fields["key_heads"] = fields["key_heads"] or fields["heads"]
    is_tied = config.get("tie_word_embeddings", False)
    return Architecture(**fields, rows=config["vocab_size"], is_tied=is_tied, has_bias=kind == "qwen2")


def _gguf_config(path: Path) -> dict[str, Any]:
    """The head of a GGUF file under the names of a config.json."""
    try:
        head = model_facts.read_gguf(path)
    except model_facts.HeaderError as error:
        raise ModelError(str(error)) from None
    kind, tensors = head.get("general.architecture"), head["tensors"]
    config = {key: head.get(f"{kind}.{ending}") for key, (_, ending) in _KEYS.items()}
    rows = tensors.get("token_embd.weight", (0,))[-1]
    is_tied = "output.weight" not in tensors
    return config | {"model_type": kind, "vocab_size": rows, "tie_word_embeddings": is_tied}
