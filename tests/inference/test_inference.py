"""Tests for few units agree with other implementations and with cases by hand; degenerate ones are NaN."""

import math

import numpy as np
import pandas as pd
import pingouin
import pytest
import scipy.stats
import statsmodels.api
import statsmodels.formula.api as formulas
import statsmodels.stats.anova
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from kdutils.constants import MATH_TASKS, TEST_ITEMS
from kdutils.inference import intervals, resampling, size_effects, student_tests
from kdutils.inference.size_effects import empirical_logit, rank_correlations

SIZES = {"q0": 0.5e9, "q1": 1.5e9, "q2": 3e9, "q3": 7e9, "l0": 1e9, "l1": 3e9}


def rng(seed=0):
    return np.random.default_rng(seed)


def table_of(seed=0, *, slope=0.0, n_seeds=1, students=SIZES):
    """Six students of two families on the math tasks, with gains of 3 points and `slope` per doubling."""
    rows, draw = [], rng(seed)
    for student, size in students.items():
        own = draw.normal(scale=2.0)
        for task in MATH_TASKS:
            sft = 30 + 8 * math.log2(size / 5e8) + draw.normal(scale=4)
            for run in range(n_seeds):
                kd = sft + 3 + own + slope * math.log2(size / 5e8) + draw.normal()
                rows.append((student, student[0], task, run, size, sft, kd, kd - sft, TEST_ITEMS[task]))
    names = ["student", "family", "task", "seed", "student_parameters", "sft_accuracy", "accuracy", "gain"]
    return pd.DataFrame(rows, columns=[*names, "n_items"])


def is_undefined(result):
    """Whether every number but counts and settings is NaN, and the reason says why."""
    known = {"value"}  # a mean may be known without its error
    values = {name: value for name, value in vars(result).items() if isinstance(value, float)}
    return bool(result.reason) and all(
        math.isnan(value) for name, value in values.items() if name not in known
    )


class TestRankPermutation:
    def test_a_perfect_order_of_four_has_two_of_24_orders(self):
        found = resampling.rank_permutation([1, 2, 3, 4], [8, 6, 4, 2], rng=rng())
        assert found.statistic == pytest.approx(-1)
        assert found.p_value == found.smallest_p == pytest.approx(2 / 24)
        assert found.p_greater == 1
        assert (found.n, found.reason) == (4, "")
        assert intervals.spearman([1, 2, 3, 4], [8, 6, 4, 2]).p_value == 0  # what it replaces

    @pytest.mark.parametrize("ties", [False, True])
    def test_all_orders_are_those_of_scipy(self, ties):
        x, y = rng(1).normal(size=(2, 6))
        x, y = (np.round(x), np.round(y)) if ties else (x, y)
        other = scipy.stats.permutation_test(
            (x,),
            lambda x: scipy.stats.spearmanr(x, y).statistic,
            permutation_type="pairings",
            n_resamples=720,
        )
        found = resampling.rank_permutation(x, y, rng=rng())
        assert found.statistic == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert found.p_value == pytest.approx(other.pvalue, abs=1e-12)

    def test_random_orders_come_near_the_t_of_many_points(self):
        x = rng(2).normal(size=60)
        y = 0.25 * x + rng(3).normal(size=60)
        found = resampling.rank_permutation(x, y, rng=rng())
        usual = scipy.stats.spearmanr(x, y)
        assert found.statistic == pytest.approx(usual.statistic)
        assert found.p_value == pytest.approx(usual.pvalue, abs=4 * math.sqrt(usual.pvalue / 9_999))
        assert found.smallest_p == pytest.approx(2 / 10_000)

    def test_within_blocks_a_difference_between_them_says_nothing(self):
        blocks = list("aaabbb")
        x, y = [1, 2, 3, 11, 12, 13], [1, 3, 2, 21, 23, 22]
        found = resampling.rank_permutation(x, y, blocks=blocks, rng=rng())
        shifted = resampling.rank_permutation(
            x, np.add(y, [0, 0, 0, -99, -99, -99]), blocks=blocks, rng=rng()
        )
        assert found == shifted
        assert found.statistic == pytest.approx(0.5)  # of each block, and so of both
        # Sums of two blocks, each 2, 1, 1, -1, -1, -2 with equal chance: 2 or more in 1 + 2*2 + 4 of 36.
        assert found.p_greater == pytest.approx(9 / 36)
        assert found.p_value == pytest.approx(18 / 36)
        assert found.smallest_p == pytest.approx(2 / 36)

    def test_a_block_of_one_point_is_left_out(self):
        found = resampling.rank_permutation([1, 2, 3, 9], [1, 2, 3, -9], blocks=list("aaab"), rng=rng())
        assert (found.n, found.statistic) == (3, pytest.approx(1))

    def test_ties_raise_the_smallest_p(self):
        found = resampling.rank_permutation([1, 1, 2, 2], [1, 2, 3, 4], rng=rng())
        assert found.smallest_p == pytest.approx(2 * 4 / 24)

    @pytest.mark.parametrize(
        ("x", "y", "blocks"),
        [
            ([], [], None),
            ([1, 2], [1, 2], None),
            ([1, 1, 1], [1, 2, 3], None),
            ([1, 2, 3], [math.nan] * 3, None),
            ([1, 2, 3], [1, 2, 3], [1, 2, 3]),
            ([1, 1, 2, 2], [1, 2, 3, 4], [1, 1, 2, 2]),  # constant within each block
        ],
    )
    def test_degenerate(self, x, y, blocks):
        assert is_undefined(resampling.rank_permutation(x, y, blocks=blocks, rng=rng()))

    def test_points_without_partner_are_refused(self):
        with pytest.raises(ValueError, match="3 values of x and 2 of y"):
            resampling.rank_permutation([1, 2, 3], [1, 2], rng=rng())


