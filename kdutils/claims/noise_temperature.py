"""Noise and temperature (N*, P*): what noisy teacher logits and a high temperature cost a student."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kdutils.claims import items, students
from kdutils.claims.evidence import ALPHA, Evidence, Finding, Rules, decide, finding, lacking, named, present
from kdutils.claims.students import Case
from kdutils.constants import AVERAGE, METHOD_NAMES
from kdutils.grid.cell_table import size_label
from kdutils.inference import intervals
from kdutils.results import item_gains

RUN = ["domain", "task", "family", "teacher", "student", "student_parameters", "method"]


def _clean_tasks(evidence: Evidence, runs: pd.DataFrame) -> pd.DataFrame:
    """Single tasks that are not in the training set."""
    return runs[(runs["task"] != AVERAGE) & ~runs["task"].isin(evidence.contaminated)]


def _by_domain(losses: pd.Series, is_met: pd.Series, reason: str) -> Finding:
    """The mean loss; reproduced where it is met in every domain, inconclusive where in some."""
    verdict = decide(is_met.all(), not is_met.any())
    return finding(intervals.mean_interval(losses), verdict=verdict, reason=reason)


# --- N1, N2: noise ------------------------------------------------------------------------------------------


def _listed(sigmas: Iterable[float]) -> str:
    """`1 or 2`."""
    return " or ".join(f"{sigma:g}" for sigma in sorted(set(sigmas)))


def _noisy(table: pd.DataFrame, sigmas: Sequence[float]) -> pd.DataFrame:
    return present(table, f"runs with noise of sigma {_listed(sigmas)} beside noise-free ones")


def _average_losses(evidence: Evidence, sigmas: Sequence[float]) -> pd.DataFrame:
    table = items.averages(evidence.noise_losses)
    return _noisy(table[table["noise_sigma"].isin(sigmas)], sigmas)


def _task_losses(evidence: Evidence, sigmas: Sequence[float]) -> pd.DataFrame:
    table = _clean_tasks(evidence, evidence.noise_losses)
    return table[table["noise_sigma"].isin(sigmas)]


def _noisy_items(evidence: Evidence, sigmas: Sequence[float], **how) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Item rows without noise and with these sigmas, and their changes on the average, methods together."""
    scored = evidence.items.scored
    kept = scored[scored["noise_sigma"].isin([0.0, *sigmas])]
    whole = items.averages(item_gains.noise_changes(kept, by=items.WHOLE, **how))
    return kept, _noisy(whole, sigmas)


def little_loss_authors(evidence: Evidence, *, sigmas: Sequence[float], margin: float) -> Finding:
    loss = _average_losses(evidence, sigmas)
    cases = loss.groupby(["domain", "teacher", "student", "method"], sort=False)["loss"].mean()
    by_domain = cases.groupby("domain", sort=False).mean()
    reason = f"mean loss at sigma {_listed(loss['noise_sigma'])}: {named(by_domain, '.1f')} points over "
    reason += f"{len(cases)} pairs x methods x domains; largest of a single run {loss['loss'].max():.1f}"
    return _by_domain(cases, by_domain < margin, reason)


def little_loss_stricter(evidence: Evidence, *, sigmas: Sequence[float], margin: float) -> Case:
    rows, text = _task_losses(evidence, sigmas), f"loss at sigma {_listed(sigmas)}"
    return students.against_limit(rows, "loss", text=text, limit=margin, is_below=True)


def little_loss_items(evidence: Evidence, *, sigmas: Sequence[float], margin: float) -> Finding:
    kept, whole = _noisy_items(evidence, sigmas)
    parts = ", ".join(
        f"{METHOD_NAMES[row.method]} sigma {row.noise_sigma:g} {items.range_words(row)} ({row.domain})"
        for row in items.losses(item_gains.noise_changes(kept)).itertuples()
    )
    return items.item_finding(evidence, items.losses(whole), below=margin, text=f"loss in points: {parts}")


def collapse_authors(evidence: Evidence, *, sigma: float) -> Finding:
    loss = _average_losses(evidence, [sigma])
    share = float(loss["is_collapsed"].mean())
    by_domain = named(loss.groupby("domain", sort=False)["loss"].mean(), ".1f")
    return finding(
        intervals.mean_interval(loss["loss"]),
        verdict=decide(share >= 0.5, share == 0),
        reason=f"{int(loss['is_collapsed'].sum())} of {len(loss)} pairs x methods x domains fall below half "
        f"of their noise-free accuracy; mean loss {by_domain} points",
    )


