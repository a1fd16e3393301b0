"""Tests and intervals on the units that were sampled: students, not cells. Notebook 10 calibrates each.

Undefined results are NaN with a `reason`, never 0 and never an exception. What simulations need of many
studies at once takes and gives arrays, a row a study.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats

from kdutils.inference.estimate import CONFIDENCE, Estimate, Tested

LEVEL, POWER = 0.05, 0.8  # of what could have been detected
SAME = 1e-12  # a spread below this share of the values is rounding


def student_mean_test(table: pd.DataFrame, value: str, *, unit: str, block: str | None = None) -> Estimate:
    """Mean of unit means with Student's t: pairs, methods and tasks of one student are one value.

    With `block` (such as family) the blocks are fixed: the mean is the same, its error is that of units
    within their blocks, and each block costs a degree of freedom. So it speaks of these blocks, no others.
    `minimum_detectable` is of the one-sided test.
    """
    keys = [unit] if block is None else [unit, block]
    if table[value].isna().any():
        return Estimate(n=table[unit].nunique(), reason="a value is missing")
    means = table.groupby(keys, sort=False)[value].mean().reset_index()
    n = len(means)
    if n > table[unit].nunique():
        raise ValueError(f"{block} differs within a {unit}: it must be one for each")
    labels = pd.Series(0, index=means.index) if block is None else means[block]
    n_free = n - labels.nunique()
    mean = float(means[value].mean()) if n else math.nan
    if n_free < 1:
        reason = f"no two values of {unit} in one block" if block else f"one {unit}"
        return Estimate(mean, n=n, reason=reason)
    within = means[value] - means.groupby(labels, sort=False)[value].transform("mean")
    if not (within**2).sum() > (SAME * means[value].abs().max()) ** 2:
        return Estimate(mean, n=n, reason=f"every {unit} has the same mean")
    error = math.sqrt((within**2).sum() / n_free / n)
    half = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n_free) * error
    tails = [float(scipy.stats.t.sf(size / error, n_free)) for size in (abs(mean), mean)]
    own = {"p_greater": tails[1], "minimum_detectable": error * _detectable(n_free)}
    return Estimate(mean, float(mean - half), float(mean + half), 2 * tails[0], n, **own)


@cache
def _detectable(n_free: int) -> float:
    """The mean, in standard errors, that a one-sided t-test finds in POWER of all studies."""
    critical = scipy.stats.t.ppf(1 - LEVEL, n_free)

    def missing(effect: float) -> float:
        return scipy.stats.nct.sf(critical, n_free, effect) - POWER

    return float(scipy.optimize.brentq(missing, 0.0, 10 * critical))


class Many(NamedTuple):
    """A value of each study with its test and interval by Student's t."""

    value: np.ndarray
    p_value: np.ndarray  # two-sided
    p_greater: np.ndarray
    bounds: np.ndarray  # studies x 2


def by_t(value: np.ndarray, error: np.ndarray, n_free: int) -> Many:
    """Tests and intervals of values with these standard errors."""
    half = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n_free) * error
    greater = scipy.stats.t.sf(value / error, n_free)
    bounds = np.stack([value - half, value + half], axis=1)
    return Many(value, 2 * np.minimum(greater, 1 - greater), greater, bounds)


def mean_tests(values: np.ndarray, *, blocks: Sequence[object] | None = None) -> Many:
    """student_mean_test of unit means, studies x units; without blocks also intervals.mean_interval."""
    n_units = values.shape[1]
    places = np.zeros(n_units, dtype=int) if blocks is None else pd.factorize(np.asarray(blocks))[0]
    indicator = np.equal.outer(places, np.unique(places)).astype(float)
    within = values - values @ (indicator @ np.linalg.pinv(indicator))
    n_free = n_units - indicator.shape[1]
    error = np.sqrt((within**2).sum(axis=1) / n_free / n_units)
    return by_t(values.mean(axis=1), error, n_free)


