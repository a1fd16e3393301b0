"""Gains of KD over SFT (E*): does a student gain, how much at most, and do the methods differ.

What each rule asks is in claims.toml, here and in the other theme files.
"""

import math
from dataclasses import replace
from itertools import combinations

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
    lacking,
    named,
    present,
    who,
)
from kdutils.claims.students import Case
from kdutils.constants import AVERAGE, DOMAIN_LABELS, DOMAINS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.inference import intervals, resampling, student_tests
from kdutils.inference.estimate import Estimate
from kdutils.results import item_gains

# --- E1, E2, E3: a student gains ---------------------------------------------------------------------------


def gain_of_students_authors(evidence: Evidence, *, domain: str) -> Finding:
    gains = present(evidence.average_gains(domain), f"{DOMAIN_LABELS[domain]} gains")
    test, interval = intervals.ttest_greater(gains["gain"]), intervals.mean_interval(gains["gain"])
    means = gains.groupby("method", sort=False)["gain"].mean()
    methods = named(means.rename(METHOD_NAMES), "+.2f")
    is_gain = interval.value > 0
    return finding(
        interval,
        verdict=decide(is_gain and test.p_value < ALPHA and (means > 0).all(), not is_gain),
        p_value=test.p_value,
        reason=f"mean gain {interval.value:+.2f} points ({methods}); {int((gains['gain'] > 0).sum())} of "
        f"{len(gains)} gains are above 0; one-sided t p = {test.p_value:.2g}",
    )


def gain_of_students_stricter(evidence: Evidence, *, rng: np.random.Generator, domain: str) -> Case:
    rows = present(students.task_gains(evidence, domain), f"{DOMAIN_LABELS[domain]} gains")
    case = students.against_limit(rows, "gain", limit=0.0)
    means, families = students.student_means(rows, ["gain", "logit_gain"]), students.by_family(rows, "gain")
    logit = float(means["logit_gain"].mean()) if domain in DOMAINS else math.nan
    parts = [f"logit {logit:+.2f}"] if domain in DOMAINS else []
    parts.append(f"sign flips p = {resampling.sign_flip(means['gain'], rng=rng).p_greater:.2g}")
    reason = f"mean over students {case.interval.text()} points "
    reason += f"({'; '.join([*parts, named(families, '+.1f')])})"
    in_training = students.contaminated_gains(evidence, [domain])
    if len(in_training):
        known = students.mean_of_students(students.student_means(in_training, ["gain"]), "gain")
        reason += f"; on the tasks of the training set {known.text()}"
    is_everywhere = all(value > 0 for value in families.values()) and not logit <= 0
    return replace(case, reason=reason, holds=is_everywhere)


def gain_of_students_items(evidence: Evidence, *, domain: str) -> Finding:
    scored = evidence.items.scored
    scored = scored[(scored["domain"] == domain) & scored["method"].isin(["sft", *PAPER_METHODS])]
    whole = items.averages(item_gains.gains(scored, by=items.WHOLE))
    present(whole, f"{DOMAIN_LABELS[domain]} gains")
    each = items.averages(item_gains.gains(scored))
    text, holds = f"gain in points: {items.by_method(each)}", (each["difference"] > 0).all()
    return items.item_finding(evidence, whole, above=0.0, text=text, holds=holds)


# --- E4, E5, E6: how large a gain --------------------------------------------------------------------------


def largest_gain_authors(
    evidence: Evidence, *, printed: float, margin: float, single_task: bool, below: float = math.inf
) -> Finding:
    gains = evidence.gains
    gains = gains[(gains["task"] != AVERAGE) == single_task].dropna(subset=["gain"])
    gains = present(gains[gains["student_parameters"] < below], "gains of such students")
    top = gains.loc[gains["gain"].idxmax()]
    reason = f"{top['gain']:+.2f}: {who(top)}"
    if top["task"] in evidence.contaminated:
        clean = gains[~gains["task"].isin(evidence.contaminated)]
        best = clean.loc[clean["gain"].idxmax()]
        reason += "; its test questions are in the training set, the largest elsewhere is "
        reason += f"{best['gain']:+.2f}: {who(best)}"
    gain, half = float(top["gain"]), 1.96 * float(top["gain_se"])
    interval = Estimate(gain, gain - half, gain + half, n=len(gains))
    return finding(interval, verdict=decide(abs(gain - printed) <= margin), reason=reason)


