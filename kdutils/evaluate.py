"""Answers read from responses, and scores: of texts or ranked options against gold answers.

To add a way of reading answers, write its two functions and name them in READINGS; a task names its own in
kdutils.constants.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from kdutils.constants import ALL_TASKS, CHOICE_TASKS, INSTRUCTION_TASKS
from kdutils.items import Item

NUMBER = re.compile(r"-?\d+\.?\d*")
LETTER = re.compile(r"[ABCDE]")
STRICT_NUMBER = re.compile(r"[Tt]he answer is:? *(-?\d+(?:\.\d+)?)\.?\s*$")
STRICT_LETTER = re.compile(r"[Tt]he answer is:? *\(?([A-E])\)?\.?\s*$")
STRICT_KEYWORD = re.compile(r"the correct answer is (\w+)\.?")
TOLERANCE = 1e-3  # absolute, as the authors'
RIGHT_ROUGE = 0.5  # instruction tasks have no right answer; only their ROUGE-L is analysed


class Reading(NamedTuple):
    """How the answer to a kind of task is read from a response, and when it is the gold one."""

    lenient: Callable[[str, str], str | None]  # task, text -> answer as the authors read it, None without one
    strict: Callable[[str, str], str | None]  # where the response format puts it, after what announces it
    is_right: Callable[[str, str], bool]  # answer, gold answer
    response: str  # what ends with an answer, written in place of {}


def _last_number(task: str, text: str) -> str | None:
    numbers = NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else None


def _announced_number(task: str, text: str) -> str | None:
    match = STRICT_NUMBER.search(text.replace(",", "").strip())
    return match and match[1]


def _first_letter(task: str, text: str) -> str | None:
    match = LETTER.search(text)
    return match and match[0]


def _announced_letter(task: str, text: str) -> str | None:
    match = STRICT_LETTER.search(text.replace(",", "").strip())
    return match and match[1]


@cache
def keyword_pattern(task: str) -> re.Pattern:
    """The answers to a task. As the authors' it is one for all `answerN`, so answer5 is read among four."""
    options = ALL_TASKS[task].options
    return re.compile("|".join(options if options[0] != "answer1" else (f"answer{n}" for n in range(1, 6))))


def _first_keyword(task: str, text: str) -> str | None:
    match = keyword_pattern(task).search(text)
    return match and match[0]


def _announced_keyword(task: str, text: str) -> str | None:
    match = STRICT_KEYWORD.fullmatch(text.strip())
    return match[1] if match and keyword_pattern(task).fullmatch(match[1]) else None


def _whole_text(task: str, text: str) -> str | None:
    return text.strip() or None


def same_number(left: str, right: str) -> bool:
    """Whether two numbers as text are equal within TOLERANCE; False if one is none."""
    try:
        return abs(float(left) - float(right)) <= TOLERANCE
    except ValueError:
        return False


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F1 in [0, 1] (package rouge-score, no stemming)."""
    return float(_rouge().score(reference, text)["rougeL"].fmeasure)


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


READINGS = {
    "number": Reading(_last_number, _announced_number, same_number, "The answer is {}."),
    "letter": Reading(_first_letter, _announced_letter, operator.eq, "The answer is {}."),
    "keyword": Reading(_first_keyword, _announced_keyword, operator.eq, "the correct answer is {}"),
    "text": Reading(_whole_text, _whole_text, lambda text, gold: rouge_l(text, gold) >= RIGHT_ROUGE, "{}"),
}


def reading_of(task: str) -> Reading:
    """How answers to a task are read."""
    return READINGS[ALL_TASKS[task].reading]


def parse(task: str, text: str) -> str | None:
    """The answer in a text as the authors read it, None if there is none.

    Math: the last number, commas removed; AQuA: the first capital A to E anywhere; commonsense: the first
    keyword. Instruction tasks: the text itself.
    """
    return reading_of(task).lenient(task, text)


def parse_strict(task: str, text: str) -> str | None:
    """The answer where the response format puts it, at the end and after the words that announce it."""
    return reading_of(task).strict(task, text)


def is_correct(task: str, parsed: str | None, answer: str) -> bool:
    """Whether a parsed answer is the gold one: numbers within TOLERANCE, all else to the letter.

    Instruction tasks have no right or wrong; they count as correct from a ROUGE-L of RIGHT_ROUGE.
    """
    return parsed is not None and reading_of(task).is_right(parsed, answer)


def score(
    item: Item, text: str, *, n_tokens: int, ended: bool, sample: int = 0, top1: Sequence[int] = ()
) -> dict[str, object]:
    """One row of items.parquet for one text; `top1` is from generation.top1_tokens."""
    parsed, strict = parse(item.task, text), parse_strict(item.task, text)
    return {
        "task": item.task,
        "item_id": item.id,
        "sample": sample,
        "text": text,
        "answer": item.answer,
        "parsed": parsed,
        "parsed_strict": strict,
        "correct": is_correct(item.task, parsed, item.answer),
        "correct_strict": is_correct(item.task, strict, item.answer),
        "unparsed": parsed is None,
        "truncated": not ended,
        "n_tokens": n_tokens,
        "top1": list(top1),
        "rouge_l": rouge_l(text, item.answer) if item.task in INSTRUCTION_TASKS else math.nan,
        "contaminated": item.contaminated,
    }


# --- options, where there are any ------------------------------------------------------------------------


def options(item: Item) -> dict[str, str]:
    """The answers that an item's question offers, each with the response that gives it.

    Keywords that stand in the question (some ARC items have three or five); those of the task if none do.

    Raises:
        ValueError: for a task without options.
    """
    answers = ALL_TASKS[item.task].options
    if not answers:
        raise ValueError(f"task {item.task!r} has no options to rank")
    if item.task in CHOICE_TASKS:
        offered = sorted(set(keyword_pattern(item.task).findall(item.question.lower())))
        answers = offered if item.answer in offered and len(offered) > 1 else answers
    return {answer: reading_of(item.task).response.format(answer) for answer in answers}


def rank(item: Item, logprobs: Sequence[float]) -> dict[str, object]:
    """One row of items.parquet for an item whose options were ranked.

    `parsed` is the likeliest option, `parsed_normalised` the one with the highest log-probability for each
    character of its response (lm-evaluation-harness: acc and acc_norm). The first of equals counts.

    Args:
        logprobs: of each of `options`, in their order, nats.
    """
    answers = options(item)
    by_character = [value / len(text) for value, text in zip(logprobs, answers.values(), strict=True)]
    parsed, normalised = (list(answers)[int(np.argmax(values))] for values in (logprobs, by_character))
    return {
        "task": item.task,
        "item_id": item.id,
        "sample": 0,
        "answer": item.answer,
        "options": list(answers),
        "logprobs": list(logprobs),
        "parsed": parsed,
        "parsed_normalised": normalised,
        "correct": parsed == item.answer,
        "correct_normalised": normalised == item.answer,
        "contaminated": item.contaminated,
    }
