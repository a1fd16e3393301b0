"""Files that exist whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.io import user_cache

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUTS = REPOSITORY / "outputs"
CHUNK_BYTES = 256 << 10  # of a file that is read piece by piece
LARGE_BYTES = 64 << 20  # of a file whose digest is worth keeping


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` under `path` in one step: a reader sees the old file or the new one.

    The folder is made if missing.

    Raises:
        OSError: if the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp makes 0600, which a shared outputs folder does not want
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """As `write_bytes`, in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """As `write_text`: strict JSON (NaN is refused, so write None), stable key order of `value`."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record as JSON gives it back, with a seal: the SHA-256 of its content."""
    record = json.loads(json.dumps(record, allow_nan=False))
    return record | {"seal": _seal(record)}


def has_whole_seal(record: dict[str, Any]) -> bool:
    """Whether a record is what was sealed; those of before there were seals are taken as they are."""
    return "seal" not in record or record["seal"] == _seal(record)


def _seal(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """As `write_text`: no index column, full precision (floats round-trip), LF line ends."""
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:  # hashlib.file_digest is no faster, and slow to begin
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_once(path: Path) -> str:
    """As `sha256`, computed once for a file that has not changed: for inputs, not for checking.

    Once a process; once a user for large files, which take seconds. A file is told by its path, inode, size
    and both times.
    """
    path = Path(path).resolve()
    facts = path.stat()
    return _sha256_of(path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@functools.cache
def _sha256_of(path: Path, *facts: int) -> str:
    if facts[1] < LARGE_BYTES:
        return sha256(path)
    key = hashlib.sha256(repr((str(path), *facts)).encode()).hexdigest()
    kept = user_cache.path("digests") / key
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(kept.read_text(encoding="utf-8"))
        if record["seal"] == _seal(record):
            return record["sha256"]
    digest = sha256(path)
    with contextlib.suppress(OSError):  # without a cache it is computed again
        write_json(kept, sealed({"sha256": digest}))
    return digest


@contextlib.contextmanager
def folder_in_one_step(path: Path) -> Iterator[Path]:
    """A new folder to fill, which appears under `path` when the block has ended well.

    What stood there is replaced then; if the block fails, it stays and nothing else is left behind.

    Raises:
        OSError: if the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        partial.chmod(0o755)
        if path.exists():  # a folder cannot replace a full one in one step: the old one steps aside first
            shutil.rmtree(set_aside(path))
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_model(path: Path, network: Any, tokenizer: Any) -> None:
    """A model as `save_pretrained` writes it, but without settings that could decide how we decode."""
    with folder_in_one_step(path) as partial:
        network.save_pretrained(partial, safe_serialization=True)
        (partial / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save_pretrained(partial)


def remove_partials(folder: Path, *, of: str = "*") -> None:
    """Delete what writers that were killed left half written in a folder, of the file or folder `of`.

    The caller sees to it that nobody is writing there.
    """
    for partial in list(Path(folder).glob(f".{of}.*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a file or folder to a free name `NAME.aside-N` beside it; returns the new path."""
    path = Path(path)
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    return path.replace(aside)
