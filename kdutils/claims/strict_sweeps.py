"""The stricter judges of noise and temperature (N*, P*): students as units, each beside itself.

Each returns a Case; p values are corrected and verdicts given in `strict`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kdutils.claims.evidence import ALPHA, Evidence
from kdutils.claims.student_units import (
    Case,
    back_from_limit,
    detectable,
    detectable_correlation,
    in_words,
    interval_words,
    mean_of_students,
    student_means,
    undefined,
)
from kdutils.constants import AVERAGE
from kdutils.inference import intervals, student_tests
from kdutils.results import sweeps

RUN = ["domain", "task", "family", "teacher", "student", "student_parameters", "method"]


def little_loss(
    evidence: Evidence, *, rng: np.random.Generator, sigmas: Sequence[float], margin: float
) -> Case:
    """What noise of these sigmas costs, against the margin below which it is slight."""
    rows = _noise_losses(evidence, sigmas)
    text = f"loss at sigma {' or '.join(f'{sigma:g}' for sigma in sigmas)}"
    return _against(rows, "loss", text=text, limit=margin, is_below=True)


def collapse(evidence: Evidence, *, rng: np.random.Generator, sigma: float) -> Case:
    """Accuracy after noise less half of the noise-free one: below 0 a student has collapsed."""
    rows = _noise_losses(evidence, [sigma])
    rows = rows.assign(left=rows["accuracy"] - rows["clean_accuracy"] / 2)
    text = f"accuracy at sigma {sigma:g} less half of the noise-free one"
    return _against(rows, "left", text=text, limit=0.0, is_below=True)


def severe_loss(evidence: Evidence, *, rng: np.random.Generator, temperature: float, margin: float) -> Case:
    """What a high temperature costs against temperature 1, against the margin above which it is severe."""
    rows = temperature_losses(evidence, temperature)
    text = f"loss at T = {temperature:g} against T = 1"
    return _against(rows, "loss", text=text, limit=margin, is_below=False)


def best_temperature(
    evidence: Evidence, *, rng: np.random.Generator, temperature: float, margin: float
) -> Case:
    """The share of its tasks in which a student is best at this temperature; tied ones share the win."""
    runs = _clean_tasks(evidence, evidence.temperature_runs)
    if runs.empty or temperature not in set(runs["temperature"]):
        return undefined(f"there are no runs at temperature {temperature:g} and others in these results")
    cases = runs.groupby(RUN, sort=False)["accuracy"]
    is_best = runs["accuracy"] == cases.transform("max")
    share = 100 * is_best / is_best.groupby([runs[key] for key in RUN]).transform("sum")
    wins = runs.assign(share=share)[runs["temperature"] == temperature].assign(domain="all tasks")
    text = f"T = {temperature:g} is the best, percent of tasks"
    found = _against(wins, "share", text=text, limit=margin, is_below=False)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 100.0))  # t knows no bounds


def loss_and_size(evidence: Evidence, *, rng: np.random.Generator, temperature: float) -> Case:
    """The rank correlation of the loss at a high temperature with size, within families."""
    rows = temperature_losses(evidence, temperature)
    if rows.empty:
        return undefined(f"there are no runs at temperatures {temperature:g} and 1 in these results")
    means = student_means(rows.assign(task=rows["domain"]), ["loss"])
    size, families = means["student_parameters"].astype(float), means["family"]
    falls, rises = (
        student_tests.rank_permutation(size, sign * means["loss"], blocks=families, rng=rng)
        for sign in (-1, 1)
    )
    if math.isnan(falls.p_greater):
        return undefined(f"{len(means)} students: {falls.reason}")
    rhos = {}
    for domain, part in rows.groupby("domain", sort=False):
        each = student_means(part, ["loss"])
        rhos[domain] = intervals.spearman(each["student_parameters"].astype(float), each["loss"]).statistic
    rho = -falls.statistic
    interval = intervals.spearman_interval(rho, len(means))
    return Case(
        reason=f"rho of loss and size {rho:+.2f} over students (all: {in_words(rhos, digits=2)}); smallest "
        f"possible p {falls.smallest_p / 2:.2g}",
        estimate=rho,
        low=interval.low,
        high=interval.high,
        p_value=falls.p_greater,
        n=falls.n,
        minimum_detectable=detectable_correlation(len(means)),
        holds=all(value < 0 for value in rhos.values()),
        is_against=rises.p_greater < ALPHA,
    )


def temperature_losses(evidence: Evidence, temperature: float) -> pd.DataFrame:
    """Loss against temperature 1, points, a row a run x task: `loss` beside the columns of RUN."""
    runs = _clean_tasks(evidence, evidence.temperature_runs)
    at = [runs[runs["temperature"] == value].set_index(RUN)["accuracy"] for value in (1.0, temperature)]
    return (at[0] - at[1]).dropna().rename("loss").reset_index()


def _noise_losses(evidence: Evidence, sigmas: Sequence[float]) -> pd.DataFrame:
    losses = _clean_tasks(evidence, sweeps.noise_losses(evidence.noise_runs))
    return losses[losses["noise_sigma"].isin(list(sigmas))]


def _clean_tasks(evidence: Evidence, runs: pd.DataFrame) -> pd.DataFrame:
    """Single tasks that are not in the training set."""
    return runs[(runs["task"] != AVERAGE) & ~runs["task"].isin(evidence.contaminated)]


def _against(rows: pd.DataFrame, value: str, *, text: str, limit: float, is_below: bool) -> Case:
    """Student means against a limit that the claim says they lie below, or above, in every domain."""
    if rows.empty:
        return undefined(f"there are no runs for it in these results: {text}")
    found, detected = {}, []
    for domain, part in rows.groupby("domain", sort=False):
        means = student_means(part, [value])
        means["beyond"] = limit - means[value] if is_below else means[value] - limit
        found[domain] = mean_of_students(means, "beyond")
        detected.append(detectable(means["beyond"]))
        if math.isnan(found[domain].p_greater):
            return undefined(f"{text}, {domain}: {found[domain].n} students: {found[domain].reason}")
    least = min(found, key=lambda domain: found[domain].value)
    bounds = {domain: back_from_limit(each, limit, is_below=is_below) for domain, each in found.items()}
    texts = [f"{domain} {interval_words(each)}" for domain, each in bounds.items()]
    return Case(
        reason=f"{text}, over students: {', '.join(texts)}; limit {limit:g}",
        estimate=bounds[least].value,
        low=bounds[least].low,
        high=bounds[least].high,
        p_value=max(each.p_greater for each in found.values()),
        n=found[least].n,
        minimum_detectable=max(detected),
        is_against=all(each.high < 0 for each in found.values()),
    )
