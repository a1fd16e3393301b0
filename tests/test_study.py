"""Gains and contrasts computed from cells, by hand on small tables and on the released ones."""

import math

import pandas as pd
import pytest

from kdutils import cells as cell_rows
from kdutils import published, study


def cell(**fields):
    row = {"source": "live", "protocol": "careful", "domain": "math", "task": "svamp", "family": "toy"}
    row |= {"teacher": "toy-8M", "student": "toy-1M", "teacher_parameters": 8_000_000, "seed": 0, "n": 100}
    row |= {"student_parameters": 1_000_000, "noise_sigma": 0.0, "flags": ""}
    return row | fields


def baseline(student, method, accuracy, **fields):
    nothing = {"teacher": "", "teacher_parameters": None, "teacher_tuned": None, "temperature": math.nan}
    return cell(student=student, method=method, accuracy=accuracy, accuracy_se=1.0, **nothing, **fields)


def distilled(method, temperature, accuracy, **fields):
    fields = {"teacher_tuned": True, "accuracy_se": 2.0} | fields
    return cell(method=method, temperature=temperature, accuracy=accuracy, **fields)


@pytest.fixture
def cells():
    return cell_rows.cell_table(
        [
            baseline("toy-1M", "sft", 40.0),
            baseline("toy-8M", "sft", 80.0),
            baseline("toy-8M", "base", 10.0),
            distilled("fkl", 1.0, 45.0),
            distilled("fkl", 2.0, 50.0),
            distilled("fkl", 1.0, 20.0, teacher_tuned=False),
            distilled("fkl", 1.0, 90.0, noise_sigma=1.0),
            distilled("gkd", 1.0, 47.0),
        ]
    )


def test_best_on_test_takes_the_maximum_over_temperatures(cells):
    gains = study.gains(cells, selection="best_on_test").set_index("method")
    assert gains["gain"].to_dict() == {"fkl": 10.0, "gkd": 7.0}
    assert gains.loc["fkl", "temperature"] == 2.0
    assert gains.loc["fkl", "teacher_accuracy"] == 80.0
    assert gains.loc["fkl", "gain_se"] == pytest.approx(math.sqrt(5))


def test_temperature_1_takes_no_other(cells):
    gains = study.gains(cells, selection="temperature_1").set_index("method")
    assert gains["gain"].to_dict() == {"fkl": 5.0, "gkd": 7.0}


def test_noisy_and_untuned_runs_are_no_gains(cells):
    assert study.gains(cells, selection="best_on_test")["gain"].max() < 50


def test_unknown_selection_is_refused(cells):
    with pytest.raises(ValueError, match=r"unknown selection 'best'; choose one of \['best_on_test'"):
        study.gains(cells, selection="best")


def test_seeds_are_averaged_before_selection():
    rows = [baseline("toy-1M", "sft", value, seed=seed) for seed, value in enumerate((40.0, 44.0))]
    rows += [distilled("fkl", 1.0, value, seed=seed) for seed, value in enumerate((50.0, 40.0))]
    rows += [distilled("fkl", 2.0, value, seed=seed) for seed, value in enumerate((46.0, 46.0))]
    gains = study.gains(cell_rows.cell_table(rows), selection="best_on_test")
    assert gains["gain"].tolist() == [4.0]  # 46 - 42; the single best run, 50, is not what is selected
    assert gains["temperature"].tolist() == [2.0]


def test_missing_baseline_gives_nan_not_a_gain(cells):
    without = cells[cells["method"] != "sft"]
    assert study.gains(without, selection="best_on_test")["gain"].isna().all()


def test_teacher_tuning_compares_the_same_distillation(cells):
    row = study.teacher_tuning(cells).iloc[0]
    assert (row["tuned"], row["untuned"], row["cost"], row["teacher_base"]) == (45.0, 20.0, 25.0, 10.0)
    assert study.teacher_tuning(cells[cells["teacher_tuned"].fillna(True)]).empty


def test_temperature_runs_are_those_with_several(cells):
    runs = study.temperature_runs(cells)
    assert sorted(runs["temperature"]) == [1.0, 2.0]
    assert set(runs["method"]) == {"fkl"}


def test_best_temperature_shares_by_hand(cells):
    shares = study.best_temperature_shares(study.temperature_runs(cells))
    assert shares.to_dict("index") == {"math, SeqKD†": {"T = 2": 1.0}}


def test_restrict_keeps_baselines_and_refuses_nonsense(cells):
    assert set(study.restrict(cells, domains=["math"], methods=["gkd"])["method"]) == {"base", "sft", "gkd"}
    with pytest.raises(ValueError, match="methods=.'sft'.: choose at least one"):
        study.restrict(cells, domains=["math"], methods=["sft"])
    with pytest.raises(ValueError, match=r"domains=\[\]"):
        study.restrict(cells, domains=[], methods=["gkd"])


def test_one_cell_twice_is_refused():
    with pytest.raises(ValueError, match="two rows for one cell"):
        cell_rows.cell_table([distilled("fkl", 1.0, 45.0), distilled("fkl", 1.0, 46.0)])
    with pytest.raises(KeyError, match="acuracy"):
        cell_rows.cell_table([cell(acuracy=1.0)])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen2.5-0.5B", 500_000_000),
        ("Llama-3.1-8B", 8_000_000_000),
        ("mini-28k", 28_000),
        ("x-135M", 135_000_000),
    ],
)
def test_parameters_are_read_off_the_name(name, count):
    assert cell_rows.model_parameters(name) == count


def test_name_without_size_is_refused():
    with pytest.raises(ValueError, match="'gpt2' does not end in a size"):
        cell_rows.model_parameters("gpt2")


def test_released_gains_are_33_a_task(released_tables):
    gains = study.gains(published.cells(), selection="best_on_test")
    assert set(gains.groupby(["domain", "task"]).size()) == {33}
    top = gains[gains["task"] != "average"].nlargest(1, "gain").iloc[0]
    assert (top["student"], top["method"], top["task"]) == ("Llama-3.2-1B", "gkd", "multiarith")
    assert top["gain"] == pytest.approx(22.33)


def test_average_is_the_best_average_not_the_average_of_the_best(released_tables):
    gains = study.gains(published.cells(), selection="best_on_test")
    row = gains.query(
        "teacher == 'Qwen2.5-3B' and student == 'Qwen2.5-1.5B' and method == 'revkd' "
        "and domain == 'commonsense'"
    ).set_index("task")
    assert row.loc["average", "accuracy"] == 59.16
    assert row.drop(index="average")["accuracy"].mean() > 60


def test_likeness_takes_the_sft_value_of_the_same_teacher(released_tables):
    gains = study.gains(published.cells(), selection="best_on_test")
    table = study.likeness_by_pair(gains, measure="agreement")
    assert len(table) == 22
    math_rise = table.loc[table["domain"] == "math", "rise"].mean()
    assert math_rise == pytest.approx(5.4, abs=0.05)
    assert isinstance(table, pd.DataFrame)
