"""Intervals where several students answer the same items: students and items are drawn again, crossed.

A resample draws the clusters of students and, within each task, the items with replacement, independently; a
row counts as often as its cluster times as often as its item (Owen 2007, the pigeonhole bootstrap). So two
students that are wrong about the same item are not two findings. It is wide rather than narrow: with many
clusters the interval covers at least as often as it says. With two or three, which differ by more than their
items make them differ, it covers less often: 95 % become 50 % with two and 73 % with three where clusters
alone make the difference. With one cluster only the items are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdutils.inference.estimate import CONFIDENCE, Estimate

N_RESAMPLES = 999
MOST_UNDEFINED = 0.05  # share of resamples in which a statistic may be undefined and still have an interval


@dataclass(frozen=True)
class Resampled:
    """Sums of values by stratum (a student on a task), of all rows as they are and of every resample."""

    keys: pd.DataFrame  # a row a stratum: its names
    sums_RVS: np.ndarray  # resample (the first: the rows as they are), value, stratum
    weights_RS: np.ndarray  # how often the cluster of a stratum was drawn
    values: tuple[str, ...]
    why_not: str  # why there is no interval; "" if there is one

    def sums(self, name: str) -> np.ndarray:
        """Those of one value: resample, stratum."""
        return self.sums_RVS[:, self.values.index(name)]

    def mean(self, name: str, of: str) -> np.ndarray:
        """Sum of a value over that of `of`, which counts rows, one a resample; NaN where there are none."""
        top, bottom = ((self.weights_RS * self.sums(each)).sum(axis=1) for each in (name, of))
        return ratio(top, bottom)


def resampled(
    rows: pd.DataFrame,
    *,
    strata: Sequence[str],
    clusters: Sequence[str],
    values: Sequence[str],
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Resampled:
    """Sums of `values` by stratum, as they are and in every resample.

    Args:
        rows: one a stratum x item; columns `strata`, item_id and `values`. What a stratum has no row of
            counts as zero, so a mean is a sum over a sum of ones.
        strata: names of a stratum, `task` and all of `clusters` among them.
        clusters: what is drawn beside the items, such as student and seed.
    """
    strata, values = list(strata), list(values)
    if not {"task", *clusters} <= set(strata):
        raise ValueError(f"strata {strata} must hold task and the clusters {list(clusters)}; add them")
    keys = rows[strata].drop_duplicates()
    keys = keys.iloc[np.argsort(pd.factorize(keys["task"])[0], kind="stable")].reset_index(drop=True)
    place = pd.MultiIndex.from_frame(keys).get_indexer(pd.MultiIndex.from_frame(rows[strata]))
    of_cluster = keys.groupby(list(clusters), sort=False).ngroup().to_numpy()
    n_clusters = int(of_cluster.max()) + 1 if len(keys) else 0
    weights = np.ones((n_resamples + 1, n_clusters))
    if n_clusters > 1:
        weights[1:] = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    sums = np.empty((n_resamples + 1, len(values), len(keys)))
    numbers, most_items, first = rows[values].to_numpy(float), 0, 0
    for task, n_strata in keys.groupby("task", sort=False).size().items():
        here = (rows["task"] == task).to_numpy()
        item, names = pd.factorize(rows.loc[here, "item_id"])
        table_IVS = np.zeros((len(names), len(values), n_strata))
        table_IVS[item, :, place[here] - first] = numbers[here]
        drawn = np.ones((n_resamples + 1, len(names)))
        drawn[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
        product = drawn @ table_IVS.reshape(len(names), -1)
        sums[:, :, first : first + n_strata] = product.reshape(-1, len(values), n_strata)
        most_items, first = max(most_items, len(names)), first + n_strata
    why_not = "" if n_clusters > 1 or most_items > 1 else "one item of one student, nothing to draw again"
    return Resampled(keys, sums, weights[:, of_cluster], tuple(values), why_not)


def group_means(
    rows: pd.DataFrame, value: str, *, by: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """The mean over tasks of a value, a column a group of `by`; columns task, item_id and seed besides.

    The first row is of the items as they are, each further one of a resample of items and seeds, the same for
    all columns.
    """
    strata, groups = list(dict.fromkeys([*by, "seed", "task"])), list(by)
    of_item = rows.astype({value: float}).groupby([*strata, "item_id"], sort=False)[value].mean()
    of_item = of_item.reset_index().assign(one=1.0)
    drawn = resampled(of_item, strata=strata, clusters=["seed"], values=[value, "one"], rng=rng)
    means = ratio(drawn.sums(value), drawn.sums("one"))
    places = drawn.keys.groupby(groups, sort=False).indices
    found = {key: weighted_mean(means[:, at], drawn.weights_RS[:, at]) for key, at in places.items()}
    return pd.DataFrame(found).rename_axis(columns=groups)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """`top` / `bottom`, NaN where that is zero."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) != 0)


def weighted_mean(values_RS: np.ndarray, weights_RS: np.ndarray) -> np.ndarray:
    """Mean over strata, one a resample, of those whose value is finite; NaN where none is, or has weight."""
    is_there = np.isfinite(values_RS) & np.isfinite(weights_RS)
    weights = np.where(is_there, weights_RS, 0.0)
    return ratio((weights * np.where(is_there, values_RS, 0.0)).sum(axis=1), weights.sum(axis=1))


def estimate(of_resamples: np.ndarray, *, why_undefined: str, why_not: str = "") -> Estimate:
    """A statistic (first the rows as they are, then each resample) with its percentile interval.

    NaN with the reason `why_undefined` if it is undefined; without an interval if `why_not` says why, or if
    more than MOST_UNDEFINED of the resamples have none. The few others that have none are left out.
    """
    value, draws = float(of_resamples[0]), of_resamples[1:]
    if not math.isfinite(value):
        return Estimate(math.nan, reason=why_undefined)
    defined = draws[np.isfinite(draws)]
    undefined = 1 - len(defined) / len(draws) if len(draws) else 1.0
    if why_not or undefined > MOST_UNDEFINED:
        return Estimate(value, reason=why_not or f"undefined in {undefined:.0%} of resamples")
    low, high = np.percentile(defined, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(value, float(low), float(high))
