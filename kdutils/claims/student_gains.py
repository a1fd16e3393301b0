"""Student-level gains on both scales, for the figures of the stricter analysis.

Temperature 1; runs of a student are averaged over teachers and methods, which share its baseline.
"""

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from kdutils.claims import students
from kdutils.claims.evidence import Evidence
from kdutils.claims.gains import means_and_squares
from kdutils.inference.size_effects import empirical_logit

SCALES = {"points": "gain", "log odds": "logit_gain"}  # what a scale is called -> column of the gain
WITHIN = scipy.stats.norm.ppf(0.975)


def forest(evidence: Evidence) -> pd.DataFrame:
    """Gains of each student and of all, of all but a family, and on contaminated tasks, on both scales.

    Columns domain, label, kind (student, all, without, contaminated), scale, value, low, high. Intervals of a
    student are over its items, the others Student's t over students.
    """
    rows = []
    for domain in evidence.domains:
        gains = students.task_gains(evidence, domain)
        apart = students.contaminated_gains(evidence, [domain])
        for scale, column in SCALES.items() if len(gains) else ():
            for row in item_intervals(gains, scale=scale).itertuples():
                rows.append((domain, row.student, "student", scale, row.value, row.low, row.high))
            families = gains.sort_values(["student_parameters", "student"], kind="stable")["family"].unique()
            parts = [("all students", "all", gains)]
            if len(families) > 1:
                parts += [(f"without {name}", "without", gains[gains["family"] != name]) for name in families]
            if len(apart):
                parts.append(("all, contaminated tasks", "contaminated", apart))
            for label, kind, part in parts:
                mean = students.mean_of_students(students.student_means(part, [column]), column)
                rows.append((domain, label, kind, scale, *mean.bounds))
    return pd.DataFrame(rows, columns=["domain", "label", "kind", "scale", "value", "low", "high"])


def item_intervals(gains: pd.DataFrame, *, scale: str) -> pd.DataFrame:
    """Each student's gain with a 95% interval over its items: STUDENT, value, low, high.

    Its runs are taken as independent samples of items, its baseline counts once; on log odds by the delta
    method, with half an item added to right and wrong.
    """
    sides = {"own": ("accuracy", "accuracy_se"), "baseline": ("sft_accuracy", "sft_accuracy_se")}
    squares = {name: _square(gains, *columns, scale=scale) for name, columns in sides.items()}
    table = means_and_squares(gains.assign(**squares), SCALES[scale], students.STUDENT).reset_index()
    table, half = table.rename(columns={"mean": "value"}), WITHIN * table["square"] ** 0.5
    table = table.assign(low=table["value"] - half, high=table["value"] + half)
    table = table.sort_values(["student_parameters", "student"], kind="stable").reset_index(drop=True)
    return table[[*students.STUDENT, "value", "low", "high"]]


def _square(gains: pd.DataFrame, accuracy: str, error: str, *, scale: str) -> pd.Series:
    """The squared standard error of an accuracy, in the unit of the scale."""
    if scale == "points":
        return gains[error] ** 2
    items = gains["n_items"]
    right = gains[accuracy] / 100 * items
    return 1 / (right + 0.5) + 1 / (items - right + 0.5)


def by_size(evidence: Evidence) -> pd.DataFrame:
    """Gains of students over size on both scales, beside those of a world in which all gain alike.

    Columns domain, STUDENT, scale, value, low, high (over items), expected, least, most: what the student
    would gain if every student gained as much on the log odds of each task, and 95 % of what its items show.
    """
    tables = []
    for domain in evidence.domains:
        gains = students.task_gains(evidence, domain)
        if gains.empty:
            continue
        for scale in SCALES:
            each = item_intervals(gains, scale=scale).merge(_if_equal(gains, scale=scale), on="student")
            tables.append(each.assign(domain=domain, scale=scale))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _if_equal(gains: pd.DataFrame, *, scale: str) -> pd.DataFrame:
    """student, expected, least, most, were the gain of each task the same for all students in log odds."""
    keys = ["student", "task"]
    runs = gains.groupby(keys, sort=False)[["sft_accuracy", "logit_gain", "n_items"]].mean().reset_index()
    common = runs.groupby("task")["logit_gain"].transform("mean")
    odds = empirical_logit(runs["sft_accuracy"], runs["n_items"])
    before, after = scipy.special.expit(odds), scipy.special.expit(odds + common)
    spread = sum(p * (1 - p) / runs["n_items"] for p in (before, after))
    if scale == "points":
        runs = runs.assign(expected=100 * (after - before), square=100**2 * spread)
    else:
        spread = sum(1 / (p * (1 - p) * runs["n_items"]) for p in (before, after))
        runs = runs.assign(expected=common, square=spread)
    by_student = runs.groupby("student", sort=False)
    half = WITHIN * by_student["square"].sum() ** 0.5 / by_student.size()
    expected = by_student["expected"].mean()
    table = pd.DataFrame({"expected": expected, "least": expected - half, "most": expected + half})
    return table.replace([np.inf, -np.inf], np.nan).reset_index()
