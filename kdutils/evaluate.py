"""Scores: of texts or ranked options against gold answers. How answers are read is in data.answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kdutils.constants import ALL_TASKS, CHOICE_TASKS, INSTRUCTION_TASKS
from kdutils.data.answers import is_correct, keyword_pattern, parse, parse_strict, reading_of, rouge_l
from kdutils.items import Item


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
