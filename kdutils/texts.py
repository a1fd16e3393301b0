"""The texts that a teacher wrote for its students to be trained on (seqkd), one file for all of them.

texts/<digest>.jsonl    id, response and whether it ended, a line an item
texts/<digest>.sha256   of that file, written just before it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdutils.io import disk
from kdutils.items import Item
from kdutils.store import DamagedError


@dataclass(frozen=True)
class TeacherTexts:
    """Where the texts of one teacher for one set of items are, whether or not they are there."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the lease on them."""
        return f"texts-{self.path.stem}"

    def write(self, items: Sequence[Item], responses: Sequence[str], ended: Sequence[bool]) -> None:
        """Keep a response for every item, whole or not at all."""
        lines = [
            json.dumps({"id": item.id, "response": response, "ended": end}, ensure_ascii=False)
            for item, response, end in zip(items, responses, ended, strict=True)
        ]
        content = ("\n".join(lines) + "\n").encode("utf-8")
        disk.write_text(self.path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest() + "\n")
        disk.write_bytes(self.path, content)

    def read(self, items: Sequence[Item]) -> list[Item]:
        """The items with the teacher's responses for their own.

        Raises:
            DamagedError: if the file is not what was written, or not about these items.
        """
        try:
            self._check_digest()
            kept = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            if [record["id"] for record in kept] != [item.id for item in items]:
                raise ValueError("it is about other items")
            return [
                replace(item, response=record["response"], rationale="", ended=record["ended"])
                for item, record in zip(items, kept, strict=True)
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(self.path, error, whole=self.path, name=self.name) from error

    def _check_digest(self) -> None:
        written = self.path.with_suffix(".sha256")  # files of before it was kept are taken as they are
        if written.is_file() and written.read_text(encoding="utf-8").strip() != disk.sha256(self.path):
            raise ValueError("its SHA-256 is not the recorded one")


def texts_of(out: Path, key: dict[str, Any]) -> TeacherTexts:
    """The texts that depend on what `key` holds and on nothing else."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return TeacherTexts(Path(out) / "texts" / f"{digest}.jsonl")
