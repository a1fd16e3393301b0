"""Templates of the six kinds of arithmetic problem: stories, questions, steps, ranges of numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

ADDEND_MAX = 40
FACTOR_MAX = 9

Numbers = dict[str, int]
Step = tuple[
    str, str, str, str
]  # sentence with {expr}; left; operator; right: names of numbers, s1 the first result


@dataclass(frozen=True)
class Template:
    """One wording of a problem: story, question, the steps of the solution, its numbers."""

    story: str
    ask: str
    steps: tuple[Step, ...]
    draw: Callable[[random.Random], Numbers]


def _up_to(limit: int, rng: random.Random) -> int:
    return rng.randint(2, limit)


def _two(rng: random.Random) -> Numbers:
    """a > b, so that both the sum and the difference are fine; d is anything."""
    b, a = sorted(rng.sample(range(2, ADDEND_MAX + 1), 2))
    return {"a": a, "b": b, "c": _up_to(b, rng), "d": _up_to(ADDEND_MAX, rng)}


def _total(rng: random.Random) -> Numbers:
    """b of e are known; the rest is what is asked for."""
    numbers = _two(rng)
    return numbers | {"e": numbers["a"] + numbers["b"]}


def _shares(rng: random.Random) -> Numbers:
    """f equal shares of g; a = f * g + b and e = f * g."""
    f, g = _up_to(FACTOR_MAX, rng), _up_to(FACTOR_MAX, rng)
    b = _up_to(12, rng)
    k = rng.randint(1, f * g - 1)
    return {"f": f, "g": g, "b": b, "a": f * g + b, "e": f * g, "k": k, "l": f * g - k}


def _product(rng: random.Random) -> Numbers:
    f, g = _up_to(FACTOR_MAX, rng), _up_to(FACTOR_MAX, rng)
    return {"f": f, "g": g, "b": _up_to(12, rng), "c": rng.randint(1, f * g - 1)}


def _two_products(rng: random.Random) -> Numbers:
    f, g, h, i = (_up_to(6, rng) for _ in range(4))
    return {"f": f, "g": g, "h": h, "i": i, "b": rng.randint(1, f * g + h * i - 1)}


def _double(rng: random.Random) -> Numbers:
    a = _up_to(20, rng)
    return {"a": a, "e": a * 2, "b": _up_to(12, rng), "c": rng.randint(1, a), "two": 2}


_MORE = ("{n} has {expr} {o} now.", "a", "+", "b")
_LEFT = ("{n} has {expr} {o} left.", "a", "-", "b")
_THAN = ("{n} has {expr} more {o} than {m}.", "a", "-", "b")
_ALL = ("They have {expr} {o} in all.", "a", "+", "b")
_NOW = "How many {o} does {n} have now?"
_REST = "How many {o} does {n} have left?"
_MORE_THAN = "How many more {o} does {n} have than {m}?"
_IN_ALL = "How many {o} do they have in all?"
_BAGS = ("The bags hold {expr} {o}.", "f", "*", "g")

TEMPLATES: dict[str, tuple[Template, ...]] = {
    "addsub": (
        Template("{n} has {a} {o}. {m} gives {n} {b} more {o}.", _NOW, (_MORE,), _two),
        Template("{n} had {a} {o} and lost {b} of the {o}.", _REST, (_LEFT,), _two),
        Template("{n} had {a} {o} and gave {b} of the {o} to {m}.", _REST, (_LEFT,), _two),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _MORE_THAN, (_THAN,), _two),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _IN_ALL, (_ALL,), _two),
        Template("{n} had {a} {o} and found {b} more {o}.", _NOW, (_MORE,), _two),
    ),
    "singleeq": (
        Template(
            "{n} had some {o}. {m} gave {n} {b} more. Now {n} has {e} {o}.",
            "How many {o} did {n} have at first?",
            (("Let x + {b} = {e}, so x is {expr}.", "e", "-", "b"),),
            _total,
        ),
        Template(
            "{n} had some {o} and lost {b} of the {o}. Now {n} has {a} {o}.",
            "How many {o} did {n} have at first?",
            (("Let x - {b} = {a}, so x is {expr}.", "a", "+", "b"),),
            _two,
        ),
        Template(
            "{n} has {f} bags with the same number of {o}. The bags hold {e} {o} in all.",
            "How many {o} are in each bag?",
            (("Let {f} * x = {e}, so x is {expr}.", "e", "/", "f"),),
            _shares,
        ),
        Template(
            "{n} paid {a} dollars for {o} and {b} dollars for bags.",
            "How many dollars did {n} pay in all?",
            (("{n} paid {expr} dollars in all.", "a", "+", "b"),),
            _two,
        ),
        Template(
            "{n} had {a} dollars and paid {b} dollars for {o}.",
            "How many dollars does {n} have left?",
            (("{n} has {expr} dollars left.", "a", "-", "b"),),
            _two,
        ),
    ),
    "multiarith": (
        Template(
            "{n} has {a} {o} and found {b} more {o}. Then {n} gave {c} of the {o} to {m}.",
            _REST,
            (_MORE, ("Then {n} has {expr} {o} left.", "s1", "-", "c")),
            _two,
        ),
        Template(
            "{n} has {f} bags with {g} {o} in each bag. {m} gives {n} {b} more {o}.",
            _NOW,
            (_BAGS, ("{n} has {expr} {o} now.", "s1", "+", "b")),
            _product,
        ),
        Template(
            "{n} had {a} {o} and lost {b} of the {o}. The rest are in {f} bags.",
            "How many {o} are in each bag?",
            (_LEFT, ("In each bag are {expr} {o}.", "s1", "/", "f")),
            _shares,
        ),
        Template(
            "{n} has {k} {o} and {m} has {l} {o}. They share the {o} in {f} bags.",
            "How many {o} are in each bag?",
            (
                ("They have {expr} {o} in all.", "k", "+", "l"),
                ("In each bag are {expr} {o}.", "s1", "/", "f"),
            ),
            _shares,
        ),
    ),
    "svamp": (
        Template("{n} has {a} {o} and {d} {u}. {m} gives {n} {b} more {o}.", _NOW, (_MORE,), _two),
        Template("{n} had {d} {u} and {a} {o}. Then {n} lost {b} of the {o}.", _REST, (_LEFT,), _two),
        Template("{n} has {a} {o} and {d} {u}. {m} has {b} {o}.", _MORE_THAN, (_THAN,), _two),
        Template("{n} has {d} {u} and {a} {o}. {m} has {b} {o}.", _IN_ALL, (_ALL,), _two),
        Template("{n} had {a} {o}, {d} {u} and found {b} more {o}.", _NOW, (_MORE,), _two),
    ),
    "gsm8k": (
        Template(
            "{n} has {a} {o}. {m} has 2 times as many {o} and found {b} more {o}.",
            _IN_ALL,
            (
                ("{m} had {expr} {o}.", "a", "*", "two"),
                ("Now {m} has {expr} {o}.", "s1", "+", "b"),
                ("They have {expr} {o} in all.", "a", "+", "s2"),
            ),
            _double,
        ),
        Template(
            "{n} has {f} bags with {g} {o} in each bag. {m} has {h} bags with {i} {o} in each bag. "
            "They lost {b} of the {o}.",
            "How many {o} do they have left?",
            (
                ("{n} has {expr} {o}.", "f", "*", "g"),
                ("{m} has {expr} {o}.", "h", "*", "i"),
                ("They have {expr} {o} in all.", "s1", "+", "s2"),
                ("They have {expr} {o} left.", "s3", "-", "b"),
            ),
            _two_products,
        ),
        Template(
            "{n} has {e} {o} and gave half of the {o} to {m}. "
            "Then {n} found {b} more {o} and lost {c} of the {o}.",
            _REST,
            (
                ("{n} has {expr} {o}.", "e", "/", "two"),
                ("Then {n} has {expr} {o}.", "s1", "+", "b"),
                ("{n} has {expr} {o} left.", "s2", "-", "c"),
            ),
            _double,
        ),
    ),
    "aqua": (
        Template(
            "{n} sold {f} {o} for {g} dollars each and paid {c} dollars to {m}.",
            "How many dollars does {n} have left?",
            (("{n} got {expr} dollars.", "f", "*", "g"), ("{n} has {expr} dollars left.", "s1", "-", "c")),
            _product,
        ),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _IN_ALL, (_ALL,), _two),
        Template(
            "{n} and {m} share {e} {o} in {f} bags.",
            "How many {o} are in each bag?",
            (("In each bag are {expr} {o}.", "e", "/", "f"),),
            _shares,
        ),
    ),
}
