"""Intervals over the items of one pair: by hand, against other implementations, and what is refused."""

import math
from pathlib import Path

import itemrows
import numpy as np
import pandas as pd
import pytest
import sacrebleu
from itemrows import arm, beside, scored

from kdutils.grid import plan
from kdutils.inference import intervals
from kdutils.results import gain_tables, item_gains
from kdutils.runs import comparison
from kdutils.spec import EvalSpec, RunSpec

SFT, FKL, GKD = arm("sft"), arm("fkl"), arm("gkd")


def average(table):
    return table[table["task"] == "average"].reset_index(drop=True)


def test_gain_is_the_mean_over_tasks_of_paired_differences():
    rows = scored(
        (SFT, {"svamp": [1, 0, 0, 0], "aqua": [1, 1]}), (FKL, {"svamp": [1, 1, 1, 0], "aqua": [1, 0]})
    )
    found = item_gains.gains(rows)
    assert found["label"].tolist() == ["AQuA", "SVAMP", "Average"]
    assert found["difference"].tolist() == [-50.0, 50.0, 0.0]
    assert found["n"].tolist() == [2, 4, 6]
    expected = intervals.difference_over_items([0, 1, 1, 0, 0, -1], ["svamp"] * 4 + ["aqua"] * 2)
    assert average(found).loc[0, ["low", "high"]].tolist() == pytest.approx([expected.low, expected.high])


def test_pairing_makes_the_interval_narrow():
    """Two students that err on the same items differ surely, though their accuracies alone do not."""
    before, after = [1] * 20 + [0] * 20, [1] * 26 + [0] * 14
    found = average(item_gains.gains(scored((SFT, {"svamp": before}), (FKL, {"svamp": after}))))
    assert found.loc[0, "low"] > 0
    levels = item_gains.accuracies(scored((SFT, {"svamp": before}), (FKL, {"svamp": after})))
    sft, fkl = (average(levels[levels["method"] == name]).loc[0] for name in ("sft", "fkl"))
    assert fkl["low"] < sft["high"]


def test_seeds_are_averaged_within_an_item_and_only_common_ones_compared():
    rows = pd.concat(
        [
            scored((SFT, {"svamp": [1, 0]}), (FKL, {"svamp": [1, 1]}), seed=0),
            scored((SFT, {"svamp": [0, 0]}), (FKL, {"svamp": [1, 0]}), seed=1),
            scored((FKL, {"svamp": [0, 0]}), seed=2),  # no SFT of that seed
        ]
    )
    found = average(item_gains.gains(rows))
    assert found.loc[0, ["difference", "n", "n_seeds"]].tolist() == [50.0, 2, 2]
    assert average(item_gains.accuracies(rows)).set_index("method").loc["fkl", "n_seeds"] == 3


def test_other_items_are_refused():
    rows = scored((SFT, {"svamp": [1, 0]}), (FKL, {"svamp": [1, 0, 1]}))
    with pytest.raises(ValueError, match="scored on different items, such as .*svamp-2"):
        item_gains.gains(rows)


def test_plain_runs_alone_are_gains():
    values = {"svamp": [1, 1, 0, 0]}
    odd = [arm("fkl", temperature=2.0), arm("fkl", noise_sigma=2.0), arm("fkl", tuned=False)]
    rows = scored((SFT, values), (FKL, values), *((which, values) for which in odd))
    assert len(average(item_gains.gains(rows))) == 1


def test_contrasts_have_the_sign_of_what_is_asked():
    clean, less = {"svamp": [1, 1, 1, 0]}, {"svamp": [1, 0, 0, 0]}
    rows = scored(
        (FKL, clean),
        (arm("fkl", noise_sigma=2.0), less),
        (arm("fkl", temperature=5.0), less),
        (arm("fkl", tuned=False), less),
        (GKD, less),
    )
    assert average(item_gains.noise_changes(rows))["difference"].tolist() == [-50.0]
    assert average(item_gains.noise_changes(rows, kept_share=0.5))["difference"].tolist() == [25.0 - 37.5]
    assert average(item_gains.temperature_changes(rows))["difference"].tolist() == [-50.0]
    assert average(item_gains.tuning_costs(rows))["difference"].tolist() == [50.0]
    two = average(item_gains.method_differences(rows))
    assert two[["method", "other", "difference"]].values.tolist() == [["fkl", "gkd", 50.0]]


def test_one_method_differs_from_none():
    assert item_gains.method_differences(scored((FKL, {"svamp": [1, 0]}))).empty