def largest_gain_stricter(
    evidence: Evidence, *, printed: float, margin: float, single_task: bool, below: float = math.inf
) -> Case:
    cells = pd.concat([students.task_gains(evidence, domain) for domain in DOMAINS])
    if not single_task:  # means over the tasks of each pair and method, which are taken as independent
        keys = ["domain", "family", "teacher", "student", "student_parameters", "method"]
        grouped = cells.assign(square=cells["gain_se"] ** 2).groupby(keys, sort=False)
        cells = grouped["gain"].mean().reset_index().assign(task=AVERAGE)
        cells["gain_se"] = (grouped["square"].sum() ** 0.5 / grouped.size()).to_numpy()
    cells = cells[cells["student_parameters"] < below].dropna(subset=["gain_se"]).reset_index(drop=True)
    present(cells, "gains of such students")
    top = cells.loc[cells["gain"].idxmax()]
    interval, alone = students.largest(cells["gain"], cells["gain_se"]), 1.96 * top["gain_se"]
    reason = (
        f"{interval.text()} over {len(cells)} cells at once, {top['gain'] - alone:+.1f} to "
        f"{top['gain'] + alone:+.1f} had it not been picked: {who(top)}, temperature 1"
    )
    in_training = students.contaminated_gains(evidence, DOMAINS)
    if single_task and len(in_training):
        known = in_training.loc[in_training["gain"].idxmax()]
        reason += f"; on the tasks of the training set {known['gain']:+.1f}: {who(known)}"
    return _against_printed(interval, printed=printed, margin=margin, reason=reason)


def _against_printed(interval: Estimate, *, printed: float, margin: float, reason: str) -> Case:
    """A size against the printed one: near it, away from it, or too uncertain to say."""
    meets = interval.low <= printed + margin and interval.high >= printed - margin
    return Case(
        reason=f"{reason}; printed {printed:g}",
        interval=interval,
        holds=meets and interval.low > printed / 2 and interval.high < 2 * printed,
        is_against=not meets,
        by_interval=True,
    )


def largest_student_authors(evidence: Evidence, *, printed: float, margin: float) -> Finding:
    gains = present(items.averages(evidence.gains).dropna(subset=["gain"]), "average gains")
    top = gains[gains["student_parameters"] == gains["student_parameters"].max()]
    interval = intervals.mean_interval(top["gain"])
    domains = named(top.groupby("domain", sort=False)["gain"].mean(), "+.2f")
    return finding(
        interval,
        verdict=decide(abs(interval.value - printed) <= margin),
        reason=f"{', '.join(top['student'].unique())}: {interval.value:+.2f} points ({domains})",
    )


def largest_student_stricter(evidence: Evidence, *, printed: float, margin: float) -> Case:
    rows = pd.concat([students.task_gains(evidence, domain) for domain in DOMAINS])
    rows = rows[rows["student_parameters"] == rows["student_parameters"].max()]
    if rows.empty or rows[["accuracy_se", "sft_accuracy_se"]].isna().any(axis=None):
        raise lacking("average gains with a standard error")
    for name, prefix in (("own", ""), ("baseline", "sft_")):
        square = rows[f"{prefix}accuracy_se"] ** 2 + rows[f"{prefix}seed_se"].fillna(0.0) ** 2
        rows = rows.assign(**{name: square})
    by_domain = means_and_squares(rows, "gain", ["student", "domain"])
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(float(by_domain["square"].sum()) / len(by_domain) ** 2)
    mean = float(by_domain["mean"].mean())
    interval = Estimate(mean, mean - half, mean + half, n=rows["student"].nunique())
    by = named(by_domain.groupby("domain", sort=False)["mean"].mean(), "+.1f")
    names = ", ".join(rows["student"].unique())
    reason = f"{names}: {interval.text()} points over its items ({by}), temperature 1"
    return _against_printed(interval, printed=printed, margin=margin, reason=reason)


