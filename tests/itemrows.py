"""Item rows of one pair, as item_gains.read gives them, with the values that a test writes down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdutils.constants import AVERAGE, METHOD_LABELS
from kdutils.data import sources
from kdutils.grid import cell_table as cell_rows
from kdutils.grid import plan
from kdutils.grid.profile import load_profile
from kdutils.grid.study import PlannedRun
from kdutils.results import item_gains
from kdutils.runs import comparison, store
from kdutils.spec import EvalSpec, RunSpec

TEACHER, STUDENT = "Qwen2.5-1.5B", "Qwen2.5-0.5B"


def arm(method: str, *, temperature: float = 1.0, noise_sigma: float = 0.0, tuned: bool = True) -> dict:
    """The columns item_gains.SETTING of a run of the pair, domain math."""
    who = {"domain": "math", "teacher": TEACHER, "student": STUDENT, "method": method}
    who |= {"teacher_tuned": tuned, "temperature": temperature, "noise_sigma": noise_sigma}
    if method in ("base", "sft"):
        who |= {"teacher": "", "teacher_tuned": None, "temperature": math.nan}
    return who


def scored(*runs: tuple[dict, Mapping[str, Sequence[float]]], seed: int = 0) -> pd.DataFrame:
    """Rows of runs, each an arm and its values by task."""
    table = []
    for which, values in runs:
        for task, of_task in values.items():
            for number, value in enumerate(of_task):
                where = {"seed": seed, "task": task, "item_id": f"{task}-{number}"}
                table.append(which | where | {"value": float(value)})
    return pd.DataFrame(table, columns=[*item_gains.SETTING, "seed", "task", "item_id", "value"])


def beside(
    *students: tuple[str, Sequence[bool], Sequence[str], Sequence[str]], task: str = "svamp"
) -> pd.DataFrame:
    """Rows beside the teacher: method, same answers, texts, and the teacher's texts."""
    table = []
    for method, same, texts, teacher in students:
        for number, (agrees, text, other) in enumerate(zip(same, texts, teacher, strict=True)):
            who = {"domain": "math", "teacher": TEACHER, "student": STUDENT, "method": method, "seed": 0}
            counts = dict(zip(item_gains.COUNTS, comparison.bleu_counts(text, other), strict=True))
            table.append(who | {"task": task, "item_id": f"{number:04}", "value": float(agrees)} | counts)
    return pd.DataFrame(table)


def cells(rows: pd.DataFrame, **columns: float) -> pd.DataFrame:
    """Live cells with the accuracies of `scored` rows, their average with them."""
    found = item_gains.accuracies(rows)
    table = []
    for row in found.to_dict("records"):
        cell = {name: row[name] for name in (*item_gains.SETTING, "task", "accuracy", "n")} | columns
        cell |= {"source": "live", "protocol": "careful", "decoding": "greedy"}
        cell |= {"family": "Qwen2.5", "seed": 0}
        if row["task"] == AVERAGE:  # no value of items but the accuracy has an average
            cell |= dict.fromkeys(columns, math.nan)
        cell |= {"student_parameters": 500_000_000, "accuracy_se": 1.0}
        if row["teacher"]:
            cell["teacher_parameters"] = 1_500_000_000
        table.append({name: None if value is None else value for name, value in cell.items()})
    return cell_rows.cell_table(table)


__all__ = ["AVERAGE", "METHOD_LABELS", "STUDENT", "TEACHER", "arm", "beside", "cells", "scored"]


def evaluated(out: Path, run: RunSpec, evaluation: EvalSpec, rows: pd.DataFrame) -> None:
    """Put a run that is trained, with these item rows, into the store."""
    folder = store.folder_of(out, sources.resolved(run).run_id)
    folder.begin(run.to_dict())
    folder.finish({"status": "trained"}, [])
    folder.write_evaluation(evaluation, rows, {})


def asked(out: Path, section: str, evaluation: EvalSpec, *specs: RunSpec) -> plan.Plan:
    """The plan of a section that has these runs."""
    planned = tuple(PlannedRun(run, evaluation) for run in specs)
    return plan.Plan(section, load_profile("smoke"), out, planned, plan.Filter())
