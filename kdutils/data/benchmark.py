"""Real questions: the items of $KDUTILS_DATA/data, or those that LLM-Adapters released, in one schema.

In the release, what is trained on are math_10k and commonsense_15k, with the responses as they were released:
the rationales of math_10k were written by ChatGPT, and those that end in another answer than the gold one are
trained on too, as the authors did.

Train and validation items come from one pool, in an order that depends on ids alone: train items are its
first ones, validation items its last, so asking for more of either keeps those that were there.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from kdutils.constants import ALL_TASKS, BENCHMARK, DOMAIN_TASKS, INSTRUCTION_TASKS, LLM_ADAPTERS, MATH_TASKS
from kdutils.data import answers, contamination, item_files, llm_adapters
from kdutils.data.item_files import item_of, letters_and_digits
from kdutils.io import disk
from kdutils.items import DataError, Item, fingerprint

SOURCES = (BENCHMARK, LLM_ADAPTERS)
VERSION = 1  # of how items are made from files, part of their digest; raised when that changes
TRAIN_FILES = {
    "math": ("math_train", "math_equation_train"),
    "commonsense": ("commonsense_train", "commonsense_valrest_train"),
    "instruction": ("instruct_train",),  # instruct_alpaca_nc_train is for non-commercial use only
}
BARE_RESPONSE = "The answer is {}."  # to a math item without a rationale
# Sets that are trained on and have no test set here -> the task that reads answers as they need it.
READ_AS = {"mawps": "singleeq", "rasbt_instruct": "dolly", "selfinst_seed": "selfinst"}


@dataclass(frozen=True, eq=False)  # read once a process, so one object is one benchmark
class Benchmark:
    """The items of one domain."""

    source: str  # where they are from, for messages
    domain: str
    pool: tuple[Item, ...]  # all that may be trained on, in the order in which it is
    test: tuple[Item, ...]  # task after task; within each in an order that depends on ids alone

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Of what may be trained on, however answers are read, and of the test items."""
        trained_on = [replace(item, task=item.task.partition("?")[0]) for item in self.pool]
        return fingerprint(trained_on), fingerprint(self.test)

    def split(
        self, *, train_items: int, validation_items: int, max_item_characters: int | None = None
    ) -> dict[str, list[Item]]:
        """The `train` and `validation` items: disjoint, also by the letters and digits of their questions.

        Args:
            max_item_characters: pool items whose question and response are longer are left out.

        Raises:
            DataError: if there are too few; says how many there are.
        """
        usable = item_files.short_enough(self.pool, max_item_characters)
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
    return llm_adapters.own_folder("data") if data == BENCHMARK else None


def digest(data: str, domain: str) -> str:
    """16 hexadecimal digits that name the items of a domain: their files, and how items are made of them.

    The release is named by its commit, so that nothing is downloaded for its digest.

    Raises:
        DataError: if a file is missing, or the release has no items of the domain.
    """
    total = hashlib.sha256(f"benchmark|{VERSION}|{domain}".encode())
    if folder := data_folder(data):
        for path in _files(folder, domain):
            total.update(path.name.encode() + bytes.fromhex(disk.sha256_once(path)))
    elif domain in llm_adapters.TRAIN_FILES:
        total.update(llm_adapters.PINNED.commit.encode())
    else:
        raise DataError(
            f"LLM-Adapters has no {domain} items, only {list(llm_adapters.TRAIN_FILES)}; "
            f"set KDUTILS_DATA to a folder with data/ and use data={BENCHMARK!r}"
        )
    return total.hexdigest()[:16]


def read(data: str, domain: str) -> Benchmark:
    """The items of a domain; read once a process while the files stay the same.

    Raises:
        DataError: names the file, the line and what is wrong with it.
    """
    return _read(data_folder(data), domain, digest(data, domain))


@cache
def flagged(found: Benchmark) -> tuple[Item, ...]:
    """The test items of a domain, each with how its question occurs in what is trained on."""
    return tuple(contamination.flagged(found.test, found.pool))


def _files(folder: Path, domain: str) -> list[Path]:
    """The files of a domain, the training files first."""
    paths = [folder / "train" / f"{name}.jsonl" for name in TRAIN_FILES[domain]]
    paths += [folder / "dev" / f"{task}.jsonl" for task in DOMAIN_TASKS[domain]]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; put it there, or use data={LLM_ADAPTERS!r}")
    return paths


