"""Real questions: the items of $KDUTILS_DATA/data.

Train and validation items come from one pool, in an order that depends on ids alone: train items are its
first ones, validation items its last, so asking for more of either keeps those that were there.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdutils import contamination, store
from kdutils.items import DataError, Item, item_of, json_lines, letters_and_digits, short_enough
from kdutils.runspec import BENCHMARK, LLM_ADAPTERS
from kdutils.spec import DOMAIN_TASKS, INSTRUCTION_TASKS, MATH_TASKS

SOURCES = (BENCHMARK, LLM_ADAPTERS)
VERSION = 1  # of how items are made from files, part of their digest; raised when that changes
TRAIN_FILES = {
    "math": ("math_train", "math_equation_train"),
    "commonsense": ("commonsense_train", "commonsense_valrest_train"),
    "instruction": ("instruct_train",),  # instruct_alpaca_nc_train is for non-commercial use only
}
# Sets that are trained on and have no test set here -> the task that reads answers as they need it.
READ_AS = {"mawps": "singleeq", "rasbt_instruct": "dolly", "selfinst_seed": "selfinst"}


@dataclass(frozen=True, eq=False)  # read once a process, so one object is one benchmark
class Benchmark:
    """The items of one domain."""

    source: str  # where they are from, for messages and reports
    domain: str
    pool: tuple[Item, ...]  # all that may be trained on, in the order in which it is
    test: tuple[Item, ...]  # task after task; within each in an order that depends on ids alone
    without_reference: dict[str, int]  # task -> test items left out, as there is nothing to score against

    def split(
        self, *, train_items: int, validation_items: int, max_item_characters: int | None = None
    ) -> dict[str, list[Item]]:
        """The `train` and `validation` items: disjoint, also by the letters and digits of their questions.

        Args:
            max_item_characters: pool items whose question and response are longer are left out.

        Raises:
            DataError: if there are too few; says how many there are.
        """
        usable = short_enough(self.pool, max_item_characters)
        validation = usable[::-1][:validation_items]
        held_out = {letters_and_digits(item.question) for item in validation}
        train = [item for item in usable if letters_and_digits(item.question) not in held_out]
        if len(validation) < validation_items or len(train) < train_items:
            limit = "" if max_item_characters is None else f" of at most {max_item_characters} characters"
            longer = "" if max_item_characters is None else " or raise max_item_characters"
            raise DataError(
                f"train_items={train_items} and validation_items={validation_items}, but {self.source} has "
                f"{len(usable)} {self.domain} items{limit} to train on; ask for fewer{longer}"
            )
        return {"train": train[:train_items], "validation": validation}


def in_order(items: list[Item]) -> tuple[Item, ...]:
    """The items in a pseudo-random order that depends on their ids alone."""
    return tuple(sorted(items, key=lambda item: hashlib.sha256(f"order|{item.id}".encode()).digest()))


def data_folder(data: str) -> Path | None:
    """The folder of JSON lines that items of `data` are read from; None: they are the released ones."""
    root = os.environ.get("KDUTILS_DATA")
    if data != BENCHMARK or not root:
        return None
    folder = Path(root).expanduser().resolve() / "data"
    return folder if folder.is_dir() else None


def digest(data: str, domain: str) -> str:
    """16 hexadecimal digits that name the items of a domain: their files, and how items are made of them.

    Raises:
        DataError: if a file is missing.
    """
    total = hashlib.sha256(f"benchmark|{VERSION}|{domain}".encode())
    for path in _files(_folder_or_refuse(data), domain):
        total.update(path.name.encode() + bytes.fromhex(store.sha256_once(path)))
    return total.hexdigest()[:16]


def read(data: str, domain: str) -> Benchmark:
    """The items of a domain; read once a process while the files stay the same.

    Raises:
        DataError: names the file, the line and what is wrong with it.
    """
    return _read(_folder_or_refuse(data), domain, digest(data, domain))


def flagged(data: str, domain: str) -> tuple[Item, ...]:
    """The test items of a domain, each with how its question occurs in what is trained on.

    Raises:
        DataError: as `read`.
    """
    return _flagged(read(data, domain))


@cache
def _flagged(found: Benchmark) -> tuple[Item, ...]:
    return tuple(contamination.flagged(found.test, found.pool))


def _folder_or_refuse(data: str) -> Path:
    if (folder := data_folder(data)) is None:
        raise DataError(f"data={data!r} is not there; set KDUTILS_DATA to a folder with data/")
    return folder


def _files(folder: Path, domain: str) -> list[Path]:
    """The files of a domain, the training files first."""
    paths = [folder / "train" / f"{name}.jsonl" for name in TRAIN_FILES[domain]]
    paths += [folder / "dev" / f"{task}.jsonl" for task in DOMAIN_TASKS[domain]]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; put it there, or use data={LLM_ADAPTERS!r}")
    return paths


@cache
def _read(folder: Path, domain: str, named: str) -> Benchmark:
    pool: list[Item] = []
    test: list[Item] = []
    without_reference: Counter[str] = Counter()
    for path in _files(folder, domain):
        items = []
        for where, record in json_lines(path):
            if domain == "instruction" and not record.get("answer"):
                without_reference[str(record.get("task"))] += 1
                continue
            items.append(_item(record, where))
        if path.parent.name == "train":
            pool += items
        else:
            test += in_order(items)
    _refuse_repeated_ids(folder, [*pool, *test])
    return Benchmark(str(folder), domain, in_order(pool), tuple(test), dict(without_reference))


def _item(record: dict, where: str) -> Item:
    """The item of a record: its response is what LLM-Adapters trains on, for instructions the answer."""
    record = record | {"task": READ_AS.get(record.get("task"), record.get("task"))}
    if record["task"] in INSTRUCTION_TASKS:
        record["response"] = record.get("answer")
    elif record["task"] in MATH_TASKS and not record.get("rationale"):  # some test items have none
        record["response"] = f"The answer is {record.get('answer')}."
    return item_of(record, where=where)


def _refuse_repeated_ids(folder: Path, items: list[Item]) -> None:
    ids = Counter(item.id for item in items)
    if repeated := [name for name, count in ids.items() if count > 1]:
        raise DataError(f"{folder}: id {repeated[0]!r} stands there twice; make ids unique")
