"""How alike student and teacher are: agreement and fidelity before and after KD, and what they are made of.

Every function takes gains (gain_tables.gains), cells or item rows and returns a tidy table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pandas as pd

from kdutils.constants import ALL_TASKS, DOMAINS, KD_METHODS, METHOD_NAMES, TASK_LABELS, TRAIN_DOMAINS
from kdutils.data import sources
from kdutils.grid.cell_table import model_family, short_name
from kdutils.grid.plan import Plan
from kdutils.results.gain_tables import LIKENESS, PAIR, in_domain_order, in_task_order, pair_label
from kdutils.runs import comparison, store
from kdutils.spec import RunSpec

FIDELITY_NAMES = {"published": "BLEU.csv", "live": "BLEU"}  # what the column `fidelity` holds
ANSWERS = list(comparison.ANSWERS)
NAMES = ["domain", "family", "teacher", "student", "method", "seed"]  # of a student and its teacher


def by_kind(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Agreement and fidelity of the SFT and of the KD student, one row a pair x task x student kind.

    The released values are one per pair and kind, so methods cannot be distinguished: `kind` is
    `sft` or `kd`, and `accuracy` is the SFT student's or the mean over the methods' students.
    """
    keys = ["source", "domain", "task", *PAIR]
    rows = []
    for kind, suffix, accuracy in (("sft", "_sft", "sft_accuracy"), ("kd", "", "accuracy")):
        columns = {"accuracy": accuracy}
        columns |= {name: name + suffix for name in LIKENESS if not name.endswith("_sft")}
        grouped = gain_table.groupby(keys, sort=False)[list(columns.values())].mean()
        grouped.columns = list(columns)
        rows.append(grouped.reset_index().assign(kind=kind))
    return pd.concat(rows, ignore_index=True)


