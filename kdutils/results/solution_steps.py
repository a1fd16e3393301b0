"""The steps of a written solution, read by rule: do they lead to its answer, and where do they go wrong?

A step is an equation of numbers, `a op b = c` (also with more than two numbers on the left); equations with
an unknown are none. By rule, on the text alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdutils import evaluate
from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.data import sources
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.estimate import Estimate
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


class Step(NamedTuple):
    """One equation of a text."""

    numbers: tuple[float, ...]  # left of the equals sign
    signs: tuple[str, ...]  # between them: + - * /
    result: float  # as the text has it
    decimals: int = 0  # of the result, as written

    @property
    def is_right(self) -> bool:
        """Whether the result is that of the left side, within answers.TOLERANCE or rounded as written."""
        value = worked_out(self.numbers, self.signs)
        rounding = 0.5 * 10**-self.decimals if self.decimals else 0.0
        return value is not None and abs(value - self.result) <= max(evaluate.TOLERANCE, rounding)

    def __str__(self) -> str:
        left = f"{self.numbers[0]:g}"
        for sign, number in zip(self.signs, self.numbers[1:], strict=True):
            left += f" {sign} {number:g}"
        return f"{left} = {self.result:g}"


def steps(text: str) -> list[Step]:
    """The equations of a text in order.

    Left out are those of which a side goes on beyond what was read (`x + 3 * 4 = 12`, `3 * 4 = 10 + 2`): they
    say something else than their middle.
    """
    plain = _UNIT.sub("", text)
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


def worked_out(numbers: Sequence[float], signs: Sequence[str]) -> float | None:
    """The value of the left side of an equation, products before sums; None for a division by zero."""
    terms, ops = [numbers[0]], []
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1] *= number
        elif sign == "/":
            if number == 0:
                return None
            terms[-1] /= number
        else:
            terms.append(number)
            ops.append(sign)
    value = terms[0]
    for sign, term in zip(ops, terms[1:], strict=True):
        value += term if sign == "+" else -term
    return value


# --- does it follow? --------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """What a text computes and states; the answer to *does it follow?*"""

    n_steps: int
    n_right_steps: int
    stated: float | None  # the number after the last "answer is"; None if there is none
    computed: float | None  # the result of the last step before it; None without a step

    @property
    def follows(self) -> bool | None:
        """Whether the stated answer is the last number that the steps compute; None if either is missing.

        A step may be wrong and the answer still follow from it; whether steps are right is `n_right_steps`.
        """
        if self.stated is None or self.computed is None:
            return None
        return abs(self.stated - self.computed) <= evaluate.TOLERANCE


def read(text: str) -> Reading:
    """The steps and the stated answer of a solution whose answer is a number (not a letter)."""
    plain = _UNIT.sub("", text)
    announced = list(_STATED.finditer(plain))
    stated = float(announced[-1][1]) if announced else None
    found = steps(plain[: announced[-1].start()] if announced else plain)
    computed = found[-1].result if found else None
    return Reading(len(found), sum(step.is_right for step in found), stated, computed)


FOLLOWED = {"checkable": "one", "follows": "checkable", "right_steps": "steps"}  # share -> of what


def followed(
    rows: pd.DataFrame,
    rises: pd.DataFrame,
    *,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Whether the answer of a text follows from its steps, by rule (`read`): a row a method x group.

    Groups are all texts, and of KD those whose item became right or stayed wrong. Percent: `checkable` texts
    state a number and compute one; `follows`, of these the stated is the last computed; `right_steps`, of all
    steps the share that is right; each with low and high, and n, the texts. AQuA, which states a letter, is
    left out.
    """
    parts = {"all texts": rows}
    parts |= {paradox.FATES[fate]: rises[rises["fate"] == fate] for fate in ("became_right", "stayed_wrong")}
    readings = {text: read(text) for text in rows.loc[rows["task"] != "aqua", "text"].unique()}
    table = []
    for method in ("sft", *KD_METHODS):
        for label, part in parts.items():
            own = part[(part["method"] == method) & (part["task"] != "aqua")]
            if len(own):
                found = _followed(
                    own, [readings[text] for text in own["text"]], rng=rng, n_resamples=n_resamples
                )
                table.append((method, METHOD_NAMES[method], label, *found, len(own)))
    columns = [f"{share}{end}" for share in FOLLOWED for end in ("", "_low", "_high")]
    return pd.DataFrame(table, columns=["method", "label", "group", *columns, "n"])


def _followed(own: pd.DataFrame, found: Iterable[Reading], **how) -> list[float]:
    values = {
        "one": 1.0,
        "checkable": [reading.follows is not None for reading in found],
        "follows": [reading.follows is True for reading in found],
        "steps": [reading.n_steps for reading in found],
        "right_steps": [reading.n_right_steps for reading in found],
    }
    drawn = paradox.resampled(own, values, **how)
    means = (100 * drawn.mean(*shares) for shares in FOLLOWED.items())
    return [
        bound for mean in means for bound in paradox.estimated(mean, drawn, own, "nothing to check").bounds
    ]


