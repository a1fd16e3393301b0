"""The options that a question offers: labels, texts, scores, and the same question in another order."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from kdutils.constants import ALL_TASKS
from kdutils.data.answers import keyword_pattern, keywords, reading_of
from kdutils.items import DataError, Item

SCORINGS = {  # of options, by the log-probability of ...
    "likelihood": "the response that gives it",
    "label": "its label, where the response format puts it",
    "cloze_sum": "its text, as the response",
    "cloze_per_character": "its text, for each of its characters",
    "cloze_pmi": "its text, less that after a prompt without a question",
}
MARKS = {  # what stands before an option's text, as in `Answer1: wood` and `(A) 28`
    "keyword": re.compile(r"(\s*\b(?:Answer|Solution|Ending|Option)\d:\s+)"),
    "letter": re.compile(r"(\s*\([A-E]\)\s+)"),
}
CHOICES = "Answer Choices:"  # the letters of AQuA follow it
FORMAT = re.compile(r"\s*Answer format:.*", re.DOTALL)  # follows the last option
OF_OTHERS = re.compile(  # options that speak of others: what they mean hangs on what stands beside them
    r"\W*(?:none|all|any|both|either|neither)(?: of)?(?: the)?(?: (?:above|these|those|them|others?|answers|"
    r"options|choices))?\W*(?:(?:is|are) .*)?|(?:(?:both|either|neither) )?[A-E] (?:and|or|nor|&) [A-E]\W*",
    re.IGNORECASE,
)


def n_ordered(task: str) -> int:
    """How many options the questions of a task list, in an order that could be another; 0: none.

    BoolQ lists none; of tasks of a study file, those with letters do.
    """
    known = ALL_TASKS[task]
    is_listed = known.reading == "letter" if not known.domain else task != "boolq"
    return len(known.options) if is_listed else 0


def refusal(task: str, scoring: str, rotation: int) -> str:
    """Why a task cannot be asked so, with the remedy; "" if it can."""
    known = ALL_TASKS[task]
    if scoring != "generation" and not known.options:
        with_options = [key for key, each in ALL_TASKS.items() if each.options]
        return f"task {task!r} has no options to rank; scoring={scoring!r} takes {with_options}"
    if 0 < rotation >= max(1, n := n_ordered(task)):
        why = f"rotation={rotation} of task {task!r} is no other order of its options"
        remedy = "its questions list none; leave it out"
        if n:
            remedy = f"give less than the number that its questions list, {n}"
        return f"{why}: {remedy}"
    return ""


def options(item: Item, scoring: str = "likelihood") -> dict[str, str]:
    """The answers that an item's question offers, each with the text that is scored for it.

    Numbered keywords that stand in the question (some ARC items have three or five), if the answer is one of
    several; else those of the task.
    The text is the response that gives the answer, for `label` up to the answer itself, and for the `cloze`
    scorings what the question gives as the option's text, or the keyword where that is all (BoolQ).

    Raises:
        ValueError: for a task without options.
        DataError: for a cloze of a question whose options cannot be read.
    """
    task = ALL_TASKS[item.task]
    if not task.options:
        raise ValueError(f"task {item.task!r} has no options to rank")
    if scoring.startswith("cloze") and n_ordered(item.task):
        return listed(item)
    answers = task.options
    if task.reading == "keyword":
        is_numbered = all(answer[-1].isdigit() for answer in answers)
        found = keyword_pattern(item.task).findall(item.question.lower()) if is_numbered else answers
        offered = sorted(set(found))
        answers = offered if item.answer in offered and len(offered) > 1 else answers
    if scoring.startswith("cloze"):
        return {answer: answer for answer in answers}
    response = reading_of(item.task).response
    if scoring == "label":
        response = response.partition("{}")[0] + "{}"
    return {answer: response.replace("{}", answer) for answer in answers}


@cache
def _parts(item: Item) -> list[str]:
    """The question up to its first option, then each one's mark and text, then what follows the last."""
    start, choices, rest = item.question.rpartition(CHOICES)
    first, *parts = MARKS[ALL_TASKS[item.task].reading].split(rest)
    if not parts:
        return [item.question]
    end = FORMAT.search(parts[-1])
    end = end[0] if end else ""
    parts[-1] = parts[-1].removesuffix(end)
    return [start + choices + first, *parts, end]


