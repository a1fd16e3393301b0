"""Gains where the baseline matters: on the logit scale, adjusted for it, and as equal gains would look.

A gain in points falls with the baseline by arithmetic, since right answers cannot be more than all: students
that gain equally on the logit scale show a strong correlation of points with size. Accuracies are in percent.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats

from kdutils.inference.estimate import Estimate, Tested
from kdutils.inference.resampling import centred_ranks, judged
from kdutils.inference.student_tests import Many, by_t

SCALES = ("points", "logit")  # on which gains may be equal
FEWEST_RESIDUALS = 2  # degrees of freedom: below them Student's t is too wide to say anything


def empirical_logit(accuracy: np.ndarray, n_items: np.ndarray | int) -> np.ndarray:
    """Log odds of accuracies in percent, finite also where all items are right or none.

    Half an item is added to the right and half to the wrong ones (Haldane 1956; Anscombe 1956), so that the
    correction shrinks with the number of items. NaN below one item.
    """
    accuracy, items = np.broadcast_arrays(np.asarray(accuracy, float), np.asarray(n_items, float))
    hits = np.where(items >= 1, accuracy / 100 * items, np.nan)
    if (hits < 0).any() or (hits > items + 1e-9).any():
        raise ValueError("an accuracy lies outside of 0 to 100: give percent")
    return np.log((hits + 0.5) / (np.maximum(items - hits, 0.0) + 0.5))


def logit_gain(
    accuracy_kd: np.ndarray | float, accuracy_sft: np.ndarray | float, n_items: np.ndarray | int
) -> np.ndarray:
    """Log odds of being right after KD less those after SFT (empirical_logit), of accuracies in percent."""
    return empirical_logit(accuracy_kd, n_items) - empirical_logit(accuracy_sft, n_items)


def adjusted_size_effect(table: pd.DataFrame) -> Estimate:
    """What doubling the size goes with in accuracy after KD, in points, at one SFT accuracy and family.

    Ordinary least squares of accuracy ~ sft_accuracy + log2(student_parameters) + family over students. Their
    accuracies are means over whatever rows they have within a task, then over tasks. The interval is
    Student's t: with as few students as families and baselines leave, robust errors (HC3) are no better.

    Args:
        table: rows with student, task, student_parameters, family, accuracy and sft_accuracy.
    """
    keys, values = ["student", "student_parameters", "family"], ["accuracy", "sft_accuracy"]
    if table[[*keys, *values]].isna().any(axis=None):
        return Estimate(n=table["student"].nunique(), reason="a value is missing")
    if table.empty:
        return Estimate(n=0, reason="no students")
    by_task = table.groupby([*keys, "task"], sort=False)[values].mean()
    students = by_task.groupby(keys, sort=False).mean().reset_index()
    accuracy, sft_accuracy = (students[name].to_numpy(float) for name in values)
    of_students = {"sizes": students["student_parameters"].to_numpy(float), "families": students["family"]}
    n, design = len(students), size_design(sft_accuracy[None], **of_students)[0]
    if n - design.shape[1] < FEWEST_RESIDUALS:
        reason = f"{n} students for {design.shape[1]} coefficients: fewer than "
        return Estimate(n=n, reason=f"{reason}{FEWEST_RESIDUALS} residuals are free")
    centred = np.column_stack([design[:, 0], design[:, 1:] - design[:, 1:].mean(axis=0)])
    if np.linalg.matrix_rank(centred) < design.shape[1]:
        return Estimate(n=n, reason="size, SFT accuracy and family are confounded or constant")
    found, residuals = size_slopes(accuracy[None], sft_accuracy[None], **of_students)
    slope, spread = float(found.value[0]), ((accuracy - accuracy.mean()) ** 2).sum()
    if not (residuals**2).sum() > 1e-12 * max(spread, 1e-300):
        return Estimate(slope, n=n, reason="no residual variance")
    low, high = found.bounds[0]
    return Estimate(slope, float(low), float(high), float(found.p_value[0]), n)


def size_design(sft_accuracy: np.ndarray, *, sizes: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """Ones, log2 of size, SFT accuracy and families of each student: studies x students x coefficients."""
    dummies = pd.get_dummies(pd.Series(list(families), dtype=object), drop_first=True, dtype=float)
    fixed = np.column_stack([np.ones(len(sizes)), np.log2(sizes), dummies.to_numpy()])
    fixed = np.broadcast_to(fixed, (len(sft_accuracy), *fixed.shape))
    return np.concatenate([fixed, sft_accuracy[..., None]], axis=2)


def size_slopes(
    accuracy: np.ndarray, sft_accuracy: np.ndarray, *, sizes: np.ndarray, families: Sequence[str]
) -> tuple[Many, np.ndarray]:
    """The coefficient of log2(size) in adjusted_size_effect, of studies x students, and the residuals.

    NaN for too few students.
    """
    design = size_design(sft_accuracy, sizes=sizes, families=families)
    n_free = len(sizes) - design.shape[2]
    inverse = np.linalg.pinv(design)
    coefficients = (inverse @ accuracy[..., None])[..., 0]
    residuals = accuracy - np.einsum("asp,ap->as", design, coefficients)
    variance = (residuals**2).sum(axis=1) / n_free if n_free >= FEWEST_RESIDUALS else math.nan
    error = np.sqrt(variance * (inverse[:, 1] ** 2).sum(axis=1))
    return by_t(coefficients[:, 1], error, n_free), residuals


class EqualGainNull(NamedTuple):
    """Spearman's rho of gain in points and size, and where it would lie if all students gained equally."""

    observed: Tested  # p two-sided against that null, p_greater of a rho that large
    low: float = math.nan  # central 95 % of the null; not around 0 where the baseline goes with size
    high: float = math.nan