def test_nothing_to_compare_gives_empty_tables():
    rows = scored((SFT, {"svamp": [1, 0]}))
    contrasts = [
        item_gains.gains,
        item_gains.noise_changes,
        item_gains.temperature_changes,
        item_gains.tuning_costs,
    ]
    for contrast in (*contrasts, item_gains.method_differences):
        assert contrast(rows).empty
        assert contrast(rows.head(0)).empty
    for table in (item_gains.agreements, item_gains.fidelities):
        assert table(beside().reindex(columns=[*item_gains.PAIRED, "seed", "task", "item_id", "value"])).empty


def test_intervals_of_runs_are_those_of_their_items():
    rows = scored((FKL, {"svamp": [1, 1, 1, 1]}))
    runs_table = pd.DataFrame([FKL | {"task": "average", "accuracy": 100.0, "accuracy_se": 0.0}])
    runs_table = runs_table.astype({"teacher_tuned": "boolean"})
    found = item_gains.with_intervals(runs_table, rows)
    assert found["low"].tolist() == item_gains.accuracies(rows)["low"].tolist()[:1]
    assert found.loc[0, "low"] < 100  # the normal one has no width here
    assert item_gains.with_intervals(runs_table, rows.head(0)).loc[0, "low"] == 100.0


# --- live gains of several pairs --------------------------------------------------------------------------

BY_PAIR = ["domain", "teacher", "student", "task", "method"]
LEVEL = {"svamp": [1] * 20 + [0] * 20, "aqua": [1] * 10 + [0] * 10}
RAISED = {"svamp": [1] * 26 + [0] * 14, "aqua": [1] * 13 + [0] * 7}
Z = 1.959964


def gains_of(rows, *, selection="temperature_1"):
    """Cells of the rows, an accuracy's error as of independent items, and their gains."""
    of_seeds = [itemrows.cells(part).assign(seed=seed) for seed, part in rows.groupby("seed")]
    cells = pd.concat(of_seeds, ignore_index=True).assign(accuracy_se=6.5)
    return gain_tables.gains(cells, selection=selection)


def with_task(table, task):
    (row,) = table[table["task"] == task].to_dict("records")
    return row


def of_items(differences, seeds=0.0):
    """The bounds by hand: items by task, and the half-width of what seeds vary."""
    values = [value for of_task in differences.values() for value in of_task]
    tasks = [task for task, of_task in differences.items() for _ in of_task]
    found = intervals.difference_over_items(values, tasks)
    gain, low, high = found.bounds
    return pytest.approx([gain, gain - math.hypot(gain - low, seeds), gain + math.hypot(high - gain, seeds)])


def less(after, before):
    return {task: np.subtract(after[task], before[task]) for task in after}


def test_live_gains_that_two_samples_leave_open_are_clear_item_by_item():
    rows = scored((SFT, LEVEL), (FKL, RAISED))
    table = gains_of(rows)
    loose = with_task(intervals.gain_intervals(table, by=BY_PAIR), "average")
    found = item_gains.gain_intervals(table, rows, by=BY_PAIR)
    paired = with_task(found, "average")
    assert loose["low"] < 0 < paired["low"]
    assert loose["gain"] == paired["gain"] == pytest.approx(15.0)
    assert [paired[name] for name in ("gain", "low", "high")] == of_items(less(RAISED, LEVEL))
    one = with_task(found, "svamp")
    assert [one[name] for name in ("gain", "low", "high")] == of_items(
        {"svamp": [0] * 20 + [1] * 6 + [0] * 14}
    )
    assert list(found) == list(intervals.gain_intervals(table, by=BY_PAIR))


def test_live_gains_are_paired_at_the_temperature_that_stands_for_each_task():
    """SVAMP is best at 2, AQuA at 1, their average at 2; a seed that lacks a temperature is left out."""
    hot = {"svamp": [1] * 36 + [0] * 4, "aqua": [1] * 9 + [0] * 11}
    rows = scored((SFT, LEVEL), (FKL, RAISED), (arm("fkl", temperature=2.0), hot))
    rows = pd.concat([rows, scored((FKL, {task: [1] * len(of) for task, of in LEVEL.items()}), seed=1)])
    table = gains_of(rows, selection="best_on_test")
    assert table.set_index("task")["temperature"].to_dict() == {"svamp": 2.0, "aqua": 1.0, "average": 2.0}
    found = item_gains.gain_intervals(table, rows, by=BY_PAIR)
    expected = {"svamp": {"svamp": less(hot, LEVEL)["svamp"]}, "aqua": {"aqua": less(RAISED, LEVEL)["aqua"]}}
    for task, differences in (expected | {"average": less(hot, LEVEL)}).items():
        assert [with_task(found, task)[name] for name in ("gain", "low", "high")] == of_items(differences)


