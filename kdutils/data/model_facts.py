"""What a model is: what its files say of themselves.

A GGUF file's head is read here, since the package gguf reads the vocabulary too, in ten seconds for a model
of Qwen's. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import contextlib
import functools
import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from kdutils.data.model_files import Location, ModelError, files_digest, hub_file, locate
from kdutils.mini.family import MINI_MODELS

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


def read_gguf(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file without its arrays.

    Added are `tensors`, the shape of each by its name (width first), and `parameters`, the numbers in them.

    Raises:
        ValueError: if it is not a GGUF file of version 2 or 3, or ends within its head.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is not a GGUF file; give one, or a folder")
        try:
            version, n_tensors, n_values = struct.unpack("<IQQ", file.read(20))
            if version not in (2, 3):
                raise ValueError(f"{path} is GGUF version {version}; versions 2 and 3 can be read")
            pairs = [(_text(file), _value(file, _number(file, "I"))) for _ in range(n_values)]
            tensors = dict(_tensor(file) for _ in range(n_tensors))
        except struct.error:
            raise ValueError(f"{path} ends within its head; get it anew") from None
    facts = {name: value for name, value in pairs if value is not None}
    return facts | {"tensors": tensors, "parameters": sum(map(math.prod, tensors.values()))}


def _number(file: BinaryIO, kind: str) -> Any:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "Q")).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    """A value of metadata; None for an array, which is skipped."""
    if kind == TEXT:
        return _text(file)
    if kind != ARRAY:
        return _number(file, SCALARS[kind])
    element, n_elements = struct.unpack("<IQ", file.read(12))
    if element in SCALARS:
        file.seek(n_elements * struct.calcsize(SCALARS[element]), 1)
        return None
    for _ in range(n_elements):
        if element == TEXT:
            file.seek(_number(file, "Q"), 1)
        else:
            _value(file, element)
    return None


def _tensor(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    name = _text(file)
    shape = struct.unpack(f"<{(n := _number(file, 'I'))}Q", file.read(8 * n))
    _number(file, "I"), _number(file, "Q")  # its type, and where it begins
    return name, shape


def describe(name: str, source: str = "") -> dict[str, Any]:
    """What the model of that name really is: name, source, file, quantisation, digest, parameters, note.

    `source` is a folder, a hub id at its revision, or the embedded family; `file` a GGUF file's name.
    `quantisation` is how the weights are stored, such as Q4_K_M or F32, and `parameters` how many numbers the
    files hold (tied weights count as often as they are stored); "" and None where the files are not here.
    `digest` is files_digest. `note` is what a GGUF file calls itself, which may be another model than was
    asked for; of a mini model, which released model it stands for, and how wide it is.

    Raises:
        ModelError: as `locate`, and for a damaged file.
    """
    place = locate(name, source)
    facts = {"name": name, "source": place.source, "file": place.gguf_file or "", "quantisation": ""}
    facts |= {"digest": files_digest(place), "parameters": None, "note": ""}
    if place.gguf_file:
        facts |= _of_gguf(Path(place.source) / place.gguf_file)
        if place.layers is not None:
            facts["note"] += f", and of its layers only {len(place.layers)} are used"
        return facts
    folder = Path(place.source)
    if name in MINI_MODELS:
        model = MINI_MODELS[name]
        facts["source"] = "embedded mini family"
        facts["note"] = f"stands for {model.stands_for}, {model.hidden} wide"
    elif not folder.is_dir():
        config = hub_file(place.source, "config.json")
        if not config:
            return facts | {"source": f"{place.source}, not downloaded"}
        folder = config.parent
        facts["source"] += f" at {folder.name[:12]}"
    return facts | _of_tensors(sorted(folder.glob("*.safetensors")))


@functools.cache  # all runs of a worker have one of few models
def licence(place: Location) -> dict[str, str]:
    """`license`, `license_name` and `license_link` as a model's own files state them; empty if they do not.

    A hub model's card counts where it is in the local cache. The mini family has this project's licence.
    """
    if place.name in MINI_MODELS:
        return {"license": "apache-2.0"}
    from huggingface_hub.repocard import metadata_load

    source, stated = Path(place.source), {}
    with contextlib.suppress(Exception):  # no card, or one that cannot be read, whatever is wrong with it
        if place.gguf_file:
            header = read_gguf(source / place.gguf_file)
            stated = {name[8:].replace(".", "_"): header[name] for name in header if name[:8] == "general."}
        elif path := (source / "README.md" if source.is_dir() else hub_file(place.source, "README.md")):
            stated = metadata_load(path) or {}
    keys = ("license", "license_name", "license_link") if stated.get("license") else ()
    return {key: str(stated[key]) for key in keys if stated.get(key)}


def _of_gguf(path: Path) -> dict[str, Any]:
    from gguf.constants import LlamaFileType  # takes half a second, and most models are no GGUF files

    try:
        header = read_gguf(path)
        stored = LlamaFileType(header["general.file_type"]).name.removeprefix("MOSTLY_")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} does not say what it is ({error}); get it anew") from None
    named = header.get("general.name")
    note = f"the file calls itself {named}" if named else "the file has no name for itself"
    return {"quantisation": stored, "parameters": header["parameters"], "note": note}


def _of_tensors(paths: list[Path]) -> dict[str, Any]:
    """Kind and count of the numbers in safetensors files; nothing without files."""
    kinds, count = [], 0
    for path in paths:
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        tensors = [entry for name, entry in head.items() if name != "__metadata__"]
        kinds += [entry["dtype"] for entry in tensors]
        count += sum(math.prod(entry["shape"]) for entry in tensors)
    return {"quantisation": ", ".join(dict.fromkeys(kinds)), "parameters": count} if paths else {}
