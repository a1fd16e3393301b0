"""What a GGUF file says about itself, read from its head: the package gguf reads the vocabulary too, in ten
seconds for a model of Qwen's.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class HeaderError(ValueError):
    """A file that is no GGUF of a version known here. The message is one line."""


def read(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file without its arrays.

    Added are `tensors`, the shape of each by its name (width first), and `parameters`, the numbers in them.

    Raises:
        HeaderError: if it is not a GGUF file of version 2 or 3, or ends within its head.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != MAGIC:
            raise HeaderError(f"{path} is not a GGUF file; give one, or a folder")
        try:
            version, n_tensors, n_values = struct.unpack("<IQQ", file.read(20))
            if version not in (2, 3):
                raise HeaderError(f"{path} is GGUF version {version}; versions 2 and 3 can be read")
            pairs = [(_text(file), _value(file, _number(file, "I"))) for _ in range(n_values)]
            tensors = dict(_tensor(file) for _ in range(n_tensors))
        except struct.error:
            raise HeaderError(f"{path} ends within its head; get it anew") from None
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