def test_live_gains_hold_what_training_seeds_vary():
    """Unequal seeds: SFT has two, forward KL two, GKD one, which is as variable as the others."""
    seeds = [scored((SFT, LEVEL), (FKL, RAISED), (GKD, RAISED)), scored((SFT, RAISED), (FKL, LEVEL), seed=1)]
    rows = pd.concat(seeds)
    table = gains_of(rows)
    found = item_gains.gain_intervals(table, rows, by=BY_PAIR).set_index(["task", "method"])
    between = {task: np.add(LEVEL[task], RAISED[task]) / 2 for task in LEVEL}
    variance = np.var([50.0, 65.0], ddof=1)  # of the average, the same of SFT and KD
    for method, values, n_seeds in (("fkl", between, 2), ("gkd", RAISED, 1)):
        seeds = Z * math.sqrt(variance / n_seeds + variance / 2)
        row = found.loc[("average", method)]
        assert row[["gain", "low", "high"]].tolist() == of_items(less(values, between), seeds)
        assert row["high"] - row["low"] > 2 * seeds


def test_live_gains_of_a_student_average_its_teachers_within_an_item():
    other = {"svamp": RAISED["svamp"][::-1], "aqua": RAISED["aqua"]}
    rows = scored((SFT, LEVEL), (FKL, RAISED), (FKL | {"teacher": "Qwen2.5-3B"}, other))
    table = gains_of(rows)
    found = item_gains.gain_intervals(table, rows, by=["domain", "student", "task", "method"])
    both = {task: np.add(RAISED[task], other[task]) / 2 for task in LEVEL}
    row = with_task(found, "average")
    assert [row[name] for name in ("gain", "low", "high")] == of_items(less(both, LEVEL))
    assert row["n_runs"] == 2


def test_a_live_gain_without_sft_has_no_interval():
    rows = scored((SFT, LEVEL), (FKL, RAISED), (FKL | {"student": "Qwen2.5-3B"}, RAISED))
    found = item_gains.gain_intervals(gains_of(rows), rows, by=BY_PAIR).set_index(["student", "task"])
    assert found["low"].isna().groupby("student").mean().to_dict() == {itemrows.STUDENT: 0, "Qwen2.5-3B": 1}
    assert item_gains.gain_intervals(gains_of(rows), rows.head(0), by=BY_PAIR)["low"].isna().all()


# --- texts beside the teacher's ---------------------------------------------------------------------------

WORDS = ["the", "price", "of", "two", "red", "apples", "is", "three", "and", "a", "boy", "has", "five"]


def texts(rng, n, *, share):
    """n texts and as many of a teacher's, whose words are the same with that probability."""
    teacher = [list(rng.choice(WORDS, 12)) for _ in range(n)]
    own = [[word if rng.random() < share else rng.choice(WORDS) for word in words] for words in teacher]
    return [" ".join(words) for words in own], [" ".join(words) for words in teacher]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_bleu_of_many_sums_is_sacrebleus(share):
    rng = np.random.default_rng(3)
    for n in (1, 3, 20):
        own, teacher = texts(rng, n, share=share)
        counts = np.array([comparison.bleu_counts(*pair) for pair in zip(own, teacher, strict=True)])
        assert intervals.bleu(counts.sum(0)) == pytest.approx(sacrebleu.corpus_bleu(own, [teacher]).score)
        left = intervals.bleu(counts.sum(0) - counts)
        if n > 1:
            assert left[0] == pytest.approx(sacrebleu.corpus_bleu(own[1:], [teacher[1:]]).score)


def test_bleu_of_nothing_or_too_short_texts_is_zero_as_sacrebleus():
    for own, teacher in (("", "a b c d e"), ("a b", "a b"), ("x y z w v", "a b c d e")):
        expected = sacrebleu.corpus_bleu([own], [[teacher]]).score
        assert intervals.bleu(np.array(comparison.bleu_counts(own, teacher))) == pytest.approx(expected)


def test_jackknifed_interval_is_as_wide_as_the_bootstrap():
    rng = np.random.default_rng(5)
    own, teacher = texts(rng, 80, share=0.7)
    rows = beside(("sft", [False] * 80, own, teacher))
    found = average(item_gains.fidelities(rows)).loc[0]
    assert found["fidelity"] == pytest.approx(comparison.corpus_bleu(own, teacher))
    counts = np.array([comparison.bleu_counts(*pair) for pair in zip(own, teacher, strict=True)])
    drawn = intervals.bleu(counts[rng.integers(0, 80, size=(999, 80))].sum(axis=1))
    width = float(np.diff(np.percentile(drawn, [2.5, 97.5]))[0])
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.15)


