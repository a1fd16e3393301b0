"""How alike student and teacher are: agreement and fidelity before and after KD, and what they are made of.

Every function takes gains (gain_tables.gains), cells or item rows and returns a tidy table.
"""

from collections.abc import Callable, Sequence
from functools import cache

import pandas as pd

from kdutils.constants import AVERAGE, METHOD_NAMES, TASK_LABELS, is_text
from kdutils.data import sources
from kdutils.grid.cell_table import model_family, short_name
from kdutils.grid.plan import Plan
from kdutils.grid.study import place_of
from kdutils.results.gain_tables import in_domain_order, in_method_order, in_task_order, pair_label, plain
from kdutils.runs import comparison, store
from kdutils.spec import RunSpec

FIDELITY_NAMES = {"published": "BLEU.csv", "live": "BLEU"}  # what the column `fidelity` holds
ANSWERS = list(comparison.ANSWERS)
NAMES = ["domain", "family", "teacher", "student", "method", "seed"]  # of a student and its teacher


def by_pair(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Mean over tasks of a likeness (a column of LIKENESS) by pair: columns domain, pair, sft, kd, rise.

    `kd` is the mean over the methods' students; the released values are one of all methods.
    """
    keys = ["domain", "teacher", "student", "student_parameters", "teacher_parameters"]
    by_task = gain_table.groupby([*keys, "task"], sort=False)[[f"{measure}_sft", measure]].mean()
    table = by_task.groupby(keys, sort=False).mean().dropna(how="all").reset_index()
    table = table.rename(columns={f"{measure}_sft": "sft", measure: "kd"})
    table = table.sort_values(["student_parameters", "teacher_parameters"], kind="stable", ignore_index=True)
    return table.assign(pair=pair_label(table), rise=table["kd"] - table["sft"])


def tables(gain_table: pd.DataFrame, *, measures: dict[str, str]) -> pd.DataFrame:
    """`by_pair` of several measures, stacked: the keys of `measures` stand in the column `table`."""
    parts = [by_pair(gain_table, measure=name).assign(table=key) for key, name in measures.items()]
    return pd.concat(parts, ignore_index=True)


def of_students(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """A likeness by pair, task and method, the SFT student's as method `sft`; its mean over tasks as AVERAGE.

    Live results have a value a method; released ones have one for all methods.
    """
    keys = ["domain", "teacher", "student", "student_parameters", "teacher_parameters"]
    kd = gain_table[gain_table["task"] != AVERAGE].dropna(subset=[measure, f"{measure}_sft"])
    sft = kd.drop_duplicates([*keys, "task"]).assign(method="sft")
    sft[measure] = sft[f"{measure}_sft"]
    tasks = pd.concat([sft, kd])[[*keys, "task", "method", measure]]
    means = tasks.groupby([*keys, "method"], sort=False)[measure].mean().reset_index()
    return pd.concat([tasks, means.assign(task=AVERAGE)])


def agreement_with(gain_table: pd.DataFrame, *, teacher: str, tasks: list[str]) -> pd.DataFrame:
    """Agreement of a teacher's KD students: a row (index) a student, a column a task."""
    table = gain_table[(gain_table["teacher"] == teacher) & gain_table["task"].isin(tasks)]
    table = table.sort_values("student_parameters", kind="stable")
    wide = table.pivot_table(index="student", columns="task", values="agreement", sort=False)
    return wide[tasks].rename(columns=TASK_LABELS).rename_axis(columns=None)


def paired_rows(
    plan: Plan, columns: Sequence[str], *, of: Callable[[str], bool] = lambda task: not is_text(task)
) -> pd.DataFrame:
    """Item rows of students and their tuned teachers side by side: a row a student x teacher x item.

    KD students at temperature 1 without noise, and as method `sft` the SFT student of the same seed. Columns
    NAMES, comparison.KEYS, `columns`, and those of the teacher with the suffix `_teacher`. What is not
    finished is left out; no rows without live runs. `of` says of a task whether its domain is asked for.
    """
    own = [*comparison.KEYS, *columns]
    asked = [run for run in plan.runs if all(map(of, run.evaluation.tasks))]
    resolved = sources.resolved_all(run.spec for run in asked)
    evaluations = dict(zip(resolved, (run.evaluation for run in asked), strict=True))

    @cache
    def rows(spec: RunSpec) -> pd.DataFrame | None:
        found = store.folder_of(plan.out, spec.run_id).evaluation(evaluations[spec])
        return None if found is None else found[own]

    found: dict[tuple, pd.DataFrame] = {}
    for spec in evaluations:
        if spec.teacher is None or not spec.teacher_tuned or spec.temperature != 1.0 or spec.noise_sigma:
            continue
        pair = (spec.domain, model_family(spec.student), short_name(spec.teacher), short_name(spec.student))
        teacher = spec.teacher_spec
        for method, student in ((spec.method, spec), ("sft", spec.sft_spec)):
            names = (*pair, method, spec.seed)
            if names in found or teacher not in evaluations or student not in evaluations:
                continue
            if rows(teacher) is not None and rows(student) is not None:
                both = comparison.paired(rows(student), rows(teacher))
                found[names] = both.assign(**dict(zip(NAMES, names, strict=True)))
    every = [*NAMES, *own, *(f"{name}_teacher" for name in columns)]
    return pd.concat(found.values(), ignore_index=True)[every] if found else pd.DataFrame(columns=every)


def paired_answers(plan: Plan) -> pd.DataFrame:
    """`paired_rows` with parsed and correct; tasks without a right answer are left out."""
    both = paired_rows(plan, ["parsed", "correct"])
    return both.astype(dict.fromkeys(["parsed", "parsed_teacher"], "str"))  # a run without any has objects


def answers(paired: pd.DataFrame) -> pd.DataFrame:
    """`paired_answers` counted by comparison.agreements: one row a student x teacher x task x seed.

    Columns NAMES, task, n, ANSWERS, agreement (percent) and error_consistency.
    """
    columns = ["domain", "task", *NAMES[1:], "n", *ANSWERS, "agreement", "error_consistency"]
    return comparison.agreements(paired, by=[*NAMES, "task"])[columns]


def answer_shares(answer_table: pd.DataFrame) -> pd.DataFrame:
    """`answers` by domain and method: means over tasks and seeds, then over pairs, SFT first.

    Columns domain, method, label, ANSWERS, agreement, error_consistency, n_pairs. Only pairs that have the
    method are in its mean; an undefined kappa is left out of the mean.
    """
    values = [*ANSWERS, "agreement", "error_consistency"]
    keys = ["domain", "method"]
    by_task = answer_table.groupby([*keys, "teacher", "student", "task"], sort=False)[values].mean()
    by_pair = by_task.groupby([*keys, "teacher", "student"], sort=False).mean()
    table = by_pair.groupby(keys).mean().assign(n_pairs=by_pair.groupby(keys).size())
    table = in_domain_order(in_method_order(table.reset_index())).reset_index(drop=True)
    return table.assign(label=table["method"].map(METHOD_NAMES))


def right_and_alike(cells: pd.DataFrame) -> pd.DataFrame:
    """KD runs with a defined `fidelity_correct_r`: tuned teacher, temperature 1, no noise.

    A row a run x task with the task's `label`, tasks as in constants. No released cell has the value.
    """
    ordered = in_task_order(plain(cells).dropna(subset=["fidelity_correct_r"]))
    return ordered.sort_values("task", key=lambda task: task.map(place_of), kind="stable")
