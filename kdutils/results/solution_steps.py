"""The steps of a written solution, read by rule: do they lead to its answer, and where do they go wrong?

A step is an equation of numbers, `a op b = c` (also with more than two numbers on the left); equations with
an unknown are none. By rule, on the text alone.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.data import answers
from kdutils.grid.plan import Plan
from kdutils.results import paradox

_NUMBER = r"\d+(?:\.\d+)?"
_SIGN = r"(?:[-+*/×÷−]|(?<=\s)x(?=\s))"
_LEFT = rf"-?{_NUMBER}(?:\s*{_SIGN}\s*{_NUMBER})+"
# The result is looked at and not taken: in `a + b = c + d = e` it begins the next equation.
_EQUATION = re.compile(rf"(?<![\w.)])({_LEFT})\s*=\s*(?=(-?{_NUMBER})(?![\w(]))")
_PART = re.compile(rf"\s*({_SIGN})?\s*(-?{_NUMBER})")
_STATED = re.compile(r"[Aa]nswer is:?\s*(-?\d+(?:\.\d+)?)")
_PLAIN_SIGN = {"×": "*", "x": "*", "÷": "/", "−": "-"}
_UNIT = re.compile(r"(?<=\d),(?=\d{3}\b)|[$€£%]")  # what may stand in a number without changing it
_FACTOR = re.compile(rf"(?<=[*×])\s*({_NUMBER})%|(?<![\d.])({_NUMBER})%(?=\s*[*×])")  # here 20% is 0.2


def _plain(text: str) -> str:
    """The text with bare numbers; a percentage that is multiplied is a share, any other a number."""
    return _UNIT.sub("", _FACTOR.sub(lambda found: f" {float(found[1] or found[2]) / 100:g}", text))


class Step(NamedTuple):
    """One equation of a text."""

    numbers: tuple[float, ...]  # left of the equals sign
    signs: tuple[str, ...]  # between them: + - * /
    result: float  # as the text has it
    decimals: int = 0  # of the result, as written

    @property
    def is_right(self) -> bool:
        """Whether the result is that of the left side, within answers.TOLERANCE or rounded as written."""
        terms = [self.numbers[0]]  # products before sums
        for sign, number in zip(self.signs, self.numbers[1:], strict=True):
            if sign == "*":
                terms[-1] *= number
            elif sign == "/":
                terms[-1] = terms[-1] / number if number else math.nan
            else:
                terms.append(number if sign == "+" else -number)
        rounding = 0.5 * 10**-self.decimals if self.decimals else 0.0
        return abs(sum(terms) - self.result) <= max(answers.TOLERANCE, rounding)


def steps(text: str) -> list[Step]:
    """The equations of a text in order.

    Left out are those of which a side goes on beyond what was read (`x + 3 * 4 = 12`, `3 * 4 = 10 + 2`): they
    say something else than their middle.
    """
    plain = _plain(text)
    found = []
    for match in _EQUATION.finditer(plain):
        before, after = plain[: match.start()].rstrip(), plain[match.end(2) :].lstrip()
        if before.endswith(("+", "-", "*", "/", "×", "÷", "−")) or re.match(rf"{_SIGN}\s*[\w(]", after):
            continue
        parts = _PART.findall(match[1])
        signs = tuple(_PLAIN_SIGN.get(sign, sign) for sign, _ in parts[1:])
        decimals = len(match[2].partition(".")[2])
        found.append(Step(tuple(float(number) for _, number in parts), signs, float(match[2]), decimals))
    return found


# --- does it follow? --------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What a text computes, and whether it follows."""

    n_steps: int
    n_right_steps: int
    follows: bool | None  # is the number stated the last that is computed? None if either is missing


def read(text: str) -> Reading:
    """The steps of a solution whose answer is a number, and whether they lead to the answer that it states.

    Stated is the number after the last "answer is". A step may be wrong and the answer still follow from it.
    """
    plain = _plain(text)
    announced = list(_STATED.finditer(plain))
    found = steps(plain[: announced[-1].start()] if announced else plain)
    follows = None
    if announced and found:
        follows = abs(float(announced[-1][1]) - found[-1].result) <= answers.TOLERANCE
    return Reading(len(found), sum(step.is_right for step in found), follows)


FOLLOWED = {"checkable": "one", "follows": "checkable", "right_steps": "steps"}  # share -> of what