def test_jackknifed_interval_covers_the_bleu_of_many_texts():
    rng = np.random.default_rng(6)
    own, teacher = texts(rng, 1500, share=0.7)
    counts = np.array([comparison.bleu_counts(*pair) for pair in zip(own, teacher, strict=True)])
    truth, hits = float(intervals.bleu(counts.sum(0))), []
    for _ in range(200):
        drawn = counts[rng.integers(0, len(counts), 40)]
        rows = pd.DataFrame(drawn, columns=item_gains.COUNTS).assign(domain="math", teacher="t", student="s")
        rows = rows.assign(
            method="sft", seed=0, task="svamp", item_id=[f"{i:03}" for i in range(40)], value=0.0
        )
        found = average(item_gains.fidelities(rows)).loc[0]
        hits.append(found["low"] <= truth <= found["high"])
    assert np.mean(hits) == pytest.approx(0.95, abs=0.055)


def test_rises_compare_the_same_items_beside_the_same_teacher():
    teacher = ["one two three four five", "six seven eight nine ten", "one two six seven eight"]
    worse = ["one two three four six", "six seven one nine ten", "one two six seven eight"]
    rows = beside(("sft", [1, 0, 0], worse, teacher), ("gkd", [1, 1, 0], teacher, teacher))
    found = item_gains.agreements(rows)
    assert found["method"].tolist() == ["sft", "sft", "gkd", "gkd"]
    gkd = average(found[found["method"] == "gkd"]).loc[0]
    assert gkd[["agreement", "rise"]].tolist() == pytest.approx([200 / 3, 100 / 3])
    assert average(found).loc[0, ["rise", "rise_low", "p_value"]].isna().all()  # of SFT over itself
    bleu = average(item_gains.fidelities(rows)).set_index("method")
    before = sacrebleu.corpus_bleu(worse, [teacher]).score
    assert bleu.loc["gkd", ["fidelity", "rise"]].tolist() == pytest.approx([100.0, 100.0 - before])
    assert bleu.loc["gkd", "high"] <= 100.0
    assert bleu.loc["gkd", "rise_low"] < bleu.loc["gkd", "rise"] < bleu.loc["gkd", "rise_high"]


def test_one_text_has_no_interval():
    found = item_gains.fidelities(beside(("sft", [True], ["a b c d"], ["a b c d"])))
    assert found["fidelity"].tolist() == pytest.approx([100.0, 100.0])
    assert found[["low", "high"]].isna().all(axis=None)


# --- from the store ---------------------------------------------------------------------------------------

EVALUATION = EvalSpec(tasks=("svamp",))
PAIR = {"student": "mini-qwen-0.5B", "teacher": "mini-qwen-1.5B", "domain": "math"}
SPECS = {
    "sft": RunSpec(student=PAIR["student"], method="sft", domain="math"),
    "teacher": RunSpec(student=PAIR["teacher"], method="sft", domain="math"),
    "fkl": RunSpec(method="fkl", **PAIR),
    "noisy": RunSpec(method="fkl", noise_sigma=2.0, **PAIR),
}


def finish(out: Path, run: RunSpec, parsed: list[str], **columns: object) -> None:
    """Put item rows with these answers into the store, where 1 is right."""
    rows = pd.DataFrame({"task": "svamp", "item_id": [str(i) for i in range(len(parsed))], "sample": 0})
    rows = rows.assign(text=[f"it is {answer}" for answer in parsed], answer="1", parsed=parsed)
    rows = rows.assign(correct=[answer == "1" for answer in parsed], rouge_l=math.nan, **columns)
    itemrows.evaluated(out, run, EVALUATION, rows)


def asked(out: Path, *specs: RunSpec) -> plan.Plan:
    return itemrows.asked(out, "01", EVALUATION, *specs)


def test_items_of_one_pair_are_read_from_the_store(tmp_path):
    for name, parsed in (("sft", ["1", "0"]), ("teacher", ["1", "1"]), ("fkl", ["1", "1"])):
        finish(tmp_path, SPECS[name], parsed)
    items = item_gains.read(asked(tmp_path, *SPECS.values()))  # the noisy run is not finished
    assert items
    assert set(items.scored["method"]) == {"sft", "fkl"}
    assert average(item_gains.gains(items.scored))["difference"].tolist() == [50.0]
    assert items.beside.groupby("method")["value"].mean().to_dict() == {"fkl": 1.0, "sft": 0.5}
    assert item_gains.gain_table(items)["pair"].unique().tolist() == ["mini-qwen 1.5B→0.5B"]


def test_several_pairs_or_none_have_no_items(tmp_path):
    finish(tmp_path, SPECS["sft"], ["1", "0"])
    other = RunSpec(student="mini-qwen-0.5B", teacher="mini-qwen-3B", method="fkl", domain="math")
    paper = RunSpec(method="fkl", protocol="paper", **PAIR)
    for specs in ([*SPECS.values(), other], [*SPECS.values(), paper], [SPECS["sft"]], []):
        items = item_gains.read(asked(tmp_path, *specs))
        assert not items
        assert items.beside.empty
        assert math.isnan(items.scored["value"].mean())