class TestClusterPermutation:
    def test_rows_of_one_student_count_once(self):
        x = np.repeat([1.0, 2.0, 3.0, 4.0], 9)
        y = np.repeat([8.0, 6.0, 4.0, 2.0], 9) + np.tile(np.arange(9.0), 4)
        found = resampling.cluster_permutation(x, y, np.repeat(list("abcd"), 9), rng=rng())
        assert (found.n, found.p_value) == (4, pytest.approx(2 / 24))
        assert intervals.spearman(x, y).p_value < 1e-3  # what 36 rows pretend

    def test_blocks_are_those_of_the_clusters(self):
        means = [3.0, 1.0, 2.0, 7.0, 9.0, 8.0]
        x, clusters, blocks = (np.repeat(v, 2) for v in (range(6), list("abcdef"), [0, 0, 0, 1, 1, 1]))
        y = np.repeat(means, 2) + np.tile([-1.0, 1.0], 6)
        found = resampling.cluster_permutation(x, y, clusters, blocks=blocks, rng=rng())
        assert found == resampling.rank_permutation(range(6), means, blocks=[0, 0, 0, 1, 1, 1], rng=rng())

    def test_a_size_that_differs_within_a_student_is_refused(self):
        with pytest.raises(ValueError, match="x differs within 'a'"):
            resampling.cluster_permutation([1, 2, 3], [1, 2, 3], ["a", "a", "b"], rng=rng())

    @pytest.mark.parametrize(
        ("x", "y", "clusters"),
        [
            ([], [], []),
            ([1, 1, 1], [1, 2, 3], "aaa"),
            ([1, 2, 3], [1, 2, math.nan], "abc"),
            ([1, 1, 2, 3], [1, 2, math.nan, math.nan], "aabc"),
            ([1, 1, 1], [1, 2, 3], "abc"),
        ],
    )
    def test_degenerate(self, x, y, clusters):
        assert is_undefined(resampling.cluster_permutation(x, y, clusters, rng=rng()))


class TestSignFlip:
    def test_six_positive_values_are_one_of_64_ways(self):
        found = resampling.sign_flip([1, 2, 3, 4, 5, 6], rng=rng())
        assert (found.statistic, found.p_greater) == (3.5, pytest.approx(1 / 64))
        assert found.p_value == found.smallest_p == pytest.approx(2 / 64)

    def test_is_that_of_scipy(self):
        values = rng(4).normal(0.4, size=9)
        how = {"permutation_type": "samples", "n_resamples": 2**9}
        for name, alternative in (("p_value", "two-sided"), ("p_greater", "greater")):
            other = scipy.stats.permutation_test((values,), np.mean, alternative=alternative, **how)
            assert getattr(resampling.sign_flip(values, rng=rng()), name) == pytest.approx(other.pvalue)

    def test_many_values_come_near_the_t_test(self):
        values = rng(5).normal(0.25, size=50)
        p_value = scipy.stats.ttest_1samp(values, 0).pvalue
        found = resampling.sign_flip(values, rng=rng())
        assert found.p_value == pytest.approx(p_value, abs=0.02)
        assert found.smallest_p == pytest.approx(2 / 10_000)

    @pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [1.0, math.nan]])
    def test_degenerate(self, values):
        assert is_undefined(resampling.sign_flip(values, rng=rng()))


