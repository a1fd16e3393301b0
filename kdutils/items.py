"""Items and the prompt: what a question is, whoever made it.

One schema for the mini world, for benchmark files and for a reader's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kdutils.constants import ALL_TASKS
from kdutils.io.text_safety import shown

# The authors' evaluation prompt, whitespace included (their training prompt differs by two blanks).
PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. "
    "\n\n                ### Instruction:\n                {instruction}\n\n"
    "                ### Response:\n                "
)


SPLITS = ("train", "validation", "test")
SURROGATES = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Items that cannot be used. The message is one line and names file, line and remedy."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question with its answer."""

    id: str  # unique within a data set
    task: str  # a key of spec.ALL_TASKS
    question: str
    answer: str  # a number, a letter, a keyword, or for instructions the reference text
    response: str = ""  # what SFT trains on; may be empty in a test set
    rationale: str = ""  # the reasoning within the response, if there is any
    ended: bool = True  # False: the response was cut, so EOS must not follow it
    contaminated: str = ""  # how the question occurs in the training set: exact, masked, fuzzy; "" if not


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object of a JSON-lines file stands, for messages, and the object; blank lines are none.

    Raises:
        DataError: names the line that is not UTF-8, not a JSON object or gives a key twice.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: not UTF-8 ({error.reason}): {shown(line)}; use that encoding"
            ) from None
        if not text.strip():
            continue
        try:
            record = json.loads(text, object_pairs_hook=_once_each)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}): {shown(text)}; give one object a line") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: not a JSON object: {shown(text)}; give one object a line")
        yield where, record


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that stands there twice nobody could say which was meant."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands there twice, delete one")
    return record


def item_of(record: dict[str, Any], *, where: str) -> Item:
    """The item that a record describes; keys that an item does not have are left out.

    Where there is no `response`, it is the rationale for math and "the correct answer is ANSWER" otherwise.

    Raises:
        DataError: names what is missing, empty, no text or of an unknown task.
    """
    known = {entry.name for entry in fields(Item)}
    values = {key: value for key, value in record.items() if key in known - {"ended", "contaminated"}}
    for key in ("id", "task", "question", "answer"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise DataError(
                f"{where}: {key} is missing or not text ({shown(values.get(key))}); "
                "every item needs it, give it"
            )
    if values["task"] not in ALL_TASKS:
        raise DataError(f"{where}: unknown task {shown(values['task'])}; choose one of {list(ALL_TASKS)}")
    if wrong := [key for key, value in values.items() if not isinstance(value, str)]:
        raise DataError(f"{where}: {wrong[0]} is not text ({shown(values[wrong[0]])}); give it as a string")
    for key, value in values.items():
        if SURROGATES.search(value):  # half a character, which no tokenizer takes and no file holds
            raise DataError(f"{where}: {key}={shown(value)} holds half a character; use whole ones")
    if not values["id"].isprintable():
        raise DataError(f"{where}: id={shown(values['id'])} must be text on one line that can be printed")
    item = Item(**values)
    return item if item.response else Item(**values | {"response": default_response(item)})


def default_response(item: Item) -> str:
    """What LLM-Adapters trains on: the rationale, or "the correct answer is ANSWER"."""
    return item.rationale or f"the correct answer is {item.answer}"


def short_enough(items: Sequence[Item], max_characters: int | None) -> list[Item]:
    """The items whose question and response have at most that many characters together; None: all."""
    return [
        item
        for item in items
        if max_characters is None or len(item.question) + len(item.response) <= max_characters
    ]


def letters_and_digits(text: str) -> str:
    """The text in lower case, without all else: questions of equal ones are the same."""
    return "".join(character for character in text.lower() if character.isalnum())


def prompt(question: str) -> str:
    """The Alpaca prompt of a question, up to where the response begins."""
    return PROMPT.format(instruction=question)


def fingerprint(items: Sequence[Item]) -> str:
    """16 hexadecimal digits of the SHA-256 of the items: equal exactly if every character is.

    Contamination is left out: it is about the training set, not the item.
    """
    names = [entry.name for entry in fields(Item) if entry.name != "contaminated"]
    records = ({name: getattr(item, name) for name in names} for item in items)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
