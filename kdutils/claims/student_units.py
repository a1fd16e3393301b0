"""What the stricter judges look at: students as units, and what a judge hands back.

A student is one observation however many teachers, methods and tasks it had: its runs share its baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims.evidence import Evidence
from kdutils.constants import AVERAGE, DOMAIN_LABELS, TASK_LABELS
from kdutils.inference import student_tests
from kdutils.inference.estimate import Estimate

CONFIDENCE, POWER = 0.95, 0.8
STUDENT = ["family", "student", "student_parameters"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a stricter judge found, before p values are corrected and the verdict is given."""

    reason: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan  # that the claim is wrong; NaN where intervals decide
    n: int | None = None
    minimum_detectable: float = math.nan  # in the claim's unit, found in 80 % of such studies
    holds: bool = True  # all else that `reproduced` asks for
    is_against: bool = False  # what `not_reproduced` asks for
    by_interval: bool = False  # the claim has no p, its interval decides
    is_undefined: bool = False


def undefined(reason: str) -> Case:
    """Nothing to be judged, and why."""
    return Case(reason=reason, is_undefined=True)


def task_gains(evidence: Evidence, domain: str, *, task: str = AVERAGE) -> pd.DataFrame:
    """Gains at temperature 1 (Evidence.plain_gains) on the tasks that stand for a domain, or on one task.

    For AVERAGE the rows of all its tasks that are not in the training set.
    """
    gains = evidence.plain_gains
    gains = gains[(gains["domain"] == domain) & (gains["task"] != AVERAGE)].dropna(subset=["gain"])
    return gains[gains["task"] == task if task != AVERAGE else ~gains["task"].isin(evidence.contaminated)]


def contaminated_gains(evidence: Evidence, domain: str) -> pd.DataFrame:
    """The same on the tasks whose test questions are in the training set."""
    gains = evidence.plain_gains
    gains = gains[(gains["domain"] == domain) & gains["task"].isin(evidence.contaminated)]
    return gains.dropna(subset=["gain"])


def student_means(rows: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """One row a student, small ones first: STUDENT and the means of `values` over its rows.

    Rows of a task are averaged first, then tasks, so that a task with more runs does not count more.
    """
    by_task = rows.groupby([*STUDENT, "task"], sort=False)[values].mean()
    means = by_task.groupby(STUDENT, sort=False).mean().reset_index()
    return means.sort_values(["student_parameters", "student"], kind="stable").reset_index(drop=True)


def mean_of_students(means: pd.DataFrame, value: str) -> Estimate:
    """Mean over students with families as blocks: estimate, interval and one-sided p."""
    return student_tests.student_mean_test(means, value, unit="student", block="family")


def back_from_limit(found: Estimate, limit: float, *, is_below: bool) -> Estimate:
    """The interval of values, from that of their distance to a limit that they lie below, or above."""
    if is_below:
        return Estimate(limit - found.value, limit - found.high, limit - found.low, n=found.n)
    return Estimate(limit + found.value, limit + found.low, limit + found.high, n=found.n)


def rises(evidence: Evidence, domain: str, measure: str) -> pd.DataFrame:
    """Rows of `task_gains` with a likeness before and after KD, and `rise`, after less before."""
    rows = task_gains(evidence, domain).dropna(subset=[measure, f"{measure}_sft"])
    return rows.assign(rise=rows[measure] - rows[f"{measure}_sft"])


def detectable(values: Iterable[float]) -> float:
    """The mean that is found in 80 % of studies with that many students of that spread; NaN if undefined."""
    return student_tests.equivalence(values, margin=1.0).minimum_detectable


def detectable_correlation(n: int, *, n_controlled: int = 0) -> float:
    """The correlation that is found in 80 % of studies of n points (Fisher's z, two-sided); NaN for few."""
    n_free = n - 3 - n_controlled
    if n_free < 1:
        return math.nan
    normal = scipy.stats.norm.ppf
    return float(np.tanh((normal(0.5 + CONFIDENCE / 2) + normal(POWER)) / math.sqrt(n_free)))


def largest(values: pd.Series, errors: pd.Series) -> Estimate:
    """The largest true value of several, with an interval that knows it was picked (Bonferroni).

    With a chance of 95 % every true value lies within its own widened interval; the largest then lies between
    the largest of the lower bounds and the largest of the upper ones.
    """
    width = scipy.stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * len(values))) * errors
    low, high = float((values - width).max()), float((values + width).max())
    return Estimate(float(values.max()), low, high, n=len(values))


def by_family(means: pd.DataFrame, value: str) -> dict[str, float]:
    """Mean over the students of each family."""
    return means.groupby("family", sort=False)[value].mean().to_dict()


def in_words(values: dict[str, float], *, digits: int = 1) -> str:
    """`math +1.2, commonsense −0.3`, of values by name."""
    return ", ".join(f"{name} {value:+.{digits}f}" for name, value in values.items())


def interval_words(found: Estimate, *, digits: int = 1) -> str:
    """`+1.2 [−0.3, +2.7]`; the estimate alone where there is no interval."""
    if math.isnan(found.low):
        return f"{found.value:+.{digits}f}"
    return f"{found.value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def where(domain: str, task: str) -> str:
    """`math average` or the task's label, in a sentence."""
    return f"{DOMAIN_LABELS[domain].lower()} average" if task == AVERAGE else TASK_LABELS[task]