class TestStudentMean:
    def test_is_the_t_test_of_student_means(self):
        table = table_of(n_seeds=3)
        means = table.groupby("student")["gain"].mean()
        found = student_tests.student_mean_test(table, "gain", unit="student")
        other = scipy.stats.ttest_1samp(means, 0)
        assert (found.n, found.value) == (6, pytest.approx(means.mean()))
        assert found.p_value == pytest.approx(other.pvalue)
        assert found.p_greater == pytest.approx(
            scipy.stats.ttest_1samp(means, 0, alternative="greater").pvalue
        )
        assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval()))

    def test_fixed_blocks_are_those_of_a_regression(self):
        table = table_of()
        means = table.groupby(["student", "family"])["gain"].mean().reset_index()
        fit = formulas.ols("gain ~ 0 + C(family)", means).fit()
        weights = means["family"].value_counts(normalize=True).sort_index().to_numpy()
        other = fit.t_test(weights[None])
        found = student_tests.student_mean_test(table, "gain", unit="student", block="family")
        assert found.p_value == pytest.approx(other.pvalue.item())
        assert (found.low, found.high) == pytest.approx(tuple(other.conf_int()[0]))

    def test_one_block_is_none(self):
        table = table_of().assign(world="one")
        plain = student_tests.student_mean_test(table, "gain", unit="student")
        blocked = student_tests.student_mean_test(table, "gain", unit="student", block="world")
        assert vars(blocked) == pytest.approx(vars(plain), nan_ok=True)

    @pytest.mark.parametrize(
        ("students", "gains", "block"),
        [
            ([], [], None),
            (["a", "a"], [1.0, 2.0], None),
            (["a", "b"], [1.0, 1.0], None),
            (["a", "b"], [math.nan, math.nan], None),
            (["a", "b"], [1.0, 2.0], "student"),
        ],
    )
    def test_degenerate(self, students, gains, block):
        table = pd.DataFrame({"student": students, "gain": gains, "block": students})
        block = "block" if block else None
        assert is_undefined(student_tests.student_mean_test(table, "gain", unit="student", block=block))

    def test_a_student_of_two_blocks_is_refused(self):
        table = pd.DataFrame({"student": ["a", "a"], "family": ["q", "l"], "gain": [1.0, 2.0]})
        with pytest.raises(ValueError, match="family differs within a student"):
            student_tests.student_mean_test(table, "gain", unit="student", block="family")


