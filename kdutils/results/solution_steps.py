"""What the steps of a written solution come to: do they lead to its answer, and where do they go wrong?

A step is an equation of numbers, `a op b = c` (also with more than two numbers on the left); equations with
an unknown are none. By rule, on the text alone: nothing here knows who wrote it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from kdutils import answers

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
        return value is not None and abs(value - self.result) <= max(answers.TOLERANCE, rounding)

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
        return abs(self.stated - self.computed) <= answers.TOLERANCE


def read(text: str) -> Reading:
    """The steps and the stated answer of a solution whose answer is a number (not a letter)."""
    plain = _UNIT.sub("", text)
    announced = list(_STATED.finditer(plain))
    stated = float(announced[-1][1]) if announced else None
    found = steps(plain[: announced[-1].start()] if announced else plain)
    computed = found[-1].result if found else None
    return Reading(len(found), sum(step.is_right for step in found), stated, computed)


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
