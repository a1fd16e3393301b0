"""One pair is judged by its items: each rule can come out every way it may, and says what it is about."""

import numpy as np
import pandas as pd
import pytest
from itemrows import arm, beside, cells, scored

from kdutils.claims import claims, evidence
from kdutils.results.item_gains import Items

N = 60  # items a task
TASKS = ("svamp", "aqua")


def right(n_right, *, shift=0):
    """0/1 of N items a task, n_right of them right, the first ones after `shift`."""
    return {task: np.roll([1.0] * n_right + [0.0] * (N - n_right), shift).tolist() for task in TASKS}


def judged(claim_id, *runs, likeness=None, **columns):
    rows = scored(*runs)
    items = Items(rows, rows.head(0) if likeness is None else likeness)
    section = next(claim.section for claim in claims.CLAIMS if claim.id == claim_id)
    ledger = claims.ledger_rows(claims.judgements(cells(rows, **columns), section=section, items=items))
    return next(row for row in ledger if (row["id"], row["analysis"]) == (claim_id, "strict"))


def methods(fkl, revkd, gkd):
    return [(arm(name), right(n)) for name, n in (("fkl", fkl), ("revkd", revkd), ("gkd", gkd))]


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((40, 42, 44), "reproduced"),
        ((20, 22, 24), "not_reproduced"),
        ((30, 31, 32), "inconclusive"),
        ((29, 50, 50), "inconclusive"),  # the mean is above 0, SeqKD† is not
    ],
)
def test_gain_is_positive(after, verdict):
    row = judged("E1", (arm("sft"), right(30)), *methods(*after))
    assert row["verdict"] == verdict
    assert row["analysis"] == "strict"
    assert row["estimate"] == pytest.approx(100 * (sum(after) / 3 - 30) / N)
    assert row["ci_low"] < row["estimate"] < row["ci_high"]
    assert row["n"] == 2 * N
    assert row["reason"].startswith("one pair (Qwen 1.5B→0.5B), 120 items: gain in points: SeqKD†")


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((30, 30, 30), "reproduced"),  # equal item by item
        ((20, 30, 40), "not_reproduced"),
        ((30, 32, 33), "inconclusive"),
    ],
)
def test_methods_do_not_differ(after, verdict):
    row = judged("E7", (arm("sft"), right(30)), *methods(*after))
    assert row["verdict"] == verdict
    assert abs(row["estimate"]) == pytest.approx(100 * (max(after) - min(after)) / N)


def test_several_comparisons_need_more_than_one_does():
    """A difference whose own 95% interval leaves out 0 but not that of three comparisons together."""
    row = judged("E7", (arm("sft"), right(30)), *methods(30, 30, 33))
    assert row["ci_high"] < 0 or row["ci_low"] > 0
    assert row["p_value"] > 0.05
    assert row["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("untuned", "verdict"), [(5, "reproduced"), (20, "inconclusive"), (40, "inconclusive")]
)
def test_untuned_teacher_costs(untuned, verdict):
    row = judged("T3", (arm("fkl"), right(40)), (arm("fkl", tuned=False), right(untuned)))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(100 * (40 - untuned) / N)
    assert "another pair may pay more" in row["reason"]


TEACHER_TEXTS = [f"{i} and {i + 1} make {2 * i + 1} in all today" for i in range(30)]
OTHER_TEXTS = [f"{i} and {i + 1} are {2 * i} or so" for i in range(30)]


@pytest.mark.parametrize(
    ("sft", "kd", "verdict"), [(10, 25, "reproduced"), (25, 10, "not_reproduced"), (20, 21, "inconclusive")]
)
def test_agreement_and_fidelity_rise(sft, kd, verdict):
    def student(method, n_alike):
        same = [1.0] * n_alike + [0.0] * (30 - n_alike)
        return method, same, TEACHER_TEXTS[:n_alike] + OTHER_TEXTS[n_alike:], TEACHER_TEXTS

    likeness = beside(student("sft", sft), student("gkd", kd))
    runs = [(arm("sft"), right(30)), (arm("gkd"), right(30))]
    agreement, fidelity = (judged(name, *runs, likeness=likeness) for name in ("A1", "F1"))
    assert agreement["verdict"] == verdict
    assert agreement["estimate"] == pytest.approx(100 * (kd - sft) / 30)
    assert fidelity["verdict"] == (verdict if abs(kd - sft) > 1 else fidelity["verdict"])
    assert np.sign(fidelity["estimate"]) == np.sign(kd - sft)


@pytest.mark.parametrize(
    ("r", "verdict"), [(0.02, "reproduced"), (0.7, "not_reproduced"), (0.3, "inconclusive")]
)
def test_right_and_alike_are_feebly_linked(r, verdict):
    row = judged("F3", (arm("sft"), right(30)), (arm("gkd"), right(30)), fidelity_correct_r=r)
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(r)
    assert row["n"] == N


@pytest.mark.parametrize(
    ("noisy", "verdict"), [(50, "reproduced"), (30, "not_reproduced"), (38, "inconclusive")]
)
def test_little_noise_costs_little(noisy, verdict):
    row = judged("N1", (arm("fkl"), right(40)), (arm("fkl", noise_sigma=2.0), right(noisy)))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(100 * (40 - noisy) / N)
    assert row["p_value"] is None  # a test against no loss is not one against 2 points