class TestRepeatedMeasures:
    def wide(self, **how):
        means = table_of(**how).groupby(["student", "task"])["gain"].mean().reset_index()
        return means.pivot(index="student", columns="task", values="gain")

    def test_is_that_of_statsmodels_pingouin_and_scipy(self):
        wide = self.wide(n_seeds=2)
        means = wide.stack().rename("gain").reset_index()
        other = statsmodels.stats.anova.AnovaRM(means, "gain", "student", within=["task"]).fit().anova_table
        found = student_tests.repeated_measures(wide)
        every = student_tests.repeated_measures_tests(wide.to_numpy()[None])
        assert found.statistic == every["f"][0] == pytest.approx(other["F Value"].iloc[0])
        assert every["plain"][0] == pytest.approx(other["Pr > F"].iloc[0])
        epsilon = pingouin.epsilon(wide, correction="gg")
        assert found.p_value == pytest.approx(scipy.stats.f(5 * epsilon, 25 * epsilon).sf(found.statistic))
        ranks = scipy.stats.friedmanchisquare(*wide.to_numpy().T)
        assert every["friedman"][0] == pytest.approx(ranks.pvalue)
        assert (found.n, found.reason) == (6, "")

    def test_two_conditions_are_a_paired_t_test(self):
        wide = self.wide()[["aqua", "gsm8k"]]
        found = student_tests.repeated_measures(wide)
        other = scipy.stats.ttest_rel(wide["aqua"], wide["gsm8k"])
        assert found.statistic == pytest.approx(other.statistic**2)
        assert found.p_value == pytest.approx(other.pvalue)

    @pytest.mark.parametrize(("n", "n_conditions"), [(2, 3), (2, 4), (3, 3), (2, 2)])
    def test_few_subjects_have_it_too(self, n, n_conditions):
        wide = pd.DataFrame(np.random.default_rng(n).normal(size=(n, n_conditions)))
        rows = wide.rename_axis(index="student", columns="method").stack().rename("gain").reset_index()
        anova = statsmodels.stats.anova.AnovaRM(rows, "gain", "student", within=["method"]).fit().anova_table
        found = student_tests.repeated_measures(wide)
        epsilon = pingouin.epsilon(wide, correction="gg")
        degrees = epsilon * anova[["Num DF", "Den DF"]].iloc[0]
        assert found.p_value == pytest.approx(scipy.stats.f.sf(anova["F Value"].iloc[0], *degrees))
        assert (found.n, found.reason) == (n, "")

    def test_subjects_that_lack_a_condition_are_left_out(self):
        wide = self.wide()
        lacking = wide.copy()
        lacking.loc["q0", "aqua"] = math.nan
        assert student_tests.repeated_measures(lacking) == student_tests.repeated_measures(wide.drop("q0"))

    @pytest.mark.parametrize(
        ("rows", "reason"),
        [
            ([], "fewer than two conditions"),
            ([("a", "x", 1.0), ("b", "x", 2.0)], "fewer than two conditions"),
            ([("a", "x", 1.0), ("a", "y", 2.0)], "fewer than two complete"),
            ([("a", "x", 1.0), ("b", "y", 2.0)], "fewer than two complete .* 2 lack"),
            ([("a", "x", math.nan), ("b", "y", math.nan)], "fewer than two"),
            ([(s, w, v) for s in "abc" for w, v in (("x", 1.0), ("y", 2.0))], "same effect in every"),
        ],
    )
    def test_degenerate(self, rows, reason):
        table = pd.DataFrame(rows, columns=["student", "method", "gain"]).astype({"gain": float})
        wide = table.pivot(index="student", columns="method", values="gain")
        found = student_tests.repeated_measures(wide)
        assert is_undefined(found)
        assert pd.Series([found.reason]).str.contains(reason).all()


class TestEquivalence:
    VALUES = (0.4, -0.3, 0.8, 0.1, 0.5, -0.2)

    def test_is_that_of_pingouin_and_of_the_interval(self):
        found = student_tests.equivalence(self.VALUES, margin=1.0)
        other = pingouin.tost(np.array(self.VALUES), 0, bound=1.0, paired=False)
        assert found.p_value == pytest.approx(
            other["pval"].iloc[0] if "pval" in other else other["p_val"].iloc[0]
        )
        interval = intervals.mean_interval(self.VALUES, confidence=0.90)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        assert found.p_value < 0.05

    def test_the_interval_touches_the_margin_where_p_is_the_level(self):
        high = student_tests.equivalence(self.VALUES, margin=1.0).high
        assert student_tests.equivalence(self.VALUES, margin=high).p_value == pytest.approx(0.05)

    @pytest.mark.parametrize("n", [2, 4, 11])
    def test_the_minimum_detectable_is_found_in_four_of_five_studies(self, n):
        values = rng(6).normal(size=n)
        found = student_tests.equivalence(values, margin=1.0)
        effect = found.minimum_detectable / values.std(ddof=1)
        assert TTestPower().power(effect, n, 0.05) == pytest.approx(0.8)

    def test_that_of_student_means_is_found_in_four_of_five_studies_however_far_families_are_apart(self):
        draw, names = rng(3), [f"{family}{place}" for family in "ab" for place in range(3)]
        table = pd.DataFrame({"student": names, "family": [name[0] for name in names]})
        apart = table["family"].map({"a": -5.0, "b": 5.0})

        def tested(effect):
            own = table.assign(gain=effect + apart + draw.normal(size=6))
            return student_tests.student_mean_test(own, "gain", unit="student", block="family")

        sizes = [tested(0.0).minimum_detectable for _ in range(400)]
        effect = float(np.mean(np.square(sizes)) ** 0.5)  # at the true spread within families, which is 1
        assert np.mean([tested(effect).p_greater < 0.05 for _ in range(1000)]) == pytest.approx(0.8, abs=0.05)

    @pytest.mark.parametrize("values", [[], [1.0], [0.5, 0.5], [math.nan, math.nan]])
    def test_degenerate(self, values):
        assert is_undefined(student_tests.equivalence(values, margin=1.0))

    def test_a_margin_of_zero_is_refused(self):
        with pytest.raises(ValueError, match="margin=0 must be positive"):
            student_tests.equivalence(self.VALUES, margin=0)


