"""The digest of the code that a result depends on, found by following import statements."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def code_digest(module: str, package: Path = PACKAGE) -> str:
    """16 hexadecimal digits of the SHA-256 of a module's code and of all of the package that it imports.

    Imports count wherever they stand, also within functions, and so do those of the modules imported.

    Args:
        module: full name, such as `__name__`.
        package: folder of the package, whose name is the first part of `module`.
    """
    files = sorted(code_files(module, package))
    return hashlib.sha256(b"".join(_digest_of(path) for path in files)).hexdigest()[:16]


def code_files(module: str, package: Path = PACKAGE) -> set[Path]:
    """The files of `code_digest`.

    Raises:
        ValueError: if the package has no such module.
    """
    start = _file_of(module.split("."), package)
    if start is None:
        raise ValueError(f"{package.name} has no module {module!r}: give a full name such as __name__")
    found, todo = set(), [start]
    while todo:
        if (path := todo.pop()) not in found:
            found.add(path)
            todo += [file for name in _imports(path) if (file := _file_of(name, package))]
    return found


@functools.cache
def _digest_of(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.cache
def _imports(path: Path) -> tuple[tuple[str, ...], ...]:
    """Dotted names, in parts, of what a file may import: of `from a.b import c` both a.b and a.b.c."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(tuple(name.split(".")) for name in names)


def _file_of(name: tuple[str, ...] | list[str], package: Path) -> Path | None:
    """The file of a module of the package; None for what is none."""
    if name[0] != package.name:
        return None
    place = package.joinpath(*name[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py") if name[1:] else (place / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)
