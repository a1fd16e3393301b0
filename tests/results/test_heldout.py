"""No item chooses the temperature that it is measured at, and nothing else changes the split."""

import math
from pathlib import Path

import itemrows
import numpy as np
import pandas as pd
import pytest
from halfrows import ARM, FIRST, HAND, SECOND, A, B, C, D, by_task, item_rows, swept

from kdutils.claims import selection_optimism
from kdutils.grid import cell_table as cell_rows
from kdutils.grid import plan
from kdutils.results import gain_tables, held_out_temperature
from kdutils.results.held_out_temperature import half_of
from kdutils.results.item_gains import Items
from kdutils.runs import comparison
from kdutils.spec import EvalSpec, RunSpec

# --- the split --------------------------------------------------------------------------------------------


def test_the_split_is_that_of_the_ids_alone():
    assert [half_of(item) for item in "abcdefgh"] == [1, 1, 0, 0, 0, 1, 1, 1]  # SHA-256 is what it is
    assert abs(len(FIRST) - len(SECOND)) < 4 * math.sqrt(4_000)


def test_order_and_other_items_change_nothing():
    values = {item: number % 3 == 0 for number, item in enumerate(FIRST[:7] + SECOND[:9])}
    rows = item_rows(values)
    whole = held_out_temperature.sums(rows).set_index("half")
    shuffled = (
        held_out_temperature.sums(rows.sample(frac=1.0, random_state=3)).set_index("half").loc[whole.index]
    )
    pd.testing.assert_frame_equal(whole, shuffled)
    fewer = held_out_temperature.sums(rows[rows["item_id"] != FIRST[0]]).set_index("half")
    assert (whole.loc[0, "n"], fewer.loc[0, "n"]) == (7, 6)
    pd.testing.assert_series_equal(whole.loc[1], fewer.loc[1])


def test_other_runs_change_nothing():
    one = dict.fromkeys(FIRST[:4] + SECOND[:4], 1)
    two = dict.fromkeys(one, 0)
    alone, beside = swept({1.0: one, 2.0: two}), swept({1.0: one, 2.0: two}, method="revkd")
    both = held_out_temperature.choices(pd.concat([beside, alone], ignore_index=True))
    own = both[both["method"] == "fkl"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, held_out_temperature.choices(alone))


# --- four items, two temperatures -------------------------------------------------------------------------


def test_four_items_by_hand():
    """The first half prefers 1, the second 2, and each is measured at what the other prefers."""
    row = by_task(selection_optimism.levels(swept(HAND)))
    assert (row["by_0"], row["by_1"], row["by_all"]) == (1.0, 2.0, 2.0)
    assert (row["temperature_1"], row["held_out"], row["best_on_test"], row["optimism"]) == (
        25.0,
        0.0,
        50.0,
        50.0,
    )


def test_halves_that_agree_are_the_run_itself():
    row = by_task(selection_optimism.levels(swept({1.0: HAND[1.0], 2.0: {A: 1, B: 1, C: 1, D: 0}})))
    assert (row["by_0"], row["by_1"], row["held_out"], row["optimism"]) == (2.0, 2.0, 75.0, 0.0)


def test_of_tied_temperatures_the_lowest():
    same = {A: 1, B: 0, C: 1, D: 0}
    row = by_task(held_out_temperature.choices(swept({5.0: same, 2.0: same, 1.0: dict.fromkeys(same, 0)})))
    assert (row["by_0"], row["by_1"], row["by_all"]) == (2.0, 2.0, 2.0)


def test_the_average_chooses_for_itself():
    """On one task 1 is better by a little, on the other 2 by far: the average takes 2 for both."""
    small = swept({1.0: {A: 1, B: 0, C: 1, D: 0}, 2.0: dict.fromkeys((A, B, C, D), 0)})
    large = {1.0: dict.fromkeys((A, B, C, D), 0), 2.0: dict.fromkeys((A, B, C, D), 1)}
    table = selection_optimism.levels(pd.concat([small, swept(large, task="aqua")], ignore_index=True))
    assert [by_task(table, task)["by_all"] for task in ("svamp", "aqua", "average")] == [1.0, 2.0, 2.0]
    assert by_task(table, "average")["held_out"] == 50.0
    assert by_task(table, "average")["temperature_1"] == 25.0


