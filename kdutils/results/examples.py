"""Texts side by side: what a teacher, the SFT student and the KD student wrote about the same question."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from kdutils.constants import DOMAIN_TASKS, DOMAINS, KD_METHODS, METHOD_LABELS, TASK_LABELS
from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.plan import Plan
from kdutils.runs import comparison, store
from kdutils.runs.comparison import KEYS
from kdutils.spec import EvalSpec, PlannedRun, RunSpec

QUADRANTS = {  # (same answer as the teacher, right) -> in words
    (True, True): "right, with the teacher's answer",
    (True, False): "wrong, with the teacher's answer",
    (False, True): "right, with another answer",
    (False, False): "wrong, with another answer",
}
PER_QUADRANT = 1
RULE = (
    "drawn by a seeded generator, not picked: of each method one of each outcome, as far as there are any, "
    "from all items of all its students (temperature 1, no noise, tuned teacher)"
)
COLUMNS = ["KD student is", "question", "teacher", "SFT student", "KD student"]


def drawn(plan: Plan, *, rng: np.random.Generator) -> pd.DataFrame:
    """Items of a plan's live runs with three texts each: of each method one of each of QUADRANTS, by RULE.

    Of the first of DOMAINS that the plan distils, so of math, with its reasoning, if that is there. Every
    item of every run of a method and quadrant is equally likely. Empty where no KD run, its teacher and the
    SFT student of its seed are all finished.
    """
    distilled = [run for run in plan.runs if _is_plain(run.spec)]
    there = {run.spec.domain for run in distilled}
    asked = (name for name in DOMAINS if any(plan.shown.keeps("tasks", task) for task in DOMAIN_TASKS[name]))
    domain = next((name for name in asked if name in there), None)
    compared = list(_compared(plan, [run for run in distilled if run.spec.domain == domain]))
    rows = []
    for method, ((is_same, is_right), label) in product(KD_METHODS, QUADRANTS.items()):
        pool = [
            (place, row)
            for place, (run, both) in enumerate(compared)
            if run.spec.method == method
            for row in np.flatnonzero((both["same"] == is_same) & (both["correct"] == is_right))
        ]
        for choice in sorted(rng.permutation(len(pool))[:PER_QUADRANT]):
            place, row = pool[choice]
            run, both = compared[place]
            rows.append(_texts(run, both.iloc[row], label))
    return pd.DataFrame(rows, columns=COLUMNS)


def _is_plain(spec: RunSpec) -> bool:
    is_plain = spec.temperature == 1.0 and spec.noise_sigma == 0.0
    return spec.method in KD_METHODS and spec.teacher_tuned and is_plain


def _compared(plan: Plan, distilled: list[PlannedRun]) -> Iterator[tuple[PlannedRun, pd.DataFrame]]:
    """Runs that can be compared, each with its item rows joined to the teacher's and the SFT student's."""
    if not distilled:
        return
    asked = {sources.resolved(run.spec) for run in plan.runs}
    kept: dict[str, pd.DataFrame | None] = {}  # a teacher's or SFT student's rows serve many runs
    for run in distilled:
        spec = sources.resolved(run.spec)
        others = (spec.teacher_spec, spec.sft_spec)
        if not asked.issuperset(others):
            continue
        for other in others:
            if other.run_id not in kept:
                kept[other.run_id] = _rows(plan, other, run.evaluation)
        student = _rows(plan, spec, run.evaluation)
        teacher, before = (kept[other.run_id] for other in others)
        if student is None or teacher is None or before is None:
            continue
        both = comparison.paired(student, teacher)
        before = before[[*KEYS, "text"]].rename(columns={"text": "text_sft"})
        both = comparison.paired(both, before).sort_values(KEYS, ignore_index=True)
        yield run, both.assign(same=comparison.same_answer(both))


def _rows(plan: Plan, spec: RunSpec, evaluation: EvalSpec) -> pd.DataFrame | None:
    """What is needed of the item rows of a resolved run; None if it is not finished."""
    rows = store.folder_of(plan.out, spec.run_id).evaluation(evaluation)
    if rows is None:
        return None
    shown = rows["task"].map(lambda task: plan.shown.keeps("tasks", task)).astype(bool)
    return rows.loc[shown, [*KEYS, "text", "answer", "parsed", "correct"]]


def _texts(run: PlannedRun, row: pd.Series, label: str) -> dict[str, str]:
    """One line of COLUMNS: the outcome and its run, the question with its answer, three texts."""
    spec = sources.resolved(run.spec)
    questions = {item.id: item.question for item in sources.test_items(spec, run.evaluation)}
    sizes = " → ".join(name.rsplit("-", 1)[-1] for name in (spec.teacher, spec.student))
    who = f"{short_name(spec.student).rsplit('-', 1)[0]} {sizes}, {METHOD_LABELS[spec.method].split(' ')[0]}"
    return {
        "KD student is": f"{label} ({TASK_LABELS[row['task']]}: {who})",
        "question": f"{questions[row['item_id']]} [{row['answer']}]",
        "teacher": row["text_teacher"],
        "SFT student": row["text_sft"],
        "KD student": row["text"],
    }
