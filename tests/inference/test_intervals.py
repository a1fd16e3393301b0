"""Intervals and tests agree with other code and cover as they say; degenerate input is NaN."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdutils.inference import intervals

finite = st.floats(-50, 50, allow_nan=False).map(lambda value: round(value, 3))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(finite, min_size=3, max_size=8, unique=True), min_size=2, max_size=4))
def test_anova_is_scipys(groups):
    values = pd.Series(np.concatenate(groups))
    labels = pd.Series(np.repeat([f"g{i}" for i in range(len(groups))], [len(g) for g in groups]))
    ours, other = intervals.anova_oneway(values, labels), scipy.stats.f_oneway(*groups)
    assume(other.statistic > 1e-9)  # scipy turns the rounding error of F = 0 into F < 0 and p = NaN
    assert ours.statistic == pytest.approx(other.statistic, rel=1e-6, abs=1e-9)
    assert ours.p_value == pytest.approx(other.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    "result",
    [
        intervals.ttest_greater([]),
        intervals.ttest_greater([1.0]),
        intervals.ttest_greater([2.0, 2.0, 2.0]),
        intervals.ttest_greater([1.0, math.nan]),
        intervals.spearman([1, 2], [2, 1]),
        intervals.spearman([1, 1, 1, 1], [1, 2, 3, 4]),
        intervals.spearman([1, 2, math.nan], [1, 2, 3]),
        intervals.anova_oneway(pd.Series([1.0, 2.0]), pd.Series(["a", "a"])),
        intervals.anova_oneway(pd.Series([1.0, 1.0, 2.0, 2.0]), pd.Series(["a", "a", "b", "b"])),
    ],
)
def test_undefined_is_nan(result):
    assert math.isnan(result.statistic)
    assert math.isnan(result.p_value)


def test_mean_interval_covers_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    found = [intervals.mean_interval(rng.normal(3.0, 2.0, size=6)) for _ in range(4000)]
    coverage = np.mean([interval.low <= 3.0 <= interval.high for interval in found])
    assert coverage == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of 4000 draws


def test_spearman_interval_covers_about_its_nominal_rate_for_independent_points():
    rng = np.random.default_rng(1)
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's rho of a bivariate normal with r = 0.5
    hits = []
    for _ in range(2000):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=33).T
        interval = intervals.spearman_interval(intervals.spearman(x, y).statistic, 33)
        hits.append(interval.low <= truth <= interval.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_intervals_of_too_few_points_have_no_bounds():
    assert math.isnan(intervals.mean_interval([1.0]).low)
    assert math.isnan(intervals.spearman_interval(0.5, 4).low)
    assert math.isnan(intervals.spearman_interval(1.0, 30).high)


def test_difference_over_items_is_agresti_and_mins():
    """b = 9 items got right, c = 3 lost, 20 as before: (b - c) / (n + 2), one half in each outcome."""
    found = intervals.difference_over_items([1.0] * 9 + [-1.0] * 3 + [0.0] * 20, ["svamp"] * 32)
    centre = 6 / 34
    half = 1.959964 * math.sqrt(13 - 36 / 34) / 34
    assert found.value == pytest.approx(100 * 6 / 32)
    assert (found.low, found.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)), rel=1e-6)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(1.959964 * centre / half), rel=1e-6)
    assert found.n == 32


def test_mean_over_items_is_agresti_and_coulls():
    found = intervals.mean_over_items([1.0] * 25 + [0.0] * 7, ["svamp"] * 32)
    share = 27 / 36
    half = 1.959964 * math.sqrt(share * (1 - share) / 36)
    assert (found.low, found.high) == pytest.approx((100 * (share - half), 100 * (share + half)), rel=1e-6)
    assert found.value == 78.125
    assert math.isnan(found.p_value)


def test_tasks_weigh_the_same_however_many_items_they_hold():
    values, tasks = [1.0] * 10 + [0.0] * 40, ["a"] * 10 + ["b"] * 40
    found = intervals.mean_over_items(values, tasks)
    assert found.value == 50.0
    assert found.n == 50
    assert found.high - found.low < 100 / 3  # what is certain within each task adds little


def test_no_difference_on_any_item_is_not_certainty():
    same = intervals.difference_over_items([0.0] * 32, ["a"] * 32)
    assert same.value == 0.0
    assert same.low < -5.0 < 5.0 < same.high
    assert same.p_value == 1.0
    all_right = intervals.mean_over_items([1.0] * 32, ["a"] * 32)
    assert (all_right.value, all_right.high) == (100.0, 100.0)
    assert all_right.low < 95.0


@pytest.mark.parametrize("interval", [intervals.mean_over_items, intervals.difference_over_items])
def test_intervals_over_no_items_are_nan_and_percent_is_refused(interval):
    for values in ([], [0.5, math.nan]):
        found = interval(values, ["a"] * len(values))
        assert math.isnan(found.value) and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(ValueError, match="give shares, not percent"):
        interval([0.0, 40.0], ["a", "a"])


@pytest.mark.parametrize(
    ("gained", "lost", "n_tasks"), [(0.2, 0.05, 1), (0.02, 0.02, 1), (0.2, 0.05, 6), (0.0, 0.3, 6)]
)
def test_intervals_over_items_cover_at_their_nominal_rate(gained, lost, n_tasks):
    """32 items a task, as the profile qwen-small has. Few differences on one task: more than nominal."""
    rng = np.random.default_rng(11)
    tasks, hits = np.repeat(np.arange(n_tasks), 32), []
    for draw in rng.random((600, 32 * n_tasks)):
        found = intervals.difference_over_items(1.0 * (draw < gained) - (draw > 1 - lost), tasks)
        hits.append(found.low <= 100 * (gained - lost) <= found.high)
    assert 0.925 < np.mean(hits) <= 1.0  # 2.8 standard errors of 600 draws below
    if gained + lost > 0.1:
        assert np.mean(hits) < 0.975


def test_accuracies_of_unequal_tasks_are_covered():
    rng = np.random.default_rng(12)
    shares, tasks, hits = np.repeat([0.05, 0.3, 0.5, 0.8, 0.95, 0.4], 32), np.repeat(np.arange(6), 32), []
    for draw in rng.random((600, len(shares))):
        found = intervals.mean_over_items(draw < shares, tasks)
        hits.append(found.low <= 100 * shares.mean() <= found.high)
    assert 0.925 < np.mean(hits) < 0.98


def test_share_interval_is_clopper_and_pearsons():
    for n_hits, n in ((0, 6), (3, 6), (6, 6)):
        exact = scipy.stats.binomtest(n_hits, n).proportion_ci(method="exact")
        found = intervals.share_interval(n_hits, n)
        assert (found.low, found.high) == pytest.approx((100 * exact.low, 100 * exact.high))
    assert (
        intervals.share_interval(2, 6).low
        < intervals.share_interval(2.5, 6).low
        < intervals.share_interval(3, 6).low
    )
    assert math.isnan(intervals.share_interval(0, 0).value)


def test_pearson_interval_is_scipys():
    x = np.random.default_rng(2).normal(size=(2, 30))
    result = scipy.stats.pearsonr(x[0], x[0] + x[1])
    bounds = result.confidence_interval()
    found = intervals.pearson_interval(result.statistic, 30)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high))
    assert math.isnan(intervals.pearson_interval(1.0, 30).low)
    assert math.isnan(intervals.pearson_interval(0.2, 3).low)


def test_gain_interval_keeps_the_shared_baseline_whole():
    """Two runs against one baseline: variance (1 + 4) / 4 + 9 = 10.25, not (1 + 9 + 4 + 9) / 4."""
    table = pd.DataFrame(
        {
            "student": "s",
            "task": "t",
            "gain": [1.0, 3.0],
            "accuracy_se": [1.0, 2.0],
            "sft_accuracy_se": [3.0, 3.0],
            "seed_se": [np.nan, np.nan],
            "sft_seed_se": [np.nan, np.nan],
        }
    )
    row = intervals.gain_intervals(table, by=["student", "task"]).iloc[0]
    assert row["gain"] == 2.0
    assert row["high"] - row["gain"] == pytest.approx(1.959964 * math.sqrt(10.25), rel=1e-6)
    repeated = table.assign(seed_se=[2.0, 2.0], sft_seed_se=1.5)  # runs: (1 + 4 + 4 + 4) / 4; baseline once
    row = intervals.gain_intervals(repeated, by=["student", "task"]).iloc[0]
    assert row["high"] - row["gain"] == pytest.approx(1.959964 * math.sqrt(13 / 4 + 9 + 2.25), rel=1e-6)
    with pytest.raises(ValueError, match="lacks .'student'"):
        intervals.gain_intervals(table, by=["task"])
