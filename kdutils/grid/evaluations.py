"""How a need of a profile has its students evaluated besides: tables of EvalSpec fields, multiplied out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import product
from typing import Any

from kdutils.constants import ALL_TASKS
from kdutils.data.options import refusal
from kdutils.grid.study import PlannedRun
from kdutils.io.text_safety import shown
from kdutils.spec import EvalSpec, RunSpec

ROLES = ("base", "sft", "kd", "teacher")  # what a model is of a need's pairs
OF_SAMPLING = ("top_p", "samples", "seed")
ANY_WAY = "aqua"  # a task that every way of asking suits


def asked_of(
    tables: Sequence[Mapping[str, Any]],
    specs: Collection[RunSpec],
    students: Set[str],
    usual: Callable[[str], EvalSpec],
) -> Iterator[PlannedRun]:
    """Each run under the evaluations of the tables for its role; `usual` says how its domain is evaluated."""
    teachers = {spec.teacher_spec for spec in specs}
    for spec in specs:
        is_student = spec.student in students or spec not in teachers
        roles = ["base" if spec.method == "base" else "kd" if spec.teacher else "sft"] * is_student
        roles += ["teacher"] * (spec in teachers)
        for table in (each for each in tables if not set(roles).isdisjoint(roles_of(each))):
            for evaluation in evaluations_of([table], usual(spec.domain)):
                yield PlannedRun(spec, evaluation, beside_teacher="teacher" in roles_of(table))


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
        kept = {name: getattr(usual, name) for name in ("split", "items_per_task", "items_digest")}
        if own.get("scoring", "generation") == "generation":
            kept["max_new_tokens"] = usual.max_new_tokens
        found = EvalSpec(tasks=(ANY_WAY,), **kept | own)
        if tasks := tuple(t for t in usual.tasks if not refusal(t, found.scoring, found.rotation)):
            yield replace(found, tasks=tasks)


def tables_of(settings: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every way to take one value of each field of a table, where a field has one or a list of them."""
    for table in settings:
        listed = (value if isinstance(value, list) else [value] for value in table.values())
        yield from (dict(zip(table, values, strict=True)) for values in product(*listed))


def checked(tables: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """The tables.

    Raises:
        ValueError: as `evaluations_of` and `roles_of`.
    """
    for table in tables:
        roles_of(table)
    evaluations_of(tables, EvalSpec(tasks=tuple(ALL_TASKS)))
    return tables


def student_protocols(planned: Iterable[PlannedRun]) -> dict[EvalSpec, str | None]:
    """The protocol of the students that each evaluation is of; None where they are of several, or none."""
    found: dict[EvalSpec, set[str]] = {}
    for run in planned:
        own = found.setdefault(run.evaluation, set())
        if run.spec.method != "base":  # a model as it is has no protocol
            own.add(run.spec.protocol)
    return {each: next(iter(own)) if len(own) == 1 else None for each, own in found.items()}