class TestMcNemar:
    def test_is_the_binomial_of_discordant_items(self):
        left = np.array([True] * 12 + [False] * 8)
        right = np.array([True] * 4 + [False] * 8 + [True] * 2 + [False] * 6)
        found = student_tests.mcnemar(left, right)
        assert (found.left_only, found.right_only, found.n) == (8, 2, 20)
        assert found.p_value == pytest.approx(scipy.stats.binomtest(2, 10).pvalue)
        assert found.p_value == pytest.approx(mcnemar([[4, 8], [2, 6]], exact=True).pvalue)

    @pytest.mark.parametrize("both", [[], [True], [True, False, True]])
    def test_degenerate(self, both):
        assert is_undefined(student_tests.mcnemar(both, both))

    def test_other_items_are_refused(self):
        with pytest.raises(ValueError, match="2 and 1 items"):
            student_tests.mcnemar([True, False], [True])


class TestClusterBootstrap:
    def test_one_value_a_cluster_gives_the_percentile_interval_of_scipy(self):
        gains = rng(7).normal(size=12)
        found = resampling.cluster_bootstrap(gains, range(12), rng=rng(), n_resamples=20_000)
        how = {"method": "percentile", "n_resamples": 20_000, "rng": rng(1)}
        other = scipy.stats.bootstrap((gains,), np.mean, **how).confidence_interval
        assert found.value == pytest.approx(gains.mean())
        assert (found.low, found.high) == pytest.approx(tuple(other), abs=0.03)

    def test_units_weigh_alike_however_many_rows_they_have(self):
        found = resampling.cluster_bootstrap([1.0, 3.0, 8.0], list("aab"), rng=rng())
        assert found.value == 5
        assert (found.high, found.n) == (8, 2)
        assert 1 <= found.low < 3

    def test_levels_add_the_variance_of_theirs(self):
        """Of a mean of means: what resampling students gives, and that of items within them."""
        draw, n_students, n_items = rng(8), 8, 20
        effects = np.repeat(draw.normal(size=n_students), n_items)
        students = np.repeat(range(n_students), n_items)
        right = pd.Series((draw.random(len(students)) < 1 / (1 + np.exp(-effects))).astype(float))
        means, within = (getattr(right.groupby(students), name)() for name in ("mean", "var"))
        inner = within.sum() * (n_items - 1) / n_items / n_items / n_students**2
        outer = means.var(ddof=0) / n_students
        found = resampling.cluster_bootstrap(right, students, rng=rng(), n_resamples=20_000)
        assert (found.high - found.low) / 2 / 1.96 == pytest.approx(math.sqrt(inner + outer), rel=0.03)

    @pytest.mark.parametrize(
        ("students", "values"), [([], []), (["a", "a"], [1.0, 2.0]), (["a", "b"], [math.nan, math.nan])]
    )
    def test_degenerate(self, students, values):
        assert is_undefined(resampling.cluster_bootstrap(values, students, rng=rng()))


