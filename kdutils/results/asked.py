"""Item rows of students that are asked again: other decodings, scores of options, orders of options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.plan import Plan
from kdutils.runs import store
from kdutils.spec import RunSpec

KEYS = ("student", "teacher", "method", "domain", "seed")
OF_RUN = ("student", "teacher", "role", *KEYS[2:], "run_id")
OF_EVALUATION = ("temperature", "top_p", "scoring", "rotation")
RENAMED = {"temperature": "divergence_temperature"}  # of the run; the evaluation's has the plain name
NOT_FACTORS = {*KEYS, "data_digest", "student_digest", "teacher_digest", "prefix", "divergence", "devices"}


def read(plan: Plan) -> pd.DataFrame:
    """The item rows of the evaluations that a plan's needs ask for (Need.evaluations), of finished runs.

    One row an item x sample x evaluation. Columns of the run: OF_RUN, and every further field that tells two
    of these runs apart, such as prompt_in_loss (of temperature: `divergence_temperature`). `role` is base,
    sft, kd or teacher, which is one after SFT; only kd has a `teacher`. A model that is the student of one
    pair and the teacher of another is there in both roles. Columns of the evaluation: OF_EVALUATION, and
    `eval_id`, its name in the store. Then those of the item: see data.evaluate.score, data.options.rank,
    without `top1`, which no decoding changes.
    """
    runs = [run.spec for run in plan.asked]
    students = {spec.student for spec in runs if spec.teacher}
    teachers = {spec.teacher_spec for spec in runs}
    asked = [
        (spec, run.evaluation) for run in plan.asked for spec in (run.spec, run.spec.teacher_spec) if spec
    ]
    asked, tables = list(dict.fromkeys(asked)), []
    factors = _factors([spec for spec, _ in asked])
    resolved = sources.resolved_all(spec for spec, _ in asked)
    for (spec, evaluation), made in zip(asked, resolved, strict=True):
        rows = store.folder_of(plan.out, made.run_id).evaluation(evaluation)
        if rows is None:
            continue
        if plan.shown.tasks is not None:
            rows = rows[rows["task"].isin(plan.shown.tasks)]
        about = {name: getattr(spec, name) for name in ("domain", "seed", *factors)}
        about |= {"student": short_name(spec.student), "method": spec.named_method, "run_id": made.run_id}
        about["teacher"] = short_name(spec.teacher) if spec.teacher else None
        about |= {RENAMED.get(name, name): about.pop(name) for name in factors}
        about |= {name: getattr(evaluation, name) for name in OF_EVALUATION} | {"eval_id": evaluation.eval_id}
        names = [*OF_RUN, *(RENAMED.get(name, name) for name in factors), *OF_EVALUATION, "eval_id"]
        rows = rows.drop(columns=[name for name in (*names, "top1") if name in rows])
        for role in _roles(spec, students, teachers):
            own = pd.DataFrame([about | {"role": role}] * len(rows), columns=names, index=rows.index)
            tables.append(pd.concat([own, rows], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*OF_RUN, *OF_EVALUATION])


def _roles(spec: RunSpec, students: set[str], teachers: set[RunSpec | None]) -> Iterator[str]:
    """What a run is of the plan: a teacher's SFT may be that of a student, too."""
    if spec.method == "base":
        yield "base"
    elif spec.recipe.has_teacher:
        yield "kd"
    else:
        if spec.student in students or spec not in teachers:
            yield "sft"
        if spec in teachers:
            yield "teacher"


def _factors(specs: Sequence[RunSpec]) -> list[str]:
    """The fields in which two runs differ that are alike in KEYS."""
    groups: dict[tuple, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault((*(getattr(spec, name) for name in KEYS), spec.named_method), []).append(spec)
    found = {
        name
        for group in groups.values()
        for name in group[0].to_dict()
        if len({getattr(spec, name) for spec in group}) > 1
    }
    return sorted(found - NOT_FACTORS)
