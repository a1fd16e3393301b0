"""What a gain goes with: the student's size (S*) and how good its teacher is (T*)."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims import items, students
from kdutils.claims.evidence import (
    ALPHA,
    Evidence,
    Finding,
    NotTestableError,
    Rules,
    decide,
    finding,
    present,
)
from kdutils.claims.students import Case
from kdutils.constants import AVERAGE, DOMAIN_LABELS, TASK_LABELS
from kdutils.inference import intervals, resampling, size_effects, student_tests
from kdutils.results import gain_tables, item_gains

PAIR = [*students.STUDENT, "teacher"]

# --- S1, S2, S3: the gain falls with size -------------------------------------------------------------------


def size_effect_authors(
    evidence: Evidence, *, domain: str, task: str, printed: float, printed_p: float
) -> Finding:
    table = evidence.of("spearman_gain_size", domain=domain, task=task).dropna(subset=["statistic"])
    row = present(table, f"{TASK_LABELS[task]} gains of students of different sizes").iloc[0]
    rho, p_value = float(row["statistic"]), float(row["p_value"])
    is_same_side = (p_value < ALPHA) == (printed_p < ALPHA)
    is_same_rho = abs(round(rho, 2) - printed) < 1e-9 if evidence.can_equal_print else rho * printed > 0
    reason = f"rho = {rho:+.2f}, p = {p_value:.2g}"
    if not is_same_side:
        reason += f"; the poster prints p = {printed_p:.1f}, on the other side of {ALPHA}"
    interval = intervals.spearman_interval(rho, int(row["n"]))
    verdict = decide(is_same_rho and is_same_side, not is_same_rho)
    return finding(interval, verdict=verdict, p_value=p_value, reason=reason)


def size_effect_stricter(evidence: Evidence, *, rng: np.random.Generator, domain: str, task: str) -> Case:
    where = f"{DOMAIN_LABELS[domain].lower()} average" if task == AVERAGE else TASK_LABELS[task]
    rows = present(students.task_gains(evidence, domain, task=task), f"gains on {where}")
    means = students.student_means(rows, ["gain", "logit_gain"])
    (falls, logit), case = students.falls_with_size(means, ["gain", "logit_gain"], rng=rng)
    adjusted = size_effects.adjusted_size_effect(rows)
    null = equal_gains(rows, rng=rng)
    slope = f"{adjusted.text()} points" if not math.isnan(adjusted.value) else adjusted.reason
    reason = (
        f"rho {-falls.statistic:+.2f} over students, {-logit.statistic:+.2f} on the logit scale "
        f"(p = {logit.p_greater:.2g}); if all gained alike, rho would lie in [{null.low:+.2f}, "
        f"{null.high:+.2f}]; doubling the size at one baseline: {slope}; "
        f"smallest possible p {falls.smallest_p / 2:.2g}"
    )
    if task in evidence.contaminated:
        reason += "; its test questions are in the training set"
    is_more_than_headroom = (
        logit.p_greater < ALPHA
        and adjusted.value < 0
        and null.observed.statistic < null.low
        and all(_direction(part) < 0 for _, part in means.groupby("family", sort=False))
    )
    return replace(case, reason=reason, holds=is_more_than_headroom)


def _direction(family: pd.DataFrame) -> float:
    """Spearman's rho of size and gain in one family, of two students -1 or 1; -1 where all have one size."""
    if family["student_parameters"].nunique() < 2:
        return -1.0
    if len(family) == 2:
        return -math.copysign(1.0, family["gain"].iloc[0] - family["gain"].iloc[-1])
    sizes = family["student_parameters"].to_numpy(float)
    return float(size_effects.rank_correlations(family[["gain"]].to_numpy().T, sizes)[0])


def equal_gains(rows: pd.DataFrame, *, rng: np.random.Generator) -> size_effects.EqualGainNull:
    """The rank correlation of size and gain in points were all gains equal on the logit scale.

    Of rows of `students.task_gains`; students that lack a task are left out.
    """
    values = ["sft_accuracy", "accuracy"]
    wide = rows.groupby(["student", "student_parameters", "task"], sort=False)[values].mean()
    wide = wide.unstack("task").dropna()
    tasks = wide["accuracy"].columns
    accuracies = np.stack([wide[name][tasks].to_numpy(float) for name in values], axis=-1)
    n_items = rows.groupby("task")["n_items"].first().loc[tasks].to_numpy(int)
    sizes = wide.index.get_level_values("student_parameters").astype(float)
    return size_effects.null_of_equal_gain(accuracies, n_items, sizes, scale="logit", rng=rng)


