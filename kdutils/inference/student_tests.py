"""Tests and intervals on the units that were sampled: students, not cells. Notebook 10 calibrates each.

Undefined results are NaN with a `reason`, never 0 and never an exception.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.inference.estimate import Estimate

LEVEL, POWER = 0.05, 0.8  # of what could have been detected
SAME = 1e-12  # a spread below this share of the values is rounding


def student_mean_test(
    table: pd.DataFrame, value: str, *, unit: str, block: str | None = None, confidence: float = 0.95
) -> Estimate:
    """Mean of unit means with Student's t: pairs, methods and tasks of one student are one value.

    With `block` (such as family) the blocks are fixed: the mean is the same, its error is that of units
    within their blocks, and each block costs a degree of freedom. So it speaks of these blocks, no others.
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
    half = scipy.stats.t.ppf(0.5 + confidence / 2, n_free) * error
    tails = [float(scipy.stats.t.sf(size / error, n_free)) for size in (abs(mean), mean)]
    return Estimate(mean, float(mean - half), float(mean + half), 2 * tails[0], n, p_greater=tails[1])


@dataclass(frozen=True)
class RepeatedMeasures:
    """Whether conditions differ within subjects: ANOVA with its correction, and Friedman's ranks."""

    f: float
    p_value: float  # of the ANOVA, as if all differences had one variance
    p_corrected: float  # Greenhouse and Geisser: valid without that; the one to report
    epsilon: float  # their factor, 1 where that holds
    friedman: float  # chi-square of the ranks
    friedman_p: float
    n: int  # complete subjects
    n_conditions: int
    n_left_out: int  # subjects that lack a condition
    reason: str = ""  # why it is undefined


def repeated_measures(table: pd.DataFrame, *, value: str, within: str, subject: str) -> RepeatedMeasures:
    """Conditions compared within subjects after averaging (pingouin.rm_anova, pingouin.friedman).

    A subject (student) that lacks a condition is left out and counted. Friedman's p is its chi-square
    approximation.
    """
    means = table.pivot_table(index=subject, columns=within, values=value, aggfunc="mean", observed=True)
    complete = means.dropna()
    n, n_conditions = complete.shape
    counts = (n, n_conditions, table[subject].nunique() - n)
    reason = ""
    if n_conditions < 2:
        reason = "fewer than two conditions"
    elif n < 2:
        reason = f"fewer than two complete values of {subject}; {counts[2]} lack a value of {within}"
    else:
        effects = complete.sub(complete.mean(axis=1), axis=0)
        residuals = (effects - effects.mean()).to_numpy()
        if np.abs(residuals).max() <= SAME * np.abs(complete.to_numpy()).max():
            reason = f"{within} has the same effect in every {subject}: no variance to compare with"
    if reason:
        return RepeatedMeasures(*([math.nan] * 6), *counts, reason)
    import pingouin  # takes two seconds to import

    rows = complete.rename_axis(columns=within).stack().rename("value").reset_index()
    asked = {"dv": "value", "within": within, "subject": subject}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sphericity, which few subjects cannot tell
        ranks = pingouin.friedman(data=rows, **asked).iloc[0]
        if (n, n_conditions) == (2, 3):  # pingouin.rm_anova tests sphericity, and there divides by zero
            from statsmodels.stats.anova import AnovaRM

            anova = AnovaRM(rows, "value", subject, within=[within]).fit().anova_table.iloc[0]
            f, epsilon = float(anova["F Value"]), float(pingouin.epsilon(complete, correction="gg"))
            p_corrected = scipy.stats.f.sf(f, epsilon * anova["Num DF"], epsilon * anova["Den DF"])
            found = (f, float(anova["Pr > F"]), float(p_corrected), epsilon)
        else:
            anova = pingouin.rm_anova(data=rows, correction=True, **asked).iloc[0]
            p_value = float(anova["p_unc"])
            p_corrected = float(anova.get("p_GG_corr", p_value))  # two conditions have one difference
            found = (float(anova["F"]), p_value, p_corrected, float(anova["eps"]))
    return RepeatedMeasures(*found, float(ranks["Q"]), float(ranks["p_unc"]), *counts)


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean lies within a margin around 0, and what could have been detected at all."""

    estimate: float
    low: float  # of the interval that lies within the margin where the two tests reject: 90 % for 95 %
    high: float
    margin: float
    p_value: float  # the larger of the two one-sided ones
    minimum_detectable: float  # mean found in 80 % of studies of this n and spread, two-sided at 5 %
    n: int
    reason: str = ""  # why it is undefined


def equivalence(values: Iterable[float], *, margin: float, confidence: float = 0.95) -> Equivalence:
    """Two one-sided t-tests of a mean against -margin and margin (Schuirmann 1987; statsmodels).

    The margin must have been chosen before. Values are means of independent units.
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
        return Equivalence(mean, math.nan, math.nan, margin, math.nan, math.nan, n, reason)
    from statsmodels.stats.power import TTestPower  # statsmodels takes a second to import
    from statsmodels.stats.weightstats import DescrStatsW

    described = DescrStatsW(sample)
    p_value = float(described.ttost_mean(-margin, margin)[0])
    low, high = described.tconfint_mean(alpha=2 * (1 - confidence))
    effect = float(TTestPower().solve_power(nobs=n, alpha=LEVEL, power=POWER))
    detectable = effect * float(sample.std(ddof=1))
    return Equivalence(mean, float(low), float(high), margin, p_value, detectable, n)


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


@dataclass(frozen=True)
class MixedGain:
    """The mean gain where students and tasks are both samples, with the spread of each."""

    estimate: float
    low: float
    high: float
    p_value: float  # two-sided
    student_sd: float
    task_sd: float
    residual_sd: float
    n_students: int
    n_tasks: int
    converged: bool
    reason: str = ""  # why it is undefined


def mixed_gain(table: pd.DataFrame, *, confidence: float = 0.95) -> MixedGain:
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
    undefined = MixedGain(*([math.nan] * 7), n_students, n_tasks, False, reason)
    if reason:
        return undefined
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
        return replace(undefined, reason=f"the fit failed: {failure}")
    if not (fit.converged and error > 0):
        return replace(undefined, reason="the fit did not converge")
    mean, n_free = float(fit.fe_params["Intercept"]), min(n_students, n_tasks) - 1
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, n_free)) * error
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, n_free))
    spreads = dict(zip(fit.model.exog_vc.names, np.sqrt(fit.vcomp), strict=True))
    sds = (float(spreads["student"]), float(spreads["task"]), math.sqrt(fit.scale))
    return MixedGain(mean, mean - half, mean + half, p_value, *sds, n_students, n_tasks, True)
