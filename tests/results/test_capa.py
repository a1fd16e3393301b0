"""Agreement given accuracy: by hand, at its limits, by simulation, and where it is undefined."""

import math

import numpy as np
import pandas as pd
import pytest

from kdutils.results import agreement_fidelity, capa


def paired(student, teacher, gold, *, task="obqa", method="sft", seed=0, name="a"):
    """Rows as agreement_fidelity.paired_answers gives them."""
    n = len(gold)
    domain = "math" if task in ("svamp", "aqua", "gsm8k") else "commonsense"
    who = {"domain": domain, "family": "f", "teacher": "t", "student": name, "method": method, "seed": seed}
    rows = pd.DataFrame({"item_id": [f"{task}{i}" for i in range(n)], "task": task, "sample": 0} | who)
    rows["parsed"], rows["parsed_teacher"] = (
        pd.Series(student, dtype=object),
        pd.Series(teacher, dtype=object),
    )
    rows["correct"] = [own == right for own, right in zip(student, gold, strict=True)]
    rows["correct_teacher"] = [own == right for own, right in zip(teacher, gold, strict=True)]
    return rows


def given(rows, **options):
    table = capa.given_accuracy(rows, rng=np.random.default_rng(0), **options)
    return table.set_index(["domain", "method", "measure"])


GOLD = ["answer1"] * 8
STUDENT = ["answer1"] * 4 + ["answer2", "answer2", "answer3", "answer4"]
TEACHER = ["answer1"] * 3 + ["answer2", "answer1", "answer2", "answer3", "answer3"]


def test_by_hand():
    table = given(paired(STUDENT, TEACHER, GOLD)).loc[("commonsense", "sft")]
    # both right 3, only one of them 1 and 1, both wrong alike 2, otherwise 1; both accuracies 1/2
    assert table.loc["agreement", "estimate"] == pytest.approx(100 * 5 / 8)
    assert table.loc["error_consistency", "estimate"] == pytest.approx((6 / 8 - 1 / 2) / (1 - 1 / 2))
    by_chance = 1 / 4 + 1 / 4 * 1 / 3  # four options
    assert table.loc["capa", "estimate"] == pytest.approx((5 / 8 - by_chance) / (1 - by_chance))


def test_open_answers_by_hand():
    gold = ["1", "2", "3", "4"]
    rows = paired(["1", "9", "9", "8"], ["1", "9", "7", "9.0"], gold, task="svamp")
    # wrong: student 9, 9, 8 on items 2, 3, 4; teacher 9, 7, 9. Of six pairs of other items, student's and
    # teacher's: (2,3) 9 7, (2,4) 9 9, (3,2) 9 9, (3,4) 9 9, (4,2) 8 9, (4,3) 8 7: three are equal
    assert capa.same_wrong_by_chance(rows) == pytest.approx(3 / 6)
    by_chance = 1 / 16 + 9 / 16 * 1 / 2
    found = given(rows).loc[("math", "sft", "capa"), "estimate"]
    assert found == pytest.approx((2 / 4 - by_chance) / (1 - by_chance))


def test_an_unread_answer_is_wrong_and_like_no_other():
    rows = paired(
        ["answer1", None, None, "answer2"], ["answer1", None, "answer2", "answer2"], ["answer1"] * 4
    )
    table = given(rows).loc[("commonsense", "sft")]
    by_chance = (
        1 / 16 + (1 / 4) * (2 / 4) / 3
    )  # read and wrong: one of the student's four, two of the teacher's
    assert table.loc["capa", "estimate"] == pytest.approx((2 / 4 - by_chance) / (1 - by_chance))
    assert table.loc["capa_read", "estimate"] == pytest.approx(1.0)  # both are read on the first and the last


def test_equal_models_have_all_there_is():
    table = given(paired(STUDENT, STUDENT, GOLD)).loc[("commonsense", "sft")]
    for measure in ("error_consistency", "capa", "capa_read"):
        assert table.loc[measure, ["estimate", "low", "high"]].tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize("task", ["obqa", "boolq", "svamp"])
def test_unrelated_models_have_nothing(task):
    """Accurate models with a liking for some wrong answers; no error of the one tells of the other's."""
    rng = np.random.default_rng(3)
    options = {
        "obqa": [f"answer{i}" for i in range(1, 5)],
        "boolq": ["true", "false"],
        "svamp": list("0123456789"),
    }
    n, names = 6_000, options[task]
    gold = rng.choice(names, n).tolist()
    answers = []
    for accuracy in (0.8, 0.6):
        wrong = [rng.choice([name for name in names if name != right]) for right in gold]
        if task == "svamp":  # 7 is liked by both
            likes = (rng.random(n) < 0.5) & (np.array(gold) != "7")
            wrong = np.where(likes, "7", wrong).tolist()
        hits = rng.random(n) < accuracy
        answers.append([right if hit else own for hit, right, own in zip(hits, gold, wrong, strict=True)])
    table = given(paired(*answers, gold, task=task)).reset_index().set_index("measure")
    assert table.loc["agreement", "estimate"] > 45
    for measure in ("error_consistency", "capa"):
        assert abs(table.loc[measure, "estimate"]) < 0.04
        assert table.loc[measure, "low"] < 0 < table.loc[measure, "high"]


