"""Imagined studies have the truth they claim, and what is counted on them is what procedures do."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from kdutils.constants import PAPER_METHODS, TASKS, TEST_ITEMS
from kdutils.inference import (
    calibration,
    intervals,
    resampling,
    simulated_studies,
    simulations,
    size_effects,
    student_tests,
)
from kdutils.io import cache
from kdutils.report import figures

pytestmark = pytest.mark.timeout(900)  # a second of simulation is a minute on a busy machine


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A small calibration and its table."""
    folder = tmp_path_factory.mktemp("calibration")
    made = calibration.Calibration(folder, n_simulations=200, seed=1)
    return made, made.table()


def rate(table, procedure, null, quantity="size"):
    rows = table[
        (table["procedure"] == procedure) & (table["null"] == null) & (table["quantity"] == quantity)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


class TestRule:
    @pytest.mark.parametrize(
        ("quantity", "actual", "n", "expected"),
        [
            ("size", 0.05, 1000, "yes"),
            ("size", 0.01, 1000, "yes"),  # to err on the safe side is allowed
            ("size", 0.083, 1000, "yes"),  # 0.05 + 0.02 + 2 * 0.0069
            ("size", 0.085, 1000, "no"),
            ("size", 0.085, 100, "yes"),  # fewer studies say less
            ("size", 0.0, 1000, "no"),  # it never rejects
            ("size", 0.0, 100, "yes"),  # which may be chance
            ("coverage", 0.95, 1000, "yes"),
            ("coverage", 1.0, 1000, "yes"),
            ("coverage", 0.917, 1000, "yes"),
            ("coverage", 0.915, 1000, "no"),
            ("coverage", math.nan, 0, "no"),
        ],
    )
    def test_by_hand(self, quantity, actual, n, expected):
        nominal = 0.05 if quantity == "size" else 0.95
        assert calibration.recommended(quantity, nominal, actual=actual, n_simulations=n) == expected

    def test_what_is_undefined_rejects_nothing_and_holds_nothing(self):
        found = simulations.size("t", "null", [0.01, 0.05, 0.06, math.nan])
        assert (found.hits, found.n_simulations) == (2, 4)
        bounds = [(-1, 1), (0.5, 1), (math.nan, math.nan)]
        found = simulations.coverage("i", "null", bounds, truth=0.0)
        assert (found.hits, found.n_simulations) == (1, 2)

    def test_an_interval_errs_where_it_misses(self):
        rows = pd.DataFrame(
            [("t", "a", "size", 0.05, 20, 100), ("t", "a", "coverage", 0.95, 80, 100)],
            columns=simulations.Outcome._fields,
        )
        errors = calibration.errors(calibration.judged(rows))
        assert errors["row"].tolist() == ["t", "t (interval)"]
        assert errors["actual"].tolist() == pytest.approx([0.2, 0.2])
        assert errors["nominal"].tolist() == pytest.approx([0.05, 0.05])
        assert errors["low"].tolist() == pytest.approx([errors["low"].iloc[0]] * 2)
        assert (errors["low"] < 0.2).all()
        assert (errors["high"] > 0.2).all()


class TestWorlds:
    def test_the_released_pairs(self):
        layout = simulated_studies.released_pairs()
        assert (layout.n_students, len(layout.students), layout.teachers.max() + 1) == (6, 11, 4)
        assert sorted(layout.families) == ["Llama-3"] * 2 + ["Qwen2.5"] * 4
        assert sorted(layout.sizes / 1e9) == [0.5, 1, 1.5, 3, 3, 7]
        assert len(PAPER_METHODS) == simulated_studies.N_METHODS
        assert set(simulated_studies.TASK_ACCURACY) == set(TASKS)

    @pytest.mark.parametrize("effects", [simulated_studies.NO_EFFECTS, simulated_studies.EFFECTS])
    def test_nobody_gains_on_average(self, effects):
        studies = simulated_studies.imagine(
            simulated_studies.released_pairs(), 4_000, rng=rng(), effects=effects
        )
        by_pair = studies.gains.mean(axis=(2, 3))
        error = by_pair.std(axis=0) / math.sqrt(len(by_pair))
        # Truths are kept below 99 %, which costs large gains near the ceiling a little.
        assert (np.abs(by_pair.mean(axis=0)) < 4 * error + 0.1).all()

    def test_cells_of_a_student_share_half_of_their_variance_through_its_baseline(self):
        studies = simulated_studies.imagine(simulated_studies.released_pairs(), 4_000, rng=rng())
        cells, owners = studies.cells, studies.cell_students
        assert cells.shape == (4_000, 33)
        correlations = np.corrcoef(cells.T)
        is_shared = owners[:, None] == owners
        off_diagonal = ~np.eye(33, dtype=bool)
        assert correlations[is_shared & off_diagonal].mean() == pytest.approx(0.5, abs=0.02)
        assert correlations[~is_shared].mean() == pytest.approx(0.0, abs=0.01)

    def test_equal_logit_gains_are_less_in_points_where_accuracy_is_high(self):
        layout = simulated_studies.one_teacher(4)
        studies = simulated_studies.imagine(layout, 500, rng=rng(), logit_gain=0.3)
        gains = studies.student_means.mean(axis=0)
        assert (np.diff(gains) < 0).all()
        odds = [np.log(values / (100 - values)) for values in (studies.kd[:, :, 0], studies.sft)]
        finite = np.isfinite(odds[0]) & np.isfinite(odds[1])
        assert (odds[0] - odds[1])[finite].mean() == pytest.approx(0.3, abs=0.01)

    def test_students_means_are_those_of_their_cells(self):
        studies = simulated_studies.imagine(
            simulated_studies.released_pairs(), 3, rng=rng(), effects=simulated_studies.EFFECTS
        )
        for student in range(6):
            own = studies.cells[:, studies.cell_students == student]
            assert studies.student_means[:, student] == pytest.approx(own.mean(axis=1))

    def test_paired_runs_differ_as_often_as_asked(self):
        how = {"n_studies": 400, "right": 0.6, "discordant": 0.2}
        drawn = simulated_studies.paired_differences(300, 2, rng=rng(), **how)
        assert np.abs(drawn).mean() == pytest.approx(0.2, abs=0.005)
        assert drawn.mean() == pytest.approx(0.0, abs=0.005)
        varied = simulated_studies.paired_differences(300, 2, rng=rng(), run=1.5, **how).mean(axis=(1, 2))
        expected = math.sqrt(0.015**2 + 0.2 / 600)
        assert varied.std() == pytest.approx(expected, rel=0.15)

    def test_more_discordant_items_than_wrong_ones_are_refused(self):
        with pytest.raises(ValueError, match="discordant=0.2 is too much"):
            simulated_studies.paired_differences(10, 1, n_studies=1, right=0.95, discordant=0.2, rng=rng())

    def test_texts_have_counts_as_texts_do(self):
        counts = simulated_studies.bleu_items(50, 40, rng=rng())
        matches, totals = counts[..., 2:6], counts[..., 6:]
        assert (matches <= totals).all()
        assert (np.diff(matches, axis=-1) <= 0).all()
        assert (totals[..., 0] == counts[..., 0]).all()
        scores = intervals.bleu(counts.sum(axis=2))
        assert ((scores > 5) & (scores < 80)).all()
        assert (scores[:, 0] - scores[:, 1]).mean() == pytest.approx(0, abs=4 * scores.std() / math.sqrt(50))


class TestManyAtOnce:
    """What simulations call is what the study calls."""

    STUDIES = simulated_studies.imagine(
        simulated_studies.released_pairs(), 3, rng=rng(), effects=simulated_studies.EFFECTS
    )

    def rows(self, index):
        """One study's cells by task, as the study's own procedures take them."""
        studies, layout = self.STUDIES, self.STUDIES.layout
        names = ["pair", "method", "task"]
        where = pd.MultiIndex.from_product([range(11), PAPER_METHODS, studies.tasks], names=names)
        table = pd.DataFrame({"gain": studies.gains[index].ravel()}, index=where).reset_index()
        student = layout.students[table["pair"]]
        table["accuracy"] = studies.kd[index].ravel()
        table["sft_accuracy"] = np.repeat(studies.sft[index][layout.students][:, None], 3, axis=1).ravel()
        table["family"], table["student_parameters"] = (
            np.array(layout.families)[student],
            layout.sizes[student],
        )
        return table.assign(student=student, n_items=table["task"].map(TEST_ITEMS))

    def test_anovas(self):
        by_method = [self.STUDIES.gains.mean(axis=3)[:, :, method] for method in range(3)]
        found = scipy.stats.f_oneway(*by_method, axis=1).pvalue
        for index in range(3):
            cells = self.rows(index).groupby(["pair", "method"])["gain"].mean().reset_index()
            assert found[index] == pytest.approx(
                intervals.anova_oneway(cells["gain"], cells["method"]).p_value
            )

    @pytest.mark.parametrize("block", [None, "family"])
    def test_means(self, block):
        blocks = self.STUDIES.layout.families if block else None
        found = student_tests.mean_tests(self.STUDIES.student_means, blocks=blocks)
        for index in range(3):
            one = student_tests.student_mean_test(self.rows(index), "gain", unit="student", block=block)
            assert (found.p_value[index], found.p_greater[index]) == pytest.approx(
                (one.p_value, one.p_greater)
            )
            assert tuple(found.bounds[index]) == pytest.approx((one.low, one.high))

    def test_means_of_cells_are_those_of_the_authors(self):
        found = student_tests.mean_tests(self.STUDIES.cells)
        for index, cells in enumerate(self.STUDIES.cells):
            interval = intervals.mean_interval(cells)
            assert found.p_greater[index] == pytest.approx(intervals.ttest_greater(cells).p_value)
            assert tuple(found.bounds[index]) == pytest.approx((interval.low, interval.high))

    def test_correlations(self):
        rho, p_values = size_effects.spearman_tests(self.STUDIES.cells, self.STUDIES.cell_sizes)
        for index, cells in enumerate(self.STUDIES.cells):
            one = intervals.spearman(cells, self.STUDIES.cell_sizes)
            assert (rho[index], p_values[index]) == pytest.approx((one.statistic, one.p_value))

    @pytest.mark.parametrize(("within", "axis"), [("method", 2), ("task", 3)])
    def test_repeated_measures(self, within, axis):
        found = student_tests.repeated_measures_tests(self.STUDIES.by_student(axis=axis))
        for index in range(3):
            wide = self.rows(index).pivot_table(index="student", columns=within, values="gain")
            one = student_tests.repeated_measures(wide)
            assert (found["f"][index], found["corrected"][index]) == pytest.approx(
                (one.statistic, one.p_value)
            )

    def test_tied_ranks(self):
        values = np.round(rng(3).normal(size=(1, 6, 4)))
        other = scipy.stats.friedmanchisquare(*values[0].T).pvalue
        assert student_tests.repeated_measures_tests(values)["friedman"][0] == pytest.approx(other)

    def test_size_effects(self):
        studies, layout = self.STUDIES, self.STUDIES.layout
        accuracies = studies.of_students(studies.kd.mean(axis=(2, 3))), studies.sft.mean(axis=2)
        own = {"sizes": layout.sizes, "families": layout.families}
        found, _ = size_effects.size_slopes(*accuracies, **own)
        for index in range(3):
            one = size_effects.adjusted_size_effect(self.rows(index))
            assert found.p_value[index] == pytest.approx(one.p_value)
        few = {"sizes": layout.sizes[:4], "families": layout.families[:4]}
        found, _ = size_effects.size_slopes(*(part[:, :4] for part in accuracies), **few)
        assert np.isnan(found.p_value).all()

    def test_corrections_of_many_tests(self):
        p_values = rng(4).random((40, 14)) ** 3
        one, by_holm, discoveries = simulations._any("null", "tests", p_values)
        assert one.hits == (p_values <= 0.05).any(axis=1).sum()
        assert by_holm.hits == sum((student_tests.holm(row) <= 0.05).any() for row in p_values)
        expected = sum((student_tests.benjamini_hochberg(row) <= 0.05).any() for row in p_values)
        assert discoveries.hits == expected
        assert 0 < by_holm.hits < discoveries.hits < one.hits

    def test_orders_of_student_means_are_those_of_cells_in_clusters(self):
        studies, layout = self.STUDIES, self.STUDIES.layout
        means = studies.student_means[0]
        found = resampling.rank_permutation(layout.sizes, means, blocks=layout.families, rng=rng())
        owners = studies.cell_students
        rows = (studies.cell_sizes, studies.cells[0], owners)
        one = resampling.cluster_permutation(*rows, blocks=np.array(layout.families)[owners], rng=rng())
        assert found.p_value == pytest.approx(one.p_value)

    def test_parts_do_not_depend_on_one_another(self, calibrated):
        made, table = calibrated
        alone = calibration.judged(pd.DataFrame(made._simulated("points")))
        shown = table[table["part"] == "points"].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, shown, check_dtype=False)


