"""How many bad inputs the tests of this process tried, and how many were refused as they must be."""

from __future__ import annotations

from collections import Counter

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

    @property
    def sums(self) -> tuple[int, int]:
        """Tried and refused, of all kinds."""
        return self._tried.total(), self._refused.total()


COUNTS = Counts()