def means_and_squares(rows: pd.DataFrame, value: str, keys: list[str]) -> pd.DataFrame:
    """Mean over tasks of `value`, and its squared standard error, by `keys`: columns mean, square.

    Takes rows with the squared errors `own` and `baseline`; rows of a task share the baseline, whose error
    counts once.
    """
    by_task = rows.groupby([*keys, "task"], sort=False)
    tasks = pd.DataFrame({"mean": by_task[value].mean(), "n": by_task.size()})
    tasks["square"] = by_task["own"].sum() / tasks["n"] ** 2 + by_task["baseline"].first()
    groups = tasks.groupby(keys, sort=False)
    square = groups["square"].sum() / groups.size() ** 2
    return pd.DataFrame({"mean": groups["mean"].mean(), "square": square})


# --- E7, E8: the methods do not differ ---------------------------------------------------------------------


def methods_alike_authors(evidence: Evidence, *, domain: str) -> Finding:
    table = evidence.of("anova_methods", domain=domain)
    overall = items.averages(table).dropna(subset=["p_value"])
    overall = present(overall, f"{DOMAIN_LABELS[domain]} gains of several methods").iloc[0]
    significant = table[(table["task"] != AVERAGE) & (table["p_value"] < ALPHA)]
    tasks = ", ".join(f"{TASK_LABELS[row.task]} (p = {row.p_value:.2g})" for row in significant.itertuples())
    is_different = overall["p_value"] < ALPHA
    return Finding(
        verdict=decide(not tasks and not is_different, is_different),
        reason=f"average: F = {overall['statistic']:.2f}, p = {overall['p_value']:.2g}; single tasks with "
        f"p < {ALPHA}: {tasks or 'none'}",
        estimate=float(overall["statistic"]),
        p_value=float(overall["p_value"]),
        n=int(overall["n"]),
    )


def methods_alike_stricter(evidence: Evidence, *, domain: str, margin: float) -> Case:
    rows = present(students.task_gains(evidence, domain), f"{DOMAIN_LABELS[domain]} gains")
    wide = rows.groupby(["student", "method"], sort=False)["gain"].mean().unstack("method")
    measured = student_tests.repeated_measures(wide)
    wide = wide.dropna()
    pairs = {
        f"{METHOD_NAMES[one]} less {METHOD_NAMES[two]}": wide[one] - wide[two]
        for one, two in combinations(wide, 2)
    }
    tests = [student_tests.equivalence(part, margin=margin) for part in pairs.values()]
    reasons = [test.reason for test in tests if test.reason]
    if reasons or not tests:
        raise NotTestableError(measured.reason or (reasons[0] if reasons else "fewer than two methods"))
    found = {words: intervals.mean_interval(part) for words, part in pairs.items()}
    texts = ", ".join(f"{words} {interval.text()}" for words, interval in found.items())
    return Case(
        reason=f"points over students: {texts}; repeated measures p = {measured.p_value:.2g}",
        interval=max(found.values(), key=lambda interval: abs(interval.value)),
        p_value=max(test.p_value for test in tests),
        n=len(wide),
        minimum_detectable=max(test.minimum_detectable for test in tests),
        is_against=measured.p_value < ALPHA,
    )


def methods_alike_items(evidence: Evidence, *, domain: str, margin: float) -> Finding:
    scored = evidence.items.scored[evidence.items.scored["domain"] == domain]
    two = items.averages(item_gains.method_differences(scored))
    present(two, f"{DOMAIN_LABELS[domain]} gains of several methods")
    together = items.averages(item_gains.method_differences(scored, confidence=1 - ALPHA / len(two)))
    is_different = ((together["low"] > 0) | (together["high"] < 0)).any()
    is_alike = ((two["low"] > -margin) & (two["high"] < margin)).all()
    texts = ", ".join(
        f"{METHOD_NAMES[row.method]} less {METHOD_NAMES[row.other]} {items.range_words(row)}"
        for row in two.itertuples()
    )
    widest = two.loc[two["difference"].abs().idxmax()]
    verdict = decide(is_alike and not is_different, is_different)
    p_value = min(1.0, float(two["p_value"].min()) * len(two))
    return items.of_row(evidence, widest, verdict, f"points: {texts}", p_value=p_value)


RULES = {
    "gain_of_students": Rules(gain_of_students_authors, gain_of_students_stricter, gain_of_students_items),
    "largest_gain": Rules(largest_gain_authors, largest_gain_stricter),
    "largest_student": Rules(largest_student_authors, largest_student_stricter),
    "methods_alike": Rules(methods_alike_authors, methods_alike_stricter, methods_alike_items),
}