def test_seeds_choose_together_and_only_those_with_all_temperatures():
    first = swept(HAND)
    second = swept({1.0: dict.fromkeys(HAND[1.0], 1), 2.0: dict.fromkeys(HAND[1.0], 0)}, seed=1)
    lonely = swept({1.0: dict.fromkeys(HAND[1.0], 1)}, seed=2)
    table = pd.concat([first, second, lonely], ignore_index=True)
    chosen = by_task(held_out_temperature.choices(table))
    assert (chosen["by_0"], chosen["by_1"]) == (1.0, 1.0)  # 3 of 4 for 1; a tie of the second half
    found = held_out_temperature.measured(table, held_out_temperature.choices(table))
    of_task = found[found["task"] == "svamp"].set_index("seed")["accuracy"]
    assert of_task.to_dict() == {0: 25.0, 1: 100.0}


# --- every item once, at a temperature that it had no say in ------------------------------------------------

WORDS = ["the", "price", "of", "two", "red", "apples", "is", "three", "and", "a", "boy", "has", "five"]


def told(rng, ids):
    """Item rows with texts and answers."""
    rows = item_rows({item: rng.random() < 0.5 for item in ids})
    texts = [" ".join(rng.choice(WORDS, 8)) for _ in ids]
    return rows.assign(text=texts, parsed=[str(number) for number in rng.integers(0, 3, len(ids))])


def test_every_item_counts_once_at_what_the_other_half_chose():
    """Against rows put together item by item: accuracy, its error, agreement and fidelity."""
    rng = np.random.default_rng(4)
    ids = FIRST[:23] + SECOND[:31]
    teacher, students = told(rng, ids), {temperature: told(rng, ids) for temperature in (1.0, 2.0, 5.0)}
    table = pd.concat(
        [
            held_out_temperature.sums(rows, teacher).assign(**ARM, temperature=temperature, seed=0)
            for temperature, rows in students.items()
        ]
    )
    chosen = held_out_temperature.choices(table)
    row = by_task(chosen)
    assert row["by_0"] != row["by_1"]
    other = [row[f"by_{1 - half_of(item)}"] for item in ids]
    put_together = pd.concat(
        [
            students[temperature].iloc[[place]].assign(truncated=False, unparsed=False)
            for place, temperature in enumerate(other)
        ]
    )
    assert put_together["item_id"].tolist() == ids
    expected = comparison.accuracies(put_together).iloc[0]
    both = comparison.paired(put_together, teacher)
    found = by_task(held_out_temperature.measured(table, chosen))
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["accuracy_se"] == pytest.approx(expected["accuracy_se"])
    assert found["agreement"] == pytest.approx(100 * comparison.same_answer(both).mean())
    assert found["fidelity"] == pytest.approx(comparison.corpus_bleu(both["text"], both["text_teacher"]))


# --- what is not there ------------------------------------------------------------------------------------


def test_a_half_without_items_has_no_value_and_a_reason():
    whole = swept(HAND)
    half = swept({t: {item: values[item] for item in (A, B)} for t, values in HAND.items()}, task="aqua")
    table = selection_optimism.levels(pd.concat([whole, half], ignore_index=True))
    for task in ("aqua", "average"):
        row = by_task(table, task)
        assert row["reason"] == "a half of aqua has no items"
        assert math.isnan(row["by_0"]) and math.isnan(row["held_out"]) and math.isnan(row["optimism"])
    assert by_task(table)["reason"] == ""
    assert by_task(table)["optimism"] == 50.0


def test_one_temperature_is_taken():
    row = by_task(selection_optimism.levels(swept({2.0: HAND[2.0]})))
    assert (row["by_0"], row["by_1"], row["held_out"], row["optimism"]) == (2.0, 2.0, 50.0, 0.0)
    assert math.isnan(row["temperature_1"])