class TestSizeEffect:
    def test_is_the_regression_over_students(self):
        table = table_of(slope=-0.5, n_seeds=2)
        keys = ["student", "family", "student_parameters"]
        means = table.groupby(keys)[["accuracy", "sft_accuracy"]].mean().reset_index()
        fit = formulas.ols("accuracy ~ sft_accuracy + np.log2(student_parameters) + C(family)", means).fit()
        found = size_effects.adjusted_size_effect(table)
        name = "np.log2(student_parameters)"
        assert (found.value, found.p_value) == pytest.approx((fit.params[name], fit.pvalues[name]))
        assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int().loc[name]))
        assert (found.n, found.reason) == (6, "")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda table: table[:0], "no students"),
            (lambda table: table[table["student"] == "q0"], "1 students for 3 coefficients"),
            (lambda table: table[table["family"] == "q"], None),
            (lambda table: table[table["student"] != "q0"], "5 students for 4 coefficients"),
            (lambda table: table.assign(accuracy=math.nan), "missing"),
            (lambda table: table.assign(sft_accuracy=50.0), "confounded"),
            (lambda table: table.assign(student_parameters=10**9), "confounded"),
            (lambda table: table.assign(accuracy=table["sft_accuracy"]), "no residual variance"),
        ],
    )
    def test_degenerate(self, change, reason):
        found = size_effects.adjusted_size_effect(change(table_of()))
        if reason is None:  # one family leaves one coefficient less
            students = table_of(students={f"q{index}": 5e8 * 2.0**index for index in range(5)})
            assert size_effects.adjusted_size_effect(students).reason == ""
            return
        assert is_undefined(found)
        assert reason in found.reason


class TestLogitGain:
    def test_by_hand(self):
        assert size_effects.logit_gain(75.0, 50.0, 4) == pytest.approx(math.log(3.5 / 1.5))

    def test_is_finite_at_the_ends_and_nan_where_nothing_is_known(self):
        assert size_effects.logit_gain(100.0, 0.0, 10) == pytest.approx(2 * math.log(21))
        assert np.isnan(size_effects.logit_gain([math.nan, 50.0], [50.0, 50.0], [10, 0])).all()

    def test_shares_are_refused_where_they_show(self):
        with pytest.raises(ValueError, match="0 to 100"):
            size_effects.logit_gain(-1.0, 50.0, 10)


class TestEqualGains:
    SFT = np.array([50.0, 54.0, 58.0, 63.0, 68.0, 74.0, 80.0, 86.0])
    SIZES = (0.5, 1, 1.5, 3, 7, 8, 14, 32)

    def students(self, *, scale, gain, n_items=2_000):
        logits = empirical_logit(self.SFT, n_items)
        kd = 100 / (1 + np.exp(-logits - gain)) if scale == "logit" else self.SFT + gain
        return np.stack([self.SFT, kd], axis=1)[:, None]

    def test_equal_logit_gains_fall_with_size_in_points(self):
        accuracies = self.students(scale="logit", gain=0.5)
        found = size_effects.null_of_equal_gain(accuracies, 2_000, self.SIZES, scale="logit", rng=rng())
        assert found.low + found.high < -1
        assert found.observed.p_value > 0.05
        other = size_effects.null_of_equal_gain(accuracies, 2_000, self.SIZES, scale="points", rng=rng())
        assert abs(other.low + other.high) < 0.2
        assert other.observed.p_value < 0.05

    def test_rho_is_that_of_points(self):
        accuracies = self.students(scale="points", gain=[5, 3, 4, 1, 2, 0, -1, 6])
        found = size_effects.null_of_equal_gain(accuracies, 500, self.SIZES, scale="points", rng=rng())
        assert found.observed.statistic == pytest.approx(
            intervals.spearman([5, 3, 4, 1, 2, 0, -1, 6], self.SIZES).statistic
        )

    def test_tasks_are_averaged(self):
        one = self.students(scale="points", gain=[5, 3, 4, 1, 2, 0, -1, 6])
        two = np.concatenate([one, one], axis=1)
        found = size_effects.null_of_equal_gain(two, [500, 700], self.SIZES, scale="points", rng=rng())
        alone = size_effects.null_of_equal_gain(one, 500, self.SIZES, scale="points", rng=rng())
        assert found.observed.statistic == pytest.approx(alone.observed.statistic)

    @pytest.mark.parametrize(
        ("accuracies", "sizes"),
        [
            (np.zeros((0, 2)), []),
            ([[50, 60], [60, 70]], [1, 2]),
            ([[50, math.nan], [60, 70], [70, 80]], [1, 2, 3]),
            ([[50, 60], [60, 70], [70, 80]], [1, 1, 1]),
            ([[50, 60], [60, 70], [70, 80]], [1, 2, 3]),  # all gains equal
        ],
    )
    def test_degenerate(self, accuracies, sizes):
        accuracies = np.asarray(accuracies, dtype=float)[:, None]
        found = size_effects.null_of_equal_gain(accuracies, 100, sizes, scale="points", rng=rng())
        assert is_undefined(found.observed)
        assert all(math.isnan(value) for value in found[1:])

    def test_an_unknown_scale_is_refused(self):
        with pytest.raises(ValueError, match="unknown scale 'odds'"):
            size_effects.null_of_equal_gain([[1, 2]] * 3, 10, [1, 2, 3], scale="odds", rng=rng())

    def test_correlations_of_many_rows_are_those_of_scipy(self):
        values, other = np.round(rng(9).normal(size=(20, 7))), np.round(rng(10).normal(size=7))
        expected = [scipy.stats.spearmanr(row, other).statistic for row in values]
        assert rank_correlations(values, other) == pytest.approx(np.array(expected), nan_ok=True)


