"""The stricter judges of teachers, agreement and fidelity (T*, A*, F*).

Each returns a Case; p values are corrected and verdicts given in `strict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims import authors_rules
from kdutils.claims.evidence import NOT_REPRODUCED, REPRODUCED, Evidence
from kdutils.claims.student_units import (
    STUDENT,
    Case,
    back_from_limit,
    by_family,
    detectable,
    detectable_correlation,
    in_words,
    interval_words,
    largest,
    mean_of_students,
    rises,
    student_means,
    task_gains,
    undefined,
)
from kdutils.constants import AVERAGE, DOMAIN_LABELS, PAPER_METHODS, TASK_LABELS
from kdutils.inference import intervals, student_tests
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity, gain_tables

FEWEST_PAIRS = 5  # of a partial rank correlation: its error has n - 4 in it
PAIR = [*STUDENT, "teacher"]


def better_teacher(evidence: Evidence, *, rng: np.random.Generator, domain: str, margin: float) -> Case:
    """The correlation of gain and teacher accuracy within students, against the margin."""
    rows = task_gains(evidence, domain).dropna(subset=["teacher_accuracy"])
    pairs = rows.groupby(PAIR, sort=False)[["gain", "teacher_accuracy"]].mean().reset_index()
    pairs = pairs[pairs.groupby("student")["teacher"].transform("size") > 1]
    n_students, n_teachers = pairs["student"].nunique(), pairs["teacher"].nunique()
    n_free = len(pairs) - n_students - 1
    what = f"{len(pairs)} pairs of {n_students} students with several teachers"
    if n_free < 2:
        return undefined(f"{what}: too few to correlate within students")
    values = ["gain", "teacher_accuracy"]
    within = pairs[values] - pairs.groupby("student")[values].transform("mean")
    if not (within.abs().max() > 1e-9).all():
        return undefined(f"{what}: gain or teacher accuracy does not vary within students")
    # Of residuals, with a degree of freedom less for each student: the correlation for repeated measures of
    # Bland and Altman (1995).
    r = float(np.corrcoef(within["gain"], within["teacher_accuracy"])[0, 1])
    interval = intervals.pearson_interval(r, n_free + 2)
    teachers = student_tests.cluster_permutation(
        pairs["teacher_accuracy"], within["gain"], pairs["teacher"], blocks=pairs["family"], rng=rng
    )
    ranked = teachers.reason or f"rho {teachers.statistic:+.2f}, p = {teachers.p_value:.2g}"
    return Case(
        reason=f"r {interval_words(interval, digits=2)} within students ({what}); teachers as units "
        f"({n_teachers}): {ranked}",
        estimate=r,
        low=interval.low,
        high=interval.high,
        p_value=_p_below(r, margin, error=1 / math.sqrt(n_free - 1)),
        n=len(pairs),
        minimum_detectable=detectable_correlation(n_free + 2),
        is_against=interval.low > margin,
    )


def _p_below(r: float, margin: float, *, error: float) -> float:
    """One-sided p of a true correlation of `margin` or more, by Fisher's z; NaN at |r| = 1."""
    if not abs(r) < 1:
        return math.nan
    return float(scipy.stats.norm.sf((math.atanh(margin) - math.atanh(r)) / error))


def untuned_teacher(evidence: Evidence, *, rng: np.random.Generator, printed: float) -> Case:
    """The largest true cost of an untuned teacher, with an interval that knows it was picked."""
    cells = gain_tables.mean_over_seeds(evidence.cells)
    is_asked = (cells["method"] == "fkl") & (cells["temperature"] == 1.0) & (cells["noise_sigma"] == 0.0)
    is_asked &= (cells["task"] != AVERAGE) & ~cells["task"].isin(evidence.contaminated)
    keys = ["domain", "task", "teacher", "student", "teacher_tuned"]
    runs = cells[is_asked].set_index(keys)
    tables = {
        name: runs[name].unstack("teacher_tuned").reindex(columns=[True, False]).dropna()
        for name in ("accuracy", "accuracy_se")
    }
    both = tables["accuracy"].index.intersection(tables["accuracy_se"].index)
    if both.empty:
        return undefined("there are no runs with an untuned teacher in these results")
    accuracy, errors = (tables[name].loc[both] for name in tables)
    of_task = pd.DataFrame(
        {"cost": accuracy[True] - accuracy[False], "square": (errors**2).sum(axis=1)}
    ).groupby(["domain", "teacher", "student"], sort=False)
    costs, error = of_task["cost"].mean(), of_task["square"].sum() ** 0.5 / of_task.size()
    interval = largest(costs, error)
    domain, teacher, student = costs.idxmax()
    return Case(
        reason=f"largest cost {interval_words(interval)} points over {len(costs)} pairs x domains at once "
        f"({teacher} to {student}, {domain} average), mean {costs.mean():.1f}; printed {printed:g}",
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        n=len(costs),
        holds=interval.low > printed,
        is_against=interval.high < printed,
        by_interval=True,
    )


