"""One live pair beside the released ones: which pair, which values, and what is said of it."""

import pandas as pd
import pytest
from itemrows import STUDENT, TEACHER, arm, cells, scored

from kdutils.grid import cell_table as cell_rows
from kdutils.grid.plan import Filter, Plan
from kdutils.grid.profile import load_profile
from kdutils.results import authors_tables, gain_tables, item_gains, released_comparison

RIGHT = {"svamp": [1, 1, 0, 0], "aqua": [1, 0, 0, 0]}
RUNS = scored(
    (arm("base"), {"svamp": [0, 0, 0, 0], "aqua": [0, 0, 0, 0]}),
    (arm("sft"), {"svamp": [1, 0, 0, 0], "aqua": [1, 0, 0, 0]}),
    (arm("fkl"), RIGHT),
    (arm("fkl", tuned=False), {"svamp": [0, 0, 0, 0], "aqua": [1, 0, 0, 0]}),
    (arm("fkl", noise_sigma=5.0), {"svamp": [0, 0, 0, 0], "aqua": [0, 0, 0, 0]}),
    (arm("fkl", temperature=2.0), RIGHT),
)


def comparison(tmp_path, released, *, live=None, tasks=None):
    live = cells(RUNS) if live is None else live
    plan = Plan("01", load_profile("mini"), tmp_path, (), Filter(tasks=tasks))
    both = pd.concat([released, live], ignore_index=True)
    return released_comparison.Comparison(both, item_gains.Items(RUNS, RUNS.head(0)), plan)


@pytest.fixture(scope="module")
def released():
    return authors_tables.cells()


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (TEACHER, STUDENT, ("Qwen2.5-3B", STUDENT)),  # 3B is twice as large, 7B almost five times
        ("Qwen2.5-5B", STUDENT, ("Qwen2.5-7B", STUDENT)),  # 1.40 times against 1.67
        ("Qwen2.5-14B", STUDENT, ("Qwen2.5-14B", STUDENT)),
        ("Qwen/Qwen2.5-14B", "Qwen/Qwen2.5-7B", ("Qwen2.5-14B", "Qwen2.5-7B")),
        (TEACHER, "SmolLM2-135M", None),
    ],
)
def test_the_nearest_released_pair_has_the_same_student(released, teacher, student, expected):
    assert released_comparison.nearest_pair(released, teacher, student) == expected


def test_values_of_the_nearest_pair_and_the_range_are_the_released_ones(released, tmp_path):
    found = released_comparison.accuracies(comparison(tmp_path, released)).set_index(["task", "method"])
    near = released[(released["student"] == STUDENT) & (released["task"] == "svamp")]
    sft = near.loc[near["method"] == "sft", "accuracy"].item()
    assert found.loc[("SVAMP", "SFT"), "released, Qwen 3B→0.5B"] == f"{sft:.1f}"
    at_1 = gain_tables.plain(released[(released["task"] == "svamp") & (released["method"] == "fkl")])
    low, high = at_1["accuracy"].min(), at_1["accuracy"].max()
    assert found.loc[("SVAMP", "SeqKD†"), "released, range (runs)"] == f"{low:.1f} to {high:.1f} (11)"
    assert found.loc[("SVAMP", "SeqKD†"), "live, Qwen2.5"].startswith("50.0 [")
    assert found.loc[("Average", "SeqKD†"), "items"] == 8


def test_a_released_pair_stands_beside_itself(released, tmp_path):
    same = cells(RUNS).replace({"teacher": {TEACHER: "Qwen2.5-3B"}})
    compared = comparison(tmp_path, released, live=same)
    assert "released, same pair" in released_comparison.gains(compared)
    assert released_comparison.pair_remark(compared.cells).startswith("Qwen 3B→0.5B was released too.")