def repeated_measures(table: pd.DataFrame) -> Tested:
    """F and p of whether conditions (columns) differ within subjects (rows).

    The p is that of Greenhouse and Geisser, which is valid where differences of conditions vary unequally
    (pingouin.rm_anova gives the same, but not for two subjects of three conditions). A subject that lacks a
    condition is left out.
    """
    complete = table.dropna()
    n, n_conditions = complete.shape
    reason = ""
    if n_conditions < 2:
        reason = "fewer than two conditions"
    elif n < 2:
        lacking = f"{len(table) - n} lack a value of {table.columns.name}"
        reason = f"fewer than two complete values of {table.index.name}; {lacking}"
    else:
        effects = complete.sub(complete.mean(axis=1), axis=0)
        residuals = (effects - effects.mean()).to_numpy()
        if np.abs(residuals).max() <= SAME * np.abs(complete.to_numpy()).max():
            names = f"{table.columns.name} has the same effect in every {table.index.name}"
            reason = f"{names}: no variance to compare with"
    if reason:
        return Tested(n=n, reason=reason)
    found = repeated_measures_tests(complete.to_numpy(float)[None])
    return Tested(float(found["f"][0]), float(found["corrected"][0]), n)


def repeated_measures_tests(values: np.ndarray) -> dict[str, np.ndarray]:
    """Conditions compared within subjects, of studies x subjects x conditions: F and three p values.

    `plain` is that of the analysis of variance, `corrected` by Greenhouse and Geisser, `friedman` by the
    chi-square of ranks.
    """
    _, n, k = values.shape
    by_condition = values.mean(axis=1, keepdims=True)
    effects = by_condition - values.mean(axis=(1, 2), keepdims=True)
    residuals = values - values.mean(axis=2, keepdims=True) - effects
    f = n * (effects**2).sum(axis=(1, 2)) * (n - 1) / (residuals**2).sum(axis=(1, 2))
    # Residuals are centred over subjects and conditions: what Greenhouse and Geisser take of the covariance.
    covariance = np.einsum("asi,asj->aij", residuals, residuals)
    trace = np.trace(covariance, axis1=1, axis2=2)
    epsilon = trace**2 / (k - 1) / (covariance**2).sum(axis=(1, 2))
    degrees = np.array([k - 1, (k - 1) * (n - 1)])
    corrected = scipy.stats.f.sf(f, *(degrees[:, None] * epsilon))
    ranks = scipy.stats.rankdata(values, axis=2)
    sums = ((ranks.sum(axis=1) - n * (k + 1) / 2) ** 2).sum(axis=1)
    spread = ((ranks - (k + 1) / 2) ** 2).sum(axis=(1, 2)) / (k - 1)  # ties make it less
    friedman = scipy.stats.chi2.sf(sums / spread, k - 1)
    return {"f": f, "plain": scipy.stats.f.sf(f, *degrees), "corrected": corrected, "friedman": friedman}


def equivalence(values: Iterable[float], *, margin: float) -> Estimate:
    """Two one-sided t-tests of a mean against -margin and margin (Schuirmann 1987; statsmodels).

    The p is the larger of the two. The interval, of 90 %, lies within the margin where both reject at 5 %.
    With the mean that 80 % of studies of this n and spread would find. The margin must have been chosen
    before; values are means of independent units.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin:g} must be positive: the largest difference that does not matter")
    sample = np.asarray(list(values), dtype=float)
    n = len(sample)
    reason = "a value is missing" if np.isnan(sample).any() else "fewer than two values" if n < 2 else ""
    mean = math.nan if np.isnan(sample).any() or not n else float(sample.mean())
    if not reason and sample.std(ddof=1) <= SAME * np.abs(sample).max():
        reason = "all values are equal"
    if reason:
        return Estimate(mean, n=n, reason=reason)
    from statsmodels.stats.power import TTestPower  # statsmodels takes a second to import
    from statsmodels.stats.weightstats import DescrStatsW

    described = DescrStatsW(sample)
    low, high = described.tconfint_mean(alpha=2 * (1 - CONFIDENCE))
    effect = float(TTestPower().solve_power(nobs=n, alpha=LEVEL, power=POWER))
    p_value, detectable = float(described.ttost_mean(-margin, margin)[0]), effect * sample.std(ddof=1)
    return Estimate(mean, float(low), float(high), p_value, n, minimum_detectable=float(detectable))


@dataclass(frozen=True)
class PairedItems:
    """Two runs on the same items: which of them is right alone, and McNemar's exact p."""

    left_only: int
    right_only: int
    p_value: float
    n: int
    reason: str = ""  # why it is undefined


