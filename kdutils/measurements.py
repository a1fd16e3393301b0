"""Measurements that are kept: what was measured, when, on which machine and with which code.

One file of JSON holds parts by name. A part counts only while machine, versions, code and its own settings
are those of today; a finished one is not measured again unless that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdutils import environment, store
from kdutils.spec import MEASURES

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "trl", "llm-distil")
SOURCES = (  # modules whose code can change a measurement
    *(
        "architecture",
        "data",
        "decoding",
        "environment",
        "filling",
        "formulas",
        "generate",
        "grid",
        "gridcost",
    ),
    *("losses", "machines", "models", "noise", "peers", "contenders", "running", "sidebyside", "states"),
    *("teacher", "train", "work"),
)


@dataclass(frozen=True)
class Record:
    """The measurements kept in a file."""

    path: Path
    measure: str = "missing"  # again: also what is there

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
        own = key(settings)  # before: code may change while it is measured
        value = make()
        parts = self._read()
        parts[name] = {
            "key": own,
            "settings": settings,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "value": value,
        }
        store.write_json(self.path, parts)
        return value

    def has(self, name: str, settings: dict[str, Any]) -> bool:
        """Whether a part is there and counts."""
        return self._kept(name, settings) is not None

    def measured(self, name: str) -> str:
        """When a part was measured, as a sentence says it."""
        return self._read()[name]["measured"].replace("T", " ").replace("+00:00", " UTC")

    def _kept(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        part = self._read().get(name)
        return part if part and part["key"] == key(settings) else None

    def _read(self) -> dict[str, Any]:
        """All parts; none from a file that is damaged, which is measured anew."""
        try:
            parts = json.loads(self.path.read_text(encoding="utf-8"))
            return parts if isinstance(parts, dict) else {}
        except (OSError, ValueError):
            return {}


def key(settings: dict[str, Any]) -> str:
    """What a measurement hangs on, as one digest."""
    text = json.dumps({"settings": settings} | surroundings(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def surroundings() -> dict[str, Any]:
    """Processor, cores, versions, and the digest of the code that is measured or measures."""
    code = hashlib.sha256()
    for name in sorted(SOURCES):
        code.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: environment.installed_version(name) for name in PACKAGES},
        "code": code.hexdigest()[:16],
    }


def processor() -> str:
    """Its name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