def null_of_equal_gain(
    accuracies: np.ndarray,
    n_items: np.ndarray | int,
    sizes: Iterable[float],
    *,
    scale: str,
    rng: np.random.Generator,
    n_simulations: int = 1_999,
) -> EqualGainNull:
    """The rank correlation of gain and size, tested against equal gains instead of against no correlation.

    Each task's common gain is the students' mean on `scale`. Students keep the SFT accuracy that was observed
    as their true one, which doubles its noise: regression to the mean is part of the null. Items are drawn
    anew for SFT and KD, independently. Only sampling of items is noise here: training seeds would widen the
    null, so a small p speaks against equal gains *of these trained students*.

    Args:
        accuracies: percent, students x tasks x 2 (SFT, KD); gains are averaged over tasks.
        n_items: of each task, or one number for all.
        sizes: of the students, in the same order.
        scale: on which gains are equal, of SCALES. The correlation is of gains in points on both.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; choose one of {list(SCALES)}")
    values, sizes = np.asarray(accuracies, dtype=float), np.asarray(list(sizes), dtype=float)
    n = len(sizes)
    if n < 3:
        return EqualGainNull(Tested(n=n, reason="fewer than three students"))
    if np.isnan(values).any() or np.isnan(sizes).any():
        return EqualGainNull(Tested(n=n, reason="a value is missing"))
    if np.ptp(sizes) == 0:
        return EqualGainNull(Tested(n=n, reason="all sizes are equal"))
    items = np.broadcast_to(np.asarray(n_items, dtype=int), values.shape[1])
    before = scipy.special.expit(empirical_logit(values[..., 0], items))
    if scale == "logit":
        common = logit_gain(values[..., 1], values[..., 0], items).mean(axis=0)
        after = scipy.special.expit(scipy.special.logit(before) + common)
    else:
        common = (values[..., 1] - values[..., 0]).mean(axis=0) / 100
        after = np.clip(before + common, 0.0, 1.0)
    shape = (n_simulations, *before.shape)
    gains = rng.binomial(items, after, size=shape) / items - rng.binomial(items, before, size=shape) / items
    rho = rank_correlations(gains.mean(axis=2), sizes)
    observed = rank_correlations((values[..., 1] - values[..., 0]).mean(axis=1)[None], sizes)[0]
    if not math.isfinite(observed):
        return EqualGainNull(Tested(n=n, reason="all gains are equal"))
    rho = rho[np.isfinite(rho)]
    if not len(rho):
        return EqualGainNull(Tested(n=n, reason="the null has no spread"))
    low, high = np.quantile(rho, [0.025, 0.975])
    tested = judged(observed, rho, n=n, scale=1.0, is_exact=False)
    return EqualGainNull(tested, float(low), float(high))


def spearman_tests(values: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """rho and p of intervals.spearman of each row of `values` with `other`, which has as many entries."""
    rho, n_free = rank_correlations(values, other), len(other) - 2
    with np.errstate(divide="ignore"):
        t = rho * np.sqrt(n_free / ((1 + rho) * (1 - rho)).clip(min=0))
    return rho, 2 * scipy.stats.t.sf(np.abs(t), n_free)


def rank_correlations(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rho of each row of `values` with `other`, which has as many entries; NaN where constant."""
    ranks, of_other = centred_ranks(values), centred_ranks(other)
    scale = np.sqrt((ranks**2).sum(axis=1) * (of_other**2).sum())
    return np.divide(ranks @ of_other, scale, out=np.full(len(ranks), np.nan), where=scale > 0)