class TestFindings:
    """What any honest simulation of these worlds must show, far from the edge of chance."""

    def test_a_t_test_of_students_keeps_its_level(self, calibrated):
        found = rate(calibrated[1], "t-test of students", "11 students")
        assert found["recommended"] == "yes"
        assert rate(calibrated[1], "t-test of students", "11 students", "coverage")["actual"] > 0.85

    def test_a_t_test_over_cells_does_not(self, calibrated):
        for null in ("shared baselines", "student effects"):
            found = rate(calibrated[1], "t-test > 0 over cells (authors)", null)
            assert found["low"] > 0.08
            assert found["recommended"] == "no"

    def test_four_students_cannot_reject(self, calibrated):
        for procedure in ("sign flips of students", "orders of students"):
            found = rate(calibrated[1], procedure, "4 students")
            assert found["actual"] == 0.0

    def test_size_in_points_goes_with_equal_logit_gains(self, calibrated):
        over_cells = "Spearman of gain and size over cells (authors)"
        assert rate(calibrated[1], over_cells, "equal logit gains")["actual"] > 0.5
        against = rate(calibrated[1], "against equal gains, logit", "equal logit gains")
        assert against["actual"] < 0.2

    def test_an_exact_share_is_safe_where_the_normal_one_is_not(self, calibrated):
        null = "1 in 200 right"
        assert rate(calibrated[1], "share, Clopper-Pearson", null, "coverage")["actual"] >= 0.95
        assert rate(calibrated[1], "accuracy, normal", null, "coverage")["actual"] < 0.9


