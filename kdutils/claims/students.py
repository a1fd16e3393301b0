"""The stricter analysis: students as units, what its rules hand back, and how that becomes a verdict.

A student is one observation however many teachers, methods and tasks it had: its runs share its baseline.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims.evidence import ALPHA, INCONCLUSIVE, Evidence, Finding, NotTestableError, decide, finding
from kdutils.constants import AVERAGE
from kdutils.inference import intervals, resampling, student_tests
from kdutils.inference.estimate import Estimate, Tested

CONFIDENCE = 0.95
STUDENT = ["family", "student", "student_parameters"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a stricter rule found, before p values are corrected and the verdict is given."""

    reason: str
    interval: Estimate  # in the claim's unit
    p_value: float = math.nan  # that the claim is wrong; NaN where intervals decide
    n: int | None = None  # units behind it; that of the interval where none is given
    smallest_p: float = 0.0  # that the test could have given
    minimum_detectable: float = math.nan  # in the claim's unit, found in 80 % of such studies, before Holm
    holds: bool = True  # all else that `reproduced` asks for
    is_against: bool = False  # what `not_reproduced` asks for
    by_interval: bool = False  # the claim has no p, its interval decides


def corrected(cases: dict[str, Case | Finding], sections: dict[str, str]) -> dict[str, Finding]:
    """Verdicts by claim id. Holm counts the claims of a section that have a p, so give whole sections.

    A claim is reproduced where p after Holm is below 0.05 and all else holds that was declared; not
    reproduced where its opposite is shown; else inconclusive. A finding (not testable) stays as it is.
    """
    names = ["p_value", "smallest_p"]
    p_values = {claim: [getattr(case, name, math.nan) for name in names] for claim, case in cases.items()}
    raw = pd.DataFrame.from_dict(p_values, orient="index", columns=names, dtype=float)
    raw.loc[raw["p_value"].isna()] = math.nan  # a claim without p is no test
    after_holm = raw.groupby(pd.Series(sections), sort=False).transform(student_tests.holm)
    return {
        claim: case if isinstance(case, Finding) else _judged(case, *after_holm.loc[claim].tolist())
        for claim, case in cases.items()
    }


def _judged(case: Case, p_value: float, smallest_p: float) -> Finding:
    is_shown = case.by_interval or p_value < ALPHA
    verdict = decide(is_shown and case.holds and not case.is_against, case.is_against)
    reason = case.reason
    if not case.by_interval:
        reason += f"; p = {case.p_value:.2g}, {p_value:.2g} after Holm"
    n = case.interval.n if case.n is None else case.n
    if smallest_p >= ALPHA:
        reason += f"; with n = {n} the smallest possible p after Holm is {smallest_p:.2g}, so these data "
        reason += "cannot show it"
    elif verdict == INCONCLUSIVE and not math.isnan(case.minimum_detectable):
        reason += f"; found in 80 % of such studies, before Holm: {case.minimum_detectable:.2g}"
    own = {"raw_p": case.p_value, "minimum_detectable": case.minimum_detectable}
    return finding(case.interval, verdict=verdict, reason=reason, p_value=p_value, n=n, **own)


def task_gains(evidence: Evidence, domain: str, *, task: str = AVERAGE) -> pd.DataFrame:
    """Gains at temperature 1 (Evidence.plain_gains) on the tasks that stand for a domain, or on one task.

    For AVERAGE the rows of all its tasks that are not in the training set.
    """
    gains = evidence.plain_gains
    gains = gains[(gains["domain"] == domain) & (gains["task"] != AVERAGE)].dropna(subset=["gain"])
    return gains[gains["task"] == task if task != AVERAGE else ~gains["task"].isin(evidence.contaminated)]


def contaminated_gains(evidence: Evidence, domains: Iterable[str]) -> pd.DataFrame:
    """Gains at temperature 1 on the tasks whose test questions are in the training set."""
    gains = evidence.plain_gains
    gains = gains[gains["domain"].isin(list(domains)) & gains["task"].isin(evidence.contaminated)]
    return gains.dropna(subset=["gain"])


