"""KD and SFT on the same items: counts by hand, tests of another library, and three analyses of one mean."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from kdutils.inference import student_tests
from kdutils.results import agreement_fidelity, paired_items, paradox
from kdutils.runs import comparison

MODELS = {  # student -> family and its teachers
    "mini-qwen-0.5B": ("mini-qwen", ["mini-qwen-14B", "mini-qwen-7B"]),
    "mini-qwen-3B": ("mini-qwen", ["mini-qwen-14B"]),
    "mini-llama-1B": ("mini-llama", ["mini-llama-8B"]),
    "mini-llama-3B": ("mini-llama", ["mini-llama-8B"]),
}


def answers(right_of, *, tasks=("aqua", "svamp"), n=40, seeds=(0,), methods=("sft", "fkl"), models=MODELS):
    """As agreement_fidelity.paired_answers; `right_of(method, student, task, seed)` gives n booleans."""
    table = []
    for student, (family, teachers) in models.items():
        for teacher in teachers:
            for seed in seeds:
                for method in methods:
                    for task in tasks:
                        names = {"domain": "math", "family": family, "teacher": teacher, "student": student}
                        names |= {"method": method, "seed": seed, "task": task, "sample": 0}
                        for item, is_right in enumerate(right_of(method, student, task, seed)):
                            table.append(names | {"item_id": f"{task}-{item}", "correct": bool(is_right)})
    return pd.DataFrame(table)


def test_items_are_won_and_lost_by_hand():
    right = {"sft": [True, True, False, False, True, False], "fkl": [True, False, True, True, True, False]}
    one = {"mini-qwen-0.5B": ("mini-qwen", ["mini-qwen-7B"])}
    rows = paired_items.against_sft(answers(lambda method, *_: right[method], tasks=("aqua",), models=one))
    (found,) = paired_items.won_and_lost(rows).to_dict("records")
    assert (found["won"], found["lost"], found["n"]) == (2, 1, 6)
    assert found["gain"] == pytest.approx(100 / 6)
    assert found["p_value"] == pytest.approx(scipy.stats.binomtest(1, 3).pvalue)
    assert found["pair"] == "mini-qwen 7B→0.5B"


def random_answers(seed=0, gain=0.3, **how):
    rng = np.random.default_rng(seed)
    share = {"sft": 0.4, "fkl": 0.4 + gain, "revkd": 0.4}
    return answers(lambda method, *_: rng.random(how.get("n", 40)) < share[method], **how)


def test_the_map_is_corrected_as_a_whole():
    table = paired_items.won_and_lost(
        paired_items.against_sft(random_answers(gain=0.15, methods=("sft", "fkl", "revkd")))
    )
    assert len(table) == 10
    assert table["q_value"].to_numpy() == pytest.approx(multipletests(table["p_value"], method="fdr_bh")[1])
    assert (table["q_value"] > table["p_value"]).any()
    assert table["student_parameters"].is_monotonic_increasing


def test_what_differs_on_no_item_is_no_test():
    table = paired_items.won_and_lost(paired_items.against_sft(answers(lambda *_: [True] * 5)))
    assert table["p_value"].isna().all() and table["q_value"].isna().all()
    assert (table["reason"] == "the runs differ on no item").all()
    assert (
        paired_items.map_remark(table)
        == "Of 5 comparisons, 0 gains and 0 losses have q < 0.05; 5 cannot be tested."
    )


def test_remark_counts_both_directions():
    table = pd.DataFrame(
        {"gain": [5.0, -5.0, -4.0, 1.0], "q_value": [0.01, 0.02, 0.03, 0.2], "p_value": 0.01}
    )
    assert paired_items.map_remark(table) == "Of 4 comparisons, 1 gains and 2 losses have q < 0.05."
    assert paired_items.map_remark(table.head(0)) == ""


def test_a_seed_without_sft_and_a_second_text_are_left_out():
    rows = random_answers(seeds=(0, 1))
    rows = rows[~((rows["method"] == "sft") & (rows["seed"] == 1))]
    again = rows.assign(sample=1, correct=~rows["correct"])
    both = paired_items.against_sft(pd.concat([rows, again]))
    assert set(both["seed"]) == {0}
    assert both.equals(paired_items.against_sft(rows))


def test_nothing_gives_nothing():
    empty = paired_items.against_sft(random_answers().head(0))
    assert paired_items.won_and_lost(empty).empty
    assert paired_items.three_ways(empty, rng=np.random.default_rng(0)).empty


class TestThreeWays:
    def ways(self, rows, **how):
        table = paired_items.three_ways(paired_items.against_sft(rows), rng=np.random.default_rng(1), **how)
        return table.set_index("way").rename({name: key for key, name in paired_items.WAYS.items()})

    def test_are_the_mean_of_students(self):
        rows = random_answers(seed=3, seeds=(0, 1))
        rows = rows[~((rows["student"] == "mini-qwen-3B") & (rows["seed"] == 1))]  # fewer runs weigh the same
        found = self.ways(rows)
        gains = paired_items.against_sft(rows).assign(gain=lambda t: 100.0 * t["kd"] - 100.0 * t["sft"])
        keys = ["family", "student", "task", "teacher", "seed"]
        for level in (keys, keys[:3], keys[:2]):
            gains = gains.groupby(level)["gain"].mean().reset_index()
        assert found.loc["students", "estimate"] == pytest.approx(gains["gain"].mean())
        assert found.loc["crossed", "estimate"] == pytest.approx(gains["gain"].mean())
        assert found.loc["mixed", "estimate"] == pytest.approx(gains["gain"].mean(), abs=2.0)
        expected = student_tests.student_mean_test(gains, "gain", unit="student", block="family")
        assert found.loc["students", ["low", "high"]].tolist() == [expected.low, expected.high]

    def test_find_a_gain_that_is_there(self):
        tasks = ("aqua", "svamp", "gsm8k", "addsub", "multiarith", "singleeq")
        found = self.ways(random_answers(seed=5, n=100, tasks=tasks))
        assert (found["low"] > 10).all() and (found["high"] < 50).all()
        assert (found["n_students"] == 4).all()

    def test_one_student_has_items_alone(self):
        one = {"mini-qwen-0.5B": ("mini-qwen", ["mini-qwen-7B"])}
        found = self.ways(random_answers(models=one, n=100))
        assert math.isfinite(found.loc["crossed", "low"]) and found.loc["crossed", "reason"] == ""
        for way in ("students", "mixed"):
            assert math.isnan(found.loc[way, "low"]) and found.loc[way, "reason"]

    def test_the_interval_holds_the_truth_often_enough(self):
        """Gain 0 in truth; students differ by 8 points. At least 90 of 100, and not by being endless."""
        hits, width = 0, []
        for study in range(60):
            rng = np.random.default_rng(study)
            shift = {student: rng.normal(0, 0.08) for student in MODELS}
            rows = answers(
                lambda method, student, *_, rng=rng, shift=shift: (
                    rng.random(40) < 0.5 + (shift[student] if method == "fkl" else 0.0)
                )
            )
            row = self.ways(rows).loc["crossed"]
            hits += row["low"] <= 0 <= row["high"]
            width.append(row["high"] - row["low"])
        assert hits >= 52
        assert 5 < np.median(width) < 40


class TestLinks:
    def rows(self, *, link, seed=0, n=60):
        rng = np.random.default_rng(seed)
        table = []
        for student, (family, teachers) in MODELS.items():
            for teacher in teachers:
                right = rng.random(n) < 0.5
                bleu = np.clip(50 + 20 * link * (right - 0.5) + rng.normal(0, 10, n), 0, 100)
                names = {"family": family, "teacher": teacher, "student": student, "method": "fkl", "seed": 0}
                names |= {"task": "svamp", "domain": "math"}
                table += [names | {"item_id": str(i), "correct": right[i], "bleu": bleu[i]} for i in range(n)]
        return pd.DataFrame(table)

    def found(self, rows):
        table = paradox.links(rows, task="svamp", rng=np.random.default_rng(0))
        return table.set_index("of")

    def test_is_the_mean_of_the_students_correlations(self):
        rows = self.rows(link=1.0)
        each = rows.groupby(["student", "teacher"])[["correct", "bleu"]].apply(
            lambda part: np.corrcoef(part["correct"].astype(float), part["bleu"])[0, 1]
        )
        mean = each.groupby("student").mean().mean()
        found = self.found(rows)
        assert found.loc["r", "estimate"] == pytest.approx(mean)
        assert found.loc["r", "low"] < mean < found.loc["r", "high"]
        assert (found.loc["r", "n_students"], found.loc["r", "n_runs"]) == (4, 5)

    def test_is_that_of_the_cells(self):
        texts = ["one two three four five", "one two six", "seven", "one two three four", "nine ten"]
        both = pd.DataFrame(
            {"text": texts, "text_teacher": texts[0], "correct": [True, True, False, False, True]}
        )
        rows = self.rows(link=0, n=5).head(5)
        bleu = [
            comparison.sacrebleu.sentence_bleu(text, [texts[0]], use_effective_order=True).score
            for text in texts
        ]
        rows = rows.assign(correct=both["correct"].to_numpy(), bleu=bleu)
        expected = comparison.fidelity_correct_r(both)
        assert self.found(rows).loc["r", "estimate"] == pytest.approx(expected)

    def test_no_link_is_within_and_a_strong_one_is_not(self):
        assert (
            self.found(self.rows(link=0)).loc["r", "low"] < 0 < self.found(self.rows(link=0)).loc["r", "high"]
        )
        assert self.found(self.rows(link=2)).loc["r", "low"] > 0.3

    def test_size_of_no_link_lies_above_zero(self):
        found = self.found(self.rows(link=0))
        assert found.loc["|r|", "estimate"] >= abs(found.loc["r", "estimate"])
        assert found.loc["|r|", "low"] > 0

    def test_runs_that_are_all_right_have_none(self):
        found = self.found(self.rows(link=1).assign(correct=True))
        assert found["estimate"].isna().all()
        assert (found["reason"] == "every run is all right, all wrong or all alike").all()


def test_the_robust_reading_is_shown_where_it_moves_a_gain():
    """After fkl every text is right, but written so that only the robust reading finds it in half of them."""
    rows = answers(lambda method, *_: [method == "fkl" and item % 2 for item in range(40)], tasks=("svamp",))
    rows = rows.assign(answer="7", correct_strict=False, text="I do not know")
    kd = rows["method"] == "fkl"
    rows.loc[kd, "text"] = np.where(rows.loc[kd, "correct"], "It is 7", r"So \boxed{7}, and not 8")
    table = paired_items.by_reading(rows)
    assert table[["lenient", "strict", "robust"]].drop_duplicates().to_numpy().tolist() == [
        [50.0, 0.0, 100.0]
    ]
    moved = paired_items.moved_by_reading(table)
    assert len(moved) == len(table) == 5
    assert moved.loc[0, ["lenient", "strict", "robust"]].tolist() == ["+50.0*", "+0.0", "+100.0*"]
    assert "5 of 5 gains change, by at most 50.0 points, and 0 of the tests" in paired_items.reading_remark(
        table
    )
    same = paired_items.by_reading(rows.assign(text=np.where(rows["correct"], "7", "8")))
    assert paired_items.moved_by_reading(same).empty
    assert paired_items.reading_remark(same).endswith("no gain changes (of 5).")


def test_without_live_texts_no_reading_is_shown():
    columns = [*agreement_fidelity.NAMES, "task", "item_id", "sample", "text", "answer", "correct"]
    table = paired_items.by_reading(pd.DataFrame(columns=[*columns, "correct_strict"]))
    assert table.empty and paired_items.reading_remark(table) == ""