def by_pair(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Mean over tasks of a likeness (a column of LIKENESS) by pair: columns domain, pair, sft, kd, rise."""
    table = by_kind(gain_table).dropna(subset=[measure])
    keys = ["domain", "teacher", "student", "student_parameters", "teacher_parameters"]
    table = table.groupby([*keys, "kind"], sort=False)[measure].mean().unstack("kind").reset_index()
    table = table.sort_values(["student_parameters", "teacher_parameters"], kind="stable")
    table = table.assign(pair=pair_label(table), rise=table["kd"] - table["sft"])
    return table.rename_axis(columns=None).reset_index(drop=True)


def tables(gain_table: pd.DataFrame, *, measures: dict[str, str]) -> pd.DataFrame:
    """`by_pair` of several measures, stacked: the keys of `measures` stand in the column `table`."""
    parts = [by_pair(gain_table, measure=name).assign(table=key) for key, name in measures.items()]
    return pd.concat(parts, ignore_index=True)


def by_method(gain_table: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Mean over tasks of a likeness by pair and method, the SFT student's as method `sft`.

    Columns domain, pair, student_parameters, teacher_parameters, method and the measure; small students
    first. Live results have a value a method; released ones have one for all methods.
    """
    keys = ["domain", "teacher", "student", "student_parameters", "teacher_parameters"]
    table = gain_table.dropna(subset=[measure, f"{measure}_sft"])
    sft = table.drop_duplicates([*keys, "task"]).assign(method="sft")
    sft[measure] = sft[f"{measure}_sft"]
    means = pd.concat([sft, table]).groupby([*keys, "method"], sort=False)[measure].mean().reset_index()
    means = means.sort_values(["student_parameters", "teacher_parameters"], kind="stable")
    means = in_domain_order(means)
    return means.assign(pair=pair_label(means)).reset_index(drop=True)


def agreement_with(gain_table: pd.DataFrame, *, teacher: str, tasks: list[str]) -> pd.DataFrame:
    """Agreement of a teacher's KD students: a row (index) a student, a column a task."""
    table = gain_table[(gain_table["teacher"] == teacher) & gain_table["task"].isin(tasks)]
    table = table.sort_values("student_parameters", kind="stable")
    wide = table.pivot_table(index="student", columns="task", values="agreement", sort=False)
    return wide[tasks].rename(columns=TASK_LABELS).rename_axis(columns=None)


def paired_answers(plan: Plan) -> pd.DataFrame:
    """Answers of students and their tuned teachers to the same items: a row a student x teacher x item.

    KD students at temperature 1 without noise, and as method `sft` the SFT student of the same seed. Columns
    NAMES, evaluate.KEYS, parsed, correct, and the teacher's parsed_teacher, correct_teacher. Tasks without a
    right answer are left out, and so is what is not finished; no rows without live runs.
    """
    found = list(beside_teachers(plan, [*comparison.KEYS, "parsed", "correct"])) if plan.runs else []
    if not found:
        own = ["parsed", "correct", "parsed_teacher", "correct_teacher"]
        return pd.DataFrame(columns=[*NAMES, *comparison.KEYS, *own])
    where, *sides = zip(*found, strict=True)
    by_place = {"keys": range(len(where)), "names": ["place"]}
    student, teacher = (pd.concat(side, **by_place).reset_index("place") for side in sides)
    both = comparison.paired(student, teacher, keys=["place", *comparison.KEYS])
    named = pd.DataFrame(where)[NAMES]
    both = both.astype(dict.fromkeys(["parsed", "parsed_teacher"], "str"))  # a run without any has objects
    return pd.concat([named.iloc[both.pop("place")].reset_index(drop=True), both], axis=1)


def answers(paired: pd.DataFrame) -> pd.DataFrame:
    """`paired_answers` counted by evaluate.agreements: one row a student x teacher x task x seed.

    Columns NAMES, task, n, ANSWERS, agreement (percent) and error_consistency.
    """
    columns = ["domain", "task", *NAMES[1:], "n", *ANSWERS, "agreement", "error_consistency"]
    if paired.empty:
        return pd.DataFrame(columns=columns)
    return comparison.agreements(paired, by=[*NAMES, "task"])[columns]


def beside_teachers(
    plan: Plan, columns: list[str], *, domains: Sequence[str] = DOMAINS
) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Names of a student of `answers`, its item rows and its tuned teacher's, each with these columns."""
    asked = [run for run in plan.runs if run.spec.domain in domains]
    resolved = sources.resolved_all(run.spec for run in asked)
    specs = dict(zip(resolved, (run.evaluation for run in asked), strict=True))

    @cache
    def rows(spec: RunSpec) -> pd.DataFrame | None:
        found = store.folder_of(plan.out, spec.run_id).evaluation(specs[spec])
        return None if found is None else found[columns]

    seen = set()
    for spec in specs:
        if spec.teacher is None or not spec.teacher_tuned or spec.temperature != 1.0 or spec.noise_sigma:
            continue
        teacher = spec.teacher_spec
        for method, student in ((spec.method, spec), ("sft", spec.sft_spec)):
            names = {"domain": spec.domain, "family": model_family(spec.student)}
            names |= {"teacher": short_name(spec.teacher), "student": short_name(spec.student)}
            names |= {"method": method, "seed": spec.seed}
            if teacher not in specs or student not in specs or tuple(names.values()) in seen:
                continue
            seen.add(tuple(names.values()))
            if rows(teacher) is not None and rows(student) is not None:
                yield names, rows(student), rows(teacher)


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
    cases = [(domain, method) for domain in TRAIN_DOMAINS for method in ("sft", *KD_METHODS)]
    table = table.loc[[case for case in cases if case in table.index]].reset_index()
    return table.assign(label=table["method"].map(METHOD_NAMES))


def right_and_alike(cells: pd.DataFrame) -> pd.DataFrame:
    """KD runs with a defined `fidelity_correct_r`: tuned teacher, temperature 1, no noise.

    A row a run x task with the task's `label`, tasks as in constants. No released cell has the value.
    """
    runs = cells[cells["method"].isin(KD_METHODS) & cells["teacher_tuned"].fillna(False)]
    runs = runs[(runs["temperature"] == 1.0) & (runs["noise_sigma"] == 0.0)]
    ordered = in_task_order(runs.dropna(subset=["fidelity_correct_r"]))
    return ordered.sort_values("task", key=lambda task: task.map([*ALL_TASKS].index), kind="stable")