def followed(rows: pd.DataFrame, rises: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Whether the answer of a text follows from its steps, by rule (`read`): a row a method x group.

    Groups are all texts, and of KD those whose item became right or stayed wrong. Percent with intervals, as
    texts: `checkable` state a number and compute one; of these in `follows` the stated is the last computed;
    `right steps` of all steps. AQuA, which states a letter, is left out.
    """
    parts = {"all texts": rows}
    parts |= {paradox.FATES[fate]: rises[rises["fate"] == fate] for fate in ("became_right", "stayed_wrong")}
    readings = {text: read(text) for text in rows["text"].unique()}
    table = []
    for method, (label, part) in product(("sft", *KD_METHODS), parts.items()):
        own = part[(part["method"] == method) & (part["task"] != "aqua")]
        if own.empty:
            continue
        found = [readings[text] for text in own["text"]]
        values = {
            "one": 1.0,
            "checkable": [reading.follows is not None for reading in found],
            "follows": [reading.follows is True for reading in found],
            "steps": [reading.n_steps for reading in found],
            "right_steps": [reading.n_right_steps for reading in found],
        }
        shares = paradox.means(own, values, FOLLOWED, rng=rng, scale=100).values()
        texts = ["—" if math.isnan(share.value) else share.text(signed=False) for share in shares]
        table.append((METHOD_NAMES[method], label, len(own), *texts))
    columns = [f"{share.replace('_', ' ')}, %" for share in FOLLOWED]
    return pd.DataFrame(table, columns=["student", "group", "texts", *columns])


# --- where does it go wrong? ------------------------------------------------------------------------------

CATEGORIES = {  # in the order in which they are tried; the first that holds counts
    "right": "right",
    "cut": "cut off, or no answer to read",
    "no_step": "wrong, without a step",
    "not_followed": "right steps, another answer stated",
    "arithmetic": "right operation and numbers, wrong arithmetic",
    "operation": "wrong operation on the right numbers",
    "irrelevant": "a number of the question that does not matter",
    "foreign": "a number that is not in the question",
    "other": "other steps with the right numbers",
}
NO_GOLD = "no_gold"  # the item's own solution has no equation to compare with


def category(
    text: str, *, parsed: str | None, correct: bool, truncated: bool, question: str, rationale: str
) -> str:
    """What is wrong with an answer, by the item's own solution: a key of CATEGORIES, or NO_GOLD.

    `right` is an answer that is read as right, however it was reached; `cut` holds none, or was cut. Else its
    steps are compared with those of `rationale`; an operand that is the result of an earlier step stands for
    that step, so that one slip is not counted twice, and the order of numbers that are added or multiplied
    does not matter. `operation` is the same numbers under other signs, or the other way round; `foreign` a
    number that is neither in the question, nor in that solution, nor the result of an earlier step.
    """
    if correct:
        return "right"
    gold = steps(rationale)
    if not gold:
        return NO_GOLD
    if truncated or parsed is None:
        return "cut"
    own = steps(text)
    if not own:
        return "no_step"
    asked = {float(number) for number in re.findall(_NUMBER, _UNIT.sub("", question))}
    own_forms, gold_forms = _forms(own, asked), _forms(gold, asked)
    if Counter(own_forms) == Counter(gold_forms):
        return "not_followed" if all(step.is_right for step in own) else "arithmetic"
    own_numbers, gold_numbers = (
        Counter(operand for _, operands in forms for operand in operands) for forms in (own_forms, gold_forms)
    )
    if own_numbers == gold_numbers:
        return "operation"
    strange = {number for number in own_numbers if isinstance(number, float)} - set(gold_numbers)
    if strange & asked:
        return "irrelevant"
    return "foreign" if strange else "other"


def _forms(of_steps: Sequence[Step], asked: set[float]) -> list[tuple]:
    """Each step as its signs and operands: a number, or the place of the earlier step whose result it is.

    A number that stands in the question is taken from there.
    """
    forms, results = [], {}
    for place, step in enumerate(of_steps):
        operands = tuple(n if n in asked else results.get(n, n) for n in step.numbers)
        if len(set(step.signs)) == 1 and step.signs[0] in "+*":
            operands = tuple(sorted(operands, key=str))
        forms.append((step.signs, operands))
        results[step.result] = f"step {place + 1}"
    return forms


def errors(plan: Plan, rows: pd.DataFrame, *, task: str, rng: np.random.Generator) -> pd.DataFrame:
    """Shares of CATEGORIES on one task by method, percent: a row a method x category.

    Columns method, label, category, paradox.ESTIMATED, n (texts), n_pairs, n_without: texts of items whose
    own solution has no equation, which are left out. Pairs and items are drawn again, crossed.
    """
    part, items = rows[rows["task"] == task], paradox.items_of(plan, [task])
    of_text = part[["text", "parsed", "correct", "truncated"]].to_dict("records")
    gold = [items[task, item] for item in part["item_id"]]
    categories = [
        category(**own, question=item.question, rationale=item.rationale)
        for own, item in zip(of_text, gold, strict=True)
    ]
    part = part.assign(category=categories, has_gold=[bool(steps(item.rationale)) for item in gold])
    table = []
    for method, name, own in paradox.by_method(part):
        known = own[own["has_gold"]]
        if known.empty:
            continue
        values = {key: (known["category"] == key).astype(float) for key in CATEGORIES} | {"one": 1.0}
        shares = paradox.means(known, values, dict.fromkeys(CATEGORIES, "one"), rng=rng, scale=100)
        n = len(known), known.groupby(["teacher", "student"]).ngroups, len(own) - len(known)
        table += [(method, name, key, *each.bounds, each.reason, *n) for key, each in shares.items()]
    columns = ["method", "label", "category", *paradox.ESTIMATED, "n", "n_pairs", "n_without"]
    return pd.DataFrame(table, columns=columns)


def error_shares(table: pd.DataFrame) -> pd.DataFrame:
    """`errors` for the stacked bars: a row (index) a method, a column a category; pairs where they differ."""
    most = table["n_pairs"].max()
    few = table["n_pairs"].map(lambda n: "" if n == most else f" ({n} pairs)")
    cells = table.assign(row=table["label"] + few)
    wide = cells.pivot_table(index="row", columns="category", values="estimate", sort=False)
    return wide[list(CATEGORIES)].rename_axis(columns=None)
