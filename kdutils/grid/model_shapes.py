"""Shapes of models, and the sizes and FLOPs that follow from them. Without torch, hub and network.

A product of (a, b) and (b, c) is 2abc FLOPs, as torch counts them.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdutils.constants import LORA_TARGETS
from kdutils.data.model_files import ModelError, locate
from kdutils.grid.cell_table import model_parameters, short_name


@dataclass(frozen=True)
class Architecture:
    """A decoder as Qwen2 and Llama are: grouped attention, gated MLP, RMS norms."""

    layers: int
    hidden: int  # width, of the queries too
    heads: int
    key_heads: int  # of keys and values
    intermediate: int  # width within the MLP
    rows: int  # of embedding and head
    is_tied: bool  # embedding and head are one matrix
    has_bias: bool = False  # of q, k and v, as Qwen2
    has_output_bias: bool = False  # of o as well, as Llama with attention_bias

    @property
    def key_width(self) -> int:
        """Of the keys of one position in one layer; its values are as many."""
        return self.key_heads * self.hidden // self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each matrix of a block."""
        width, key, inner = self.hidden, self.key_width, self.intermediate
        return {
            **{"q_proj": (width, width), "k_proj": (width, key), "v_proj": (width, key)},
            **{"o_proj": (width, width), "gate_proj": (width, inner), "up_proj": (width, inner)},
            "down_proj": (inner, width),
        }

    @property
    def blocks(self) -> list[tuple[int, dict[str, tuple[int, int]], int]]:
        """Of each kind of block how many there are, its matrices, and its weights in norms and biases."""
        biases = (self.hidden + 2 * self.key_width) * self.has_bias + self.hidden * self.has_output_bias
        return [(self.layers, self.matrices, 2 * self.hidden + biases)]

    @property
    def body(self) -> int:
        """Weights in the matrices of all blocks: what a token is multiplied by, but for the head."""
        return sum(n * sum(map(math.prod, matrices.values())) for n, matrices, _ in self.blocks)

    @property
    def head(self) -> int:
        return self.rows * self.hidden

    @property
    def parameters(self) -> int:
        """Every weight, with those of norms, biases and the embedding."""
        vectors = sum(n * own for n, _, own in self.blocks) + self.hidden
        return self.body + vectors + self.head * (1 if self.is_tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA of that rank on LORA_TARGETS."""
        return rank * sum(
            n * sum(matrices.get(name, ())) for n, matrices, _ in self.blocks for name in LORA_TARGETS
        )

    def cached(self, positions: float) -> float:
        """Numbers kept of a text of so many positions while it is generated: keys and values."""
        return positions * 2 * self.key_width * self.layers


@dataclass(frozen=True, kw_only=True)
class Hybrid(Architecture):
    """A decoder as Qwen3.5 is: gated attention in some layers, else Gated DeltaNet (arXiv:2412.06464)."""

    attention_layers: int
    head_width: int  # of queries, keys and values in attention
    linear_key_heads: int
    linear_heads: int  # of values
    linear_key_width: int
    linear_width: int  # of values
    window: int  # positions that a convolution sees

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_width

    @property
    def convolved(self) -> int:
        """Width of queries, keys and values of a linear layer together."""
        return 2 * self.linear_key_heads * self.linear_key_width + self.linear_heads * self.linear_width

    @property
    def blocks(self) -> list[tuple[int, dict[str, tuple[int, int]], int]]:
        width, queries = self.hidden, self.heads * self.head_width
        attention = self.matrices | {"q_proj": (width, 2 * queries), "o_proj": (queries, width)}
        values = width, self.linear_heads * self.linear_width
        linear = {name: self.matrices[name] for name in ("gate_proj", "up_proj", "down_proj")}
        linear |= {"in_proj_qkv": (width, self.convolved), "in_proj_z": values, "out_proj": values}
        linear |= {"in_proj_ab": (width, 2 * self.linear_heads), "conv1d": (self.window, self.convolved)}
        attending = (self.attention_layers, attention, 2 * (width + self.head_width))
        vectors = 2 * (width + self.linear_heads) + self.linear_width
        return [attending, (self.layers - self.attention_layers, linear, vectors)]

    def cached(self, positions: float) -> float:
        """Numbers kept of a text: keys and values where there is attention, else a state of constant size."""
        state = self.linear_heads * self.linear_key_width * self.linear_width + self.convolved * self.window
        attention = positions * 2 * self.key_width * self.attention_layers
        return attention + state * (self.layers - self.attention_layers)


def forward_flops(shape: Architecture, tokens: float, *, context: float, scored: float) -> float:
    """FLOPs of a forward pass over `tokens` positions that each look at `context` positions.

    Two a weight of the blocks, 4 x context x width a layer for attention (scores and
    values, the masked half not left out), and two a weight of the head for each of the `scored` positions.
    Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1.
    """
    attention = 4 * context * shape.hidden * shape.layers
    return tokens * (2 * shape.body + attention) + 2 * shape.head * scored


def training_flops(shape: Architecture, tokens: float, *, context: float, scored: float) -> float:
    """FLOPs of forward and backward, which takes the gradients of inputs and of weights."""
    return 3 * forward_flops(shape, tokens, context=context, scored=scored)


# --- which model has which shape ----------------------------------------------------------------------------

SHAPES = {  # by short name, as their config.json on the hub, or their GGUF file, says
    name: Architecture(*numbers, has_bias=name.startswith("Qwen"))
    for name, *numbers in (
        ("Qwen2.5-0.5B", 24, 896, 14, 2, 4_864, 151_936, True),
        ("Qwen2.5-1.5B", 28, 1_536, 12, 2, 8_960, 151_936, True),
        ("Qwen2.5-3B", 36, 2_048, 16, 2, 11_008, 151_936, True),
        ("Qwen2.5-7B", 28, 3_584, 28, 4, 18_944, 152_064, False),
        ("Qwen2.5-14B", 48, 5_120, 40, 8, 13_824, 152_064, False),
        ("Qwen2.5-32B", 64, 5_120, 40, 8, 27_648, 152_064, False),
        ("Llama-3.2-1B", 16, 2_048, 32, 8, 8_192, 128_256, True),
        ("Llama-3.2-3B", 28, 3_072, 24, 8, 8_192, 128_256, True),
        ("Llama-3.1-8B", 32, 4_096, 32, 8, 14_336, 128_256, False),
        ("Llama-3.1-70B", 80, 8_192, 64, 8, 28_672, 128_256, False),
        ("SmolLM2-135M", 30, 576, 9, 3, 1_536, 49_152, True),
        ("SmolLM2-20-layers-99M", 20, 576, 9, 3, 1_536, 49_152, True),
    )
}
CONFIG_KEYS = (  # of config.json, in the order of the fields of Architecture
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "tie_word_embeddings"),
)
HYBRID = "qwen3_5_text"
HYBRID_KEYS = {
    "head_width": "head_dim",
    "linear_key_heads": "linear_num_key_heads",
    "linear_heads": "linear_num_value_heads",
    "linear_key_width": "linear_key_head_dim",
    "linear_width": "linear_value_head_dim",
    "window": "linear_conv_kernel_dim",
}


@cache
def architecture_of(name: str, source: str = "") -> Architecture:
    """The shape of a model, from the config.json in its folder; else one of SHAPES, see `known_shape`.

    Raises:
        ModelError: for another kind of model than Qwen2, Llama and Qwen3.5, whose costs are not known.
        ValueError: for a name that is not in SHAPES and does not end in a size.
    """
    path = local_file(name, source, "config.json")
    if path is None:
        return SHAPES[known_shape(name)]
    config = json.loads(path.read_text(encoding="utf-8"))
    if (kind := config["model_type"]) not in ("qwen2", "llama", HYBRID):
        raise ModelError(f"costs are known of models of type {HYBRID}, qwen2 and llama, not {kind!r}")
    config = {"num_key_value_heads": config["num_attention_heads"], "tie_word_embeddings": False} | config
    if kind == HYBRID:
        own = {field: config[key] for field, key in HYBRID_KEYS.items()}
        own["attention_layers"] = config["layer_types"].count("full_attention")
        return Hybrid(*(config[key] for key in CONFIG_KEYS), **own)
    has_bias = kind == "llama" and config.get("attention_bias", False)  # Qwen2 has no such key
    biases = {"has_bias": kind == "qwen2" or has_bias, "has_output_bias": has_bias}
    return Architecture(*(config[key] for key in CONFIG_KEYS), **biases)


def known_shape(name: str) -> str:
    """The key of SHAPES of a model: its own, or that of the nearest in size."""
    if short_name(name) in SHAPES:
        return short_name(name)
    size = model_parameters(name)
    return min(SHAPES, key=lambda known: abs(math.log(SHAPES[known].parameters / size)))


@cache
def local_file(name: str, source: str, file: str) -> Path | None:
    """A file in the folder of a model; None for a GGUF file, and for a model that is not on this disk."""
    try:
        place = locate(name, source)
    except ModelError:  # an error only when it is to be trained
        return None
    path = Path(place.source) / file
    return path if place.gguf_file is None and path.is_file() else None
