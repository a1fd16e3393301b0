"""A generated question with its answer, before it becomes an item."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


def _no_slip(rng: random.Random) -> str:
    raise ValueError("only arithmetic problems have a rationale that can be wrong")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question, its answer, the right response, and a way to get it plausibly wrong."""

    question: str
    answer: str
    response: str
    key: tuple[str, ...]  # what the split was decided on: the question up to numbers or names
    slip: Callable[[random.Random], str] = _no_slip  # a response with one wrong step and a wrong end
    solved: str = ""  # arithmetic only: question and solution as plain text, without the answer format
