"""Tables of the analysis that are kept between runs, each under the digest of all that it hangs on.

Arguments, random numbers, code and versions of packages are the key, so that a table that is found is the one
that would be computed. Nothing is pickled: tables lie in Parquet, behind a seal.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.io import disk, environment
from kdutils.io.code_digest import PACKAGE
from kdutils.io.measurements import versions

SUFFIX = ".kept"
Keep = Callable[..., pd.DataFrame]  # takes a function and its arguments: `Kept`, or `nothing`


class Kept:
    """What `kept(function, *arguments)` gives is what the function gives, if need be from an earlier run."""

    def __init__(self, folder: Path) -> None:
        """Tables lie in `folder`; where it cannot be written nothing is kept."""
        self.folder = Path(folder)
        self.n_found = self.n_made = self.n_unkept = 0

    def __call__(self, function: Callable[..., pd.DataFrame], *arguments: Any, **named: Any) -> pd.DataFrame:
        """`function(*arguments, **named)`, a table. Its `rng`, if it takes one, is then as if drawn from.

        Raises:
            TypeError: if an argument has no digest: functions, open files and such.
        """
        rng = named.get("rng")
        name = f"{function.__module__}.{function.__qualname__}"
        key = digest([name, arguments, named])
        path = self.folder / code_digest() / f"{function.__name__}-{key}{SUFFIX}"
        if (found := _read(path)) is not None:
            self.n_found += 1
            table, state = found
            if rng is not None:
                rng.bit_generator.state = state
            return table
        table = function(*arguments, **named)
        self.n_made += 1
        content = _held(table)
        if content is None:  # some tables Parquet cannot hold: made each time
            self.n_unkept += 1
            return table
        self._write(path, content, None if rng is None else rng.bit_generator.state)
        # As it will be found, so that what is made of it has the same key.
        return pd.read_parquet(io.BytesIO(content))

    def _write(self, path: Path, content: bytes, state: dict[str, Any] | None) -> None:
        """Keep a table; what other code has made goes."""
        body = json.dumps(state).encode() + b"\n" + content
        with contextlib.suppress(OSError):  # a store that is only read from keeps nothing, and is slower
            if not path.parent.is_dir():
                for other in self.folder.glob("*"):
                    if other != path.parent:  # which another notebook may have made just now
                        shutil.rmtree(other, ignore_errors=True)
            disk.write_bytes(path, _seal(body) + b"\n" + body)


def _held(table: pd.DataFrame) -> bytes | None:
    """The table as bytes that read as it is; None if there are none."""
    try:
        content = _parquet(table)
        pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(content)), table, check_exact=True)
    except (AssertionError, TypeError, ValueError):
        return None
    return content


def nothing(function: Callable[..., pd.DataFrame], *arguments: Any, **named: Any) -> pd.DataFrame:
    """As `Kept`, where nothing is to be kept."""
    return function(*arguments, **named)


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any] | None] | None:
    """Table and state of the generator; None where there is none, or a damaged one."""
    try:
        seal, body = path.read_bytes().split(b"\n", 1)
        if seal != _seal(body):
            return None
        state, content = body.split(b"\n", 1)
        return pd.read_parquet(io.BytesIO(content)), json.loads(state)
    except (OSError, ValueError):
        return None


def _parquet(table: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table.to_parquet(content, compression=None)
    return content.getvalue()


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


# --- what a table hangs on --------------------------------------------------------------------------------


@functools.cache
def code_digest() -> str:
    """Of all code and declarations of kdutils, and of the versions of the packages that can move a number."""
    root = PACKAGE
    code = {
        str(path.relative_to(root)): disk.sha256(path)
        for suffix in ("py", "toml")
        for path in sorted(root.rglob(f"*.{suffix}"))
    }
    return digest([code, versions(environment.RECORDED_PACKAGES)])[:16]


def digest(value: Any) -> str:
    """SHA-256 of a value: the same for equal plain values, tables, arrays, dataclasses and generators.

    Fields that a dataclass does not compare do not count. What has a method `hangs_on` (Plan) is told by what
    that gives.

    Raises:
        TypeError: for anything else, also within.
    """
    sha = hashlib.sha256()
    _feed(sha.update, value)
    return sha.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Give the bytes of a value to `update`, so that no two values give the same."""
    if value is None or isinstance(value, bool | int | float | str | bytes | Path):
        update(f"{type(value).__name__} {value!r}\0".encode())
    elif isinstance(value, pd.DataFrame):
        content = _parquet(value)
        types = {column: str(dtype) for column, dtype in value.dtypes.items()}
        update(f"table {types} {len(content)}\0".encode())
        update(content)
    elif isinstance(value, np.ndarray | np.generic):
        update(f"array {value.dtype} {value.shape}\0".encode())
        update(value.tobytes())
    elif isinstance(value, np.random.Generator):
        _feed(update, value.bit_generator.state)
    elif hasattr(value, "hangs_on"):
        _feed(update, [type(value).__qualname__, value.hangs_on()])
    elif is_dataclass(value) and not isinstance(value, type):
        compared = {each.name: getattr(value, each.name) for each in fields(value) if each.compare}
        _feed(update, [type(value).__qualname__, compared])
    elif isinstance(value, Mapping):
        update(f"mapping {len(value)}\0".encode())
        for key, one in value.items():
            _feed(update, key)
            _feed(update, one)
    elif isinstance(value, Set):
        _feed(update, sorted(digest(one) for one in value))
    elif isinstance(value, Sequence):
        update(f"sequence {len(value)}\0".encode())
        for one in value:
            _feed(update, one)
    else:
        raise TypeError(f"{type(value).__name__} has no digest: give its content instead")