def readable_followed(table: pd.DataFrame) -> pd.DataFrame:
    """`followed` for people: shares with their intervals, such as `82.1 [66.9, 92.8]`."""
    shown = {}
    for name in FOLLOWED:
        bounds = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
        texts = ["—" if np.isnan(each[0]) else Estimate(*each).text(signed=False) for each in bounds]
        shown[f"{name.replace('_', ' ')}, %"] = texts
    names = {"label": "student", "n": "texts"}
    return table[["label", "group", "n"]].rename(columns=names).assign(**shown)


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

    `right`: the answer read is right, however it was reached. `cut`: the text was cut at the limit, or holds
    no answer. `no_step`: it has no equation. Then its steps are compared with those of `rationale`; an
    operand that is the result of an earlier step stands for that step, so that one slip is not counted twice,
    and the order of numbers that are added or multiplied does not matter. The same steps: `not_followed` if
    each result is right, so that only the answer stated is not; else `arithmetic`. The same numbers under
    other signs, or the other way round: `operation`. Else by the numbers: one of the question that the item's
    own solution does not use: `irrelevant`; one that is neither in the question, nor in that solution, nor
    the result of an earlier step: `foreign`; none of these, so that a step is missing, or one too many:
    `other`.
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
    asked = _numbers(question)
    own_forms, gold_forms = _forms(own, asked), _forms(gold, asked)
    if Counter(own_forms) == Counter(gold_forms):
        return "not_followed" if all(step.is_right for step in own) else "arithmetic"
    own_numbers, gold_numbers = _operands(own_forms), _operands(gold_forms)
    if own_numbers == gold_numbers:
        return "operation"
    strange = {number for number in own_numbers if isinstance(number, float)} - set(gold_numbers)
    if strange & asked:
        return "irrelevant"
    return "foreign" if strange else "other"


def _numbers(text: str) -> set[float]:
    return {float(number) for number in re.findall(_NUMBER, _UNIT.sub("", text))}


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


def _operands(forms: Sequence[tuple]) -> Counter:
    return Counter(operand for _, operands in forms for operand in operands)


def errors(
    plan: Plan,
    rows: pd.DataFrame,
    *,
    task: str,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Shares of CATEGORIES on one task by method, percent: a row a method x category.

    Columns method, label, category, paradox.ESTIMATED, n (texts), n_pairs, n_without: texts of items whose
    own solution has no equation, which are left out. Pairs and items are drawn again, crossed.
    """
    part = rows[rows["task"] == task]
    items = _items_of(plan, task) if len(part) else {}
    gold = [items[item] for item in part["item_id"]]
    own = part[["text", "parsed", "correct", "truncated"]].to_dict("records")
    part = part.assign(
        category=[
            category(**row, question=item.question, rationale=item.rationale)
            for row, item in zip(own, gold, strict=True)
        ],
        has_gold=[bool(steps(item.rationale)) for item in gold],
    )
    table = []
    for method, name, own in paradox.by_method(part):
        known = own[own["has_gold"]]
        if known.empty:
            continue
        values = {key: (known["category"] == key).astype(float) for key in CATEGORIES}
        drawn = paradox.resampled(known, values | {"one": 1.0}, rng=rng, n_resamples=n_resamples)
        n = len(known), len(known[paradox.PAIR].drop_duplicates()), len(own) - len(known)
        for key in CATEGORIES:
            found = paradox.estimated(100 * drawn.mean(key, "one"), drawn, known)
            table.append((method, name, key, *found.bounds, found.reason, *n))
    columns = ["method", "label", "category", *paradox.ESTIMATED, "n", "n_pairs", "n_without"]
    return pd.DataFrame(table, columns=columns)


def _items_of(plan: Plan, task: str) -> dict[str, sources.Item]:
    """The items of a task by id, of every data set and evaluation in the plan."""
    found = {}
    for run in plan.runs:
        spec = sources.resolved(run.spec)
        if spec.domain == paradox.DOMAIN and task in run.evaluation.tasks:
            found.setdefault((spec.data, run.evaluation.eval_id), (spec, run.evaluation))
    items = [item for spec, evaluation in found.values() for item in sources.test_items(spec, evaluation)]
    return {item.id: item for item in items if item.task == task}


def error_shares(table: pd.DataFrame) -> pd.DataFrame:
    """`errors` for the stacked bars: a row (index) a method, a column a category; pairs where they differ."""
    most = table["n_pairs"].max()
    few = table["n_pairs"].map(lambda n: "" if n == most else f" ({n} pairs)")
    wide = table.assign(row=table["label"] + few).pivot(index="row", columns="category", values="estimate")
    return wide.loc[(table["label"] + few).unique(), list(CATEGORIES)].rename_axis(columns=None)
