"""Tasks and domains that a study file brings along: [tasks.NAME] with items, [domains.NAME] to train on.

Every process reads them from the file that its run names (RunSpec.study_file), so nothing is registered.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass as pydantic_dataclass

from kdutils.constants import ALL_TASKS, AVERAGE, TRAIN_DOMAINS, is_text
from kdutils.data.answers import READINGS
from kdutils.data.benchmark import Benchmark
from kdutils.data.item_files import check_response, read_items
from kdutils.io import disk, toml_files
from kdutils.io.text_safety import shown

NAME = re.compile(r"[A-Za-z][\w-]{0,39}", re.ASCII)
KEYWORD = re.compile(r"[^\WA-Z]+")
MOST_LETTERS = 5  # that the reading `letter` knows: A to E
NONE_OF_ONES_OWN = (*ALL_TASKS, AVERAGE, *TRAIN_DOMAINS)
Text = Annotated[str, Strict(), Field(min_length=1)]
checked_dataclass = pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


@checked_dataclass
class OwnTask:
    """A task of a study file."""

    items: Text  # file, .jsonl or .csv: id, question, answer, perhaps rationale and response
    answer: Text  # how it is read: a key of READINGS, or a regular expression with one group
    choices: Any = ()  # letter: how many; keyword: the words; a regular expression: its answers, if few
    chance: Annotated[float, Strict(), Field(ge=0, le=100)] | None = None  # percent right by guessing
    response: str = ""  # with a regular expression: what ends with the answer, which is written for {}

    def __post_init__(self) -> None:
        try:
            n_groups = 1 if self.answer in READINGS else re.compile(self.answer).groups
        except re.error as error:
            n_groups = str(error)
        if n_groups != 1:
            raise ValueError(
                f"answer={shown(self.answer)} is none of {list(READINGS)}, so it must be a regular "
                f"expression with one group (it has {n_groups}) for the answer, such as 'Total: (\\d+)'"
            )
        choices = list(self.choices) if isinstance(self.choices, list | tuple) else self.choices
        is_list = isinstance(choices, list) and all(isinstance(each, str) for each in choices)
        is_list = is_list and len(set(choices)) == len(choices) != 1
        is_count = type(choices) is int and 2 <= choices <= MOST_LETTERS
        is_words = is_list and choices != [] and all(map(KEYWORD.fullmatch, choices))
        is_right, asked = {
            "letter": (is_count, f"how many letters there are, 2 to {MOST_LETTERS}"),
            "keyword": (is_words, "a list of the answers: words in small letters"),
            **dict.fromkeys(("number", "text"), (choices == [], "left out")),
        }.get(self.answer, (is_list, "a list of all answers, or left out"))
        if not is_right:
            raise ValueError(f"choices={shown(self.choices)} must be {asked}")
        if self.response and (self.answer in READINGS or self.response.count("{}") != 1):
            raise ValueError(
                f"response={shown(self.response)} must hold one {{}}, and goes with a regular expression; "
                "mend it, or leave it out"
            )

    def key(self, name: str) -> str:
        """The name of the task in runs and tables: it says how answers are read (tasks.own_task)."""
        choices = "ABCDE"[: self.choices] if self.answer == "letter" else self.choices
        fields = {"answer": self.answer, "choices": list(choices)}
        fields |= {"response": self.response} if self.response else {}
        fields |= {} if self.chance is None else {"chance": str(self.chance).removesuffix(".0")}
        return f"{name}?{urlencode(fields, doseq=True)}"


@checked_dataclass
class OwnDomain:
    """What students are trained on, and the tasks on which they are evaluated."""

    train: Text  # as items, each with its `task` where there are several; the last ones are for validation
    tasks: Annotated[tuple[Text, ...], Field(min_length=1)]


@dataclass(frozen=True)
class StudyFile:
    """The tables [tasks] and [domains] of a study file."""

    path: Path
    tasks: Mapping[str, OwnTask]
    domains: Mapping[str, OwnDomain]

    def file(self, name: str) -> Path:
        """The path of a file that the study names: relative ones begin where it lies."""
        return self.path.parent / Path(name).expanduser()

    def keys_of(self, domain: str) -> tuple[str, ...]:
        """The keys of a domain's tasks."""
        return tuple(self.tasks[name].key(name) for name in self.domains[domain].tasks)

    def benchmark(self, domain: str) -> Benchmark:
        """The items of a domain in the order of their files; read once a process while these stay the same.

        Raises:
            DataError: names the file, the line and what is wrong with it.
        """
        own = self.domains[domain]
        files = (self.file(own.train), *(self.file(self.tasks[name].items) for name in own.tasks))
        keys = tuple(zip(own.tasks, self.keys_of(domain), strict=True))
        return _benchmark(self.path.name, domain, files, keys, tuple(map(disk.sha256_once, files)))


@cache
def _benchmark(
    source: str, domain: str, files: Sequence[Path], keys: Sequence[tuple[str, str]], digests: Sequence[str]
) -> Benchmark:
    pool = read_items(files[0], dict(keys))
    for item in pool:
        check_response(item, where=str(files[0]))
    test = [item for file, key in zip(files[1:], keys, strict=True) for item in read_items(file, dict([key]))]
    return Benchmark(source, domain, tuple(pool), tuple(test))


def read(path: Path) -> StudyFile:
    """What a study file brings along; read once while it stays the same.

    Raises:
        Refused: names the key, its value and the remedy.
    """
    return _read(path, disk.sha256_once(path))


@cache
def _read(path: Path, digest: str) -> StudyFile:
    entries = toml_files.read(path)
    kinds, found = {"tasks": OwnTask, "domains": OwnDomain}, {}
    for table, kind in kinds.items():
        found[table] = {}
        tables = entries.get(table, {})
        for name, values in (tables if isinstance(tables, dict) else {"": tables}).items():
            if not NAME.fullmatch(name) or name in NONE_OF_ONES_OWN:
                reason = "is a name of the package" if name in NONE_OF_ONES_OWN else "is no name"
                raise toml_files.Refused(
                    f"{table}.{name}: {name!r} {reason}; use another, of letters, digits, - and _",
                    (table, name),
                )
            found[table][name] = toml_files.checked(kind, values, within=(table, name))
    study = StudyFile(path, **found)
    for name, domain in study.domains.items():
        reason = ""
        if unknown := [task for task in domain.tasks if task not in study.tasks]:
            reason = f"{unknown[0]!r} is no [tasks] of this file; there are {list(study.tasks)}"
        elif len(set(map(is_text, study.keys_of(name)))) > 1:
            reason = "texts, scored by ROUGE-L, have no average with right answers; make two domains"
        if reason:
            key = ("domains", name, "tasks")
            raise toml_files.Refused(f"{'.'.join(key)}={shown(domain.tasks)}: {reason}", key)
    used = {task for domain in study.domains.values() for task in domain.tasks}
    if unused := [name for name in study.tasks if name not in used]:
        raise toml_files.Refused(
            f"tasks.{unused[0]} is in no domain; name it in `tasks` of one, or delete it",
            ("tasks", unused[0]),
        )
    files = {("tasks", name, "items"): task.items for name, task in study.tasks.items()}
    files |= {("domains", name, "train"): domain.train for name, domain in study.domains.items()}
    for key, file in files.items():
        if not (place := study.file(file)).is_file() or place.suffix not in (".jsonl", ".csv"):
            raise toml_files.Refused(
                f"{'.'.join(key)}={shown(file)}: {place} is no .jsonl or .csv file that is there; give one",
                key,
            )
    return study
