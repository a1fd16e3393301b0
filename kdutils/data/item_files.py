"""Items of JSON-lines files: read, checked, and with gold answers in the form that is scored."""

import codecs
import csv
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdutils.constants import ALL_TASKS, is_text
from kdutils.data.answers import READINGS, is_correct, parse, parse_strict, reading_of
from kdutils.io.text_safety import shown
from kdutils.items import SPLITS, DataError, Item

SURROGATES = re.compile("[\ud800-\udfff]")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object of a JSON-lines file stands, for messages, and the object; blank lines are none.

    Raises:
        DataError: names the line that is not UTF-8, not a JSON object or gives a key twice.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), start=1):
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


def csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `json_lines`, of a CSV file whose first line names the keys; an empty field is none.

    Raises:
        DataError: names the line that is not UTF-8, not CSV or has other fields than the first.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows, where = csv.DictReader(file, strict=True), f"{path}, line 1"
        try:
            names = list(filter(None, rows.fieldnames or ()))
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{where}: column {twice[0]!r} stands there twice; delete one")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: other fields than {rows.fieldnames}; give a value for each")
                yield where, {key: value for key, value in row.items() if value}
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{where}: not CSV in UTF-8 ({error}); write it so") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that stands there twice nobody could say which was meant."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands there twice, delete one")
    return record


