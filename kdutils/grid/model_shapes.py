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

from kdutils.data import model_facts, model_files
from kdutils.data.model_files import ModelError, locate

LORA_MATRICES = ("q", "k", "v", "up", "down")  # of a block, those of models.LORA_TARGETS


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
        wide, narrow = self.query_width, self.key_width
        attention = {"q": (self.hidden, wide), "k": (self.hidden, narrow), "v": (self.hidden, narrow)}
        inner = {"gate": (self.hidden, self.intermediate), "up": (self.hidden, self.intermediate)}
        return attention | {"o": (wide, self.hidden)} | inner | {"down": (self.intermediate, self.hidden)}

    @property
    def body(self) -> int:
        """Weights in the matrices of all blocks: what a token is multiplied by, but for the head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices.values())

    @property
    def head(self) -> int:
        return self.rows * self.hidden

    @property
    def parameters(self) -> int:
        """Every weight, those of norms, biases and the embedding among them."""
        biases = (self.query_width + 2 * self.key_width) * self.has_bias
        vectors = self.layers * (2 * self.hidden + biases) + self.hidden
        return self.body + vectors + self.head * (1 if self.is_tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA of that rank on LORA_MATRICES."""
        return self.layers * rank * sum(sum(self.matrices[name]) for name in LORA_MATRICES)


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


# --- which model has which shape ----------------------------------------------------------------------------

_FIELDS = ("layers", "hidden", "heads", "key_heads", "intermediate", "rows", "is_tied")
_SHAPES = {  # source: each one's config.json on the hub
    "Qwen/Qwen2.5-0.5B": (24, 896, 14, 2, 4_864, 151_936, True),
    "Qwen/Qwen2.5-1.5B": (28, 1_536, 12, 2, 8_960, 151_936, True),
    "Qwen/Qwen2.5-3B": (36, 2_048, 16, 2, 11_008, 151_936, True),
    "Qwen/Qwen2.5-7B": (28, 3_584, 28, 4, 18_944, 152_064, False),
    "Qwen/Qwen2.5-14B": (48, 5_120, 40, 8, 13_824, 152_064, False),
    "Qwen/Qwen2.5-32B": (64, 5_120, 40, 8, 27_648, 152_064, False),
    "meta-llama/Llama-3.2-1B": (16, 2_048, 32, 8, 8_192, 128_256, True),
    "meta-llama/Llama-3.2-3B": (28, 3_072, 24, 8, 8_192, 128_256, True),
    "meta-llama/Llama-3.1-8B": (32, 4_096, 32, 8, 14_336, 128_256, False),
    "meta-llama/Llama-3.1-70B": (80, 8_192, 64, 8, 28_672, 128_256, False),
}
HUB = {
    name: Architecture(**dict(zip(_FIELDS, shape, strict=True)), has_bias=name.startswith("Qwen"))
    for name, shape in _SHAPES.items()
}
_SMOLLM = Architecture(
    layers=30, hidden=576, heads=9, key_heads=3, intermediate=1_536, rows=49_152, is_tied=True
)
IN_PACKAGES = {  # as their GGUF file says
    "SmolLM2-135M": _SMOLLM,
    "SmolLM2-20-layers-99M": replace(_SMOLLM, layers=20),
}


@cache
def architecture_of(name: str) -> Architecture:
    """The shape of a model: from its own files where they are on this disk, else from HUB and IN_PACKAGES.

    Raises:
        ModelError: if it is in neither; the message holds the remedy.
    """
    try:
        place = locate(name)
    except ModelError:
        known = HUB | IN_PACKAGES
        if name in known:  # its files are missing, which is an error only when it is to be trained
            return known[name]
        raise
    folder = Path(place.source)
    if place.gguf_file is not None:
        whole = of_config(_gguf_config(folder / place.gguf_file))
        return whole if place.layers is None else replace(whole, layers=len(place.layers))
    if place.source in HUB:
        return HUB[place.source]
    config = folder / "config.json" if folder.is_dir() else model_files.hub_file(place.source, "config.json")
    if config is None:
        raise ModelError(
            f"the shape of {name} is not known before it is downloaded; add its config.json to "
            "model_shapes.HUB, or download it"
        )
    return of_config(json.loads(config.read_text(encoding="utf-8")))


def of_config(config: dict[str, Any]) -> Architecture:
    """The shape that a config.json of Qwen2 or Llama describes.

    Raises:
        ModelError: for another kind of model, whose costs are not known.
    """
    kind = config.get("model_type")
    if kind not in ("qwen2", "llama"):
        raise ModelError(f"costs are known of models of type qwen2 and llama, not {kind!r}")
    return Architecture(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        key_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        intermediate=config["intermediate_size"],
        rows=config["vocab_size"],
        is_tied=config.get("tie_word_embeddings", False),
        has_bias=kind == "qwen2",
        head_size=config.get("head_dim"),
    )


def _gguf_config(path: Path) -> dict[str, Any]:
    """A GGUF file's metadata under the names of a config.json."""
    try:
        header = model_facts.read_gguf(path)
    except model_facts.HeaderError as error:
        raise ModelError(str(error)) from None
    kind, tensors = header.get("general.architecture"), header["tensors"]
    names = {
        "num_hidden_layers": "block_count",
        "hidden_size": "embedding_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "intermediate_size": "feed_forward_length",
        "head_dim": "attention.key_length",
    }
    config = {name: header.get(f"{kind}.{own}") for name, own in names.items()} | {"model_type": kind}
    if "token_embd.weight" in tensors:
        config["vocab_size"] = tensors["token_embd.weight"][-1]
    return config | {"tie_word_embeddings": "output.weight" not in tensors}