def collapse_stricter(evidence: Evidence, *, sigma: float) -> Case:
    rows = _task_losses(evidence, [sigma])
    rows = rows.assign(left=rows["accuracy"] - rows["clean_accuracy"] / 2)
    text = f"accuracy at sigma {sigma:g} less half of the noise-free one"
    return students.against_limit(rows, "left", text=text, limit=0.0, is_below=True)


def collapse_items(evidence: Evidence, *, sigma: float) -> Finding:
    kept, halves = _noisy_items(evidence, [sigma], kept_share=0.5)
    parts = ", ".join(f"{row.domain} {items.range_words(row)}" for row in halves.itertuples())
    text = f"accuracy at sigma {sigma:g} less half of the noise-free one, points: {parts}"
    found = items.item_finding(evidence, halves, below=0.0, text=text)
    loss = items.losses(item_gains.noise_changes(kept, by=items.WHOLE))
    least = loss.loc[loss["difference"].idxmin()]
    bounds = {"estimate": least["difference"], "ci_low": least["low"], "ci_high": least["high"]}
    return replace(found, **bounds, p_value=math.nan)


# --- P1: the best temperature -------------------------------------------------------------------------------


def _wins(runs: pd.DataFrame, keys: Sequence[str], temperature: float, *, whole: float = 1.0) -> pd.DataFrame:
    """Runs at this temperature with `win`: `whole` if it is the best of its case (`keys`), or a share."""
    if runs.empty or temperature not in set(runs["temperature"]):
        raise lacking(f"runs at temperature {temperature:g} and others")
    accuracy = runs["accuracy"].round(9)  # so that equal means over seeds are ties
    is_best = accuracy == accuracy.groupby([runs[key] for key in keys], sort=False).transform("max")
    share = whole * is_best / is_best.groupby([runs[key] for key in keys]).transform("sum")
    return runs.assign(win=share)[runs["temperature"] == temperature]


def best_temperature_authors(evidence: Evidence, *, temperature: float, margin: float) -> Finding:
    runs, keys = evidence.temperature_runs, ["domain", "teacher", "student", "method", "task"]
    runs = runs[runs["task"] != AVERAGE]
    wins = _wins(runs, keys, temperature)
    mean, n = wins["win"].mean(), runs.groupby(keys).ngroups
    by = wins.groupby(["domain", "method"], sort=False)["win"].mean()
    by.index = [f"{domain} {METHOD_NAMES[method]}" for domain, method in by.index]
    reason = f"T = {temperature:g} is the best in {mean:.0%} of {n} pairs x methods x tasks"
    return Finding(
        verdict=decide(100 * mean > margin),
        reason=f"{reason} ({named(by, '.0%')})",
        estimate=float(100 * mean),
        n=n,
    )


def best_temperature_stricter(evidence: Evidence, *, temperature: float, margin: float) -> Case:
    wins = _wins(_clean_tasks(evidence, evidence.temperature_runs), RUN, temperature, whole=100.0)
    text = f"T = {temperature:g} is the best, percent of tasks"
    found = students.against_limit(wins.assign(domain="all tasks"), "win", text=text, limit=margin)
    low, high = max(found.interval.low, 0.0), min(found.interval.high, 100.0)  # Student's t knows no bounds
    detectable = found.minimum_detectable if found.minimum_detectable <= 100 else math.nan
    interval = replace(found.interval, low=low, high=high)
    return replace(found, interval=interval, minimum_detectable=detectable)


def best_temperature_items(evidence: Evidence, *, temperature: float, margin: float) -> Finding:
    runs = evidence.temperature_runs
    wins = _wins(runs[runs["task"] != AVERAGE], ["domain", "method", "task"], temperature)
    by_task = wins.groupby(["domain", "task"], sort=False)["win"].mean()
    interval = intervals.share_interval(float(by_task.sum()), len(by_task))
    text = f"T = {temperature:g} is the best in {by_task.sum():.3g} of {len(by_task)} tasks"
    return items.item_finding(evidence, interval, above=margin, text=text, unit="tasks")


# --- P2, P3: a high temperature -----------------------------------------------------------------------------


def _average_losses_at(evidence: Evidence, temperature: float) -> pd.DataFrame:
    """Loss against the better of the lower temperatures, on domain averages, a row a run."""
    runs = items.averages(evidence.temperature_runs)
    keys = ["domain", "teacher", "student", "student_parameters", "method"]
    lower = runs[runs["temperature"] < temperature].groupby(keys, sort=False)["accuracy"].max()
    at = runs[runs["temperature"] == temperature].set_index(keys)["accuracy"]
    return (lower - at).dropna().rename("loss").reset_index()


