"""What a task is, and tasks of a study file, which no list has: their key says how they are read."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qs


class Open(dict):
    """A table that makes the entries of a study file's tasks or domains, which it does not list."""

    def __init__(self, entries: Mapping[str, Any], make: Callable[[str], Any]) -> None:
        super().__init__(entries)
        self.make = make

    def __missing__(self, key: str) -> Any:
        return self.make(key)


class Task(NamedTuple):
    """A kind of question."""

    label: str
    domain: str
    reading: str  # how an answer is read from a response: a key of data.answers.READINGS, or a pattern
    options: tuple[str, ...] = ()  # the possible answers, in the words of the prompt; (): it is free
    test_items: int = 0  # in the authors' repository (HellaSwag: the official validation set)
    contaminated: bool = False  # its test questions occur in math_10k (LLM-Adapters' own README)
    response: str = ""  # what ends with an answer, written in place of {}; "": as its reading has it
    chance: float | None = None  # percent right by guessing; None: among the options, 0 where it is free


@cache
def own_task(key: str) -> Task:
    """The task of a study file that a key describes: `NAME?answer=...`, as study_files.OwnTask writes it."""
    name, _, query = key.partition("?")
    fields = parse_qs(query, keep_blank_values=True)
    if "answer" not in fields:
        raise KeyError(key)
    options, chance = tuple(fields.get("choices", ())), [float(value) for value in fields.get("chance", ())]
    task = Task(name, "", fields["answer"][0], options, response="".join(fields.get("response", ())))
    return task._replace(chance=chance[0]) if chance else task
