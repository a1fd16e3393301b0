"""Templates of the six kinds of arithmetic problem: stories, questions, steps, ranges of numbers.

A step can be said in many ways: `(a|b|c)` in a sentence is one of the three, drawn with the rationale.
No way of saying it holds a capital A to E: the paper's AQuA parser takes the first such letter it meets.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

ADDEND_MAX = 30
FACTOR_MAX = 8

Numbers = dict[str, int]


@dataclass(frozen=True)
class Step:
    """One line of a solution: ways to say it, and what is computed (s1 is the result of the first step)."""

    sayings: tuple[str, ...]  # with {expr}, the whole equation, and perhaps {r}, its result
    left: str
    sign: str
    right: str


@dataclass(frozen=True)
class Template:
    """One wording of a problem: story, question, the steps of the solution, its numbers."""

    story: str
    ask: str
    steps: tuple[Step, ...]
    draw: Callable[[random.Random], Numbers]


PREFACES = (
    *("", "", "", "Let us see.", "Let us think.", "We want the number of {o}.", "We look at the {o}."),
    *("Here is how.", "First we read the question.", "This is not hard."),
)
OPENERS = ("", "", "so", "then", "now", "thus", "next", "we see that", "it follows that")


def varied(text: str, rng: random.Random) -> str:
    """The text with one of each `(a|b|c)`, single spaces, and a capital at its beginning."""
    chosen = re.sub(r"\(([^()]*\|[^()]*)\)", lambda group: rng.choice(group[1].split("|")), text)
    chosen = re.sub(r" (?=[.,])", "", " ".join(chosen.split()))
    return chosen[:1].upper() + chosen[1:]


def _said(who: str, does: str, unit: str, tail: str = "") -> tuple[str, ...]:
    return (
        f"{who} {does} {{expr}} {unit} {tail}.",
        f"{{expr}}, (so|thus|and so) {who} {does} {{r}} {unit} {tail}.",
        f"the (number|count|total) of {unit} {tail} is {{expr}}.",
    )


HAS, HAVE = "(has|holds|owns|keeps)", "(have|hold|own|keep)"
NOW, LEFT, ALL = "(now|then|by now|)", "(left|still|in the end|)", "(in all|together|in total|)"


def _now(left: str, sign: str, right: str, who: str = "{n}") -> Step:
    return Step(_said(who, HAS, "{o}", NOW), left, sign, right)


def _rest(left: str, sign: str, right: str) -> Step:
    return Step(_said("{n}", HAS, "{o}", LEFT), left, sign, right)


def _all(left: str, right: str) -> Step:
    return Step(_said("(they|the two|the two of them)", HAVE, "{o}", ALL), left, "+", right)


def _in_bag(left: str, right: str) -> Step:
    return Step(_said("(one bag|one of the bags|the bag)", "(holds|has|takes)", "{o}"), left, "/", right)


def _dollars(left: str, sign: str, right: str, does: str, tail: str) -> Step:
    return Step(_said("{n}", does, "dollars", tail), left, sign, right)


def _equation(known: str, left: str, sign: str, right: str) -> Step:
    first = f"(let|say) {known}, (so|then|thus) x (is|must be|equals) {{expr}}."
    second = f"(we have|we know|it says) {known}, (so|then|thus) x (is|must be|equals) {{expr}}."
    third = f"{known}, (so|then|thus) {{expr}} (is x|must be x|equals x)."
    return Step((first, second, third), left, sign, right)


_MORE, _LESS = _now("a", "+", "b"), _rest("a", "-", "b")
_THAN = Step(_said("{n}", HAS, "more {o}", "(than {m}|)"), "a", "-", "b")
_BAGS = Step(_said("the bags", "(hold|have|take)", "{o}", ALL), "f", "*", "g")
_NOW_ASKED = "How many {o} does {n} have now?"
_REST_ASKED = "How many {o} does {n} have left?"
_THAN_ASKED = "How many more {o} does {n} have than {m}?"
_ALL_ASKED = "How many {o} do they have in all?"
_BAG_ASKED = "How many {o} are in each bag?"
_FIRST_ASKED = "How many {o} did {n} have at first?"
_DOLLARS_ASKED = "How many dollars does {n} have left?"


def _up_to(limit: int, rng: random.Random) -> int:
    return rng.randint(2, limit)


def _two(rng: random.Random) -> Numbers:
    """a > b, so that both the sum and the difference are fine; d is anything, e their sum."""
    b, a = sorted(rng.sample(range(2, ADDEND_MAX + 1), 2))
    return {"a": a, "b": b, "c": _up_to(b, rng), "d": _up_to(ADDEND_MAX, rng), "e": a + b}


def _shares(rng: random.Random) -> Numbers:
    """f equal shares of g; a = f * g + b, e = f * g, k + l = e."""
    f, g = _up_to(FACTOR_MAX, rng), _up_to(FACTOR_MAX, rng)
    b, k = _up_to(12, rng), rng.randint(1, f * g - 1)
    return {"f": f, "g": g, "b": b, "a": f * g + b, "e": f * g, "k": k, "l": f * g - k}


def _product(rng: random.Random) -> Numbers:
    f, g = _up_to(FACTOR_MAX, rng), _up_to(FACTOR_MAX, rng)
    return {"f": f, "g": g, "b": _up_to(12, rng), "c": rng.randint(1, f * g - 1)}


def _two_products(rng: random.Random) -> Numbers:
    f, g, h, i = (_up_to(5, rng) for _ in range(4))
    return {"f": f, "g": g, "h": h, "i": i, "b": rng.randint(1, f * g + h * i - 1)}


def _double(rng: random.Random) -> Numbers:
    a = _up_to(15, rng)
    return {"a": a, "e": a * 2, "b": _up_to(12, rng), "c": rng.randint(1, a), "two": 2}


TEMPLATES: dict[str, tuple[Template, ...]] = {
    "addsub": (
        Template("{n} has {a} {o}. {m} gives {n} {b} more {o}.", _NOW_ASKED, (_MORE,), _two),
        Template("{n} had {a} {o} and lost {b} of the {o}.", _REST_ASKED, (_LESS,), _two),
        Template("{n} had {a} {o} and gave {b} of the {o} to {m}.", _REST_ASKED, (_LESS,), _two),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _THAN_ASKED, (_THAN,), _two),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _ALL_ASKED, (_all("a", "b"),), _two),
        Template("{n} had {a} {o} and found {b} more {o}.", _NOW_ASKED, (_MORE,), _two),
    ),
    "singleeq": (
        Template(
            "{n} had some {o}. {m} gave {n} {b} more. Now {n} has {e} {o}.",
            _FIRST_ASKED,
            (_equation("x + {b} = {e}", "e", "-", "b"),),
            _two,
        ),
        Template(
            "{n} had some {o} and lost {b} of the {o}. Now {n} has {a} {o}.",
            _FIRST_ASKED,
            (_equation("x - {b} = {a}", "a", "+", "b"),),
            _two,
        ),
        Template(
            "{n} has {f} bags with the same number of {o}. The bags hold {e} {o} in all.",
            _BAG_ASKED,
            (_equation("{f} * x = {e}", "e", "/", "f"),),
            _shares,
        ),
        Template(
            "{n} paid {a} dollars for {o} and {b} dollars for bags.",
            "How many dollars did {n} pay in all?",
            (_dollars("a", "+", "b", "(paid|spent|gave)", ALL),),
            _two,
        ),
        Template(
            "{n} had {a} dollars and paid {b} dollars for {o}.",
            _DOLLARS_ASKED,
            (_dollars("a", "-", "b", HAS, LEFT),),
            _two,
        ),
    ),
    "multiarith": (
        Template(
            "{n} has {a} {o} and found {b} more {o}. Then {n} gave {c} of the {o} to {m}.",
            _REST_ASKED,
            (_MORE, _rest("s1", "-", "c")),
            _two,
        ),
        Template(
            "{n} has {f} bags with {g} {o} in each bag. {m} gives {n} {b} more {o}.",
            _NOW_ASKED,
            (_BAGS, _now("s1", "+", "b")),
            _product,
        ),
        Template(
            "{n} had {a} {o} and lost {b} of the {o}. The rest are in {f} bags.",
            _BAG_ASKED,
            (_LESS, _in_bag("s1", "f")),
            _shares,
        ),
        Template(
            "{n} has {k} {o} and {m} has {l} {o}. They share the {o} in {f} bags.",
            _BAG_ASKED,
            (_all("k", "l"), _in_bag("s1", "f")),
            _shares,
        ),
    ),
    "svamp": (
        Template("{n} has {a} {o} and {d} {u}. {m} gives {n} {b} more {o}.", _NOW_ASKED, (_MORE,), _two),
        Template("{n} had {d} {u} and {a} {o}. Then {n} lost {b} of the {o}.", _REST_ASKED, (_LESS,), _two),
        Template("{n} has {a} {o} and {d} {u}. {m} has {b} {o}.", _THAN_ASKED, (_THAN,), _two),
        Template("{n} has {d} {u} and {a} {o}. {m} has {b} {o}.", _ALL_ASKED, (_all("a", "b"),), _two),
        Template("{n} had {a} {o}, {d} {u} and found {b} more {o}.", _NOW_ASKED, (_MORE,), _two),
    ),
    "gsm8k": (
        Template(
            "{n} has {a} {o}. {m} has two times as many {o}. Then {m} found {b} more {o}.",
            _ALL_ASKED,
            (_now("a", "*", "two", "{m}"), _now("s1", "+", "b", "{m}"), _all("a", "s2")),
            _double,
        ),
        Template(
            "{n} has {f} bags with {g} {o} in each bag. {m} has {h} bags with {i} {o} in each bag. "
            "They lost {b} of the {o}.",
            "How many {o} do they have left?",
            (
                _now("f", "*", "g"),
                _now("h", "*", "i", "{m}"),
                _all("s1", "s2"),
                Step(_said("(they|the two|the two of them)", HAVE, "{o}", LEFT), "s3", "-", "b"),
            ),
            _two_products,
        ),
        Template(
            "{n} has {e} {o} and gave half of the {o} to {m}. "
            "Then {n} found {b} more {o} and lost {c} of the {o}.",
            _REST_ASKED,
            (_rest("e", "/", "two"), _now("s1", "+", "b"), _rest("s2", "-", "c")),
            _double,
        ),
    ),
    "aqua": (
        Template(
            "{n} sold {f} {o} for {g} dollars each and paid {c} dollars to {m}.",
            _DOLLARS_ASKED,
            (_dollars("f", "*", "g", "(got|has|took)", "(at first|)"), _dollars("s1", "-", "c", HAS, LEFT)),
            _product,
        ),
        Template("{n} has {a} {o} and {m} has {b} {o}.", _ALL_ASKED, (_all("a", "b"),), _two),
        Template("{n} and {m} share {e} {o} in {f} bags.", _BAG_ASKED, (_in_bag("e", "f"),), _shares),
    ),
}
