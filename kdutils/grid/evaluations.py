"""How a need of a profile has its students evaluated besides: tables of EvalSpec fields, multiplied out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from kdutils.constants import ALL_TASKS
from kdutils.data.options import refusal
from kdutils.io.text_safety import shown
from kdutils.spec import EvalSpec

ROLES = ("base", "sft", "kd", "teacher")  # what a model is of a need's pairs
OF_SAMPLING = ("top_p", "samples", "seed")
ANY_WAY = "aqua"  # a task that every way of asking suits


def evaluations_of(tables: Iterable[Mapping[str, Any]], usual: EvalSpec) -> tuple[EvalSpec, ...]:
    """Every combination of each table's values, none twice, on those tasks of `usual` that it suits.

    A value is one or a list. Where some of the temperatures sample, what goes with sampling is left out at 0.
    Split, items and length of the texts are those of `usual` unless a table says otherwise.

    Raises:
        ValueError: for a field or value that no task can be asked with.
    """
    return tuple(dict.fromkeys(each for table in tables for each in _combinations(table, usual)))


def roles_of(table: Mapping[str, Any]) -> Sequence[str]:
    """Models of which roles a table is for: its `roles`, by default all of ROLES.

    Raises:
        ValueError: if they are no list of some of them.
    """
    roles = table.get("roles", ROLES)
    if not isinstance(roles, list | tuple) or not roles or not set(roles) <= set(ROLES):
        raise ValueError(f"evaluations has roles={shown(roles)}: give a list of {list(ROLES)}")
    return roles


def _combinations(table: Mapping[str, Any], usual: EvalSpec) -> Iterator[EvalSpec]:
    fields = {name: value for name, value in table.items() if name != "roles"}
    lists = {key: value if isinstance(value, list | tuple) else [value] for key, value in fields.items()}
    for name, values in lists.items():
        if name == "tasks" or not values:
            raise ValueError(
                f"evaluations has {name}={shown(values)}: give at least one value; tasks are all that can be "
                "asked so"
            )
    samples = any(lists.get("temperature", ()))
    for values in product(*lists.values()):
        own = dict(zip(lists, values, strict=True))
        if samples and own["temperature"] == 0:
            own = {name: value for name, value in own.items() if name not in OF_SAMPLING}
        kept = {"split": usual.split, "items_per_task": usual.items_per_task}
        if own.get("scoring", "generation") == "generation":
            kept["max_new_tokens"] = usual.max_new_tokens
        found = EvalSpec(tasks=(ANY_WAY,), **kept | own)
        if tasks := tuple(t for t in usual.tasks if not refusal(t, found.scoring, found.rotation)):
            yield replace(found, tasks=tasks)


def checked(tables: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """The tables.

    Raises:
        ValueError: as `evaluations_of` and `roles_of`.
    """
    for table in tables:
        roles_of(table)
    evaluations_of(tables, EvalSpec(tasks=tuple(ALL_TASKS)))
    return tables
