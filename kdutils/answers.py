"""Answers: how they are read from a text, whether they are right, and how gold answers must be written.

Two ways of reading an answer are kept side by side: the authors' lenient one (last number, first letter,
first keyword) and a strict one that wants the answer where the response format puts it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from kdutils.constants import CHOICE_TASKS, INSTRUCTION_TASKS, MATH_TASKS
from kdutils.io.text_safety import shown
from kdutils.items import DataError

NUMBER = re.compile(r"-?\d+\.?\d*")
LETTER = re.compile(r"[ABCDE]")
STRICT_NUMBER = re.compile(r"[Tt]he answer is:? *(-?\d+(?:\.\d+)?)\.?\s*$")
STRICT_LETTER = re.compile(r"[Tt]he answer is:? *\(?([A-E])\)?\.?\s*$")
TOLERANCE = 1e-3  # absolute, as the authors'
RIGHT_ROUGE = 0.5  # instruction tasks have no right answer; only their ROUGE-L is analysed


@cache
def keyword_pattern(task: str) -> re.Pattern:
    # As the authors': one pattern for all tasks that share a keyword, so answer5 is read in a 4-choice task.
    stem = CHOICE_TASKS[task][0].rstrip("0123456789")
    if stem == "true":
        return re.compile("true|false")
    count = {"answer": 5, "solution": 2, "ending": 4, "option": 2}[stem]
    return re.compile("|".join(f"{stem}{number}" for number in range(1, count + 1)))


def parse(task: str, text: str) -> str | None:
    """The answer in a text as the authors read it, None if there is none.

    Math: the last number, commas removed; AQuA: the first capital A to E anywhere; commonsense: the first
    keyword. Instruction tasks: the text itself.
    """
    if task == "aqua":
        match = LETTER.search(text)
        return match and match[0]
    if task in MATH_TASKS:
        numbers = NUMBER.findall(text.replace(",", ""))
        return numbers[-1] if numbers else None
    if task in INSTRUCTION_TASKS:
        return text.strip() or None
    match = keyword_pattern(task).search(text)
    return match and match[0]


def parse_strict(task: str, text: str) -> str | None:
    """The answer where the response format puts it, at the end and after the words that announce it."""
    if task in INSTRUCTION_TASKS:
        return text.strip() or None
    if task in MATH_TASKS:
        match = (STRICT_LETTER if task == "aqua" else STRICT_NUMBER).search(text.replace(",", "").strip())
        return match and match[1]
    found = re.fullmatch(r"the correct answer is (\w+)\.?", text.strip())
    return found[1] if found and keyword_pattern(task).fullmatch(found[1]) else None


def is_correct(task: str, parsed: str | None, answer: str) -> bool:
    """Whether a parsed answer is the gold one: numbers within TOLERANCE, all else to the letter.

    Instruction tasks have no right or wrong; they count as correct from a ROUGE-L of RIGHT_ROUGE.
    """
    if parsed is None:
        return False
    if task in INSTRUCTION_TASKS:
        return rouge_l(parsed, answer) >= RIGHT_ROUGE
    if task in MATH_TASKS and task != "aqua":
        return same_number(parsed, answer)
    return parsed == answer


def same_number(left: str, right: str) -> bool:
    """Whether two numbers as text are equal within TOLERANCE; False if one is none."""
    try:
        return abs(float(left) - float(right)) <= TOLERANCE
    except ValueError:
        return False


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 in [0, 1] (package rouge-score, no stemming)."""
    return float(_rouge().score(reference, text)["rougeL"].fmeasure)


# --- gold answers of items from files, checked when they are read: a right response must be scored right ----
# Public data sets write the same answer in many ways (`1,234`, `#### 72`, `(B)`, `True`). Only one of them is
# what is read from a response. Released items are not read through here: their files are pinned.

GOLD_NUMBER = re.compile(
    r"\s*[$£€]?(?:\+|(?P<minus>-))?[$£€]?(?P<whole>\d+|\d{1,3}(?:,\d{3})+)?(?P<decimals>\.\d+)?\.?\s*\\?%?\.?",
    re.ASCII,
)
GOLD_LETTER = re.compile(r"[(\[]?([A-Ea-e])[)\]]?[.:]?")


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
    readings = (parse(task, response), parse_strict(task, response))
    return all(is_correct(task, parsed, answer) for parsed in readings)


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
        found = GOLD_LETTER.fullmatch(answer)
        return found[1].upper() if found else answer
    if task in CHOICE_TASKS:
        return answer.lower().replace(" ", "").rstrip(".")
    found = GOLD_NUMBER.fullmatch(answer.rpartition("####")[2].replace("\u2212", "-"))
    if not found or not (found["whole"] or found["decimals"]):
        return answer
    whole = (found["whole"] or "0").replace(",", "")
    return (found["minus"] or "") + whole + (found["decimals"] or "")
