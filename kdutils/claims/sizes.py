"""Gain and student size (S*): does the gain fall with size, and is it more than headroom."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from kdutils.claims import students
from kdutils.claims.evidence import Evidence, Rules
from kdutils.claims.finding import ALPHA, Finding, decide, finding, present
from kdutils.constants import AVERAGE, DOMAIN_LABELS, TASK_LABELS
from kdutils.inference import intervals, size_effects


def size_effect_authors(
    evidence: Evidence, *, domain: str, task: str, printed: float, printed_p: float
) -> Finding:
    """Spearman of gain with student size.

    Released results: reproduced if rho equals the printed value to two decimals and p lies on the same
    side of 0.05; inconclusive if only rho does. Live results, where no value can be equal: reproduced if
    sign and side agree, inconclusive if only the sign does. Otherwise not_reproduced.
    """
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


def size_effect_stricter(
    evidence: Evidence, *, rng: np.random.Generator, domain: str, task: str
) -> students.Case:
    """The rank correlation of mean gain and size within families, and whether headroom explains it."""
    where = f"{DOMAIN_LABELS[domain].lower()} average" if task == AVERAGE else TASK_LABELS[task]
    rows = present(students.task_gains(evidence, domain, task=task), f"gains on {where}")
    means = students.student_means(rows, ["gain", "logit_gain"])
    (falls, logit), rises = students.falls_with_size(means, ["gain", "logit_gain"], rng=rng)
    adjusted = size_effects.adjusted_size_effect(rows).points
    null = equal_gains(rows, rng=rng)
    rho = -falls.statistic
    slope = f"{adjusted.text()} points" if not math.isnan(adjusted.value) else adjusted.reason
    reason = (
        f"rho {rho:+.2f} over students, {-logit.statistic:+.2f} on the logit scale "
        f"(p = {logit.p_greater:.2g}); if all gained alike, rho would lie in [{null.low:+.2f}, "
        f"{null.high:+.2f}]; doubling the size at one baseline: {slope}; "
        f"smallest possible p {falls.smallest_p / 2:.2g}"
    )
    if task in evidence.contaminated:
        reason += "; its test questions are in the training set"
    return students.Case(
        reason=reason,
        interval=intervals.spearman_interval(rho, len(means)),
        p_value=falls.p_greater,
        n=falls.n,
        minimum_detectable=students.detectable_correlation(len(means)),
        holds=logit.p_greater < ALPHA
        and adjusted.value < 0
        and null.observed.statistic < null.low
        and all(_direction(part) < 0 for _, part in means.groupby("family", sort=False)),
        is_against=rises.p_greater < ALPHA,
    )


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


RULES = {"size_effect": Rules(size_effect_authors, size_effect_stricter)}