# --- T1, T2: a better teacher -------------------------------------------------------------------------------


def better_teacher_authors(evidence: Evidence, *, domain: str, margin: float) -> Finding:
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
) -> Case:
    rows = students.task_gains(evidence, domain).dropna(subset=["teacher_accuracy"])
    values = ["gain", "teacher_accuracy"]
    pairs = rows.groupby(PAIR, sort=False)[values].mean().reset_index()
    pairs = pairs[pairs.groupby("student")["teacher"].transform("size") > 1]
    n_students = pairs["student"].nunique()
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
    as_units = f"teachers as units ({pairs['teacher'].nunique()}): {ranked}"
    error = 1 / math.sqrt(n_free - 1)
    reach = error * scipy.stats.norm.ppf([1 - ALPHA, student_tests.POWER]).sum()
    return Case(
        reason=f"r {interval.text(2)} within students ({what}); {as_units}",
        interval=interval,
        p_value=p_of_less(r, margin, error=error),
        n=len(pairs),
        minimum_detectable=math.tanh(math.atanh(margin) - reach),
        is_against=interval.low > margin,
    )


def p_of_less(r: float, margin: float, *, error: float) -> float:
    """One-sided p of a true correlation of `margin` or more, by Fisher's z; NaN at |r| = 1."""
    if not abs(r) < 1:
        return math.nan
    return float(scipy.stats.norm.sf((math.atanh(margin) - math.atanh(r)) / error))


# --- T3: an untuned teacher ---------------------------------------------------------------------------------


def untuned_teacher_authors(evidence: Evidence, *, printed: float) -> Finding:
    table = items.averages(gain_tables.teacher_tuning(evidence.cells))
    present(table, "runs with an untuned teacher")
    top = table.loc[table["cost"].idxmax()]
    mean = intervals.mean_interval(table["cost"])
    return Finding(
        verdict=decide(top["cost"] >= printed),
        reason=f"largest cost {top['cost']:.1f} points ({top['teacher']} to {top['student']}, "
        f"{top['domain']} average); mean {mean.text(signed=False)} over {len(table)} pairs x domains",
        estimate=float(top["cost"]),
        n=len(table),
    )


def untuned_teacher_stricter(evidence: Evidence, *, printed: float) -> Case:
    cells = gain_tables.mean_over_seeds(gain_tables.tuned_and_untuned(evidence.cells))
    is_asked = (cells["task"] != AVERAGE) & ~cells["task"].isin(evidence.contaminated)
    runs = cells[is_asked].set_index(["domain", "task", "teacher", "student", "teacher_tuned"])
    both = runs[["accuracy", "accuracy_se"]].unstack("teacher_tuned").dropna()
    present(both if len(both.columns) == 4 else both.head(0), "runs with an untuned teacher")
    costs_of_tasks = both["accuracy", True] - both["accuracy", False]
    squares = (both["accuracy_se"] ** 2).sum(axis=1)
    by_pair = ["domain", "teacher", "student"]
    costs = costs_of_tasks.groupby(by_pair, sort=False).mean()
    errors = squares.groupby(by_pair, sort=False).sum() ** 0.5 / squares.groupby(by_pair, sort=False).size()
    interval = students.largest(costs, errors)
    domain, teacher, student = costs.idxmax()
    return Case(
        reason=f"largest cost {interval.text()} points over {len(costs)} pairs x domains "
        f"at once ({teacher} to {student}, {domain} average), mean {costs.mean():.1f}; printed {printed:g}",
        interval=interval,
        holds=interval.low > printed,
        is_against=interval.high < printed,
        by_interval=True,
    )


def untuned_teacher_items(evidence: Evidence, *, printed: float) -> Finding:
    costs = items.averages(item_gains.tuning_costs(evidence.items.scored))
    present(costs, "runs with an untuned teacher")
    top = costs.loc[costs["difference"].idxmax()]
    is_met = top["low"] > 0 and top["difference"] >= printed
    parts = ", ".join(f"{row.domain} {items.range_words(row)}" for row in costs.itertuples())
    text = f"cost in points: {parts}; another pair may pay more"
    return items.of_row(evidence, top, decide(is_met, False), text)


RULES = {
    "size_effect": Rules(size_effect_authors, size_effect_stricter),
    "better_teacher": Rules(better_teacher_authors, better_teacher_stricter),
    "untuned_teacher": Rules(untuned_teacher_authors, untuned_teacher_stricter, untuned_teacher_items),
}