def test_runs_on_other_items_are_refused():
    other = {1.0: HAND[1.0], 2.0: HAND[2.0] | {FIRST[9]: 1}}
    with pytest.raises(ValueError, match="toy-1M fkl: runs on svamp were scored on different items; eval"):
        held_out_temperature.choices(swept(other))


def test_nothing_gives_nothing():
    nothing = pd.DataFrame(columns=held_out_temperature.COLUMNS).astype(held_out_temperature.NUMBERS)
    assert held_out_temperature.choices(nothing).empty
    found = selection_optimism.table(nothing, Items(nothing, nothing), rng=np.random.default_rng(0))
    assert found.empty and selection_optimism.readable(found).empty and selection_optimism.remark(found) == ""
    assert selection_optimism.of_students(nothing).empty


# --- cells ------------------------------------------------------------------------------------------------


def live_cells(table, **columns):
    """Cells of halves, with their SFT student and teacher."""
    common = {"source": "live", "protocol": "careful", "domain": "math", "family": "toy", "noise_sigma": 0.0}
    common |= {"student_parameters": 10**6, "n": 4}
    rows = [
        common
        | {"student": who, "method": "sft", "seed": 0, "task": task, "accuracy": 20.0, "accuracy_se": 1.0}
        for who in ("toy-1M", "toy-32M")
        for task in (*table["task"].unique(), "average")
    ]
    keys = ["temperature", "seed", "task"]
    sums = table.groupby(keys)[["value", "n"]].sum()
    accuracy = 100 * sums["value"] / sums["n"]
    average = accuracy.groupby(["temperature", "seed"]).mean()
    accuracy = pd.concat([accuracy, pd.concat({"average": average}, names=["task"]).reorder_levels(keys)])
    for (temperature, seed, task), value in accuracy.items():
        kd = ARM | {"teacher_parameters": 32 * 10**6, "teacher_tuned": True, "temperature": temperature}
        kd |= {"seed": seed, "task": task, "accuracy": value, "accuracy_se": 1.0, "truncated": 3.0}
        rows.append(common | kd | columns)
    return cell_rows.cell_table(rows)


def test_a_run_put_together_stands_for_the_temperatures():
    table = pd.concat(
        [swept(HAND), swept({1.0: dict.fromkeys(HAND[1.0], 0), 2.0: {A: 1, B: 1, C: 1, D: 0}}, task="aqua")],
        ignore_index=True,
    )
    before = live_cells(table)
    after = held_out_temperature.cells(before, table)
    kd = after[after["teacher"] != ""].set_index("task")
    assert kd.index.is_unique
    assert kd["accuracy"].to_dict() == {"aqua": 75.0, "average": 62.5, "svamp": 0.0}
    assert kd["temperature"].isna().to_dict() == {"aqua": False, "average": False, "svamp": True}
    assert kd["truncated"].isna().to_dict() == {"aqua": False, "average": False, "svamp": True}
    is_baseline = before["teacher"] == ""
    pd.testing.assert_frame_equal(after[after["teacher"] == ""], before[is_baseline])
    gains = gain_tables.gains(after, selection="best_on_test").set_index("task")["gain"]
    assert gains.to_dict() == {"aqua": 55.0, "svamp": -20.0, "average": 42.5}


def test_cells_of_one_temperature_and_odd_runs_stay():
    one = swept({1.0: HAND[1.0]})
    before = live_cells(one)
    assert held_out_temperature.cells(before, one).equals(before)
    noisy = live_cells(swept(HAND), noise_sigma=2.0)
    assert held_out_temperature.cells(noisy, swept(HAND)).equals(noisy)
    untuned = live_cells(swept(HAND), teacher_tuned=False)
    assert held_out_temperature.cells(untuned, swept(HAND)).equals(untuned)