def listed(item: Item) -> dict[str, str]:
    """Label -> text of each option that a question lists, in its order.

    Raises:
        DataError: if they are not all there, or are not numbered from the first on.
    """
    marks, texts = _parts(item)[1:-1:2], _parts(item)[2:-1:2]
    labels = [re.sub(r"\W", "", mark) for mark in marks]
    if ALL_TASKS[item.task].reading == "keyword":
        labels = [label.lower() for label in labels]
    found = dict(zip(labels, texts, strict=True))
    if not (len(marks) > 1 and labels == list(keywords(item.task)[: len(labels)]) and all(texts)):
        raise DataError(
            f"item {item.id!r} of task {item.task!r}: its options cannot be read from its question (found "
            f"{found}); list them as its task does, or leave it out of cloze scoring and rotations"
        )
    return found


def is_rotatable(item: Item) -> bool:
    """Whether no option speaks of others, there are as many as the task has, and one is the answer.

    Raises:
        DataError: as `listed`.
    """
    texts = listed(item)
    is_usual = len(texts) == n_ordered(item.task) and item.answer in texts
    return is_usual and not any(map(OF_OTHERS.fullmatch, texts.values()))


def rotated(item: Item, places: int) -> Item:
    """The item with its options moved on cyclically by some places; the answer moves with its option.

    Labels stay where they are, so the option at place i (from 0) gets the label of place i + places.
    """
    labels, texts = list(listed(item)), list(listed(item).values())
    parts = list(_parts(item))
    parts[2:-1:2] = [texts[(place - places) % len(texts)] for place in range(len(texts))]
    answer = labels[(labels.index(item.answer) + places) % len(labels)]
    before, after = (reading_of(item.task).response.replace("{}", each) for each in (item.answer, answer))
    changed = {"question": "".join(parts), "answer": answer}
    for name in ("response", "rationale"):
        text = getattr(item, name)
        changed[name] = text.removesuffix(before) + after if text.endswith(before) else text
    return replace(item, **changed)


def rank(
    item: Item, logprobs: Sequence[float], *, scoring: str = "likelihood", rotation: int = 0
) -> dict[str, object]:
    """One row of items.parquet for an item whose options were ranked.

    `parsed` is the option of the highest score, the first of equals. With scoring `likelihood`,
    `parsed_normalised` is the one with the highest log-probability for each character of its response
    (lm-evaluation-harness: acc and acc_norm). `contents` are the places that the options had before the
    rotation, from 0; `texts`, of cloze scorings, what was scored.

    Args:
        logprobs: of each of `options`, in their order, nats (`cloze_per_character`: nats a character).
    """
    texts = options(item, scoring)
    found = {"parsed": logprobs}
    if scoring == "likelihood":
        found["parsed_normalised"] = [v / len(t) for v, t in zip(logprobs, texts.values(), strict=True)]
    parsed = {name: list(texts)[int(np.argmax(values))] for name, values in found.items()}
    return {
        "task": item.task,
        "item_id": item.id,
        "sample": 0,
        "answer": item.answer,
        "options": list(texts),
        "logprobs": list(logprobs),
        **parsed,
        **{name.replace("parsed", "correct"): label == item.answer for name, label in parsed.items()},
        "contaminated": item.contaminated,
        "rotation": rotation,
        "contents": [(place - rotation) % len(texts) for place in range(len(texts))],
    } | ({"texts": list(texts.values())} if scoring.startswith("cloze") else {})
