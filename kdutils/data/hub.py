"""Whether the models of a plan can be had from the hub, asked before anything is trained.

Nothing is downloaded here, and no weights are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from kdutils.data.model_files import ADAPTER_CONFIG, ADAPTER_NEEDS_MERGING, ModelError, hub_file, locate

ASK_SECONDS = 10.0


def check_models(models: Iterable[tuple[str, str]]) -> None:
    """Nothing, if every model (name and source, as in `locate`) is on this disk or may be downloaded.

    Raises:
        ModelError: names all that are missing, each with its remedy, in one line.
    """
    missing = []
    for name, source in dict.fromkeys(models):
        try:
            place = locate(name, source)
            if not Path(place.source).is_dir():
                _check_on_hub(place.source)
                if hub_file(place.source, ADAPTER_CONFIG):
                    raise ModelError(f"{place.source} {ADAPTER_NEEDS_MERGING}")
        except ModelError as error:
            missing.append(str(error))
    if missing:
        count = f"{len(missing)} models cannot be had: " if len(missing) > 1 else ""
        raise ModelError(count + "; ".join(missing))


def _check_on_hub(hub_id: str) -> None:
    """As `check_models`, for one model that is not a folder."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if _is_downloaded(hub_id):
        return
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, "config.json"), timeout=ASK_SECONDS)
    except GatedRepoError as error:
        raise ModelError(
            f"{hub_id} is gated: accept its licence at https://huggingface.co/{hub_id}, then `hf auth login` "
            "as that user (or set HF_TOKEN)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{hub_id} is not on the hub, or not for you to see: check the name, or `hf auth login`"
        ) from error
    except Exception as error:  # no network, a proxy, offline mode, a hub that is down: all have one remedy
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{hub_id} is not downloaded and the hub cannot be asked ({type(error).__name__}: {reason}): "
            f"connect and `hf download {hub_id}`, or name a folder or GGUF file for it in KDUTILS_MODELS"
        ) from error


def _is_downloaded(hub_id: str) -> bool:
    """Whether configuration and all weights are in the hub's cache."""
    cached = partial(hub_file, hub_id)
    needed = {"config.json", "model.safetensors"}
    if index := cached("model.safetensors.index.json"):
        needed = {"config.json", *json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    return all(cached(name) for name in needed)
