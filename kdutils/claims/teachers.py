"""Teachers (T*): is a better one better for the student, and what does an untuned one cost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims import items, students
from kdutils.claims.evidence import Evidence, Rules
from kdutils.claims.finding import Finding, NotTestableError, decide, present
from kdutils.constants import AVERAGE, TASK_LABELS
from kdutils.inference import intervals, resampling
from kdutils.results import gain_tables, item_gains

PAIR = [*students.STUDENT, "teacher"]

# --- T1, T2: a better teacher -------------------------------------------------------------------------------


def better_teacher_authors(evidence: Evidence, *, domain: str, margin: float) -> Finding:
    """Spearman of gain with teacher accuracy is weak or negative on most tasks: rho below `margin`.

    reproduced: on more than half of the tasks; otherwise not_reproduced. The estimate is the median rho over
    tasks.
    """
    table = evidence.on_tasks("spearman_gain_teacher", [domain])
    return weak_on_most_tasks(table, table["statistic"] < margin, words=f"below {margin}")


def weak_on_most_tasks(table: pd.DataFrame, is_weak: pd.Series, *, words: str) -> Finding:
    """Whether a correlation is weak on more than half of the tasks, of rows task, statistic, n."""
    rho = table["statistic"]
    strong = [f"{TASK_LABELS[row.task]} {row.statistic:+.2f}" for row in table[~is_weak].itertuples()]
    return Finding(
        verdict=decide(is_weak.mean() > 0.5),
        reason=f"rho {words} on {int(is_weak.sum())} of {len(table)} "
        f"tasks (range {rho.min():+.2f} to {rho.max():+.2f}); beyond: {', '.join(strong) or 'none'}",
        estimate=float(rho.median()),
        n=int(table["n"].max()),
    )


def better_teacher_stricter(
    evidence: Evidence, *, rng: np.random.Generator, domain: str, margin: float
) -> students.Case:
    """The correlation of gain and teacher accuracy within students, against the margin."""
    rows = students.task_gains(evidence, domain).dropna(subset=["teacher_accuracy"])
    values = ["gain", "teacher_accuracy"]
    pairs = rows.groupby(PAIR, sort=False)[values].mean().reset_index()
    pairs = pairs[pairs.groupby("student")["teacher"].transform("size") > 1]
    n_students, n_teachers = pairs["student"].nunique(), pairs["teacher"].nunique()
    n_free = len(pairs) - n_students - 1
    what = f"{len(pairs)} pairs of {n_students} students with several teachers"
    if n_free < 2:
        raise NotTestableError(f"{what}: too few to correlate within students")
    within = pairs[values] - pairs.groupby("student")[values].transform("mean")
    if not (within.abs().max() > 1e-9).all():
        raise NotTestableError(f"{what}: gain or teacher accuracy does not vary within students")
    # Of residuals, with a degree of freedom less for each student: the correlation for repeated measures of
    # Bland and Altman (1995).
    r = float(np.corrcoef(within["gain"], within["teacher_accuracy"])[0, 1])
    interval = intervals.pearson_interval(r, n_free + 2)
    teachers = resampling.cluster_permutation(
        pairs["teacher_accuracy"], within["gain"], pairs["teacher"], blocks=pairs["family"], rng=rng
    )
    ranked = teachers.reason or f"rho {teachers.statistic:+.2f}, p = {teachers.p_value:.2g}"
    return students.Case(
        reason=f"r {interval.text(2)} within students ({what}); teachers as units ({n_teachers}): {ranked}",
        interval=interval,
        p_value=p_of_less(r, margin, error=1 / math.sqrt(n_free - 1)),
        n=len(pairs),
        minimum_detectable=students.detectable_correlation(n_free + 2),
        is_against=interval.low > margin,
    )


def p_of_less(r: float, margin: float, *, error: float) -> float:
    """One-sided p of a true correlation of `margin` or more, by Fisher's z; NaN at |r| = 1."""
    if not abs(r) < 1:
        return math.nan
    return float(scipy.stats.norm.sf((math.atanh(margin) - math.atanh(r)) / error))


# --- T3: an untuned teacher ---------------------------------------------------------------------------------


def untuned_teacher_authors(evidence: Evidence, *, printed: float) -> Finding:
    """Largest cost of an untuned teacher on a domain average, points.

    reproduced: at least the printed value; otherwise not_reproduced. The interval is that of the mean
    cost over pairs and domains.
    """
    table = items.averages(gain_tables.teacher_tuning(evidence.cells))
    present(table, "runs with an untuned teacher")
    top = table.loc[table["cost"].idxmax()]
    mean = intervals.mean_interval(table["cost"])
    return Finding(
        verdict=decide(top["cost"] >= printed),
        reason=f"largest cost {top['cost']:.1f} points ({top['teacher']} to {top['student']}, "
        f"{top['domain']} average); mean {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}] over "
        f"{len(table)} pairs x domains",
        estimate=float(top["cost"]),
        n=len(table),
    )


def untuned_teacher_stricter(evidence: Evidence, *, printed: float) -> students.Case:
    """The largest true cost of an untuned teacher, with an interval that knows it was picked."""
    cells = gain_tables.mean_over_seeds(evidence.cells)
    is_asked = (cells["method"] == "fkl") & (cells["temperature"] == 1.0) & (cells["noise_sigma"] == 0.0)
    is_asked &= (cells["task"] != AVERAGE) & ~cells["task"].isin(evidence.contaminated)
    runs = cells[is_asked].set_index(["domain", "task", "teacher", "student", "teacher_tuned"])
    tables = {
        name: runs[name].unstack("teacher_tuned").reindex(columns=[True, False]).dropna()
        for name in ("accuracy", "accuracy_se")
    }
    both = tables["accuracy"].index.intersection(tables["accuracy_se"].index)
    present(both, "runs with an untuned teacher")
    accuracy, errors = (tables[name].loc[both] for name in tables)
    of_task = pd.DataFrame(
        {"cost": accuracy[True] - accuracy[False], "square": (errors**2).sum(axis=1)}
    ).groupby(["domain", "teacher", "student"], sort=False)
    costs, error = of_task["cost"].mean(), of_task["square"].sum() ** 0.5 / of_task.size()
    interval = students.largest(costs, error)
    domain, teacher, student = costs.idxmax()
    return students.Case(
        reason=f"largest cost {interval.text()} points over {len(costs)} pairs x domains "
        f"at once ({teacher} to {student}, {domain} average), mean {costs.mean():.1f}; printed {printed:g}",
        interval=interval,
        holds=interval.low > printed,
        is_against=interval.high < printed,
        by_interval=True,
    )


def untuned_teacher_items(evidence: Evidence, *, printed: float) -> Finding:
    """What an untuned teacher costs on the domain average: the same distillation by both, the same items.

    reproduced: the cost is at least the printed value and its interval lies above 0; otherwise inconclusive,
    never not_reproduced, because the paper's value is a maximum over pairs.
    """
    costs = items.averages(item_gains.tuning_costs(evidence.items.scored))
    present(costs, "runs with an untuned teacher")
    top = costs.loc[costs["difference"].idxmax()]
    is_met = top["low"] > 0 and top["difference"] >= printed
    parts = ", ".join(f"{row.domain} {items.range_words(row)}" for row in costs.itertuples())
    text = f"cost in points: {parts}; another pair may pay more"
    return items.of_row(evidence, top, decide(is_met, False), text)


RULES = {
    "better_teacher": Rules(better_teacher_authors, better_teacher_stricter),
    "untuned_teacher": Rules(untuned_teacher_authors, untuned_teacher_stricter, untuned_teacher_items),
}
