"""The environment of a run: its provenance, and whether a lock file is satisfied.

Standard library only, and no syntax newer than Python 3.8: run_all.sh runs this file by its path,
with whatever interpreter is active and before anything is installed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

FORKS = sys.platform == "linux"  # elsewhere the system's own libraries do not survive a fork
REPOSITORY = Path(__file__).resolve().parents[2]
LOCK_NAME = "requirements.lock"
RUN_TOKEN = "KDUTILS_RUN_TOKEN"  # environment variable: token of the process that executes a notebook

# The packages that could move a number of the study; every other one is covered by the hash of the lock.
RECORDED_PACKAGES = (
    *("kdutils", "datasets", "gguf", "numpy", "pandas", "papermill", "peft", "pingouin", "pyarrow"),
    *("rouge-score", "sacrebleu", "safetensors", "scipy", "statsmodels", "tokenizers", "torch"),
    "transformers",
)

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+_-]+)(?P<marker> ; [^;\\]+)?( \\)?"
)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}( \\)?")


def normalised(name: str) -> str:
    """A package's name in the spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    """Version of each package that `lock` pins on all platforms, by normalised name, in its order.

    A pin with a marker (`; sys_platform == 'darwin'`) is for some platforms, and left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is neither blank, a comment, a hash nor `name==version`, if a name comes twice,
            or if nothing is pinned.
    """
    pinned: dict[str, str] = {}
    for number, line in enumerate(Path(lock).read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#") or _HASH.fullmatch(text):
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise ValueError(f"{lock}, line {number}: {text!r} is not `name==version`")
        if match["marker"]:
            continue
        name = normalised(match["name"])
        if name in pinned:
            raise ValueError(f"{lock}, line {number}: {name} is pinned twice")
        pinned[name] = match["version"]
    if not pinned:
        raise ValueError(f"{lock} pins nothing")
    return pinned


def installed_version(name: str) -> str | None:
    """Version of the package that this interpreter would import, None if it has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def unsatisfied(lock: Path) -> list[str]:
    """The pins of `lock` that the running interpreter does not satisfy, each with what it has instead.

    A local version label counts only where the lock has one: torch 2.13.0+cpu satisfies torch==2.13.0.
    Raises what `pins` raises.
    """
    missing = []
    for name, version in pins(lock).items():
        found = installed_version(name)
        if found is None:
            missing.append(f"{name}=={version} (not installed)")
        elif version not in (found, found.split("+")[0]):
            missing.append(f"{name}=={version} (has {found})")
    return missing


def _git(*arguments: str) -> str | None:
    """The output of git for this repository, None if there is no git or it fails."""
    try:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments],
            capture_output=True,
            check=True,
            encoding="utf-8",
            timeout=30,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def git_state() -> dict[str, Any]:
    """`commit` and `dirty` of the checkout that kdutils is imported from; both None if it is not one.

    An untracked file makes the tree dirty, since it may be imported; an ignored one does not.
    """
    top = _git("rev-parse", "--show-toplevel")
    # An environment with kdutils may lie in the checkout of another project.
    if top is None or Path(top).resolve() != REPOSITORY:
        return {"commit": None, "dirty": None}
    commit = _git("rev-parse", "--verify", "HEAD")
    status = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def provenance() -> dict[str, Any]:
    """Versions, machine and commit that a result came from; always the same keys, None where unknown.

    Results are shared, so there are no environment variables, paths, or names of user and host.
    """
    lock = REPOSITORY / LOCK_NAME
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "git": git_state(),
        "packages": dict(_recorded_packages()),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
    }


@functools.lru_cache(maxsize=None)  # noqa: UP033 - functools.cache is newer than Python 3.8
def _recorded_packages() -> tuple[tuple[str, str | None], ...]:
    return tuple((name, installed_version(name)) for name in RECORDED_PACKAGES)


def main(arguments: list[str] | None = None) -> int:
    """Exit code of `environment.py check LOCK`: 0 satisfied, 1 not, 2 a lock that cannot be read."""
    parser = argparse.ArgumentParser(prog="environment.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="does this interpreter satisfy a lock?")
    check.add_argument("lock", type=Path)
    check.add_argument("--show", type=int, default=5, help="unsatisfied pins to print (default: 5)")
    asked = parser.parse_args(arguments)
    try:
        missing = unsatisfied(asked.lock)
    except (OSError, ValueError) as error:
        print(f"environment.py: {error}", file=sys.stderr)
        return 2
    for line in missing[: asked.show]:
        print(line)
    if len(missing) > asked.show:
        print(f"and {len(missing) - asked.show} more")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
