"""Files that exist whole or not at all, their digests, and the user's cache."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
OUTPUTS = REPOSITORY / "outputs"
SPARE_BYTES = 1 << 30  # left free on the disk
LARGE_BYTES = 64 << 20  # of a file whose digest is worth keeping


class StoreError(RuntimeError):
    """A store that cannot be read or written. The message is one line and holds the remedy."""


class DamagedError(StoreError):
    """A file that is not what was written.

    `whole` is what must be deleted to make it again, `name` that of the lease on it.
    """

    def __init__(self, file: Path, reason: object, *, whole: Path, name: str) -> None:
        text = " ".join(str(reason).split())[:120]
        super().__init__(f"{file} is damaged ({text}); delete {whole} and run again")
        self.reason = f"{file.name} is damaged ({text})"
        self.whole, self.name = whole, name
        self._inode = whole.stat().st_ino if whole.exists() else None

    def is_still_there(self) -> bool:
        """False once it was removed, or replaced since."""
        return self.whole.exists() and self.whole.stat().st_ino == self._inode


def check_space(folder: Path, n_bytes: int, what: str) -> None:
    """Nothing, if the disk of a folder has room for that many bytes and SPARE_BYTES more.

    Raises:
        StoreError: with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise StoreError(
            f"{folder} has {free / 1e9:.1f} GB free, and {what} take {n_bytes / 1e9:.1f} GB (1 GB is left "
            "over): make room, or choose another out"
        )


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
    """Write text in UTF-8 by `write_bytes`."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> Path:
    """Write strict JSON by `write_bytes`: NaN is refused, so write None; keys keep their order."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record as JSON gives it back, with a seal: the SHA-256 of its content."""
    record = json.loads(json.dumps(record, allow_nan=False))
    return record | {"seal": _seal(record)}


def has_whole_seal(record: dict[str, Any]) -> bool:
    """Whether a record's seal fits its content; True for records without a seal, which are older."""
    return "seal" not in record or record["seal"] == _seal(record)


def _seal(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table by `write_bytes`: no index column, full precision (floats round-trip), LF line ends."""
    return write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, from a cache while its path, inode, size and times are the same: not for checking.

    The cache is this process's, and for large files, which take seconds, also the user's.
    """
    path = Path(path).resolve()
    facts = path.stat()
    return _sha256_of(path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@functools.cache
def _sha256_of(path: Path, *facts: int) -> str:
    if facts[1] < LARGE_BYTES:
        return sha256(path)
    key = hashlib.sha256(repr((str(path), *facts)).encode()).hexdigest()
    return kept(cache_path("digests") / key, lambda: sha256(path))


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, which must be JSON, or what it gave before and is kept under `path`.

    What is damaged is made again. Where `path` cannot be written nothing is kept, which is slower.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["seal"] == _seal(record):
            return record["value"]
    value = make()
    with contextlib.suppress(OSError):
        write_json(path, sealed({"value": value}))
    return value


def cache_path(name: str) -> Path:
    """Where something of that name is kept in the user's cache, whether or not it is there."""
    import pooch  # imported where needed: with KDUTILS_DATA set nothing is downloaded

    return Path(pooch.os_cache("kdutils")) / name


@contextlib.contextmanager
def folder_in_one_step(path: Path, *, replaces: bool = True) -> Iterator[Path]:
    """A new folder to fill, which appears under `path` when the block has ended without an error.

    Args:
        replaces: a folder that is there by then is replaced; else it stays, as the work of a process that
            was faster.

    Raises:
        OSError: if the folder cannot be written; nothing is left behind.
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
        partial.chmod(0o755)  # mkdtemp makes 0700, which a shared folder does not want
        if replaces and path.exists():  # a folder cannot replace a full one in one step: that is moved first
            shutil.rmtree(set_aside(path))
        try:
            partial.replace(path)
        except OSError:
            if replaces or not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_model(path: Path, network: Any, tokenizer: Any) -> None:
    """A model as `save_pretrained` writes it, but without settings that could decide how we decode, and
    without peft's model card, which says nothing of the run."""
    with folder_in_one_step(path) as partial:
        network.save_pretrained(partial, safe_serialization=True)
        for name in ("generation_config.json", "README.md"):
            (partial / name).unlink(missing_ok=True)
        tokenizer.save_pretrained(partial)


def remove_partials(folder: Path, *, of: str = "*") -> None:
    """Delete partial files and folders that killed writers left in a folder, for the name or pattern `of`.

    Only while nobody writes there.
    """
    for partial in list(Path(folder).glob(f".{of}.*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def set_aside(path: Path, to: Path | None = None) -> Path:
    """Rename a file or folder to the first free one of `to`-1, `to`-2, ...; by default to NAME.aside-N."""
    path = Path(path)
    to, number = to or path.with_name(f"{path.name}.aside"), 1
    while (aside := to.with_name(f"{to.name}-{number}")).exists():
        number += 1
    return path.replace(aside)
