"""The stricter judges of gains and size (E*, S*): what declared.toml says of their tests, computed.

Each returns a Case; p values are corrected and verdicts given in `strict`.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.claims.evidence import ALPHA, Evidence, who
from kdutils.claims.student_units import (
    Case,
    by_family,
    contaminated_gains,
    detectable,
    detectable_correlation,
    in_words,
    interval_words,
    largest,
    mean_of_students,
    student_means,
    task_gains,
    undefined,
    where,
)
from kdutils.constants import AVERAGE, DOMAIN_LABELS, DOMAINS, METHOD_NAMES
from kdutils.inference import intervals, student_tests
from kdutils.inference.estimate import Estimate


def gain_of_students(evidence: Evidence, *, rng: np.random.Generator, domain: str) -> Case:
    """The mean gain over students, in points; the logit scale and each family must agree in sign."""
    rows = task_gains(evidence, domain)
    if rows.empty:
        return undefined(f"there are no {DOMAIN_LABELS[domain]} gains in these results")
    means = student_means(rows, ["gain", "logit_gain"])
    found = mean_of_students(means, "gain")
    if math.isnan(found.p_greater):
        return undefined(f"{found.n} students: {found.reason}")
    flips, families = student_tests.sign_flip(means["gain"], rng=rng), by_family(means, "gain")
    logit = float(means["logit_gain"].mean()) if domain in DOMAINS else math.nan
    parts = [f"sign flips p = {flips.p_greater:.2g}", in_words(families)]
    if domain in DOMAINS:
        parts.insert(0, f"logit {logit:+.2f}")
    reason = f"mean over students {interval_words(found)} points ({'; '.join(parts)})"
    apart = contaminated_gains(evidence, domain)
    if len(apart):
        memory = mean_of_students(student_means(apart, ["gain"]), "gain")
        reason += f"; on the tasks of the training set {interval_words(memory)}"
    return Case(
        reason=reason,
        estimate=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_greater,
        n=found.n,
        minimum_detectable=detectable(means["gain"]),
        holds=all(value > 0 for value in families.values()) and not logit <= 0,
        is_against=found.high < 0,
    )


def average_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Gains of pairs x methods on the tasks of `rows` together, with errors: tasks taken as independent."""
    keys = ["domain", "family", "teacher", "student", "student_parameters", "method"]
    squares = rows.assign(square=rows["gain_se"] ** 2).groupby(keys, sort=False)
    table = squares["gain"].mean().reset_index().assign(task=AVERAGE)
    table["gain_se"] = (squares["square"].sum() ** 0.5 / squares.size()).to_numpy()
    return table


def largest_gain(
    evidence: Evidence,
    *,
    rng: np.random.Generator,
    printed: float,
    margin: float,
    single_task: bool,
    below: float = math.inf,
) -> Case:
    """The largest true gain, with an interval that knows it was picked."""
    rows = pd.concat([task_gains(evidence, domain) for domain in DOMAINS])
    cells = rows if single_task else average_cells(rows)
    cells = cells[cells["student_parameters"] < below].dropna(subset=["gain_se"]).reset_index(drop=True)
    if cells.empty:
        return undefined("there are no gains of such students in these results")
    top = cells.loc[cells["gain"].idxmax()]
    interval = largest(cells["gain"], cells["gain_se"])
    alone = 1.96 * top["gain_se"]
    reason = (
        f"{interval_words(interval)} over {len(cells)} cells at once, {top['gain'] - alone:+.1f} to "
        f"{top['gain'] + alone:+.1f} had it not been picked: {who(top)}, temperature 1"
    )
    apart = pd.concat([contaminated_gains(evidence, domain) for domain in DOMAINS])
    if single_task and len(apart):
        memory = apart.loc[apart["gain"].idxmax()]
        reason += f"; on the tasks of the training set {memory['gain']:+.1f}: {who(memory)}"
    return _magnitude(interval, printed=printed, margin=margin, reason=reason)


def gain_of_largest_student(
    evidence: Evidence, *, rng: np.random.Generator, printed: float, margin: float
) -> Case:
    """What the largest student gains: its items are the sample, its baseline counts once a domain."""
    rows = pd.concat([task_gains(evidence, domain) for domain in DOMAINS])
    rows = rows[rows["student_parameters"] == rows["student_parameters"].max()]
    if rows.empty or rows[["accuracy_se", "sft_accuracy_se"]].isna().any(axis=None):
        return undefined("there are no average gains with a standard error in these results")
    names = {"own": ("accuracy_se", "seed_se"), "baseline": ("sft_accuracy_se", "sft_seed_se")}
    for name, (items, seeds) in names.items():
        rows = rows.assign(**{name: rows[items] ** 2 + rows[seeds].fillna(0.0) ** 2})
    by_task = rows.groupby(["student", "domain", "task"], sort=False)
    tasks = pd.DataFrame({"gain": by_task["gain"].mean(), "n": by_task.size()})
    tasks["square"] = by_task["own"].sum() / tasks["n"] ** 2 + by_task["baseline"].first()
    by_domain = tasks.groupby(["student", "domain"], sort=False)
    means = by_domain["gain"].mean()
    square = float((by_domain["square"].sum() / by_domain.size() ** 2).sum()) / len(means) ** 2
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(square)
    mean = float(means.mean())
    interval = Estimate(mean, mean - half, mean + half, n=rows["student"].nunique())
    named = ", ".join(rows["student"].unique())
    by = means.groupby("domain", sort=False).mean().to_dict()
    reason = f"{named}: {interval_words(interval)} points over its items ({in_words(by)}), temperature 1"
    return _magnitude(interval, printed=printed, margin=margin, reason=reason)