def test_the_remark_says_which_pair_and_how_texts_came_about(released, tmp_path):
    remark = released_comparison.pair_remark(comparison(tmp_path, released).cells)
    assert "Qwen 1.5B→0.5B was not released. The nearest released pair is Qwen 3B→0.5B" in remark
    assert "released: sampled at temperature 1, protocol paper" in remark
    assert "live: greedy decoding, protocol careful" in remark


def test_gains_and_costs_are_written_with_their_sign(released, tmp_path):
    compared = comparison(tmp_path, released)
    gains = released_comparison.gains(compared).set_index("task")
    assert gains.loc["SVAMP", "live, Qwen2.5"].startswith("+25.0 [")
    costs = released_comparison.tuning_costs(compared).set_index("task")
    assert costs.loc["SVAMP", "live, Qwen2.5"].startswith("+50.0 [")
    assert costs.loc["Average", "released, range (runs)"] == "+21.0 to +28.9 (5)"


def test_noise_stands_beside_the_one_value_that_is_known(released, tmp_path):
    found = released_comparison.noise(comparison(tmp_path, released)).set_index(["task", "noise_sigma"])
    assert found.loc[("Average", 5.0), "released, Qwen 3B→0.5B"] == "5.9"
    assert found.loc[("SVAMP", 5.0), "released, Qwen 3B→0.5B"] == "—"
    assert found.loc[("Average", 0.0), "released, range (runs)"].endswith("(11)")


def test_temperatures_are_those_of_methods_that_were_swept(released, tmp_path):
    found = released_comparison.temperatures(comparison(tmp_path, released))
    assert found["temperature"].unique().tolist() == [1.0, 2.0]
    assert found["released, range (runs)"].str.endswith("(5)").all()


def test_only_the_tasks_asked_for_are_shown(released, tmp_path):
    found = released_comparison.accuracies(comparison(tmp_path, released, tasks=("aqua",)))
    assert found["task"].unique().tolist() == ["AQuA", "Average"]


def test_a_model_world_stands_alone(released, tmp_path):
    world = cells(RUNS).assign(family="mini-qwen")
    compared = comparison(tmp_path, released, live=world)
    assert list(released_comparison.gains(compared)) == ["domain", "task", "method", "live", "items"]
    assert released_comparison.pair_remark(compared.cells) == ""


def test_without_released_tables_the_live_column_stands_alone(tmp_path):
    compared = comparison(tmp_path, cell_rows.cell_table([]))
    assert list(released_comparison.accuracies(compared)) == [
        "domain",
        "task",
        "method",
        "live, Qwen2.5",
        "items",
    ]
    assert list(released_comparison.noise(compared))[-2:] == ["live, Qwen2.5", "items"]


def test_fidelity_stands_beside_the_table_that_is_likely_bleu(released, tmp_path):
    from itemrows import beside as rows_beside

    texts = ["one two three four five", "six seven eight nine ten"]
    likeness = rows_beside(("sft", [1, 0], texts, texts), ("fkl", [1, 1], texts, texts))
    compared = released_comparison.Comparison(
        pd.concat([released, cells(RUNS)], ignore_index=True),
        item_gains.Items(RUNS, likeness),
        Plan("05", load_profile("mini"), tmp_path, (), Filter()),
    )
    near = released.query(
        "student == @STUDENT and teacher == 'Qwen2.5-3B' and task == 'svamp' and method == 'fkl'"
    )
    near = gain_tables.plain(near)
    bleu = released_comparison.fidelities(compared).set_index(["task", "method"])
    assert bleu.loc[("SVAMP", "SFT"), "released, Qwen 3B→0.5B"] == f"{near['fidelity_bleu2_sft'].item():.1f}"
    same = released_comparison.agreements(compared).set_index(["task", "method"])
    assert same.loc[("SVAMP", "SeqKD†"), "released, Qwen 3B→0.5B"] == f"{near['agreement'].item():.1f}"
    assert same.loc[("SVAMP", "SFT"), "live, Qwen2.5"].startswith("50.0 [")
