"""Procedures of the study on many studies at once, for simulations: each a row of arrays.

They are the procedures named, in fewer calls; tests hold every one of them to its original.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.inference.size_effects import FEWEST_RESIDUALS, rank_correlations


class Means(NamedTuple):
    """Of each study: a t-test of its mean and the bounds of the interval."""

    p_value: np.ndarray  # two-sided
    p_greater: np.ndarray
    bounds: np.ndarray  # studies x 2


def mean_tests(
    values: np.ndarray, *, blocks: Sequence[object] | None = None, confidence: float = 0.95
) -> Means:
    """student_mean_test of unit means, studies x units; without blocks also intervals.mean_interval."""
    n_units = values.shape[1]
    places = np.zeros(n_units, dtype=int) if blocks is None else pd.factorize(np.asarray(blocks))[0]
    indicator = np.equal.outer(places, np.unique(places)).astype(float)
    projection = indicator @ np.linalg.pinv(indicator)
    within = values - values @ projection
    n_free = n_units - indicator.shape[1]
    error = np.sqrt((within**2).sum(axis=1) / n_free / n_units)
    mean = values.mean(axis=1)
    half = scipy.stats.t.ppf(0.5 + confidence / 2, n_free) * error
    greater = scipy.stats.t.sf(mean / error, n_free)
    return Means(2 * np.minimum(greater, 1 - greater), greater, np.stack([mean - half, mean + half], axis=1))


def spearman_tests(values: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """rho and p of intervals.spearman of each row of `values` with `other`, which has as many entries."""
    rho, n_free = rank_correlations(values, other), len(other) - 2
    with np.errstate(divide="ignore"):
        t = rho * np.sqrt(n_free / ((1 + rho) * (1 - rho)).clip(min=0))
    return rho, 2 * scipy.stats.t.sf(np.abs(t), n_free)


def repeated_measures_p_values(values: np.ndarray) -> dict[str, np.ndarray]:
    """p_value, p_corrected and friedman_p of repeated_measures: studies x subjects x conditions."""
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
    return {"p_value": scipy.stats.f.sf(f, *degrees), "p_corrected": corrected, "friedman_p": friedman}


def size_effect_p_values(
    accuracy: np.ndarray, sft_accuracy: np.ndarray, *, sizes: np.ndarray, families: Sequence[str]
) -> np.ndarray:
    """p of adjusted_size_effect on one scale, of studies x students; NaN for too few students."""
    dummies = pd.get_dummies(pd.Series(families, dtype=object), drop_first=True, dtype=float).to_numpy()
    fixed = np.column_stack([np.ones(len(sizes)), np.log2(sizes), dummies])
    shape = (len(accuracy), *fixed.shape)
    design = np.concatenate([np.broadcast_to(fixed, shape), sft_accuracy[..., None]], axis=2)
    n_free = len(sizes) - design.shape[2]
    if n_free < FEWEST_RESIDUALS:
        return np.full(len(accuracy), math.nan)
    inverse = np.linalg.pinv(design)
    coefficients = (inverse @ accuracy[..., None])[..., 0]
    residuals = accuracy - np.einsum("asp,ap->as", design, coefficients)
    variance = (residuals**2).sum(axis=1) / n_free
    error = np.sqrt(variance * (inverse[:, 1] ** 2).sum(axis=1))
    return 2 * scipy.stats.t.sf(np.abs(coefficients[:, 1] / error), n_free)