def _magnitude(interval: Estimate, *, printed: float, margin: float, reason: str) -> Case:
    """A size against the printed one: near it, away from it, or too blurred to tell."""
    meets = interval.low <= printed + margin and interval.high >= printed - margin
    return Case(
        reason=f"{reason}; printed {printed:g}",
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        holds=meets and interval.low > printed / 2 and interval.high < 2 * printed,
        is_against=not meets,
        by_interval=True,
    )


def methods_alike(evidence: Evidence, *, rng: np.random.Generator, domain: str, margin: float) -> Case:
    """The three methods within students: a difference by repeated measures, likeness by equivalence."""
    rows = task_gains(evidence, domain)
    if rows.empty:
        return undefined(f"there are no {DOMAIN_LABELS[domain]} gains in these results")
    table = rows.groupby(["student", "method"], sort=False)["gain"].mean()
    wide = table.unstack("method").dropna()
    measured = student_tests.repeated_measures(
        table.reset_index(), value="gain", within="method", subject="student"
    )
    differences = {(one, two): wide[one] - wide[two] for one, two in combinations(wide, 2)}
    each = {names: student_tests.equivalence(part, margin=margin) for names, part in differences.items()}
    if not each or any(found.reason for found in each.values()):
        reasons = [found.reason for found in each.values() if found.reason]
        return undefined(measured.reason or (reasons[0] if reasons else "fewer than two methods"))
    widest = max(each, key=lambda names: abs(each[names].estimate))
    interval = intervals.mean_interval(differences[widest])
    texts = [
        f"{METHOD_NAMES[one]} less {METHOD_NAMES[two]} {interval_words(intervals.mean_interval(part))}"
        for (one, two), part in differences.items()
    ]
    return Case(
        reason=f"points over students: {', '.join(texts)}; repeated measures p = {measured.p_corrected:.2g}",
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=max(found.p_value for found in each.values()),
        n=len(wide),
        minimum_detectable=max(found.minimum_detectable for found in each.values()),
        is_against=measured.p_corrected < ALPHA,
    )


def size_effect(evidence: Evidence, *, rng: np.random.Generator, domain: str, task: str) -> Case:
    """The rank correlation of mean gain and size within families, and whether headroom explains it."""
    rows = task_gains(evidence, domain, task=task)
    if rows.empty:
        return undefined(f"there are no gains on {where(domain, task)} in these results")
    means = student_means(rows, ["gain", "logit_gain"])
    size, families = means["student_parameters"].astype(float), means["family"]
    falls, rises, logit = (
        student_tests.rank_permutation(size, sign * means[value], blocks=families, rng=rng)
        for sign, value in ((-1, "gain"), (1, "gain"), (-1, "logit_gain"))
    )
    if math.isnan(falls.p_greater):
        return undefined(f"{len(means)} students: {falls.reason}")
    adjusted = student_tests.adjusted_size_effect(rows).points
    null = equal_gains(rows, rng=rng)
    alone = [
        student_tests.rank_permutation(
            part["student_parameters"].astype(float), part["gain"], rng=rng
        ).statistic
        if len(part) > 2
        else -math.copysign(1.0, part["gain"].iloc[0] - part["gain"].iloc[-1])
        for _, part in means.groupby("family", sort=False)
        if part["student_parameters"].nunique() > 1
    ]
    rho = -falls.statistic
    interval = intervals.spearman_interval(rho, len(means))
    slope = f"{interval_words(adjusted)} points" if not math.isnan(adjusted.value) else adjusted.reason
    if_equal = f"if all gained alike, rho would lie in [{null.low:+.2f}, {null.high:+.2f}]"
    reason = (
        f"rho {rho:+.2f} over students, {-logit.statistic:+.2f} on the logit scale "
        f"(p = {logit.p_greater:.2g}); {if_equal}; doubling the size at one baseline: {slope}; "
        f"smallest possible p {falls.smallest_p / 2:.2g}"
    )
    if task in evidence.contaminated:
        reason += "; its test questions are in the training set"
    return Case(
        reason=reason,
        estimate=rho,
        low=interval.low,
        high=interval.high,
        p_value=falls.p_greater,
        n=falls.n,
        minimum_detectable=detectable_correlation(len(means)),
        holds=logit.p_greater < ALPHA
        and adjusted.value < 0
        and null.observed.statistic < null.low
        and all(value < 0 for value in alone),
        is_against=rises.p_greater < ALPHA,
    )


def equal_gains(rows: pd.DataFrame, *, rng: np.random.Generator) -> student_tests.EqualGainNull:
    """The rank correlation of size and gain in points were all gains equal on the logit scale.

    Of rows of `task_gains`; students that lack a task are left out.
    """
    values = ["sft_accuracy", "accuracy"]
    keys = ["student", "student_parameters"]
    wide = rows.groupby([*keys, "task"], sort=False)[values].mean().unstack("task").dropna()
    tasks = wide["accuracy"].columns
    accuracies = np.stack([wide[name][tasks].to_numpy(float) for name in values], axis=-1)
    n_items = rows.groupby("task")["n_items"].first().loc[tasks].to_numpy(int)
    sizes = wide.index.get_level_values("student_parameters").astype(float)
    return student_tests.null_of_equal_gain(accuracies, n_items, sizes, scale="logit", rng=rng)