@pytest.mark.parametrize(
    ("noisy", "verdict"), [(5, "reproduced"), (35, "not_reproduced"), (20, "inconclusive")]
)
def test_much_noise_collapses(noisy, verdict):
    row = judged("N2", (arm("fkl"), right(40)), (arm("fkl", noise_sigma=5.0), right(noisy)))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(100 * (40 - noisy) / N)
    assert f"{100 * (noisy - 20) / N:+.1f}" in row["reason"]


@pytest.mark.parametrize(
    ("n_best", "verdict"), [(8, "reproduced"), (0, "not_reproduced"), (4, "inconclusive")]
)
def test_temperature_is_best(n_best, verdict, monkeypatch):
    tasks = ("svamp", "aqua", "addsub", "gsm8k", "multiarith", "singleeq", "boolq", "piqa")
    at_1 = {task: [1.0, 0.0, 0.0, 0.0] for task in tasks}
    at_2 = {task: [1.0, 1.0, 0.0, 0.0] if place < n_best else [0.0] * 4 for place, task in enumerate(tasks)}
    row = judged("P1", (arm("fkl"), at_1), (arm("fkl", temperature=2.0), at_2))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(100 * n_best / 8)
    assert f"8 tasks: T = 2 is the best in {n_best} of 8 tasks" in row["reason"]


@pytest.mark.parametrize(
    ("hot", "verdict"), [(10, "reproduced"), (40, "not_reproduced"), (32, "inconclusive")]
)
def test_high_temperature_drops(hot, verdict):
    row = judged("P2", (arm("fkl"), right(40)), (arm("fkl", temperature=5.0), right(hot)))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(100 * (40 - hot) / N)


ONE_PAIR = {
    "authors": "one pair only (Qwen 1.5B→0.5B): the authors' analysis compares pairs",
    "strict": "one pair only (Qwen 1.5B→0.5B): the claim is about several",
}


def test_what_is_about_several_pairs_is_not_testable_on_one():
    rows = scored((arm("sft"), right(30)), *methods(40, 42, 44))
    ledger = claims.ledger_rows(claims.judgements(cells(rows), items=Items(rows, rows.head(0))))
    for row in ledger:
        claim = next(claim for claim in claims.CLAIMS if claim.id == row["id"])
        if claim.rules.items is None:
            assert row["verdict"] == "not_testable"
            assert row["reason"] == ONE_PAIR[row["analysis"]]
            assert row["estimate"] is None
    about_several = {claim.id for claim in claims.CLAIMS if claim.rules.items is None}
    assert {"E4", "E5", "E6", "S1", "S2", "T1", "T2", "A2", "A3", "A4", "F2", "P3"} < about_several


def test_without_item_rows_one_pair_is_not_judged_as_if_it_were_several():
    rows = scored((arm("sft"), right(30)), *methods(40, 42, 44))
    found = {
        row["id"]: row for row in claims.ledger_rows(claims.judgements(cells(rows)))
    }  # the stricter analysis comes last
    assert {row["verdict"] for row in found.values()} == {"not_testable"}
    assert found["E1"]["reason"].endswith("its items are not at hand")


def test_what_one_pair_lacks_is_not_testable():
    rows = scored((arm("sft"), right(30)))
    gkd = scored((arm("gkd"), right(30)))
    ledger = claims.ledger_rows(
        claims.judgements(cells(pd.concat([rows, gkd])), items=Items(rows, rows.head(0)))
    )
    for claim_id in ("E1", "E2", "E7", "T3", "A1", "F1", "F3", "N1", "N2", "P1", "P2"):
        row = next(row for row in ledger if (row["id"], row["analysis"]) == (claim_id, "strict"))
        assert row["verdict"] == "not_testable"
        assert row["reason"].startswith("there are no ")


def test_released_results_and_several_pairs_are_judged_as_before():
    rows = scored((arm("sft"), right(30)), *methods(40, 42, 44))
    live = cells(rows)
    released = live.assign(source="published", protocol="paper")
    other = cells(rows.replace({"student": {"Qwen2.5-0.5B": "Qwen2.5-1B"}}))
    items = Items(rows, rows.head(0))
    several = claims.ledger_rows(
        claims.judgements(pd.concat([released, live, other], ignore_index=True), items=items)
    )
    assert not any("items: " in row["reason"] for row in several)  # no rule over items was used
    assert {row["analysis"] for row in several} == {"authors", "strict"}
    assert evidence.Evidence("live", "careful", live).one_pair == "Qwen 1.5B→0.5B"
    assert evidence.Evidence("published", "paper", released).one_pair == ""


def test_rules_for_one_pair_say_what_each_verdict_needs():
    table = claims.rules(one_pair=True)
    for claim, rule in zip(claims.CLAIMS, table["rule for one live pair"], strict=True):
        if claim.rules.items is None:
            assert rule == "not_testable: the claim is about several pairs"
            continue
        assert "reproduced" in rule
        for name, value in claim.arguments.items():
            assert f"{name} = {value}" in rule
    assert list(claims.rules()) == ["id", "claim", "rule"]


def test_the_size_of_an_effect_stays_untestable_in_a_model_world():
    rows = scored((arm("fkl"), right(40)), (arm("fkl", tuned=False), right(5)))
    world = cells(rows).assign(family="mini-qwen")
    ledger = claims.ledger_rows(claims.judgements(world, items=Items(rows, rows.head(0))))
    row = next(row for row in ledger if (row["id"], row["analysis"]) == ("T3", "strict"))
    assert row["verdict"] == "not_testable"
    assert row["estimate"] == pytest.approx(100 * 35 / N)