class TestAdjustedP:
    @pytest.mark.parametrize(("ours", "name"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
    def test_nan_is_no_test(self, ours, name):
        p_values = [0.01, math.nan, 0.04, 0.03, math.nan]
        found = getattr(student_tests, ours)(p_values)
        assert np.isnan(found[[1, 4]]).all()
        assert found[[0, 2, 3]] == pytest.approx(multipletests([0.01, 0.04, 0.03], method=name)[1])

    def test_by_hand(self):
        assert student_tests.holm([0.01, 0.04]) == pytest.approx([0.02, 0.04])
        assert student_tests.benjamini_hochberg([0.03, 0.04]) == pytest.approx([0.04, 0.04])

    @pytest.mark.parametrize("p_values", [[], [math.nan, math.nan]])
    def test_degenerate(self, p_values):
        for adjust in (student_tests.holm, student_tests.benjamini_hochberg):
            assert np.isnan(adjust(p_values)).all()
            assert len(adjust(p_values)) == len(p_values)


class TestMixedGain:
    def table(self, *, n_students=8, n_tasks=10, student_sd=2.0, task_sd=1.5, seed=11):
        draw = rng(seed)
        gains = 3 + student_sd * draw.normal(size=(n_students, 1)) + task_sd * draw.normal(size=n_tasks)
        gains = gains + draw.normal(size=gains.shape)
        rows = [(f"s{i}", f"t{j}", gains[i, j]) for i in range(n_students) for j in range(n_tasks)]
        return pd.DataFrame(rows, columns=["student", "task", "gain"])

    def test_is_the_analysis_of_variance_of_a_balanced_table(self):
        """REML equals the method of moments where all its components are positive."""
        table = self.table()
        gains = table.pivot(index="student", columns="task", values="gain").to_numpy()
        n_students, n_tasks = gains.shape
        mean, by_student, by_task = gains.mean(), gains.mean(axis=1), gains.mean(axis=0)
        residual = gains - by_student[:, None] - by_task + mean
        noise = (residual**2).sum() / (n_students - 1) / (n_tasks - 1)
        of_student = by_student.var(ddof=1) - noise / n_tasks
        of_task = by_task.var(ddof=1) - noise / n_students
        error = math.sqrt(of_student / n_students + of_task / n_tasks + noise / n_students / n_tasks)
        found = student_tests.mixed_gain(table)
        assert found.value == pytest.approx(mean)
        assert found.high - mean == pytest.approx(scipy.stats.t.ppf(0.975, n_students - 1) * error, rel=0.01)

    def test_no_variance_between_students_is_no_failure(self):
        found = student_tests.mixed_gain(self.table(student_sd=0.0, task_sd=0.0))
        assert found.reason == "" and found.low < found.value < found.high

    @pytest.mark.parametrize(
        "change",
        [
            lambda table: table[:0],
            lambda table: table[table["student"] == "s0"],
            lambda table: table[table["task"] == "t0"],
            lambda table: table.assign(gain=1.0),
            lambda table: table.assign(gain=math.nan),
            lambda table: table[table["student"].str[1:] == table["task"].str[1:]],
        ],
    )
    def test_degenerate(self, change):
        found = student_tests.mixed_gain(change(self.table()))
        assert is_undefined(found)
