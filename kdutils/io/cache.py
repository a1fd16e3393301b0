"""Results that are computed once: tables in Parquet (`CachedTables`) and measurements in JSON (`Record`).

A result counts only while its key is the same: its arguments, the code that computes it (found by following
import statements), the versions of packages and, for measurements of speed, the machine. Each lies behind
the SHA-256 of its content, so that a damaged one is computed again. Nothing is pickled.
"""

import ast
import contextlib
import functools
import hashlib
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.io import disk, environment

PACKAGE = Path(__file__).resolve().parents[1]
SUFFIX = ".kept"
MEASURES = ("missing", "again")
MEASURED_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "trl", "llm-distil")
Keep = Callable[..., pd.DataFrame]  # takes a function and its arguments: CachedTables, or `uncached`


def uncached(function: Callable[..., pd.DataFrame], *arguments: Any, **named: Any) -> pd.DataFrame:
    """`function(*arguments, **named)`, in the place of CachedTables."""
    return function(*arguments, **named)


class CachedTables:
    """`cached(function, *arguments)` is the table that the function gives, if need be from an earlier run.

    Tables lie in `folder`; where it cannot be written nothing is kept, nor is a table that does not come back
    from Parquet as it was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __call__(self, function: Callable[..., pd.DataFrame], *arguments: Any, **named: Any) -> pd.DataFrame:
        """`function(*arguments, **named)`; its `rng`, if it takes one, then stands where drawing left it.

        Raises:
            TypeError: if an argument has no digest: functions, open files and such.
            ValueError: if the function is of no module, so that its code cannot be followed.
        """
        rng = named.get("rng")
        code = digest(surroundings(function.__module__, packages=environment.RECORDED_PACKAGES))[:16]
        path = self.folder / f"{function.__module__}.{function.__qualname__}-{code}"
        path /= f"{digest([arguments, named])}{SUFFIX}"
        if (found := _read_table(path)) is not None:
            table, state = found
            if rng is not None:
                rng.bit_generator.state = state
            return table
        table = function(*arguments, **named)
        try:
            content = _parquet(table)
            found = pd.read_parquet(io.BytesIO(content))
            pd.testing.assert_frame_equal(found, table, check_exact=True)
        except (AssertionError, TypeError, ValueError):
            return table
        body = json.dumps(None if rng is None else rng.bit_generator.state).encode() + b"\n" + content
        with contextlib.suppress(OSError):  # a store that is only read from keeps nothing, and is slower
            if not path.parent.is_dir():
                for other in self.folder.glob(f"{path.parent.name.removesuffix(code)}*"):
                    shutil.rmtree(other, ignore_errors=True)  # of other code
            disk.write_bytes(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        return found  # as it will be read, so that what is computed from it has the same key


def _read_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any] | None] | None:
    """Table and state of the generator; None where there is none, or a damaged one."""
    try:
        seal, body = path.read_bytes().split(b"\n", 1)
        if seal != hashlib.sha256(body).hexdigest().encode():
            return None
        state, content = body.split(b"\n", 1)
        return pd.read_parquet(io.BytesIO(content)), json.loads(state)
    except (OSError, ValueError):
        return None


def _parquet(table: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table.to_parquet(content, compression=None)
    return content.getvalue()


@dataclass(frozen=True)
class Record:
    """Measurements by name in one file of JSON, each with its settings and when it was made."""

    path: Path
    module: str  # __name__ of what measures: its code, and all of kdutils that it imports, counts
    measure: str = "missing"  # again: also what is there
    of_machine: bool = True  # whether the results depend on processor and cores
    packages: tuple[str, ...] = MEASURED_PACKAGES

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r} is unknown: choose one of {list(MEASURES)}")

    def part(self, name: str, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, which must be JSON, or what it gave before for the same key.

        It is kept as soon as it is there, so that an interruption costs one part.
        """
        key = self._key(settings)  # before: code may change while it is measured
        if self.measure == "missing" and self.has(name, settings):
            return self._read()[name]["value"]
        part = {"key": key, "settings": settings, "measured": datetime.now(UTC).isoformat(timespec="seconds")}
        part = disk.sealed(part | {"value": make()})
        disk.write_json(self.path, self._read() | {name: part})
        return part["value"]

    def has(self, name: str, settings: dict[str, Any]) -> bool:
        """Whether a part is there and counts."""
        return self._read().get(name, {}).get("key") == self._key(settings)

    def measured(self, name: str) -> str:
        """When a part was measured, such as `2026-01-31 12:00:00 UTC`."""
        return self._read()[name]["measured"].replace("T", " ").replace("+00:00", " UTC")

    def _key(self, settings: dict[str, Any]) -> str:
        facts = surroundings(self.module, packages=self.packages, of_machine=self.of_machine)
        return digest([facts, settings])[:16]

    def _read(self) -> dict[str, Any]:
        """All parts that are whole; none from a file that is damaged."""
        try:
            parts = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: part for name, part in parts.items() if disk.has_whole_seal(part)}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


# --- what a result depends on -----------------------------------------------------------------------------


def surroundings(
    module: str, *, packages: Iterable[str] = MEASURED_PACKAGES, of_machine: bool = False
) -> dict[str, Any]:
    """Versions of Python and packages, `code_digest` of the module, and processor and cores if asked for."""
    return ({"processor": processor(), "cores": os.cpu_count()} if of_machine else {}) | {
        "python": platform.python_version(),
        "packages": {name: environment.installed_version(name) for name in packages},
        "code": code_digest(module),
    }


def processor() -> str:
    """Its name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def code_digest(module: str, package: Path = PACKAGE) -> str:
    """16 hexadecimal digits of the SHA-256 of the `code_files` and of every TOML file of the package."""
    files = [*sorted(code_files(module, package)), *sorted(package.rglob("*.toml"))]
    return hashlib.sha256("".join(_contents(path)[0] for path in files).encode()).hexdigest()[:16]


def code_files(module: str, package: Path = PACKAGE) -> set[Path]:
    """The file of a module and those of the package that it imports, also within functions and by detours.

    Args:
        module: full name, such as `__name__`; one that is not of the package must have been imported.
        package: folder of the package, whose name its modules begin with.

    Raises:
        ValueError: if there is no such module.
    """
    start = _file_of(module, package) or getattr(sys.modules.get(module), "__file__", None)
    if start is None:
        raise ValueError(f"{package.name} has no module {module!r}: give a full name such as __name__")
    found, todo = set(), [Path(start)]
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += [file for name in _contents(path)[1] if (file := _file_of(name, package))]
    return found


@functools.cache
def _contents(path: Path) -> tuple[str, tuple[str, ...]]:
    """SHA-256 of a file, and what it may import."""
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest(), imported(content) if path.suffix == ".py" else ()


def imported(source: str | bytes) -> tuple[str, ...]:
    """What Python code may import, also within functions: of `from a.b import c` both a.b and a.b.c."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _file_of(module: str, package: Path) -> Path | None:
    """The file of a module of the package; None for what is none."""
    first, *rest = module.split(".")
    place = package.joinpath(*rest)
    candidates = (place.with_suffix(".py"), place / "__init__.py") if rest else (place / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None) if first == package.name else None


def digest(value: Any) -> str:
    """SHA-256 of a value: the same for equal plain values, tables, arrays, dataclasses and generators.

    Fields that a dataclass does not compare do not count. Of what has a method `hangs_on` (Plan), what that
    returns counts.

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