class TestKept:
    def test_the_file_has_the_columns_of_the_contract(self, calibrated):
        made, table = calibrated
        written = pd.read_csv(made.write(table))
        assert list(written.columns) == [
            *("procedure", "null", "quantity", "nominal", "actual", "n_simulations", "recommended")
        ]
        assert not written.isna().any(axis=None)
        assert set(written["quantity"]) == {"size", "coverage"}
        assert set(written["recommended"]) == {"yes", "no"}
        assert not written.duplicated(["procedure", "null", "quantity"]).any()
        assert written["actual"].between(0, 1).all()

    def test_every_null_is_described_and_every_procedure_named_is_there(self, calibrated):
        table = calibrated[1]
        assert set(calibration.NULLS) == set(table["null"])
        for procedure, quantity in calibration.SAID.items():
            text = calibration.remark(table, procedure=procedure, quantity=quantity)
            assert "%" in text

    def counted(self, monkeypatch, folder, **changes):
        """How many parts are simulated by a calibration in the folder."""
        calls = []

        def part(n, rng):
            calls.append(n)
            return [simulations.Outcome("t", "11 students", "size", 0.05, int(rng.integers(n)), n)]

        monkeypatch.setattr(calibration, "PARTS", {"one": part, "two": part})
        table = calibration.Calibration(folder, **({"n_simulations": 100, "seed": 1} | changes)).table()
        assert len(table) == 2
        return len(calls)

    def test_nothing_is_simulated_twice(self, monkeypatch, tmp_path):
        assert self.counted(monkeypatch, tmp_path) == 2
        assert self.counted(monkeypatch, tmp_path) == 0
        assert self.counted(monkeypatch, tmp_path, seed=2) == 2
        assert self.counted(monkeypatch, tmp_path, seed=2, n_simulations=200) == 2
        monkeypatch.setattr(cache, "code_digest", lambda module: "other code")
        assert self.counted(monkeypatch, tmp_path, seed=2, n_simulations=200) == 2

    def test_another_machine_changes_nothing(self, monkeypatch, tmp_path):
        assert self.counted(monkeypatch, tmp_path) == 2
        monkeypatch.setattr(cache, "processor", lambda: "another")
        assert self.counted(monkeypatch, tmp_path) == 0

    def test_the_code_is_what_the_simulations_import(self):
        found = {path.stem for path in cache.code_files(calibration.__name__)}
        assert {"simulations", "simulated_studies", "student_tests", "intervals"} <= found

    def test_too_few_simulations_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="n_simulations=10 says too little"):
            calibration.Calibration(tmp_path, n_simulations=10, seed=1)

    def test_what_is_kept_is_json(self, calibrated):
        made, _ = calibrated
        assert set(json.loads((made.folder / calibration.RECORD).read_text())) == set(simulations.PARTS)


@pytest.mark.parametrize("figure", calibration.FIGURES)
def test_the_figure_has_a_row_for_every_procedure(calibrated, figure):
    table = calibration.drawn(calibrated[1], figure)
    fig = figures.error_rates(table)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels == list(dict.fromkeys(table["row"]))
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    assert legend == list(dict.fromkeys(table["null"]))


def test_sizes_of_test_sets_are_those_of_the_study():
    assert min(TEST_ITEMS.values()) == simulations.N_ITEMS


def test_every_part_is_drawn_once():
    parts = [part for own, _ in calibration.FIGURES.values() for part in own]
    assert sorted(parts) == sorted(simulations.PARTS)
