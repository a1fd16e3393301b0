"""Intervals and tests of plain numbers, as the literature gives them; what is tested is the caller's choice.

Undefined statistics (too few points, constant input) are NaN, never 0 and never an exception.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.stats
from sacrebleu import BLEU

from kdutils.grid.study import UNFORMATTED
from kdutils.inference.estimate import CONFIDENCE, Estimate, Tested


def ttest_greater(values: Iterable[float]) -> Tested:
    """One-sample one-sided t-test of mean > 0 (scipy.stats.ttest_1samp); NaN below two values."""
    sample = np.asarray(list(values), dtype=float)
    if len(sample) < 2 or np.isnan(sample).any() or np.ptp(sample) == 0:
        return Tested(n=len(sample))
    result = scipy.stats.ttest_1samp(sample, 0.0, alternative="greater")
    return Tested(float(result.statistic), float(result.pvalue), len(sample))


def anova_oneway(values: pd.Series, groups: pd.Series) -> Tested:
    """F and p of a one-way ANOVA of `values` over `groups` (pingouin.anova).

    NaN with fewer than two groups, a group of fewer than two values, or no variance within groups.
    """
    counts = groups.value_counts()
    within = values.groupby(groups).var().sum()
    if len(counts) < 2 or counts.min() < 2 or values.isna().any() or not within > 0:
        return Tested(n=len(values))
    import pingouin  # takes two seconds to import, and most notebooks run no ANOVA

    frame = pd.DataFrame({"value": values.to_numpy(float), "group": groups.to_numpy(object)})
    table = pingouin.anova(data=frame, dv="value", between="group")
    return Tested(float(table["F"].iloc[0]), float(table["p_unc"].iloc[0]), len(values))


def spearman(x: Iterable[float], y: Iterable[float]) -> Tested:
    """Spearman's rho with the t approximation of its p-value, as scipy and the authors compute it.

    The approximation prints p = 0 for a perfect order of four points, where the exact value is 1/12.
    NaN below three points or where one side is constant or has a NaN.
    """
    x, y = np.asarray(list(x), dtype=float), np.asarray(list(y), dtype=float)
    if len(x) < 3 or np.isnan(x).any() or np.isnan(y).any():
        return Tested(n=len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)  # gives NaN, as documented
        result = scipy.stats.spearmanr(x, y)
    return Tested(float(result.statistic), float(result.pvalue), len(x))


def mean_interval(values: Iterable[float], *, confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval; bounds NaN below two values.

    scipy.stats.ttest_1samp(...).confidence_interval() differs in the last bit, and ledgers keep every bit.
    """
    sample = np.asarray(list(values), dtype=float)
    n = len(sample)
    mean = float(sample.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, n=n)
    half = scipy.stats.t.ppf(0.5 + confidence / 2, n - 1) * sample.std(ddof=1) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n=n)


def mean_over_items(values: Iterable[float], tasks: Iterable[object]) -> Estimate:
    """Percent: the mean over tasks of the mean over a task's items, each value in [0, 1], with its interval.

    The adjusted Wald interval of Agresti and Coull (1998): two successes and two failures are added, an equal
    part of them to each task, so that it has a width where all items are right, and stays in [0, 100].
    It speaks of other items of these tasks, not of other tasks, pairs or training seeds. NaN without items or
    with a NaN among them.
    """
    return _over_items(values, tasks, added={0.0: 2.0, 1.0: 2.0})


def difference_over_items(
    differences: Iterable[float], tasks: Iterable[object], *, confidence: float = 0.95
) -> Estimate:
    """Points: the same of differences in [-1, 1] between two runs that were scored on the same items.

    The adjusted Wald interval of Agresti and Min (2005) for matched pairs: half an item is added to each
    outcome of a pair, right or wrong twice, in all, an equal part of them to each task. So two runs that
    differ on no item have an interval with a width. p and interval are of one normal approximation: p < 0.05
    where the 95 % interval leaves out 0.
    """
    return _over_items(differences, tasks, added={-1.0: 0.5, 0.0: 1.0, 1.0: 0.5}, confidence=confidence)


def difference_by_item(differences: pd.Series, *, widest: float = 1.0, confidence: float = 0.95) -> Estimate:
    """The same of differences of at most `widest`, whose index has a level `task`.

    A gain is a difference already, so that two of them may differ by 2: halved, it is one outcome of a pair.
    """
    tasks = differences.index.get_level_values("task")
    found = difference_over_items(differences / widest, tasks, confidence=confidence)
    return replace(found, value=widest * found.value, low=widest * found.low, high=widest * found.high)


