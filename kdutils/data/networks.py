"""Networks of models: read from their files, whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from kdutils.data.model_files import ADAPTER_NEEDS_MERGING, Location, ModelError, unobtainable
from kdutils.data.tokenizers import UNREADABLE, offline


def read_network(place: Location, *, dtype: torch.dtype | str, name: str) -> PreTrainedModel:
    """The causal language model at a place, in that dtype of torch, or "auto": as it is stored.

    Raises:
        ModelError: names the model and what is wrong with its files.
    """
    kinds = {"trust_remote_code": False, "output_loading_info": True, **offline(place)}
    kinds |= {"gguf_file": place.gguf_file, "use_safetensors": place.gguf_file is None or None}
    try:
        with _without_progress_bar():
            network, read = AutoModelForCausalLM.from_pretrained(place.source, dtype=dtype, **kinds)
    except UNREADABLE as error:
        raise ModelError(unobtainable(place, error)) from error
    if getattr(network, "_hf_peft_config_loaded", False):  # of a hub repository that was not here before
        raise ModelError(f"{place.name} {ADAPTER_NEEDS_MERGING}")
    if lost := sorted(read["missing_keys"]):
        raise ModelError(f"{name}: {lost[0]} ({len(lost)} in all) is not in its files; give a whole model")
    if network.config.model_type == "youtu" and network.config.pad_token_id is not None:
        bug = "transformers (5.23) empties the row of its padding token at every load"
        raise ModelError(f"{name}: {bug}; set pad_token_id to null in its config.json")
    return network


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()