def item_of(record: dict[str, Any], *, where: str, is_own: bool = False) -> Item:
    """The item that a record describes; keys that an item does not have are left out.

    Where there is no `response`, see `default_response`. `is_own` says that its task is of a study file, not
    one of ALL_TASKS.

    Raises:
        DataError: names what is missing, empty, no text or of an unknown task.
    """
    known = {entry.name for entry in fields(Item)}
    for key in set(record) - known:
        close = difflib.get_close_matches(key, known, cutoff=0.8)
        if meant := [name for name in close if name not in record]:
            raise DataError(f"{where}: key {shown(key)} is none of an item: is {meant[0]!r} meant? rename it")
    values = {key: value for key, value in record.items() if key in known - {"ended", "contaminated"}}
    for key in ("id", "task", "question", "answer"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise DataError(
                f"{where}: {key} is missing or not text ({shown(values.get(key))}); "
                "every item needs it, give it as a string"
            )
    if not is_own and values["task"] not in ALL_TASKS:
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


def present(path: Path) -> Path:
    """The path.

    Raises:
        DataError: if no file is there.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; a data folder holds {', '.join(f'{s}.jsonl' for s in SPLITS)}")
    return path


def read_items(path: Path, own: Mapping[str, str] | None = None) -> list[Item]:
    """Items of a JSON-lines or CSV file (keys id, task, question, answer; optional response, rationale).

    A chat of one turn may stand in place of question and response (key messages, item_files.from_messages).
    Where there is no `response`, it is the rationale, or the answer in the response format of its task.

    Args:
        own: the tasks of a study file that may stand there, name -> key; of several, items name theirs.

    Raises:
        DataError: names the line that is not JSON, lacks a key, is empty, repeats an id or has an answer
            that no response could match.
    """
    items: dict[str, Item] = {}
    lines = csv_rows if path.suffix == ".csv" else json_lines
    for where, record in lines(present(path)):
        if own is not None:
            task = record.get("task", next(iter(own)) if len(own) == 1 else None)
            if task not in own:
                raise DataError(f"{where}: task={shown(task)} must be one of {list(own)}; name it so")
            record = record | {"task": own[task]}
        record = with_scorable_answer(from_messages(record, where=where), where=where)
        item = item_of(record, where=where, is_own=own is not None)
        if item.id in items:
            raise DataError(f"{where}: id {item.id!r} stands there twice; make ids unique")
        items[item.id] = item
    if not items:
        raise DataError(f"{path} holds no items; give at least one")
    return list(items.values())


def default_response(item: Item) -> str:
    """What LLM-Adapters trains on: the rationale, else the answer in the response format of its task."""
    return item.rationale or reading_of(item.task).response.replace("{}", item.answer)


def from_messages(record: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The record with the question and response of its `messages`, a chat of one turn; else as it is.

    A system message is put before the question, with a blank line between. The answer to an instruction is
    the assistant's message.

    Raises:
        DataError: for several turns, unknown roles or contents that are no text.
    """
    if "messages" not in record:
        return record
    messages = record["messages"]
    is_list = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
    roles = [message.get("role") for message in messages] if is_list else []
    if is_list and not any(roles) and messages:
        raise DataError(f"{where}: messages={shown(messages)} name no role: give role and content of each")
    system = roles[:1] == ["system"]
    if roles[system:] not in (["user"], ["user", "assistant"]):
        raise DataError(
            f"{where}: messages={shown(messages)} must be one user message, perhaps with a system message "
            "before and the assistant's after it; make an item of each turn"
        )
    if both := sorted({"question", "response", "rationale"} & set(record)):
        raise DataError(f"{where}: {both[0]} stands beside messages, which hold it; delete one of them")
    texts = [message.get("content") for message in messages]
    if not all(isinstance(text, str) for text in texts) or not all(text.strip() for text in texts[system:]):
        raise DataError(f"{where}: messages={shown(messages)} has a content that is no text; give strings")
    own = {"question": "\n\n".join(text for text in texts[: system + 1] if text.strip())}
    if roles[-1] == "assistant":
        own["response"] = texts[-1]
        if is_text(record.get("task")):
            own["answer"] = texts[-1]
    return own | {key: value for key, value in record.items() if key != "messages"}


def check_response(item: Item, *, where: str) -> None:
    """Refuse a response in which the strict reading of its task finds no answer.

    A student that learns to write so could never be right by that reading. The answer found may be another
    than the gold one: rationales may be wrong.

    Raises:
        DataError: names the file, the item, its response and how to end it.
    """
    if parse_strict(item.task, item.response) is None:
        form = reading_of(item.task).response.replace("{}", item.answer)
        is_end = parse_strict(item.task, f"So. {form}") is not None
        remedy = "end it with" if is_end else "it must be, with nothing before,"
        raise DataError(
            f"{where}: item {item.id!r} is trained on a response that holds no answer as {item.task} is read "
            f"({shown(item.response[-80:])}): {remedy} {form!r}"
        )


def short_enough(items: Sequence[Item], max_characters: int | None) -> list[Item]:
    """The items whose question and response have at most that many characters together; None: all."""
    limit = math.inf if max_characters is None else max_characters
    return [item for item in items if len(item.question) + len(item.response) <= limit]


def letters_and_digits(text: str) -> str:
    """The text in lower case, without all else: questions of equal ones are the same."""
    return "".join(character for character in text.lower() if character.isalnum())


# --- gold answers of items from files, checked when they are read: a right response must be scored right ----
# Public data sets write the same answer in many ways (`1,234`, `#### 72`, `(B)`, `True`). Only one of them is
# what is read from a response. Released items are not read through here: their files are pinned.

GOLD_NUMBER = re.compile(
    r"\s*[$£€]?(?:\+|(?P<minus>-))?[$£€]?(?P<whole>\d+|\d{1,3}(?:,\d{3})+)?(?P<decimals>\.\d+)?\.?\s*\\?%?\.?",
    re.ASCII,
)
GOLD_LETTER = re.compile(r"[(\[]?([A-Ea-e])[)\]]?[.:]?")


def is_scorable(task: str, answer: str) -> bool:
    """Whether the gold answer, written in the response format, is right by the lenient and strict reading."""
    response = reading_of(task).response.replace("{}", answer)
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
    is_known = isinstance(task, str) and (task in ALL_TASKS or "?answer=" in task) and not is_text(task)
    if not is_known or not isinstance(answer, str) or not answer.strip():
        return record
    reading, options = ALL_TASKS[task].reading, list(ALL_TASKS[task].options)
    for form in (answer, _normalised(task, answer.strip())):
        if is_scorable(task, form) and (reading != "letter" or form in options):
            return record | {"answer": form}
    forms = f"one of {options}" if options else "a plain number, such as 1234 or -0.5"
    if reading not in READINGS:
        response = reading_of(task).response.replace("{}", answer)
        forms = f"what {reading!r} finds in {response!r}, or mend these two"
    raise DataError(
        f"{where}: answer={shown(answer)} is not as {task.partition('?')[0]} is scored, so every response "
        f"would be wrong; write {forms}"
    )


def _normalised(task: str, answer: str) -> str:
    """The answer in the form that responses to the task have, as far as it is known what it means."""
    reading = ALL_TASKS[task].reading
    if reading not in READINGS:
        return answer
    if reading == "letter":
        found = GOLD_LETTER.fullmatch(answer)
        return found[1].upper() if found else answer
    if reading == "keyword":
        return answer.lower().replace(" ", "").rstrip(".")
    found = GOLD_NUMBER.fullmatch(answer.rpartition("####")[2].replace("\u2212", "-"))
    if not found or not (found["whole"] or found["decimals"]):
        return answer
    whole = (found["whole"] or "0").replace(",", "")
    return (found["minus"] or "") + whole + (found["decimals"] or "")
