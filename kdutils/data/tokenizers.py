"""Tokenizers: how they are loaded, and the digest of the files that they are read from."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from kdutils.data.chat_templates import end_answers_as_in_chats
from kdutils.data.gguf_files import copy_of, saved_copy
from kdutils.data.model_files import (
    OF_TOKENIZERS,
    Location,
    ModelError,
    files_digest,
    locate,
    unobtainable,
)
from kdutils.io import disk
from kdutils.items import alpaca

SUFFIXES = (".json", ".jinja", *OF_TOKENIZERS)
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that say nothing of how text is cut
UNREADABLE = (OSError, ValueError, struct.error, SafetensorError)  # what reading a model may raise


def load_tokenizer(model: str | Location, prompt: str = "alpaca") -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by its name or where it is read from.

    With `prompt` "chat", EOS is the token that ends an answer in its chat template.

    Raises:
        ModelError: if it cannot be loaded, knows no word, has no EOS token, or no chat template for `chat`.
    """
    located = locate(model)
    name, place = located.name, copy_of(located, "tokenizer") or located
    options = {"trust_remote_code": False, **offline(place)}
    try:
        if place.gguf_file is not None:
            tokenizer = AutoTokenizer.from_pretrained(place.source, gguf_file=place.gguf_file, **options)
            with saved_copy(place, "tokenizer") as folder:
                tokenizer.save_pretrained(folder)
        else:
            declared = get_tokenizer_config(place.source, **offline(place)).get("tokenizer_class")
            # AutoTokenizer reads a Qwen2 folder that declares a generic class by Qwen2's own rules, and
            # most words become unknown. Its tokenizer.json says how to read it.
            kind = PreTrainedTokenizerFast if declared in GENERIC else AutoTokenizer
            tokenizer = kind.from_pretrained(place.source, **options)
    except UNREADABLE as error:
        raise ModelError(unobtainable(place, error)) from error
    # Without files of a tokenizer, transformers makes an empty one and does not say so.
    if not set(tokenizer(alpaca("1 + 2"))["input_ids"]) - set(tokenizer.all_special_ids):
        raise ModelError(f"{name} has no tokenizer that knows a word; give a model with its tokenizer files")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {name} has no EOS token: a student could not learn to stop")
    if prompt == "chat":
        end_answers_as_in_chats(name, tokenizer)
    tokenizer.files_digest = _digest(located)  # by which encoding.token_ids knows it
    return tokenizer


def _digest(place: Location) -> str:
    """Digest of the local files that a tokenizer is read from, without weights; "" for one of the hub."""
    source = Path(place.source)
    if place.gguf_file is not None or not source.is_dir():
        return files_digest(place)
    total = hashlib.sha256()
    for path in sorted(source.iterdir()):
        if path.suffix in SUFFIXES and path.name not in ("config.json", "generation_config.json"):
            total.update(path.name.encode() + bytes.fromhex(disk.sha256_once(path)))
    return total.hexdigest()


def offline(place: Location) -> dict[str, bool]:
    """Argument of transformers that keeps it from asking the hub about a local folder."""
    return {"local_files_only": True} if Path(place.source).is_dir() else {}