@cache
def _read(folder: Path | None, domain: str, named: str) -> Benchmark:
    tasks = DOMAIN_TASKS[domain]
    if folder is None:
        source = f"LLM-Adapters at {llm_adapters.PINNED.commit[:12]}"
        parts = [_released_items(llm_adapters.TRAIN_FILES[domain], domain)]
        parts += [_released_items(llm_adapters.TEST_FILES[task], domain, task) for task in tasks]
    else:
        source, parts = str(folder), [_folder_items(path, domain) for path in _files(folder, domain)]
    pool = [item for part in parts[: -len(tasks)] for item in part]
    test = [item for part in parts[-len(tasks) :] for item in in_order(part)]
    ids = Counter(item.id for item in [*pool, *test])
    if repeated := [name for name, count in ids.items() if count > 1]:
        raise DataError(f"{source}: id {repeated[0]!r} stands there twice; make ids unique")
    return Benchmark(source, domain, in_order(pool), tuple(test))


def _folder_items(path: Path, domain: str) -> list[Item]:
    """The items of a file of $KDUTILS_DATA/data; instructions without a reference cannot be scored."""
    return [
        _item(record, where)
        for where, record in item_files.json_lines(path)
        if domain != "instruction" or record.get("answer")
    ]


def _item(record: dict, where: str) -> Item:
    """The item of a record: its response is what LLM-Adapters trains on, for instructions the answer."""
    record = record | {"task": READ_AS.get(record.get("task"), record.get("task"))}
    record = item_files.with_scorable_answer(record, where=where)
    if record["task"] in INSTRUCTION_TASKS:
        record["response"] = record.get("answer")
    elif record["task"] in MATH_TASKS and not record.get("rationale"):  # some test items have none
        record["response"] = BARE_RESPONSE.format(record.get("answer"))
    return item_of(record, where=where)


def ends_in(item: Item, answer: str) -> bool:
    """Whether an item's response gives that answer.

    Letters are read strictly: the first capital in a rationale is rarely its answer.
    """
    read_by = answers.parse_strict if item.task == "aqua" else answers.parse
    return answers.is_correct(item.task, read_by(item.task, item.response), answer)


# --- the release of LLM-Adapters -----------------------------------------------------------------------


def _released_items(name: str, domain: str, task: str | None = None) -> list[Item]:
    """The items of a released file; without `task`, of the tasks that their answers are read by.

    Questions are stripped of blanks around them, as in $KDUTILS_DATA/data. Responses to train on stay as they
    are; those of test items give the gold answer: ChatGPT's, or the answer alone if that does not.
    """
    prefix, items = f"{task}-test" if task else Path(name).stem, []
    for number, record in enumerate(json.loads(llm_adapters.content(llm_adapters.PINNED, name))):
        where = f"{name} of LLM-Adapters, record {number}"
        answer, output = _released_answer(record, where), record.get("output", "")
        parts = (record.get(key, "").strip() for key in ("instruction", "input"))
        question = "\n\n".join(part for part in parts if part)
        values = {
            "id": f"{prefix}-{number:05d}",
            "task": task or _task_read_as(domain, answer, question, where),
            "question": question,
            "answer": answer,
            "response": output,
            "rationale": output if domain == "math" else "",
        }
        item = item_of(values, where=where)
        if task in MATH_TASKS and not ends_in(item, answer):
            item = replace(item, rationale="", response=BARE_RESPONSE.format(answer))
        items.append(item)
    return items


def _released_answer(record: dict, where: str) -> str:
    """The gold answer as text: the only element of a list, and whole numbers without ".0"."""
    answer = record.get("answer")
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        raise DataError(f"{where}: answer {answer!r} is neither text nor a number; it cannot be scored")
    text = str(answer).strip()
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text.replace(",", "")


def _task_read_as(domain: str, answer: str, question: str, where: str) -> str:
    """The task whose answers are read as this one: the released training sets do not name their tasks.

    GSM8K stands for all of math but letters, ARC-e for all questions of four or five answers.
    """
    if domain == "math":
        return "aqua" if re.fullmatch("[A-E]", answer) else "gsm8k"
    if re.fullmatch(r"answer\d", answer):
        return "siqa" if question.endswith("answer1/answer2/answer3") else "arc_e"
    for task in ("boolq", "hellaswag", "piqa", "winogrande"):
        if answer in ALL_TASKS[task].options:
            return task
    raise DataError(
        f"{where}: answer {answer!r} is none that any task has; check the file against its commit"
    )
