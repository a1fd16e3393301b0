"""Permutation tests and bootstraps for few units: exact where all arrangements can be counted.

Undefined results are NaN with a `reason`, never 0 and never an exception; where a result is defined, its
`reason` is empty. Every random number comes from the caller's generator.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.inference.estimate import CONFIDENCE, Estimate, Tested

EXACT_UP_TO = 50_000  # arrangements: all orders of 8 points, all signs of 15 values
SAME = 1e-9  # statistics that differ by less are one value that was summed in another order


def rank_permutation(
    x: Iterable[float],
    y: Iterable[float],
    *,
    blocks: Iterable[object] | None = None,
    rng: np.random.Generator,
    n_permutations: int = 9_999,
) -> Tested:
    """Spearman's rho with the p-value of all orders, or of `n_permutations` random ones.

    With blocks (such as families) ranks are given within each block and centred there, rho is that of the
    pooled ranks, and orders are exchanged within blocks only: a difference between blocks says nothing.
    The two-sided p is twice the smaller tail, as in scipy.stats.permutation_test; its `smallest_p` takes
    ties into account. `n` leaves out blocks of one point. Points must be independent within blocks.
    """
    x, y = np.asarray(list(x), dtype=float), np.asarray(list(y), dtype=float)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values of x and {len(y)} of y: give one of each a point")
    labels = np.zeros(len(x)) if blocks is None else np.asarray(list(blocks), dtype=object)
    if np.isnan(x).any() or np.isnan(y).any():
        return Tested(n=len(x), reason="a value is missing")
    _, block = np.unique(labels, return_inverse=True)
    members = [np.flatnonzero(block == index) for index in range(block.max() + 1)] if len(x) else []
    members = [rows for rows in members if len(rows) > 1]
    n = sum(len(rows) for rows in members)
    if n < 3:
        return Tested(n=n, reason="fewer than three points that have another in their block")
    ranks = [(centred_ranks(x[rows]), centred_ranks(y[rows])) for rows in members]
    scale = math.sqrt(sum((a**2).sum() for a, _ in ranks) * sum((b**2).sum() for _, b in ranks))
    if scale == 0:
        return Tested(n=n, reason="x or y is constant within blocks")
    null, is_exact = _rank_null(ranks, rng=rng, n_permutations=n_permutations)
    observed = sum(a @ b for a, b in ranks)
    return judged(observed, null, n=n, scale=scale, is_exact=is_exact)


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis less their mean; ties share theirs."""
    ranks = scipy.stats.rankdata(values, axis=-1)
    return ranks - ranks.mean(axis=-1, keepdims=True)


def _rank_null(
    ranks: Sequence[tuple[np.ndarray, np.ndarray]], *, rng: np.random.Generator, n_permutations: int
) -> tuple[np.ndarray, bool]:
    """Sums of products under orders within blocks, and whether they are all there are.

    Blocks are ordered independently of one another, so that all sums are sums of one entry from each.
    """
    if math.prod(math.factorial(min(len(a), 20)) for a, _ in ranks) <= EXACT_UP_TO:
        null = np.zeros(1)
        for a, b in ranks:
            of_block = b[np.array(list(permutations(range(len(b)))))] @ a
            null = (null[:, None] + of_block).ravel()
        return null, True
    null = np.zeros(n_permutations)
    for a, b in ranks:
        null += rng.permuted(np.tile(b, (n_permutations, 1)), axis=1) @ a
    return null, False


def judged(observed: float, null: np.ndarray, *, n: int, scale: float, is_exact: bool) -> Tested:
    """An observed statistic among those of the arrangements.

    Random arrangements are joined by the observed one, so that p is never 0 (Phipson and Smyth 2010).
    """
    near = SAME * max(np.abs(null).max(), abs(observed))
    added = 0 if is_exact else 1

    def share(is_as_extreme: np.ndarray) -> float:
        return (np.count_nonzero(is_as_extreme) + added) / (len(null) + added)

    greater, less = share(null >= observed - near), share(null <= observed + near)
    smallest = min(share(null >= null.max() - near), share(null <= null.min() + near))
    if not is_exact:
        smallest = 1 / (len(null) + 1)
    two_sided = [float(min(1.0, 2 * tail)) for tail in (min(greater, less), smallest)]
    return Tested(float(observed / scale), two_sided[0], n, two_sided[1], float(greater))


