"""Half-drop temperatures by hand, independent samples, and each contrast on rows that decide it."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kdutils.claims import contrasts
from kdutils.constants import METHOD_NAMES
from kdutils.report import show_decoding
from kdutils.results import asked, decoding, hot_or_cold

TEACHER, STUDENT = "mini-qwen-3B", "mini-qwen-0.5B"
N = 60


def texts(
    role, method, right, *, student=STUDENT, temperature=0.0, samples=1, task="svamp", seed=0, domain="math"
):
    """Rows of one evaluation; `right(item, sample)` says whether the text is the gold answer."""
    rows = []
    for item in range(N):
        for sample in range(samples):
            is_right = bool(right(item, sample))
            parsed = "1" if is_right else f"9{sample}{item}"
            rows.append(
                {"role": role, "method": method, "domain": domain, "student": student, "seed": seed}
                | {"teacher": TEACHER if role == "kd" else None, "temperature": temperature, "top_p": 1.0}
                | {"scoring": "generation", "rotation": 0, "task": task, "item_id": f"{task}-{item:03}"}
                | {"sample": sample, "text": f"the answer is {parsed}", "parsed": parsed, "correct": is_right}
                | {"unparsed": False, "truncated": False}
            )
    return rows


def share(percent):
    return lambda item, sample: (item * 37) % N < percent * N / 100


def study(levels, *, samples=2, **where):
    """Rows of a pair: levels is method -> temperature -> percent right."""
    rows = []
    for method, by_temperature in levels.items():
        role = method if method in ("sft", "teacher") else "kd"
        for temperature, percent in by_temperature.items():
            n_samples = samples if role == "teacher" and temperature > 0 else 1
            own = {"temperature": temperature, "samples": n_samples} | where
            own |= {"student": TEACHER} if role == "teacher" else {}
            rows += texts(role, "sft" if role == "teacher" else method, share(percent), **own)
    return pd.DataFrame(rows)


LEVELS = {
    "teacher": {0.0: 100, 1.0: 90, 2.0: 40},
    "sft": {0.0: 60, 1.0: 30, 2.0: 0},
    "fkl": {0.0: 60, 1.0: 40, 2.0: 30},
    "revkd": {0.0: 50, 1.0: 50, 2.0: 50},
}


def test_half_drop_by_hand():
    """20 is half way from 30 at 1 to 10 at 2; one never falls so far; one starts at chance."""
    above = np.array([[40.0, 30.0, 10.0], [40.0, 35.0, 21.0], [0.0, 5.0, 5.0]])
    found = decoding.half_drop(above, [0.0, 1.0, 2.0])
    assert found[:2].tolist() == [1.5, 2.0]
    assert math.isnan(found[2])
    assert np.isnan(decoding.half_drop(above[:, :1], [0.0])).all()


def test_a_half_drop_has_chance_taken_out_and_says_that_it_is_censored():
    levels, by = {"sft": {0.0: 75, 1.0: 50, 2.0: 35}}, ["domain", "student"]
    rows = study(levels, task="arc_e", domain="commonsense")
    drops = decoding.half_drops(rows, by=by, rng=np.random.default_rng(0))
    table = decoding.half_drop_table(drops, highest=2.0)
    assert table["value"].item() == pytest.approx(1.0)  # 50 is half way from 75 to a chance of 25
    drops = decoding.half_drops(rows.assign(correct=True), by=by, rng=np.random.default_rng(0))
    assert decoding.half_drop_table(drops, highest=2.0)["text"].item() == "above 2"


def test_student_and_teacher_are_compared_on_independent_samples():
    """Two models that write the same texts agree no more than the teacher with itself."""
    coin = lambda item, sample: (item + sample) % 2 == 0  # noqa: E731
    rows = texts("teacher", "sft", coin, student=TEACHER, temperature=1.0, samples=2)
    rows += texts("kd", "fkl", coin, temperature=1.0)
    pairs = decoding.of_pairs(pd.DataFrame(rows))
    own = decoding.beside_teacher(pairs).groupby("method")["agreement"].mean()
    assert own.to_dict() == {"fkl": 0.0, "teacher": 0.0}
    assert decoding.beside_teacher(pairs, same_noise=True)["agreement"].mean() > 0.99
    alone = pairs[(pairs["method"] == "fkl") | (pairs["sample"] == 0)]  # no second sample: no agreement
    assert decoding.beside_teacher(alone).empty


def test_greedy_texts_are_compared_with_the_greedy_text():
    pairs = decoding.of_pairs(study({"teacher": {0.0: 50}, "fkl": {0.0: 50}}))
    both = decoding.beside_teacher(pairs)
    assert both.groupby("method")["agreement"].mean().to_dict() == {"fkl": 1.0, "teacher": 1.0}
    table = decoding.curves(pairs, both).set_index(["method", "measure"])["value"]
    assert (table["fkl", "accuracy"], table["fkl", "fidelity"]) == (50.0, pytest.approx(100.0))


def test_items_that_a_setting_lacks_are_left_out():
    rows = study(LEVELS)
    fewer = rows[(rows["temperature"] != 1.0) | (rows["item_id"] < "svamp-010")]
    assert decoding.of_pairs(fewer)["item_id"].nunique() == 10
    assert decoding.of_pairs(rows[rows["role"] != "kd"]).empty
    fewer = rows[rows["temperature"].isin([0.0, 1.0]) | (rows["item_id"] < "svamp-010")]
    values = decoding.contrasts(fewer)
    assert (values["H1"].n, values["H3"].n) == (60, 10)  # the ends are compared on all that both have


def found(levels, *others):
    return decoding.contrasts(pd.concat([study(levels), *others]))


def test_contrasts_have_the_values_of_the_levels():
    values = found(LEVELS)
    assert values["H1"].value == pytest.approx(20.0)  # (50 - 40) - (50 - 60)
    assert values["H2"].value == pytest.approx(20.0)  # mean of (10 - 0) and (20 + 10)
    # half-drops: teacher 1.8, SFT 1, fkl 2 (30 is not below half of 60), revkd 2
    assert values["H3"].value == pytest.approx(0.2 - 0.8)
    assert values["H1"].low < 20 < values["H1"].high
    assert "three sizes" in values["H4"]
    verdicts = {row["id"]: row["verdict"] for row in contrasts.judge("12", values)}
    assert (verdicts["H1"], verdicts["H4"]) == ("reproduced", "not_testable")


def test_what_was_not_asked_is_said():
    without = found({name: LEVELS[name] for name in ("teacher", "sft", "fkl")})
    assert isinstance(without["H1"], str) and isinstance(without["H5"], str)
    assert not isinstance(without["H2"], str)
    nothing = pd.DataFrame(columns=[*asked.OF_RUN, *asked.OF_EVALUATION])
    assert set(map(type, decoding.contrasts(nothing).values())) == {str}
    greedy = study({one: {0.0: 50} for one in ("sft", "fkl", "teacher")})
    assert set(map(type, decoding.contrasts(greedy).values())) == {str}
    pairs = decoding.of_pairs(nothing)
    both = decoding.beside_teacher(pairs)
    assert decoding.curves(pairs, both).empty and decoding.selected(pairs).empty


def test_half_drop_rises_with_size_within_families():
    last = {"mini-qwen-1.5B": 15, "mini-qwen-3B": 25}
    rows = [study({"sft": {0.0: 60, 1.0: 50, 2.0: level}}, student=name) for name, level in last.items()]
    rising = found({"sft": {0.0: 60, 1.0: 50, 2.0: 5}}, *rows)["H4"]
    assert rising.value == pytest.approx(1.0)
    assert rising.low > 0


def test_a_ceiling_by_task_can_turn_the_order_of_methods():
    """fkl leads by 10 points of 100 on one task, revkd by 5 of 20 on the other."""
    columns = {("d", "t", "s", "fkl", "a"): 60, ("d", "t", "s", "fkl", "b"): 10}
    columns |= {("d", "t", "s", "revkd", "a"): 50, ("d", "t", "s", "revkd", "b"): 15}
    columns |= {("d", "t", "s", "teacher", "a"): 100, ("d", "t", "s", "teacher", "b"): 20}
    table = pd.DataFrame({key: [float(value)] for key, value in columns.items()})
    table = table.rename_axis(columns=[*decoding.PAIR, "method", "task"])
    assert decoding.reordered(table).tolist() == [100.0]
    assert decoding.reordered(table.xs("a", axis=1, level="task", drop_level=False)).tolist() == [0.0]


def test_a_selected_temperature_is_measured_on_items_that_did_not_choose_it():
    table = decoding.selected(decoding.of_pairs(study(LEVELS))).set_index("method")
    assert table.loc["sft", "selected"] == pytest.approx(60.0)
    assert table.loc["sft", "gain"] == pytest.approx(30.0)
    assert table.loc["sft", "greedy_gain"] == 0.0
    luck = lambda item, sample: item % 2 == 0  # noqa: E731
    rows = texts("kd", "fkl", luck) + texts("kd", "fkl", lambda i, s: i % 2 == 1, temperature=1.0)
    chosen = decoding.selected(decoding.of_pairs(pd.DataFrame(rows)))
    assert 20 < chosen["selected"].item() < 80  # no luck of the items that are measured
    assert decoding.selected(decoding.of_pairs(study({"sft": {0.0: 50}, "fkl": {0.0: 50}}))).empty


def test_the_released_table_is_whole_and_read_within_families():
    table = hot_or_cold.read()
    assert len(table) == 504 and table.groupby(["model", "ability"])["temperature"].nunique().eq(7).all()
    models = hot_or_cold.by_model(table)
    drops = models[models["ability"] == "IF"].set_index("model")["half_drop"].round(2)
    assert drops.filter(like="Llama-3").sort_values().tolist() == [1.24, 1.38, 1.55, 1.9]
    assert drops["Qwen2.5-1.5B-Instruct"] == 1.41 and drops["Qwen2.5-3B-Instruct"] == 1.62
    rises = hot_or_cold.rise_with_size(models, rng=np.random.default_rng(0)).set_index("ability")
    assert rises.loc["instruction following", ["n", "within_n"]].tolist() == [12, 9]
    assert rises.loc["instruction following", "within"] > 0.8


def test_the_table_of_levels_has_rising_temperatures_and_names_of_methods():
    pairs, shown = decoding.of_pairs(study(LEVELS)), []
    table = decoding.curves(pairs, decoding.beside_teacher(pairs)).sort_values("temperature", ascending=False)
    section = SimpleNamespace(figure=lambda *_, **__: None)
    section.table = lambda tables, *_: shown.append(tables["live"])
    show_decoding.curves(section, table)
    columns = [float(name[4:]) for name in shown[0] if name.startswith("T = ")]
    assert columns == sorted(columns) and set(shown[0]["method"]) <= {*METHOD_NAMES.values(), "teacher"}


def test_figures_have_a_line_for_each_method_and_model():
    pairs = decoding.of_pairs(study(LEVELS))
    table = decoding.curves(pairs, decoding.beside_teacher(pairs)).drop(columns=["teacher", "student"])
    fig = show_decoding.curve_panels(pd.concat([table, table.assign(top_p=0.9)]))
    assert len(fig.axes) == len(decoding.MEASURES)
    assert [len(ax.containers) for ax in fig.axes] == [2 * len(LEVELS)] * len(fig.axes)
    below = fig.legends[0].legend_handles[-1]
    assert (below.get_label(), below.get_marker(), below.get_linestyle()) == ("top_p below 1", "o", "None")
    shown = hot_or_cold.read().query("ability == 'IF'").rename(columns={"billions": "size", "score": "value"})
    fig = show_decoding.model_lines(shown, panels="family", ylabel="score")
    assert sum(len(ax.get_lines()) for ax in fig.axes) == 12


def test_a_mean_over_domains_is_undefined_if_that_of_one_is():
    one, other = pd.Series([1.0, 2.0, 3.0]), pd.Series([np.nan, 2.0, 3.0])
    rows = pd.DataFrame({"task": ["svamp"], "item_id": ["a"]})
    assert np.isnan(decoding._estimate([one, other], rows).value)
    assert decoding._estimate([one, one], rows).value == 1
