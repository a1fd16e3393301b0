"""Students and items drawn again, crossed: against the rows as they are, a known truth, and no answer."""

import numpy as np
import pandas as pd
import pytest

from kdutils.inference import crossed_bootstrap

NAMES = {"strata": ["student", "task"], "clusters": ["student"], "values": ["one", "hit"]}


def answers_of(rng, *, students=8, items=40, tasks=("a", "b"), student_sd=0.0, item_sd=0.0):
    """Hits of students on items of which some are harder than others."""
    rows = []
    for task in tasks:
        hardness = rng.normal(0, item_sd, items)
        for student in range(students):
            skill = rng.normal(0, student_sd)
            hit = rng.normal(skill - hardness, 1.0)
            rows += [(f"s{student}", task, f"{task}{i}", 1.0, value) for i, value in enumerate(hit)]
    return pd.DataFrame(rows, columns=["student", "task", "item_id", "one", "hit"])


def test_first_are_the_rows_as_they_are():
    rows = answers_of(np.random.default_rng(0)).sample(frac=1, random_state=1)
    drawn = crossed_bootstrap.resampled(rows, **NAMES, rng=np.random.default_rng(2), n_resamples=20)
    sums = rows.groupby(["student", "task"])["hit"].sum()
    expected = [sums[key] for key in drawn.keys.itertuples(index=False, name=None)]
    assert drawn.sums("hit")[0] == pytest.approx(expected)
    assert drawn.mean("hit", "one")[0] == pytest.approx(rows["hit"].mean())
    assert (drawn.sums("one").sum(axis=1) == len(rows)).all()  # each task keeps its number of items
    assert drawn.weights_RS.sum(axis=1) == pytest.approx(16.0)


def test_an_item_counts_as_often_for_every_student():
    rows = answers_of(np.random.default_rng(0), students=3, items=5, tasks=("a",))
    rows["hit"] = (rows["item_id"] == "a3").astype(float)
    drawn = crossed_bootstrap.resampled(rows, **NAMES, rng=np.random.default_rng(2), n_resamples=50)
    hits = drawn.sums("hit")
    assert (hits == hits[:, :1]).all()
    assert set(hits[:, 0]) > {0.0, 1.0, 2.0}


@pytest.mark.parametrize(("student_sd", "item_sd"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.8)])
def test_intervals_cover_the_truth(student_sd, item_sd):
    """True mean 0; at least as often as 95 % up to the noise of 150 studies and of few students."""
    rng, inside = np.random.default_rng(4), 0
    for _ in range(150):
        rows = answers_of(rng, students=20, items=30, tasks=("a",), student_sd=student_sd, item_sd=item_sd)
        drawn = crossed_bootstrap.resampled(rows, **NAMES, rng=rng, n_resamples=199)
        found = crossed_bootstrap.estimate(drawn.mean("hit", "one"), why_undefined="none")
        inside += found.low <= 0.0 <= found.high
    assert inside >= 0.88 * 150


def test_one_student_leaves_its_items():
    rows = answers_of(np.random.default_rng(0), students=1, tasks=("a",))
    drawn = crossed_bootstrap.resampled(rows, **NAMES, rng=np.random.default_rng(1))
    found = crossed_bootstrap.estimate(drawn.mean("hit", "one"), why_undefined="none", why_not=drawn.why_not)
    error = rows["hit"].std() / np.sqrt(len(rows))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_one_item_of_one_student_has_no_interval():
    rows = answers_of(np.random.default_rng(0), students=1, items=1, tasks=("a", "b"))
    drawn = crossed_bootstrap.resampled(rows, **NAMES, rng=np.random.default_rng(1))
    found = crossed_bootstrap.estimate(drawn.mean("hit", "one"), why_undefined="none", why_not=drawn.why_not)
    assert found.value == pytest.approx(rows["hit"].mean())
    assert np.isnan(found.low)
    assert "nothing to draw again" in found.reason


def test_what_is_undefined_says_so():
    nothing = crossed_bootstrap.estimate(np.full(100, np.nan), why_undefined="no item")
    assert np.isnan(nothing.value)
    assert nothing.reason == "no item"
    often = np.r_[1.0, np.full(50, np.nan), np.ones(50)]
    found = crossed_bootstrap.estimate(often, why_undefined="no item")
    assert (found.value, found.reason) == (1.0, "undefined in 50% of resamples")
    assert np.isnan(found.low)


def test_strata_must_hold_what_is_drawn():
    rows = answers_of(np.random.default_rng(0))
    with pytest.raises(ValueError, match="must hold task and the clusters"):
        crossed_bootstrap.resampled(rows, **NAMES | {"clusters": ["seed"]}, rng=np.random.default_rng(1))


def test_a_weighted_mean_leaves_out_what_has_no_value():
    nan = float("nan")
    values = np.array([[1.0, 3.0, nan], [nan, nan, nan], [1.0, 5.0, 9.0]])
    weights = np.array([[1.0, 3.0, 100.0], [1.0, 1.0, 1.0], [1.0, nan, 0.0]])
    found = crossed_bootstrap.weighted_mean(values, weights)
    np.testing.assert_array_equal(found, [2.5, nan, 1.0])