def test_undefined_has_a_reason():
    rows = paired(GOLD, GOLD, GOLD)
    table = given(rows).loc[("commonsense", "sft")]
    assert table.loc["agreement", "estimate"] == 100.0
    for measure in ("error_consistency", "capa"):
        assert math.isnan(table.loc[measure, "estimate"])
        assert "always right" in table.loc[measure, "reason"]
    assert (
        "undefined"
        in capa.readable(table.reset_index().assign(domain="commonsense", method="sft"))["CAPA"][0]
    )


def test_a_move_that_is_undefined_is_said_to_be():
    rows = [paired(STUDENT, GOLD, GOLD), paired(STUDENT, GOLD, GOLD, method="fkl")]
    rows = pd.concat(rows).assign(correct=False, correct_teacher=False)
    assert "kappa of being right undefined" in capa.remark(given(rows).reset_index())


def test_chance_is_that_of_each_task():
    """An easy and a hard task together do not make two unrelated students agree."""
    rng, parts, n = np.random.default_rng(5), [], 3_000
    for task, accuracy in (("obqa", 0.95), ("arc_c", 0.1)):
        wrong = [rng.choice(["answer2", "answer3", "answer4"], n) for _ in range(2)]
        answers = [np.where(rng.random(n) < accuracy, "answer1", each).tolist() for each in wrong]
        parts.append(paired(*answers, ["answer1"] * n, task=task))
    table = given(pd.concat(parts)).loc[("commonsense", "sft")]
    assert abs(table.loc["capa", "estimate"]) < 0.05
    assert abs(table.loc["error_consistency", "estimate"]) < 0.05


def test_difference_is_to_the_student_of_its_seed():
    better = ["answer1"] * 3 + ["answer2", "answer1", "answer2", "answer3", "answer4"]
    before, after, teacher, gold = (30 * answers for answers in (STUDENT, better, TEACHER, GOLD))
    rows = [paired(before, teacher, gold), paired(after, teacher, gold, method="fkl")]
    rows += [paired(GOLD, TEACHER, GOLD, seed=1)]  # SFT alone has seed 1: no part of the difference
    table = given(pd.concat(rows))
    kd, sft = (given(part).loc[("commonsense", name)] for part, name in ((rows[1], "fkl"), (rows[0], "sft")))
    for measure in capa.MEASURES:
        found = table.loc[("commonsense", "fkl", measure), "difference"]
        assert found == pytest.approx(kd.loc[measure, "estimate"] - sft.loc[measure, "estimate"])
    told = capa.remark(given(pd.concat(rows[:2])).reset_index())
    assert told.endswith("SeqKD†: each of the three higher.")
    # one of two clusters has the KD student: a resample without it has no difference
    assert "resamples" in table.loc[("commonsense", "fkl", "capa"), "reason"]
    assert capa.remark(table.reset_index()).endswith("SeqKD†: each of the three without an interval.")


def test_a_pair_weighs_as_much_however_many_seeds_it_has():
    rows = [paired(STUDENT, STUDENT, GOLD, seed=seed) for seed in range(3)]
    rows.append(paired(STUDENT, TEACHER, GOLD, name="b"))
    found = given(pd.concat(rows)).loc[("commonsense", "sft", "agreement")]
    assert found["estimate"] == pytest.approx((100 + 62.5) / 2)
    assert (found["n_pairs"], found["n"]) == (2, 32)


def test_raw_agreement_is_that_of_the_answers():
    rows = pd.concat([paired(STUDENT, TEACHER, GOLD), paired(TEACHER, TEACHER, GOLD, method="gkd", seed=0)])
    shares = agreement_fidelity.answer_shares(agreement_fidelity.answers(rows)).set_index("method")[
        "agreement"
    ]
    for method in ("sft", "gkd"):
        assert given(rows).loc[("commonsense", method, "agreement"), "estimate"] == pytest.approx(
            shares[method]
        )


def test_no_live_answers_give_no_rows():
    assert given(paired(STUDENT, TEACHER, GOLD).head(0)).empty


def cells(agreement, **changed):
    row = {"domain": "commonsense", "task": "obqa", "teacher": "t", "student": "s", "method": "revkd"}
    row |= {"accuracy": 60.0, "sft_accuracy": 50.0, "teacher_accuracy": 80.0}
    return row | {"agreement": agreement, "agreement_sft": 60.0} | changed


def test_released_cells_by_hand():
    table = capa.of_cells(pd.DataFrame([cells(70.0), cells(70.0, student="u", agreement_sft=20.0)]))
    table = table.set_index("student")
    sft = table.loc["SFT"]
    by_chance = 0.5 * 0.8 + 0.5 * 0.2 / 3
    assert sft["agreement"] == pytest.approx(40.0)
    assert sft["by_chance"] == pytest.approx(100 * by_chance)
    assert sft["above"] == pytest.approx(40.0 - 100 * by_chance)
    assert sft["capa"] == pytest.approx((0.4 - by_chance) / (1 - by_chance))
    assert sft["most_by_chance"] == pytest.approx(50.0)
    assert (sft["impossible"], sft["cells"], sft["pairs"]) == (
        1,
        2,
        2,
    )  # who are right on 50 and 80 % share 30
    assert table.loc["KD, if RevKD", "impossible"] == 0


def test_released_open_answers_never_coincide_by_chance():
    table = capa.of_cells(pd.DataFrame([cells(70.0, domain="math", task="svamp")])).set_index("student")
    assert table.loc["KD, if RevKD", "by_chance"] == pytest.approx(48.0)
    assert np.isnan(table.loc["KD, if RevKD", "low"])  # of one pair


def test_no_released_agreement_gives_no_rows():
    assert capa.of_cells(pd.DataFrame([cells(math.nan)])).empty
