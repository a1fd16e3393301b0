"""What models from GGUF files need beside loading: copies, a shorter decoder, and permission to be saved.

Reading a GGUF file takes half a minute, so it is read once and a plain copy stays in the user's cache.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from kdutils.data.model_files import Location, files_digest
from kdutils.io import disk


def copy_of(place: Location, what: str) -> Location | None:
    """The copy of a GGUF file's tokenizer or weights (named by their dtype), None if there is none."""
    if place.gguf_file is None or not (folder := _folder(place, what)).is_dir():
        return None
    return replace(place, source=str(folder), gguf_file=None, layers=None)


@contextlib.contextmanager
def saved_copy(place: Location, what: str) -> Iterator[Path]:
    """A folder to save a copy in, which appears whole or, on a full or read-only disk, not at all."""
    try:
        with disk.folder_in_one_step(_folder(place, what), replaces=False) as folder:
            yield folder
    except OSError:
        pass  # the model is loaded; the next load reads the GGUF file again


def _folder(place: Location, what: str) -> Path:
    return disk.cache_path("gguf") / f"{files_digest(place)}-{what.removeprefix('torch.')}"


def keep_layers(network: PreTrainedModel, kept: Sequence[int]) -> None:
    """Cut the decoder to these of its layers, in place; they are renumbered, as the KV cache needs."""
    decoder, config = network.get_decoder(), network.config
    decoder.layers = nn.ModuleList([decoder.layers[layer] for layer in kept])
    for number, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = number
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]


def unmark_quantised(network: PreTrainedModel) -> None:
    """A model from GGUF holds plain weights, but is marked as quantised and so refuses to be saved."""
    network.hf_quantizer = None
    network.is_quantized = False
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