def test_what_cannot_be_chosen_is_said_and_has_no_row():
    table, before = swept(HAND), live_cells(swept(HAND))
    assert held_out_temperature.lacking(before, table) == ""
    other = swept(HAND, method="revkd")
    assert held_out_temperature.lacking(before, other) == "no items to choose a temperature on"
    assert not held_out_temperature.cells(before, other)["teacher"].any()
    half = swept({t: {item: values[item] for item in (A, B)} for t, values in HAND.items()})
    assert held_out_temperature.lacking(before, half) == "a half of svamp has no items"
    assert gain_tables.gains(held_out_temperature.cells(before, half), selection="best_on_test").empty


# --- from the store ---------------------------------------------------------------------------------------

EVALUATION = EvalSpec(tasks=("svamp",))
PAIR = {"student": "mini-qwen-0.5B", "teacher": "mini-qwen-1.5B", "domain": "math"}
SWEPT = {f"T{t:g}": RunSpec(method="fkl", temperature=t, **PAIR) for t in (1.0, 2.0)}
OTHERS = {
    "teacher": RunSpec(student=PAIR["teacher"], method="sft", domain="math"),
    "sft": RunSpec(student=PAIR["student"], method="sft", domain="math"),
    "noisy": RunSpec(method="fkl", noise_sigma=2.0, **PAIR),
    "untuned": RunSpec(method="fkl", teacher_tuned=False, **PAIR),
    "once": RunSpec(method="gkd", **PAIR),
}
PARSED = {"T1": "1000", "T2": "0011", "teacher": "1111"}  # of A, B, C, D; 1 is right


def finish(out: Path, run: RunSpec, parsed: str) -> None:
    rows = pd.DataFrame({"task": "svamp", "item_id": [A, B, C, D], "sample": 0, "answer": "1"})
    rows = rows.assign(text=[f"it is {answer} that I say" for answer in parsed], parsed=list(parsed))
    rows = rows.assign(correct=[answer == "1" for answer in parsed], rouge_l=math.nan)
    itemrows.evaluated(out, run, EVALUATION, rows)


def asked(out: Path, *specs: RunSpec) -> plan.Plan:
    return itemrows.asked(out, "07", EVALUATION, *specs)


def test_halves_are_read_of_runs_among_which_can_be_chosen(tmp_path):
    every = SWEPT | OTHERS
    for name, run in every.items():
        finish(tmp_path, run, PARSED.get(name, "0000"))
    table = held_out_temperature.read(asked(tmp_path, *every.values()))
    assert set(table["method"]) == {"fkl"}
    assert sorted(table["temperature"]) == [1.0, 1.0, 2.0, 2.0]
    assert by_task(selection_optimism.levels(table))["optimism"] == 50.0
    found = held_out_temperature.measured(table, held_out_temperature.choices(table))
    assert by_task(found)["agreement"] == 0.0
    text = "it is 0 that I say"
    assert by_task(found)["fidelity"] == pytest.approx(
        comparison.corpus_bleu([text] * 4, ["it is 1 that I say"] * 4)
    )
    again = held_out_temperature.read(
        asked(tmp_path, *reversed(every.values()))
    )  # from what was kept, in another order
    key = ["temperature", "half"]
    pd.testing.assert_frame_equal(
        again.sort_values(key, ignore_index=True), table.sort_values(key, ignore_index=True)
    )


def test_without_the_teachers_texts_there_is_no_likeness(tmp_path):
    for name, run in SWEPT.items():
        finish(tmp_path, run, PARSED[name])
    table = held_out_temperature.read(asked(tmp_path, *SWEPT.values()))
    found = by_task(held_out_temperature.measured(table, held_out_temperature.choices(table)))
    assert found["accuracy"] == 0.0
    assert math.isnan(found["agreement"]) and math.isnan(found["fidelity"])


def test_runs_that_are_not_finished_are_not_there(tmp_path):
    finish(tmp_path, SWEPT["T1"], PARSED["T1"])
    table = held_out_temperature.read(asked(tmp_path, *SWEPT.values()))
    assert table["temperature"].unique().tolist() == [1.0]
    assert by_task(selection_optimism.levels(table))["optimism"] == 0.0
    assert held_out_temperature.read(asked(tmp_path)).empty
