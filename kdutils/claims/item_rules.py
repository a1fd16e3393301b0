"""How a claim is judged on one pair: by intervals over the items of the test set.

The authors' analysis compares pairs. One pair leaves its items, and most claims can be asked of them. One
rule runs through: reproduced where the whole 95% interval lies on the side that the claim names,
not_reproduced where all of it lies on the other, inconclusive between. Nothing is selected on the test items:
temperature 1 stands for a method. A finding speaks of other items of these tasks, not of other pairs or
training seeds. Rules and thresholds were written before any run of real models was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from kdutils.claims.evidence import (
    ALPHA,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Evidence,
    Finding,
    missing,
)
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES, PAPER_METHODS, TASK_LABELS
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity, item_gains

WHOLE = ["domain", "teacher", "student"]  # groups of these hold all methods


def gain_is_positive(evidence: Evidence, *, domain: str) -> Finding:
    """KD less SFT on the same items at temperature 1, domain average, mean over the paper's methods.

    reproduced: its interval lies above 0 and every method's gain is positive; not_reproduced: it lies below
    0; otherwise inconclusive.
    """
    scored = evidence.items.scored
    is_asked = (scored["domain"] == domain) & scored["method"].isin(["sft", *PAPER_METHODS])
    whole = _average(item_gains.gains(scored[is_asked], by=WHOLE))
    if whole.empty:
        return missing(f"{DOMAIN_LABELS[domain]} gains")
    each = _average(item_gains.gains(scored[is_asked]))
    found = _judged(evidence, whole, above=0.0, text=f"gain in points: {_by_method(each)}")
    is_mixed = found.verdict == REPRODUCED and not (each["difference"] > 0).all()
    return replace(found, verdict=INCONCLUSIVE) if is_mixed else found


def methods_do_not_differ(evidence: Evidence, *, domain: str, margin: float) -> Finding:
    """Each two methods on the same items at temperature 1, domain average.

    not_reproduced: an interval leaves out 0 at 95% for all comparisons together (Bonferroni); reproduced:
    every plain 95% interval lies within `margin` points of 0, which shows them to be alike; otherwise
    inconclusive. The estimate is the largest difference, p the smallest after Bonferroni.
    """
    scored = evidence.items.scored[evidence.items.scored["domain"] == domain]
    two = _average(item_gains.method_differences(scored))
    if two.empty:
        return missing(f"{DOMAIN_LABELS[domain]} gains of several methods")
    strict = _average(item_gains.method_differences(scored, confidence=1 - ALPHA / len(two)))
    verdict = INCONCLUSIVE
    if ((strict["low"] > 0) | (strict["high"] < 0)).any():
        verdict = NOT_REPRODUCED
    elif ((two["low"] > -margin) & (two["high"] < margin)).all():
        verdict = REPRODUCED
    texts = [
        f"{METHOD_NAMES[row.method]} less {METHOD_NAMES[row.other]} {_range(row)}" for row in two.itertuples()
    ]
    widest = two.loc[two["difference"].abs().idxmax()]
    p_value = min(1.0, float(two["p_value"].min()) * len(two))
    return _finding(evidence, widest, verdict, f"points: {', '.join(texts)}", p_value=p_value)


def untuned_teacher_costs(evidence: Evidence, *, printed: float) -> Finding:
    """What an untuned teacher costs on the domain average: the same distillation by both, the same items.

    reproduced: the cost is at least the printed value and its interval lies above 0; otherwise inconclusive,
    never not_reproduced, because what it can come up to is a maximum over pairs.
    """
    costs = _average(item_gains.tuning_costs(evidence.items.scored))
    if costs.empty:
        return missing("runs with an untuned teacher")
    top = costs.loc[costs["difference"].idxmax()]
    is_met = top["low"] > 0 and top["difference"] >= printed
    parts = ", ".join(f"{row.domain} {_range(row)}" for row in costs.itertuples())
    text = f"cost in points: {parts}; another pair may pay more"
    return _finding(evidence, top, REPRODUCED if is_met else INCONCLUSIVE, text)


def agreement_rises(evidence: Evidence, *, domains: tuple[str, ...]) -> Finding:
    """KD less SFT student in giving the teacher's answer to an item, mean over tasks and the paper's methods.

    At temperature 1. reproduced: the interval lies above 0 in every domain that there is; not_reproduced:
    below 0 in every one; otherwise inconclusive.
    """
    return _rise(evidence, item_gains.agreement_rises, domains, "agreement")


def fidelity_rises(evidence: Evidence, *, domains: tuple[str, ...]) -> Finding:
    """KD less SFT student in corpus BLEU with the teacher's texts, mean over tasks and the paper's methods.

    At temperature 1, the interval jackknifed over items. reproduced: it lies above 0 in every domain that
    there is; not_reproduced: below 0 in every one; otherwise inconclusive.
    """
    return _rise(evidence, item_gains.fidelity_rises, domains, "BLEU")


def _rise(evidence: Evidence, rises: Callable, domains: tuple[str, ...], what: str) -> Finding:
    beside = evidence.items.beside
    beside = beside[beside["method"].isin(["sft", *PAPER_METHODS]) & beside["domain"].isin(domains)]
    whole = _average(rises(beside, by=WHOLE))
    if whole.empty:
        return missing(f"{what} of SFT and KD students")
    text = f"rise in {what}, points: {_by_method(_average(rises(beside)))}"
    return _judged(evidence, whole, above=0.0, text=text)


def right_and_alike_are_feebly_linked(evidence: Evidence, *, task: str, bound: float) -> Finding:
    """Over the items of one task, being right correlates feebly with likeness to the teacher's text.

    The median |r| over the paper's methods at temperature 1, with Fisher's interval for one r over as many
    items. reproduced: the interval lies below `bound`; not_reproduced: above; otherwise inconclusive.
    """
    runs = agreement_fidelity.right_and_alike(evidence.cells)
    runs = runs[(runs["task"] == task) & runs["method"].isin(PAPER_METHODS)]
    if runs.empty:
        return missing(f"{TASK_LABELS[task]} items of KD students beside their teacher's")
    r = runs.set_index("method")["fidelity_correct_r"]
    interval = intervals.pearson_interval(float(r.abs().median()), int(runs["n"].min()))
    text = ", ".join(f"{METHOD_NAMES[method]} {value:+.2f}" for method, value in r.items())
    return _judged(evidence, _row(interval), below=bound, text=f"r on {TASK_LABELS[task]}: {text}")


def little_noise_costs_little(evidence: Evidence, *, sigmas: tuple[float, ...], slight: float) -> Finding:
    """Loss through noise of these sigmas on the same items, domain average, mean over sigmas and methods.

    reproduced: the interval lies below `slight` points in every domain that there is; not_reproduced: above
    it in every one; otherwise inconclusive.
    """
    scored = evidence.items.scored
    kept = scored[scored["noise_sigma"].isin([0.0, *sigmas])]
    whole = _lost(_average(item_gains.noise_changes(kept, by=WHOLE)))
    if whole.empty:
        return missing(f"runs with noise of sigma {_listed(sigmas)} beside noise-free ones")
    each = _lost(_average(item_gains.noise_changes(kept)))
    parts = [
        f"{METHOD_NAMES[row.method]} sigma {row.noise_sigma:g} {_range(row)} ({row.domain})"
        for row in each.itertuples()
    ]
    return _judged(evidence, whole, below=slight, text=f"loss in points: {', '.join(parts)}")


def much_noise_collapses(evidence: Evidence, *, sigma: float) -> Finding:
    """Accuracy after noise of this sigma less half of the noise-free one, same items, domain average.

    Mean over methods. reproduced: the interval lies below 0 in every domain that there is; not_reproduced:
    above 0 in every one; otherwise inconclusive. The estimate is the loss in points, with its interval.
    """
    scored = evidence.items.scored
    kept = scored[scored["noise_sigma"].isin([0.0, sigma])]
    halves = _average(item_gains.noise_changes(kept, by=WHOLE, kept_share=0.5))
    if halves.empty:
        return missing(f"runs with noise of sigma {sigma:g} beside noise-free ones")
    parts = ", ".join(f"{row.domain} {_range(row)}" for row in halves.itertuples())
    text = f"accuracy at sigma {sigma:g} less half of the noise-free one, points: {parts}"
    found = _judged(evidence, halves, below=0.0, text=text)
    loss = _lost(_average(item_gains.noise_changes(kept, by=WHOLE)))
    least = loss.loc[loss["difference"].idxmin()]
    bounds = {"estimate": least["difference"], "ci_low": least["low"], "ci_high": least["high"]}
    return replace(found, **bounds, p_value=math.nan)


def temperature_is_best(evidence: Evidence, *, temperature: float) -> Finding:
    """Share of the tasks in which one temperature is the best, mean over methods, ties shared.

    With the exact interval over tasks, which is what the claim counts. reproduced: it lies above a half;
    not_reproduced: below; otherwise inconclusive.
    """
    runs = evidence.temperature_runs
    runs = runs[runs["task"] != AVERAGE]
    if runs.empty or temperature not in set(runs["temperature"]):
        return missing(f"runs at temperature {temperature:g} and others")
    cases = runs.groupby(["domain", "method", "task"], sort=False)
    is_best = runs["accuracy"] == cases["accuracy"].transform("max")
    share = is_best / is_best.groupby([runs[key] for key in cases.keys]).transform("sum")
    wins = runs.assign(win=share)[runs["temperature"] == temperature]
    by_task = wins.groupby(["domain", "task"], sort=False)["win"].mean()
    interval = intervals.share_interval(float(by_task.sum()), len(by_task))
    text = f"T = {temperature:g} is the best in {by_task.sum():.3g} of {len(by_task)} tasks"
    return _judged(evidence, _row(interval), above=50.0, text=text, unit="tasks")


def high_temperature_drops(evidence: Evidence, *, temperature: float, severe: float) -> Finding:
    """Loss at a high temperature against temperature 1 on the same items, domain average, mean over methods.

    reproduced: the interval lies above `severe` points in every domain that there is; not_reproduced: below
    it in every one; otherwise inconclusive.
    """
    scored = evidence.items.scored
    kept = scored[scored["temperature"].isin([1.0, temperature])]
    whole = _lost(_average(item_gains.temperature_changes(kept, by=WHOLE)))
    if whole.empty:
        return missing(f"runs at temperature {temperature:g} and 1")
    each = _by_method(_lost(_average(item_gains.temperature_changes(kept))))
    text = f"loss at T = {temperature:g} against T = 1, points: {each}"
    return _judged(evidence, whole, above=severe, text=text)


# --- verdict and words -----------------------------------------------------------------------------------


def _judged(
    evidence: Evidence,
    table: pd.DataFrame,
    *,
    text: str,
    above: float | None = None,
    below: float | None = None,
    unit: str = "items",
) -> Finding:
    """The finding on rows of difference, low, high, n, a row a domain, on the claim's side of a number.

    Its estimate is the row that is least on that side.
    """
    if above is not None:
        is_so, is_not, least = table["low"] > above, table["high"] < above, table["difference"].idxmin()
    else:
        is_so, is_not, least = table["high"] < below, table["low"] > below, table["difference"].idxmax()
    verdict = REPRODUCED if is_so.all() else NOT_REPRODUCED if is_not.all() else INCONCLUSIVE
    row = table.loc[least]
    is_against_zero = 0.0 in (above, below)  # p is that of no difference: of other numbers it says nothing
    p_value = row.get("p_value", math.nan) if is_against_zero else math.nan
    return _finding(evidence, row, verdict, text, p_value=p_value, unit=unit)


def _finding(
    evidence: Evidence,
    row: pd.Series,
    verdict: str,
    text: str,
    *,
    p_value: float = math.nan,
    unit: str = "items",
) -> Finding:
    return Finding(
        verdict=verdict,
        reason=f"one pair ({evidence.one_pair}), {int(row['n'])} {unit}: {text}",
        estimate=float(row["difference"]),
        ci_low=float(row["low"]),
        ci_high=float(row["high"]),
        p_value=float(p_value),
        n=int(row["n"]),
    )


def _row(interval: Estimate) -> pd.DataFrame:
    bounds = {"difference": interval.value, "low": interval.low, "high": interval.high}
    return pd.DataFrame([bounds | {"n": interval.n}])


def _average(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["task"] == AVERAGE]


def _lost(changes: pd.DataFrame) -> pd.DataFrame:
    """Changes as losses: the other sign."""
    return changes.assign(difference=-changes["difference"], low=-changes["high"], high=-changes["low"])


def _by_method(table: pd.DataFrame) -> str:
    several = table["domain"].nunique() > 1
    return ", ".join(
        f"{METHOD_NAMES[row.method]} {_range(row)}" + (f" ({row.domain})" if several else "")
        for row in table.itertuples()
    )


def _range(row) -> str:
    return f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"


def _listed(sigmas: tuple[float, ...]) -> str:
    return " or ".join(f"{sigma:g}" for sigma in sigmas)