def _over_items(
    values: Iterable[float], tasks: Iterable[object], *, added: dict[float, float], confidence: float = 0.95
) -> Estimate:
    """Mean over tasks, and a normal interval of the items with `added` ones (value -> how many)."""
    values = np.asarray(list(values), dtype=float)
    n, lowest, highest = len(values), min(added), max(added)
    if n == 0 or np.isnan(values).any():
        return Estimate(math.nan, n=n)
    if values.min() < lowest or values.max() > highest:
        raise ValueError(
            f"values from {values.min():g} to {values.max():g} must lie in [{lowest:g}, {highest:g}]: give "
            "shares, not percent"
        )
    _, task = np.unique(np.asarray(list(tasks), dtype=object), return_inverse=True)
    counts, sums, squares = (np.bincount(task, values**power) for power in (0, 1, 2))
    n_tasks = len(counts)
    weight = counts + sum(added.values()) / n_tasks
    mean = (sums + sum(value * times for value, times in added.items()) / n_tasks) / weight
    square = (squares + sum(value**2 * times for value, times in added.items()) / n_tasks) / weight
    centre, error = mean.mean(), math.sqrt(((square - mean**2) / weight).sum()) / n_tasks
    half = scipy.stats.norm.ppf(0.5 + confidence / 2) * error
    low, high = 100 * float(max(centre - half, lowest)), 100 * float(min(centre + half, highest))
    p_value = 2 * float(scipy.stats.norm.sf(abs(centre) / error)) if lowest < 0 else math.nan
    return Estimate(100 * float((sums / counts).mean()), low, high, p_value, n)


def share_interval(n_hits: float, n: int) -> Estimate:
    """Percent: a share with the exact interval of Clopper and Pearson (1934); NaN for n < 1.

    `n_hits` may be a fraction, where ties share a hit.
    """
    if n < 1:
        return Estimate(math.nan, n=n)
    from statsmodels.stats.proportion import proportion_confint  # statsmodels takes a second to import

    low, high = proportion_confint(n_hits, n, alpha=1 - CONFIDENCE, method="beta")
    return Estimate(100 * n_hits / n, 100 * float(low), 100 * float(high), n=n)


def pearson_interval(r: float, n: int) -> Estimate:
    """Fisher-z interval of a correlation over n independent points; NaN bounds below four or at |r| = 1."""
    if n < 4 or not abs(r) < 1:
        return Estimate(r, n=n)
    half = scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2) / math.sqrt(n - 3)
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n=n)


def spearman_interval(rho: float, n: int) -> Estimate:
    """Fisher-z interval of a rank correlation with the standard error of Bonett and Wright (2000).

    An approximation for independent points; the study's points share students and teachers, so it is
    too narrow here. NaN bounds below five points or at |rho| = 1.
    """
    if n < 5 or not abs(rho) < 1:
        return Estimate(rho, n=n)
    half = scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    z = math.atanh(rho)
    return Estimate(rho, math.tanh(z - half), math.tanh(z + half), n=n)


def gain_intervals(gain_table: pd.DataFrame, *, by: list[str]) -> pd.DataFrame:
    """Mean gain in each group of `by` with an interval from item sampling: columns gain, low, high, n_runs.

    Where some runs were repeated, the interval holds the variation over training seeds too.

    `by` must contain `student` and `task`: runs of a group then share one SFT baseline, whose error
    does not average out over the runs. Runs are treated as independent samples of the test items.
    """
    if missing := {"student", "task"} - set(by):
        raise ValueError(f"by={by} lacks {sorted(missing)}: runs of a group must share their baseline")
    z = scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2)
    own = gain_table["accuracy_se"] ** 2 + gain_table["seed_se"].fillna(0.0) ** 2
    shared = gain_table["sft_accuracy_se"] ** 2 + gain_table["sft_seed_se"].fillna(0.0) ** 2
    grouped = gain_table.assign(own=own, shared=shared).groupby(by, sort=False)
    out = grouped["gain"].mean().to_frame()
    n_runs = grouped.size()
    half = z * (grouped["own"].sum() / n_runs**2 + grouped["shared"].first()) ** 0.5
    if UNFORMATTED in gain_table:
        out[UNFORMATTED] = grouped[UNFORMATTED].any()
    return out.assign(low=out["gain"] - half, high=out["gain"] + half, n_runs=n_runs).reset_index()


def accuracy_intervals(runs: pd.DataFrame) -> pd.DataFrame:
    """The table with columns low and high: accuracy and its normal interval from item sampling, percent."""
    half = scipy.stats.norm.ppf(0.5 + CONFIDENCE / 2) * runs["accuracy_se"]
    return runs.assign(low=runs["accuracy"] - half, high=runs["accuracy"] + half)


# --- BLEU of a corpus ---------------------------------------------------------------------------------------


def bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU of summed counts (comparison.bleu_counts; the last axis), percent, as sacrebleu's of a corpus."""
    counts = np.asarray(counts).astype(int)
    found = [
        BLEU.compute_bleu(list(row[2:6]), list(row[6:]), row[0], row[1], smooth_method="exp").score
        for row in counts.reshape(-1, counts.shape[-1]).tolist()
    ]
    return np.reshape(found, counts.shape[:-1])


def jackknife(values: Sequence[float], left_out: Sequence[np.ndarray]) -> Estimate:
    """Mean over tasks of a statistic of a task's items, with a normal interval and p.

    Args:
        values: the statistic of each task.
        left_out: of each task the statistic without each of its items, one after the other: how much hangs
            on each (Efron and Stein 1981). Tasks are taken as independent; NaN bounds for a task of one item.
    """
    n_tasks, mean = len(values), float(sum(values) / len(values))
    variances = [(len(each) - 1) * float(each.var()) if len(each) > 1 else math.nan for each in left_out]
    error = math.sqrt(sum(variances) / n_tasks**2)
    half = scipy.stats.norm.ppf(0.975) * error
    p_value = 2 * float(scipy.stats.norm.sf(abs(mean) / error)) if error > 0 else math.nan
    return Estimate(mean, mean - half, mean + half, p_value=p_value, n=sum(map(len, left_out)))