def cluster_permutation(
    x: Iterable[float],
    y: Iterable[float],
    clusters: Iterable[object],
    *,
    blocks: Iterable[object] | None = None,
    rng: np.random.Generator,
) -> Tested:
    """rank_permutation of a predictor that clusters share (a student's size) with the mean y of each.

    Several y of one cluster are no several observations of its x: n is the number of clusters. `blocks`
    are of the rows, and one for each cluster.

    Raises:
        ValueError: if x or the block differs within a cluster.
    """
    columns = {"cluster": list(clusters), "x": list(x), "y": list(y)}
    table = pd.DataFrame(columns | ({} if blocks is None else {"block": list(blocks)}))
    for name in [name for name in ("x", "block") if name in table]:
        n_values = table.groupby("cluster", sort=False)[name].nunique()
        if len(n_values) and n_values.max() > 1:
            raise ValueError(f"{name} differs within {n_values.idxmax()!r}: it must be one for each cluster")
    if table["y"].isna().any() or table["x"].isna().any():
        return Tested(n=table["cluster"].nunique(), reason="a value is missing")
    grouped = table.groupby("cluster", sort=False)
    of_cluster = None if blocks is None else grouped["block"].first()
    return rank_permutation(grouped["x"].first(), grouped["y"].mean(), blocks=of_cluster, rng=rng)


def sign_flip(values: Iterable[float], *, rng: np.random.Generator, n_permutations: int = 9_999) -> Tested:
    """Mean with the p-value of all ways to give the values signs, or of random ones.

    The null is a distribution symmetric about 0. The values must be independent: means of units, not cells.
    """
    sample = np.asarray(list(values), dtype=float)
    n = len(sample)
    if np.isnan(sample).any():
        return Tested(n=n, reason="a value is missing")
    if n < 2:
        return Tested(n=n, reason="fewer than two values")
    if not sample.any():
        return Tested(n=n, reason="all values are zero")
    is_exact = n < 20 and 2**n <= EXACT_UP_TO
    if is_exact:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1, 1], size=(n_permutations, n))
    return judged(sample.sum(), signs @ sample, n=n, scale=n, is_exact=is_exact)


def cluster_bootstrap(
    values: Iterable[float], clusters: Iterable[object], *, rng: np.random.Generator, n_resamples: int = 999
) -> Estimate:
    """Mean over clusters of their means, with the percentile interval of a bootstrap of both levels.

    Clusters (students) are drawn again, and the values (runs) within each. Percentile intervals of a few
    clusters are too narrow (notebook 10 says by how much).
    """
    sample, (place, names) = np.asarray(list(values), dtype=float), pd.factorize(np.asarray(list(clusters)))
    n = len(names)
    if np.isnan(sample).any() or n < 2:
        reason = "a value is missing" if np.isnan(sample).any() else "fewer than two clusters"
        return Estimate(n=n, reason=reason)
    choice = rng.integers(n, size=(n_resamples, n))
    drawn = np.empty(choice.shape)
    for index in range(n):  # a cluster that is chosen twice is resampled twice
        own, chosen = sample[place == index], choice == index
        # As many draws as there are values, counted by value: right and wrong are two values of many items.
        distinct, counts = np.unique(own, return_counts=True)
        hits = rng.multinomial(len(own), counts / len(own), size=int(chosen.sum()))
        drawn[chosen] = hits @ distinct / len(own)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn.mean(axis=1), [tail, 1 - tail])
    mean = np.mean([sample[place == index].mean() for index in range(n)])
    return Estimate(float(mean), float(low), float(high), n=n)