def rises(evidence: Evidence, domain: str, measure: str) -> pd.DataFrame:
    """Rows of `task_gains` with a likeness before and after KD, and `rise`, after less before."""
    rows = task_gains(evidence, domain).dropna(subset=[measure, f"{measure}_sft"])
    return rows.assign(rise=rows[measure] - rows[f"{measure}_sft"])


def student_means(rows: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """One row a student, small ones first: STUDENT and the means of `values` over its rows.

    Rows of a task are averaged first, then tasks, so that a task with more runs does not count more.
    """
    by_task = rows.groupby([*STUDENT, "task"], sort=False)[values].mean()
    means = by_task.groupby(STUDENT, sort=False).mean().reset_index()
    return means.sort_values(["student_parameters", "student"], kind="stable").reset_index(drop=True)


def by_family(rows: pd.DataFrame, value: str) -> dict[str, float]:
    """Mean over the students of each family."""
    return student_means(rows, [value]).groupby("family", sort=False)[value].mean().to_dict()


def mean_of_students(means: pd.DataFrame, value: str) -> Estimate:
    """Mean over students with families as blocks: estimate, interval and one-sided p."""
    return student_tests.student_mean_test(means, value, unit="student", block="family")


def against_limit(
    rows: pd.DataFrame, value: str, *, limit: float, is_below: bool = False, text: str = ""
) -> Case:
    """Student means against a limit that the claim says they lie above, or below, in every domain.

    The estimate is that of the domain which is least on the claim's side, p the largest. The reason begins
    with `text` and has the interval of each domain; without `text` it has the intervals alone.

    Raises:
        NotTestableError: for a domain whose students give no p.
    """
    if rows.empty:
        raise NotTestableError(f"there are no runs for it in these results: {text}")
    sign = -1 if is_below else 1
    found, shown = {}, {}
    for domain, part in rows.groupby("domain", sort=False):
        means = student_means(part, [value])
        means["beyond"] = sign * (means[value] - limit)
        beyond = mean_of_students(means, "beyond")
        if math.isnan(beyond.p_greater):
            where = f"{text}, {domain}" if text else domain
            raise NotTestableError(f"{where}: {beyond.n} students: {beyond.reason}")
        found[domain] = beyond
        low, high = sorted(limit + sign * bound for bound in (beyond.low, beyond.high))
        shown[domain] = Estimate(limit + sign * beyond.value, low, high, n=beyond.n)
    least = min(found, key=lambda domain: found[domain].value)
    texts = ", ".join(f"{domain} {each.text()}" for domain, each in shown.items())
    return Case(
        reason=f"{text}, over students: {texts}; limit {limit:g}" if text else texts,
        interval=shown[least],
        p_value=max(each.p_greater for each in found.values()),
        minimum_detectable=limit + sign * max(each.minimum_detectable for each in found.values()),
        is_against=all(each.high < 0 for each in found.values()),
    )


def falls_with_size(
    means: pd.DataFrame, values: Sequence[str], *, rng: np.random.Generator
) -> tuple[list[Tested], Case]:
    """Whether values fall with size within families: their rank correlations, and the case of the first.

    The former are of size and minus each value, so p_greater is of a value that falls with size. The case
    has no reason yet; it is against the claim where the first value rises.
    """
    size = means["student_parameters"].astype(float)
    tested = partial(resampling.rank_permutation, size, blocks=means["family"], rng=rng)
    first = tested(-means[values[0]])
    rises = tested(means[values[0]])
    if math.isnan(first.p_greater):
        raise NotTestableError(f"{len(means)} students: {first.reason}")
    case = Case(
        reason="",
        interval=intervals.spearman_interval(-first.statistic, len(means)),
        p_value=first.p_greater,
        n=first.n,
        smallest_p=first.smallest_p / 2,  # one-sided
        is_against=rises.p_greater < ALPHA,
    )
    return [first, *(tested(-means[name]) for name in values[1:])], case


def largest(values: pd.Series, errors: pd.Series) -> Estimate:
    """The largest true value of several, with an interval that knows it was picked (Bonferroni).

    With a chance of 95 % every true value lies within its own widened interval; the largest then lies between
    the largest of the lower bounds and the largest of the upper ones.
    """
    width = scipy.stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * len(values))) * errors
    low, high = float((values - width).max()), float((values + width).max())
    return Estimate(float(values.max()), low, high, n=len(values))
