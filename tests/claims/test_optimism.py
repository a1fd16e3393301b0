"""What choosing a temperature on the test items buys: its size is found, its interval covers."""

import math

import numpy as np
import pandas as pd
import pytest
from halfrows import ARM, FIRST, HAND, SECOND, swept
from itemrows import arm, scored

from kdutils.claims import selection_optimism
from kdutils.report import teacher_figures
from kdutils.results import held_out_temperature
from kdutils.results.item_gains import Items

NO_ITEMS = Items(pd.DataFrame(), pd.DataFrame())


def imagined(rng, chances, n_half, *, n_studies):
    """Halves of studies, a student each, whose runs have these chances of being right on an item."""
    rows = [
        {
            "temperature": temperature,
            "half": half,
            "value": value,
            "square": value,
            "student": f"toy-{study}M",
        }
        for study in range(1, n_studies + 1)
        for temperature, chance in zip((1.0, 2.0, 5.0), chances, strict=True)
        for half, value in enumerate(rng.binomial(n_half, chance, size=2))
    ]
    named = {name: value for name, value in ARM.items() if name != "student"}
    table = pd.DataFrame(rows).assign(n=n_half, seed=0, task="svamp", **named)
    return table.reindex(columns=held_out_temperature.COLUMNS).astype(held_out_temperature.NUMBERS)


def test_chosen_on_held_out_items_equal_temperatures_are_unbiased_and_on_test_items_they_are_not():
    """Three temperatures that are right on half of 100 items: the best of three seems 4 points better."""
    table = imagined(np.random.default_rng(7), (0.5, 0.5, 0.5), 50, n_studies=300)
    found = selection_optimism.levels(table).query("task == 'svamp'")
    error = found["held_out"].std() / math.sqrt(len(found))
    assert abs(found["held_out"].mean() - 50.0) < 4 * error
    assert abs(found["temperature_1"].mean() - 50.0) < 4 * error
    assert found["best_on_test"].mean() - 50.0 == pytest.approx(4.2, abs=4 * error)  # 0.846 of 5 points
    assert found["optimism"].mean() == pytest.approx(4.2, abs=6 * error)


@pytest.mark.parametrize("chances", [(0.5, 0.5, 0.5), (0.7, 0.6, 0.6), (0.1, 0.5, 0.45)])
def test_optimism_is_never_negative(chances):
    found = selection_optimism.levels(imagined(np.random.default_rng(8), chances, 15, n_studies=100))
    assert (found["optimism"] > -1e-9).all()
    assert (found["optimism"] > 0).any()


# --- what choosing on the test items buys -------------------------------------------------------------------


def test_optimism_is_a_mean_over_students():
    tables = []
    for student, runs_of in (
        ("toy-1M", HAND),
        ("toy-2M", {1.0: HAND[1.0], 2.0: dict.fromkeys(HAND[1.0], 0)}),
    ):
        tables += [swept(runs_of, student=student), swept(runs_of, student=student, teacher="toy-64M")]
    found = selection_optimism.table(pd.concat(tables), NO_ITEMS, rng=np.random.default_rng(0))
    assert found["rule"].tolist() == ["each task", "average"]
    row = found.iloc[0]
    assert row[["temperature_1", "held_out", "best_on_test", "optimism"]].tolist() == [25.0, 12.5, 37.5, 25.0]
    assert (row["n"], row["unit"], row["low"]) == (2, "students", 0.0)
    assert row["high"] == pytest.approx(25.0 + 12.706 * 25.0, abs=0.01)
    text = selection_optimism.remark(found)
    assert text.startswith("Math: 25.0 % at temperature 1, 12.5 % where")
    assert "buys 25.0 [0.0, 342.7] points" in text


def pair(rng, chances, n, tasks=("aqua", "svamp", "gsm8k")):
    """Items.scored of one pair, and the same as halves."""
    ids = FIRST[: n // 2] + SECOND[: n - n // 2]
    values = {
        t: {task: rng.random(n) < p for task in tasks} for t, p in zip((1.0, 2.0, 5.0), chances, strict=True)
    }
    rows = scored(*((arm("fkl", temperature=t), of_run) for t, of_run in values.items()))
    rows["item_id"] = rows.groupby([rows["temperature"], "task"]).cumcount().map(ids.__getitem__)
    named = {name: rows[name].iloc[0] for name in ("teacher", "student")}
    parts = [
        swept(
            {t: dict(zip(ids, of_run[task], strict=True)) for t, of_run in values.items()}, task=task, **named
        )
        for task in tasks
    ]
    return Items(rows, rows.head(0)), pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("seed", range(5))
def test_over_items_the_estimate_is_the_same(seed):
    rng = np.random.default_rng(seed)
    items, table = pair(rng, (0.5, 0.5, 0.45), 40)
    found = selection_optimism.table(table, items, rng=rng)
    over_students = selection_optimism.table(table, NO_ITEMS, rng=rng)
    parts = selection_optimism._of_pair(items.scored, table[["domain", "method", "task"]])
    for rule in selection_optimism.RULES:
        (expected,) = over_students.loc[over_students["rule"] == rule, "optimism"]
        assert selection_optimism.over_items(parts, rule=rule, rng=rng).value == pytest.approx(expected)
    assert found["unit"].tolist() == ["items", "items"]
    assert found["n"].tolist() == [120, 120]
    assert found["high"].notna().all() and over_students["high"].isna().all()


@pytest.mark.parametrize("chances", [(0.4, 0.4, 0.4), (0.4, 0.35, 0.05)])
def test_over_items_the_interval_holds_the_expected_value(chances):
    rng = np.random.default_rng(11)

    def drawn():
        return [rng.random((20, 3)) < chances for _ in range(12)]  # six tasks of two halves

    found = [
        selection_optimism.over_items([drawn()], rule="each task", rng=rng, n_resamples=99)
        for _ in range(150)
    ]
    expected = np.mean(
        [
            selection_optimism.over_items([drawn()], rule="each task", rng=rng, n_resamples=2).value
            for _ in range(1_000)
        ]
    )
    assert np.mean([each.low <= expected <= each.high for each in found]) > 0.95
    widths = np.mean([each.high - each.low for each in found])
    assert widths < 2 * 3.92 * np.std([each.value for each in found])  # not so wide that it says nothing


def test_the_picture_shows_every_student_by_every_choice():
    tables = [
        swept(HAND, student=student, method=method)
        for student, method in (("toy-2M", "fkl"), ("toy-1M", "fkl"), ("toy-1M", "revkd"))
    ]
    found = selection_optimism.of_students(pd.concat(tables))
    assert found[["student", "method"]].values.tolist() == [
        ["toy-1M", "fkl"],
        ["toy-2M", "fkl"],
        ["toy-1M", "revkd"],
    ]
    (ax,) = teacher_figures.choice_of_temperature(found).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "toy-1M, SeqKD†",
        "toy-2M, SeqKD†",
        "toy-1M, RevKD",
    ]
    drawn = {line.get_marker(): list(line.get_xdata()) for line in ax.lines}
    assert drawn == {"^": [25.0] * 3, "D": [0.0] * 3, "o": [50.0] * 3}