def _task_losses_at(evidence: Evidence, temperature: float) -> pd.DataFrame:
    """Loss against temperature 1, points, a row a run x task: `loss` and the columns of RUN."""
    runs = _clean_tasks(evidence, evidence.temperature_runs)
    at = [runs[runs["temperature"] == value].set_index(RUN)["accuracy"] for value in (1.0, temperature)]
    return (at[0] - at[1]).dropna().rename("loss").reset_index()


def severe_loss_authors(evidence: Evidence, *, temperature: float, margin: float) -> Finding:
    loss = _average_losses_at(evidence, temperature)
    present(loss, f"runs at temperature {temperature:g} and lower")
    by_domain = loss.groupby("domain", sort=False)["loss"].mean()
    reason = f"mean loss at T = {temperature:g} against the better lower temperature: "
    reason += f"{named(by_domain, '.1f')} points; largest {loss['loss'].max():.1f}, smallest "
    return _by_domain(loss["loss"], by_domain >= margin, f"{reason}{loss['loss'].min():.1f}")


def severe_loss_stricter(evidence: Evidence, *, temperature: float, margin: float) -> Case:
    text = f"loss at T = {temperature:g} against T = 1"
    return students.against_limit(_task_losses_at(evidence, temperature), "loss", text=text, limit=margin)


def severe_loss_items(evidence: Evidence, *, temperature: float, margin: float) -> Finding:
    scored = evidence.items.scored
    kept = scored[scored["temperature"].isin([1.0, temperature])]
    whole = items.losses(item_gains.temperature_changes(kept, by=items.WHOLE))
    present(whole, f"runs at temperature {temperature:g} and 1")
    each = items.by_method(items.losses(item_gains.temperature_changes(kept)))
    text = f"loss at T = {temperature:g} against T = 1, points: {each}"
    return items.item_finding(evidence, whole, above=margin, text=text)


def loss_and_size_authors(evidence: Evidence, *, temperature: float) -> Finding:
    loss = _average_losses_at(evidence, temperature)
    if loss["student_parameters"].nunique() < 2:
        raise lacking(f"students of different sizes at temperature {temperature:g}")
    test = intervals.spearman(loss["student_parameters"].astype(float), loss["loss"])
    means = loss.pivot_table(index="student_parameters", columns="domain", values="loss", sort=True)
    falls = bool((means.diff().iloc[1:] < 0).all(axis=None))
    is_negative = test.statistic < 0
    parts = "; ".join(f"{size_label(size)} {named(row, '.1f')}" for size, row in means.iterrows())
    return finding(
        intervals.spearman_interval(test.statistic, test.n),
        verdict=decide(is_negative and test.p_value < ALPHA and falls, not is_negative),
        p_value=test.p_value,
        reason=f"rho of loss with size {test.statistic:+.2f}, p = {test.p_value:.2g}; mean loss: {parts}",
    )


def loss_and_size_stricter(evidence: Evidence, *, rng: np.random.Generator, temperature: float) -> Case:
    rows = present(_task_losses_at(evidence, temperature), f"runs at temperatures {temperature:g} and 1")
    means = students.student_means(rows.assign(task=rows["domain"]), ["loss"])
    (falls,), case = students.falls_with_size(means, ["loss"], rng=rng)
    rhos = {}
    for domain, part in rows.groupby("domain", sort=False):
        each = students.student_means(part, ["loss"])
        rhos[domain] = intervals.spearman(each["student_parameters"], each["loss"]).statistic
    reason = f"rho of loss and size {-falls.statistic:+.2f} over students (all: {named(rhos, '+.2f')}); "
    reason += f"smallest possible p {falls.smallest_p / 2:.2g}"
    return replace(case, reason=reason, holds=all(rho < 0 for rho in rhos.values()))


RULES = {
    "little_loss": Rules(little_loss_authors, little_loss_stricter, little_loss_items),
    "collapse": Rules(collapse_authors, collapse_stricter, collapse_items),
    "best_temperature": Rules(best_temperature_authors, best_temperature_stricter, best_temperature_items),
    "severe_loss": Rules(severe_loss_authors, severe_loss_stricter, severe_loss_items),
    "loss_and_size": Rules(loss_and_size_authors, loss_and_size_stricter),
}