def likeness_rise(
    evidence: Evidence, *, rng: np.random.Generator, measure: str, domains: Sequence[str]
) -> Case:
    """How much more like its teacher a student is after KD than after SFT, in every domain."""
    found, families, means = {}, {}, {}
    for domain in domains:
        rows = rises(evidence, domain, measure)
        if rows.empty:
            continue
        means[domain] = student_means(rows, ["rise"])
        found[domain] = mean_of_students(means[domain], "rise")
        families |= {f"{name} {domain}": rise for name, rise in by_family(means[domain], "rise").items()}
    if not found:
        return undefined(f"there is no {measure} of SFT and KD students in these results")
    if lacking := [domain for domain in found if math.isnan(found[domain].p_greater)]:
        return undefined(f"{lacking[0]}: {found[lacking[0]].n} students: {found[lacking[0]].reason}")
    least = found[min(found, key=lambda domain: found[domain].value)]
    texts = [f"{domain} {interval_words(estimate)}" for domain, estimate in found.items()]
    return Case(
        reason=f"rise over students, points: {', '.join(texts)} ({in_words(families)})",
        estimate=least.value,
        low=least.low,
        high=least.high,
        p_value=max(estimate.p_greater for estimate in found.values()),
        n=least.n,
        minimum_detectable=max(detectable(part["rise"]) for part in means.values()),
        holds=all(rise > 0 for rise in families.values()),
        is_against=all(estimate.high < 0 for estimate in found.values()),
    )


def likeness_and_gain(
    evidence: Evidence,
    *,
    rng: np.random.Generator,
    measure: str,
    domains: Sequence[str],
    margin: float,
    may_be_weak: bool,
) -> Case:
    """The partial rank correlation of gain and rise of likeness over pairs, given SFT accuracy."""
    found: dict[str, Estimate] = {}
    p_values = {}
    for domain in domains:
        rows = rises(evidence, domain, measure)
        pairs = rows.groupby(PAIR, sort=False)[["gain", "rise", "sft_accuracy"]].mean()
        if len(pairs) < FEWEST_PAIRS:
            return undefined(f"{DOMAIN_LABELS[domain]}: {len(pairs)} pairs with {measure}")
        rho = partial_rank_correlation(pairs["gain"], pairs["rise"], pairs["sft_accuracy"])
        found[domain] = intervals.spearman_interval(
            rho, len(pairs) - 1
        )  # one point less for what is controlled
        error = math.sqrt((1 + rho**2 / 2) / (len(pairs) - 4))
        p_values[domain] = _p_below(abs(rho), margin, error=error)  # the larger of the two one-sided tests
    if any(math.isnan(p) for p in p_values.values()):
        return undefined("the correlation is perfect or undefined")
    widest = max(found, key=lambda domain: abs(found[domain].value))
    texts = [f"{domain} {interval_words(each, digits=2)}" for domain, each in found.items()]
    if may_be_weak:
        is_against = any(each.low > margin or each.high < -margin for each in found.values())
    else:
        is_against = any(each.low > 0 or each.high < 0 for each in found.values())
    n = min(each.n for each in found.values()) + 1
    return Case(
        reason=f"partial rho of gain and rise over {n} pairs: {', '.join(texts)}; pairs share students, so "
        "the intervals are too narrow if anything",
        estimate=found[widest].value,
        low=found[widest].low,
        high=found[widest].high,
        p_value=max(p_values.values()),
        n=n,
        minimum_detectable=detectable_correlation(n, n_controlled=1),
        is_against=is_against,
    )


def partial_rank_correlation(x: pd.Series, y: pd.Series, given: pd.Series) -> float:
    """Spearman's rho of x and y at equal `given`; NaN where one of them is constant or a rank of `given`."""
    ranks = [scipy.stats.rankdata(each) for each in (x, y, given)]
    if any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    r = np.corrcoef(ranks)
    spread = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    if not spread > 1e-12:
        return math.nan
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt(spread))


def agreement_as_printed(
    evidence: Evidence, *, rng: np.random.Generator, task: str, printed: float, below: float
) -> Case:
    """The authors' rule, which is about a fact, and the exact interval over items of the agreement."""
    found = authors_rules.agreement_of_small_students(evidence, task=task, printed=printed, below=below)
    if math.isnan(found.estimate):
        return undefined(found.reason)
    n_items = int(evidence.cells.loc[evidence.cells["task"] == task, "n"].max())
    interval = intervals.share_interval(found.estimate / 100 * n_items, n_items)
    return Case(
        reason=f"{found.reason}; over {n_items} items [{interval.low:.1f}, {interval.high:.1f}]",
        estimate=found.estimate,
        low=interval.low,
        high=interval.high,
        n=n_items,
        holds=found.verdict == REPRODUCED,
        is_against=found.verdict == NOT_REPRODUCED,
        by_interval=True,
    )


def feeble_link(evidence: Evidence, *, rng: np.random.Generator, task: str, margin: float) -> Case:
    """The mean |r| of being right with likeness to the teacher, over students, against the margin."""
    runs = agreement_fidelity.right_and_alike(evidence.cells)
    runs = runs[(runs["task"] == task) & runs["method"].isin(PAPER_METHODS)]
    if runs.empty:
        return undefined(f"there are no {TASK_LABELS[task]} items of KD students beside their teachers'")
    means = student_means(runs.assign(size=runs["fidelity_correct_r"].abs()), ["size"])
    means["below"] = margin - means["size"]
    found = mean_of_students(means, "below")
    if math.isnan(found.p_greater):
        return undefined(f"{found.n} students: {found.reason}")
    interval = back_from_limit(found, margin, is_below=True)
    return Case(
        reason=f"mean |r| over students {interval_words(interval, digits=2)} on {TASK_LABELS[task]}, "
        f"of one student {means['size'].min():.2f} to {means['size'].max():.2f}",
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=found.p_greater,
        n=found.n,
        minimum_detectable=detectable(means["size"]),
        is_against=interval.low > margin,
    )
