"""How many bad inputs the tests tried, and how many were refused as they must be.

Written as JSON into the folder that KDUTILS_COUNTS names, when the process of the tests ends: there may be
several.
"""

from __future__ import annotations

import atexit
import json
import os
from collections import Counter
from pathlib import Path

REMEDY = (  # words of which a message has one
    *("use", "choose", "give", "must", "declare", "one of", "delete", "leave it", "ask for", "put", "keep"),
    *("restore", "tag exactly", "name at least", "drop", "raise", "run again", "see --help"),
)


class Counts:
    """What was tried, by kind."""

    def __init__(self) -> None:
        self._tried: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def tried(self, kind: str = "input") -> None:
        """A bad input is about to be given."""
        self._tried[kind] += 1

    def refused(self, value: object, kind: str = "input") -> None:
        """It was refused, in one line that holds the remedy; `value` is the error.

        Raises:
            AssertionError: if the message is not such a line.
        """
        message = str(value)
        assert message and "\n" not in message and "\r" not in message, repr(message)
        assert any(word in message for word in REMEDY), f"no remedy in {message!r}"
        self._refused[kind] += 1

    def to_dict(self) -> dict[str, int | dict[str, int]]:
        """Both sums, and each kind."""
        kinds = {kind: self._refused[kind] for kind in self._tried}
        return {"tried": self._tried.total(), "refused": self._refused.total(), "refused_by_kind": kinds}

    def dump(self) -> None:
        """Write them, if somebody asks for them and there are any."""
        folder = os.environ.get("KDUTILS_COUNTS")
        if folder and self._tried:
            path = Path(folder) / f"inputs-{os.getpid()}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


COUNTS = Counts()
atexit.register(COUNTS.dump)
