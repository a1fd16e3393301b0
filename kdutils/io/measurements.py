"""Measurements that are kept: what was measured, when, on which machine and with which code.

One file of JSON holds parts by name. A part counts only while machine, versions, code and its own settings
are those of today; a finished one is not measured again unless that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdutils.io import disk, environment
from kdutils.io.code_digest import code_digest

MEASURES = ("missing", "again")
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "trl", "llm-distil")


@dataclass(frozen=True)
class Record:
    """The measurements kept in a file."""

    path: Path
    module: str  # __name__ of what measures: its code, and all of kdutils that it imports, counts
    measure: str = "missing"  # again: also what is there
    of_machine: bool = True  # whether the results depend on processor and cores
    packages: tuple[str, ...] = PACKAGES

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r} is unknown: choose one of {list(MEASURES)}")

    def part(self, name: str, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, or what it gave before for the same settings, machine, versions and code.

        It must be JSON. It is kept as soon as it is there, so that an interruption costs one part.
        """
        kept = self._kept(name, settings)
        if kept is not None and self.measure == "missing":
            return kept["value"]
        own = self._key(settings)  # before: code may change while it is measured
        value = make()
        parts = self._read()
        parts[name] = {
            "key": own,
            "settings": settings,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "value": value,
        }
        disk.write_json(self.path, parts)
        return value

    def has(self, name: str, settings: dict[str, Any]) -> bool:
        """Whether a part is there and counts."""
        return self._kept(name, settings) is not None

    def measured(self, name: str) -> str:
        """When a part was measured, as a sentence says it."""
        return self._read()[name]["measured"].replace("T", " ").replace("+00:00", " UTC")

    def _kept(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        part = self._read().get(name)
        return part if part and part["key"] == self._key(settings) else None

    def _key(self, settings: dict[str, Any]) -> str:
        facts = surroundings(self.module, self.packages)
        if not self.of_machine:
            del facts["processor"], facts["cores"]
        return _digest({"settings": settings} | facts)

    def _read(self) -> dict[str, Any]:
        """All parts; none from a file that is damaged, which is measured anew."""
        try:
            parts = json.loads(self.path.read_text(encoding="utf-8"))
            return parts if isinstance(parts, dict) else {}
        except (OSError, ValueError):
            return {}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def versions(packages: Iterable[str]) -> dict[str, Any]:
    """Of Python and of these packages."""
    return {
        "python": platform.python_version(),
        "packages": {name: environment.installed_version(name) for name in packages},
    }


def surroundings(module: str, packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, versions, and the digest of the code of `module` and of what it imports."""
    machine = {"processor": processor(), "cores": os.cpu_count()}
    return machine | versions(packages) | {"code": code_digest(module)}


def processor() -> str:
    """Its name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
