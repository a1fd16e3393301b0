"""Gold answers of items from files, checked when they are read: a right response must be scored right.

Public data sets write the same answer in many ways (`1,234`, `#### 72`, `(B)`, `True`). Only one of them is
what `evaluate` reads out of a response. Released items are not read through here: their files are pinned.
"""

from __future__ import annotations

import re
from typing import Any

from kdutils import evaluate
from kdutils.constants import CHOICE_TASKS, MATH_TASKS
from kdutils.io.text_safety import shown
from kdutils.items import DataError

NUMBER = re.compile(
    r"\s*[$£€]?(?:\+|(?P<minus>-))?[$£€]?(?P<whole>\d+|\d{1,3}(?:,\d{3})+)?(?P<decimals>\.\d+)?\.?\s*\\?%?\.?",
    re.ASCII,
)
LETTER = re.compile(r"[(\[]?([A-Ea-e])[)\]]?[.:]?")


def is_scorable(task: str, answer: str) -> bool:
    """Whether the gold answer, written in the response format, is right by the lenient and strict reading.

    Always true of instruction tasks, which have no right answer.
    """
    if task in MATH_TASKS:
        response = f"The answer is {answer}."
    elif task in CHOICE_TASKS:
        response = f"the correct answer is {answer}"
    else:
        return True
    readings = (evaluate.parse(task, response), evaluate.parse_strict(task, response))
    return all(evaluate.is_correct(task, parsed, answer) for parsed in readings)


def with_scorable_answer(record: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The record of an item with its answer as responses are read; unchanged if it is so already.

    A percent sign and a currency are left out, as they are when a number is read out of a response. What
    lacks a task or an answer is left to `items.item_of`.

    Raises:
        DataError: names the line, the answer and the form it must have.
    """
    task, answer = record.get("task"), record.get("answer")
    if task not in (*MATH_TASKS, *CHOICE_TASKS) or not isinstance(answer, str) or not answer.strip():
        return record
    for form in (answer, _normalised(task, answer.strip())):
        if is_scorable(task, form):
            return record | {"answer": form}
    forms = "a letter from A to E" if task == "aqua" else "a plain number, such as 1234 or -0.5"
    if task in CHOICE_TASKS:
        forms = f"one of {list(CHOICE_TASKS[task])}"
    raise DataError(
        f"{where}: answer={shown(answer)} is not as {task} is scored, so every response would be wrong; "
        f"write {forms}"
    )


def _normalised(task: str, answer: str) -> str:
    """The answer in the form that responses to the task have, as far as it is known what it means."""
    if task == "aqua":
        found = LETTER.fullmatch(answer)
        return found[1].upper() if found else answer
    if task in CHOICE_TASKS:
        return answer.lower().replace(" ", "").rstrip(".")
    found = NUMBER.fullmatch(answer.rpartition("####")[2].replace("\u2212", "-"))
    if not found or not (found["whole"] or found["decimals"]):
        return answer
    whole = (found["whole"] or "0").replace(",", "")
    return (found["minus"] or "") + whole + (found["decimals"] or "")
