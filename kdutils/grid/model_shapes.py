"""Shapes of the models, from which sizes and costs are computed. Without torch, hub and network."""

from __future__ import annotations

import json
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


def _qwen(layers: int, hidden: int, heads: int, key_heads: int, intermediate: int, **more: Any):
    rows = 151_936 if more["is_tied"] else 152_064
    shape = {"layers": layers, "hidden": hidden, "heads": heads, "key_heads": key_heads}
    return Architecture(**shape, intermediate=intermediate, rows=rows, has_bias=True, **more)


def _llama(layers: int, hidden: int, heads: int, intermediate: int, *, is_tied: bool):
    shape = {"layers": layers, "hidden": hidden, "heads": heads, "key_heads": 8}
    return Architecture(**shape, intermediate=intermediate, rows=128_256, is_tied=is_tied)


# Source: each one's config.json on the hub.
HUB = {
    "Qwen/Qwen2.5-0.5B": _qwen(24, 896, 14, 2, 4_864, is_tied=True),
    "Qwen/Qwen2.5-1.5B": _qwen(28, 1_536, 12, 2, 8_960, is_tied=True),
    "Qwen/Qwen2.5-3B": _qwen(36, 2_048, 16, 2, 11_008, is_tied=True),
    "Qwen/Qwen2.5-7B": _qwen(28, 3_584, 28, 4, 18_944, is_tied=False),
    "Qwen/Qwen2.5-14B": _qwen(48, 5_120, 40, 8, 13_824, is_tied=False),
    "Qwen/Qwen2.5-32B": _qwen(64, 5_120, 40, 8, 27_648, is_tied=False),
    "meta-llama/Llama-3.2-1B": _llama(16, 2_048, 32, 8_192, is_tied=True),
    "meta-llama/Llama-3.2-3B": _llama(28, 3_072, 24, 8_192, is_tied=True),
    "meta-llama/Llama-3.1-8B": _llama(32, 4_096, 32, 14_336, is_tied=False),
    "meta-llama/Llama-3.1-70B": _llama(80, 8_192, 64, 28_672, is_tied=False),
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
    """The shape of a model: from its own files where they are on this disk, else as known here.

    Raises:
        ModelError: if it is in neither; the message holds the remedy.
    """
    try:
        place = locate(name)
    except ModelError:
        known = HUB | IN_PACKAGES
        if name in known:  # what stands in for it here is missing; whoever trains says so
            return known[name]
        raise
    if place.gguf_file is not None:
        whole = _of_gguf(Path(place.source) / place.gguf_file)
        return whole if place.layers is None else replace(whole, layers=len(place.layers))
    folder = Path(place.source)
    config = folder / "config.json" if folder.is_dir() else _downloaded(place.source)
    if config is not None:
        return of_config(json.loads(config.read_text(encoding="utf-8")))
    if place.source in HUB:
        return HUB[place.source]
    raise ModelError(
        f"the shape of {name} is not known before it is downloaded; add its config.json to "
        "architecture.HUB, or download it"
    )


def _downloaded(hub_id: str) -> Path | None:
    """The config.json in the cache of the hub, if the model was downloaded."""
    if hub_id in HUB:
        return None
    return model_files.hub_file(hub_id, "config.json")


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


def _of_gguf(path: Path) -> Architecture:
    """The shape of a GGUF file, from its metadata and the shapes of its tensors."""
    try:
        header = model_facts.read_gguf(path)
    except model_facts.HeaderError as error:
        raise ModelError(str(error)) from None
    kind, tensors = header.get("general.architecture"), header["tensors"]
    if kind not in ("qwen2", "llama"):
        raise ModelError(f"{path}: costs are known of models of type qwen2 and llama, not {kind!r}")

    def fact(name: str) -> int | None:
        return header.get(f"{kind}.{name}")

    return Architecture(
        layers=fact("block_count"),
        hidden=fact("embedding_length"),
        heads=fact("attention.head_count"),
        key_heads=fact("attention.head_count_kv") or fact("attention.head_count"),
        intermediate=fact("feed_forward_length"),
        rows=tensors["token_embd.weight"][-1],
        is_tied="output.weight" not in tensors,
        has_bias=kind == "qwen2",
        head_size=fact("attention.key_length"),
    )