def mcnemar(left: Iterable[bool], right: Iterable[bool]) -> PairedItems:
    """McNemar's exact test of paired booleans (statsmodels): p of left_only against right_only, two-sided."""
    left, right = np.asarray(list(left), dtype=bool), np.asarray(list(right), dtype=bool)
    if len(left) != len(right):
        raise ValueError(f"{len(left)} and {len(right)} items: give both runs on the same ones")
    counts = int((left & ~right).sum()), int((~left & right).sum())
    if not sum(counts):
        return PairedItems(*counts, math.nan, len(left), "the runs differ on no item")
    from statsmodels.stats.contingency_tables import mcnemar as exact

    table = [[int((left & right).sum()), counts[0]], [counts[1], int((~left & ~right).sum())]]
    return PairedItems(*counts, float(exact(table, exact=True).pvalue), len(left))


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm's adjusted p-values, in order, for the chance of any error. NaN stays and is no test."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Iterable[float]) -> np.ndarray:
    """Adjusted p-values for the share of false discoveries, in order. NaN stays and is no test."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Iterable[float], method: str) -> np.ndarray:
    p_values = np.asarray(list(p_values), dtype=float)
    adjusted, is_test = np.full(len(p_values), np.nan), ~np.isnan(p_values)
    if is_test.any():
        from pingouin import multicomp  # that of statsmodels collects garbage at every call, for 0.1 s

        adjusted[is_test] = multicomp(p_values[is_test], method=method)[1]
    return adjusted


def mixed_gain(table: pd.DataFrame) -> Estimate:
    """Mean of `gain` with crossed random effects of `student` and `task` (REML, statsmodels).

    Rows of one student and task are averaged first. Student's t with one degree of freedom less than
    there are students or tasks, whichever are fewer: the normal quantile of statsmodels is for many.
    """
    n_students, n_tasks = table["student"].nunique(), table["task"].nunique()
    cells = table.groupby(["student", "task"], sort=False, observed=True)["gain"].mean().reset_index()
    reason = ""
    if table["gain"].isna().any():
        reason = "a value is missing"
    elif min(n_students, n_tasks) < 2:
        reason = "fewer than two students or tasks"
    elif len(cells) < n_students + n_tasks:
        reason = f"{len(cells)} cells for {n_students} students and {n_tasks} tasks are too few"
    elif not cells["gain"].std() > SAME * cells["gain"].abs().max():
        reason = "all gains are equal"
    if reason:
        return Estimate(n=n_students, reason=reason)
    import statsmodels.formula.api as formulas

    crossed = {name: f"0 + C({name})" for name in ("student", "task")}
    groups = np.zeros(len(cells))  # one group: effects of the two cross within it
    how = {"reml": True, "method": ["powell", "lbfgs"]}  # gradients alone stop where a variance nears 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a variance of 0 lies on the boundary, as it may
            fit = formulas.mixedlm("gain ~ 1", cells, groups=groups, vc_formula=crossed).fit(**how)
        error = float(fit.bse["Intercept"])
    except (np.linalg.LinAlgError, ValueError) as failure:
        return Estimate(n=n_students, reason=f"the fit failed: {failure}")
    if not (fit.converged and error > 0):
        return Estimate(n=n_students, reason="the fit did not converge")
    mean, n_free = float(fit.fe_params["Intercept"]), min(n_students, n_tasks) - 1
    half = float(scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, n_free)) * error
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, n_free))
    return Estimate(mean, mean - half, mean + half, p_value, n_students)
