"""The user's cache: what is downloaded or computed once, each folder there whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def path(name: str) -> Path:
    """Where something of that name is kept, whether or not it is there."""
    import pooch  # imported where needed: with KDUTILS_DATA set nothing is downloaded

    return Path(pooch.os_cache("kdutils")) / name


@contextlib.contextmanager
def filled_once(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which gets the name `folder` when the block has ended well.

    If another process was faster, its folder stays. If the block fails, nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes 0700, which a shared cache does not want
        try:
            partial.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
