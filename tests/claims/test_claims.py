"""The ledger has every claim, its rules are declared, and each verdict can come out every way it may."""

import json
import math

import pandas as pd
import pytest

from kdutils.claims import claims
from kdutils.claims.evidence import VERDICTS, Evidence, Finding
from kdutils.constants import MATH_TASKS, TASKS
from kdutils.grid import cell_table as cell_rows
from kdutils.results import authors_tables

IDS = [
    *(f"E{i}" for i in range(1, 9)),
    "S1",
    "S2",
    *(f"S3.{task}" for task in TASKS),
    "T1",
    "T2",
    "T3",
    "A1",
    "A2",
    "A3",
    "A4",
    "F1",
    "F2",
    "F3",
    "N1",
    "N2",
    "P1",
    "P2",
    "P3",
]
LEDGER_KEYS = [
    "id",
    "section",
    "statement",
    "source",
    "protocol",
    "analysis",
    "estimate",
    "ci_low",
    "ci_high",
    "p_value",
    "n",
    "paper_value",
    "verdict",
    "reason",
]
SIZES = (1, 2, 4, 8)


def world(gain, *, methods=("fkl", "revkd", "gkd"), temperatures=(1.0,), tasks=(*MATH_TASKS, "average")):
    """Live math cells of four students and one teacher; `gain(size, method, task, temperature)` in points."""
    rows = []
    common = {"source": "live", "protocol": "careful", "domain": "math", "family": "toy", "seed": 0, "n": 400}
    common |= {"noise_sigma": 0.0, "accuracy_se": 1.0, "flags": ""}
    for task in tasks:
        for size in (*SIZES, 16):
            student = {"student": f"toy-{size}M", "student_parameters": size * 10**6, "task": task}
            rows.append(common | student | {"method": "sft", "accuracy": 40.0 + size})
            if size == 16:
                continue
            for method in methods:
                for temperature in temperatures:
                    kd = {"teacher": "toy-16M", "teacher_parameters": 16 * 10**6, "teacher_tuned": True}
                    kd |= {"method": method, "temperature": temperature}
                    kd["accuracy"] = 40.0 + size + gain(size, method, task, temperature)
                    rows.append(common | student | kd)
    return cell_rows.cell_table(rows)


def judged(claim_id, cells, source="live"):
    claim = next(claim for claim in claims.CLAIMS if claim.id == claim_id)
    return claims.by_authors(claim, Evidence(source, "careful", cells))


def by_authors(cells):
    return [row for row in claims.ledger_rows(claims.judgements(cells)) if row["analysis"] == "authors"]


@pytest.fixture(scope="module")
def ledger():
    return {
        row["id"]: row
        for row in claims.ledger_rows(claims.judgements(authors_tables.cells()))
        if row["analysis"] == "authors"
    }


def test_every_claim_has_one_row(ledger):
    assert [claim.id for claim in claims.CLAIMS] == IDS
    assert list(ledger) == IDS
    for row in ledger.values():
        assert list(row) == LEDGER_KEYS
        assert row["verdict"] in VERDICTS
        assert row["reason"]
        assert (row["source"], row["protocol"], row["analysis"]) == ("published", "paper", "authors")


def test_ledger_is_json_without_nan(ledger):
    assert "NaN" not in json.dumps(list(ledger.values()), allow_nan=False)


def test_verdicts_on_the_released_results(ledger):
    by_verdict = {}
    for key, row in ledger.items():
        by_verdict.setdefault(row["verdict"], []).append(key)
    assert by_verdict["not_reproduced"] == ["E6", "A2", "A3", "A4"]
    assert by_verdict["inconclusive"] == ["E7", "S3.winogrande", "A1", "P2", "P3"]
    assert by_verdict["not_testable"] == ["E3", "F3", "N1", "N2"]


def test_estimates_on_the_released_results(ledger):
    assert ledger["S1"]["estimate"] == pytest.approx(-0.6561923549473493)
    assert ledger["S1"]["ci_low"] < -0.66 < ledger["S1"]["ci_high"]
    assert ledger["E4"]["estimate"] == pytest.approx(10.37)
    assert ledger["E5"]["estimate"] == pytest.approx(22.33)
    assert "training set" in ledger["E5"]["reason"]
    assert ledger["T3"]["estimate"] == pytest.approx(50.87)
    assert "Qwen2.5-3B" in ledger["A2"]["reason"]
    assert ledger["A3"]["estimate"] == pytest.approx(93.5)


def test_every_rule_says_what_each_verdict_needs():
    for claim in claims.CLAIMS:
        rule = claim.words("authors")
        assert "reproduced" in rule, claim.id
        for name, value in claim.arguments.items():
            if (claim.rule, name) != ("methods_alike", "margin"):  # the authors have none
                assert f"{name} = {value}" in rule


def test_sections_of_claims_and_unknown_section():
    assert len(claims.claims_of("02")) == 16
    with pytest.raises(ValueError, match="section '09' has no claims"):
        claims.claims_of("09")


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (lambda size, method, task, t: 3.0 + 0.1 * size, "reproduced"),
        (lambda size, method, task, t: -3.0 - 0.1 * size, "not_reproduced"),
        (lambda size, method, task, t: (-1.0 if method == "gkd" else 6.0) + size, "reproduced"),
        (lambda size, method, task, t: (-9.0 if method == "gkd" else 6.0) + 0.1 * size, "inconclusive"),
    ],
)
def test_gain_is_positive(gain, verdict):
    assert judged("E1", world(gain)).verdict == verdict


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (lambda size, method, task, t: 9.0 - size, "reproduced"),
        (lambda size, method, task, t: size, "not_reproduced"),
        (lambda size, method, task, t: 5.0 - 0.3 * size + 9 * ((size + len(method)) % 3), "inconclusive"),
    ],
)
def test_gain_falls_with_size_live(gain, verdict):
    assert judged("S1", world(gain)).verdict == verdict


def test_released_rho_must_equal_the_printed_one():
    cells = world(lambda size, method, task, t: 9.0 - size)  # rho = -1, not the printed -0.66
    assert judged("S1", cells, source="published").verdict == "not_reproduced"


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (lambda size, method, task, t: size % 3, "reproduced"),
        (lambda size, method, task, t: size % 3 + (9.0 if method == "gkd" else 0.0), "not_reproduced"),
        (
            lambda size, method, task, t: size % 3 + (9.0 if method == "gkd" and task == "svamp" else 0.0),
            "inconclusive",
        ),
    ],
)
def test_methods_do_not_differ(gain, verdict):
    assert judged("E7", world(gain)).verdict == verdict


@pytest.mark.parametrize(
    ("gain", "e4", "e5"),
    [
        (lambda size, method, task, t: 10.4, "reproduced", "not_reproduced"),
        (lambda size, method, task, t: 22.4 if task == "svamp" else 1.0, "not_reproduced", "reproduced"),
    ],
)
def test_largest_gains(gain, e4, e5):
    cells = world(gain)
    assert (judged("E4", cells).verdict, judged("E5", cells).verdict) == (e4, e5)


@pytest.mark.parametrize(("value", "verdict"), [(1.3, "reproduced"), (0.4, "not_reproduced")])
def test_gain_of_the_largest_student(value, verdict):
    cells = world(lambda size, method, task, t: value if size == 8 else 50.0)
    finding = judged("E6", cells)
    assert finding.verdict == verdict
    assert finding.estimate == pytest.approx(value)


@pytest.mark.parametrize(
    ("by_temperature", "p1", "p2", "p3"),
    [
        ({1.0: 4.0, 2.0: 6.0, 5.0: -20.0}, "reproduced", "reproduced", "reproduced"),
        ({1.0: 4.0, 2.0: 3.0, 5.0: 3.0}, "not_reproduced", "not_reproduced", "not_reproduced"),
    ],
)
def test_temperature_claims(by_temperature, p1, p2, p3):
    def gain(size, method, task, temperature):
        shrink = 1 / size if p3 == "reproduced" else size
        return by_temperature[temperature] * (shrink if temperature == 5.0 and p3 == "reproduced" else 1) + (
            0.1 * (8 - size) if temperature != 5.0 and p3 == "not_reproduced" else 0
        ) * (-1)

    cells = world(gain, temperatures=(1.0, 2.0, 5.0))
    if p2 == "reproduced":
        cells.loc[cells["temperature"] == 5.0, "accuracy"] -= 12
    assert judged("P1", cells).verdict == p1
    assert judged("P2", cells).verdict == p2
    assert judged("P3", cells).verdict == p3


def with_noise(losses, domains=("math",)):
    """Cells whose student of size 1 loses `losses[sigma]` points in a domain, of 40 without noise."""
    plain = world(lambda size, method, task, t: -1.0, methods=("fkl",)).query("student == 'toy-1M'")
    parts = []
    for domain, by_sigma in zip(domains, losses, strict=True):
        for sigma, loss in ({0.0: 0.0} | by_sigma).items():
            part = plain[plain["method"] == "fkl"].assign(domain=domain, noise_sigma=sigma)
            parts.append(part.assign(accuracy=part["accuracy"] - loss))
    return pd.concat([plain[plain["method"] == "sft"], *parts], ignore_index=True)


BOTH = ("math", "commonsense")


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([{1.0: 1.0, 2.0: 2.0}, {1.0: 0.0, 2.0: 1.0}], "reproduced"),
        ([{1.0: 1.0, 2.0: 2.0}, {1.0: 3.0, 2.0: 1.0}], "inconclusive"),
        ([{1.0: 2.0, 2.0: 2.0}, {1.0: 3.0, 2.0: 1.0}], "not_reproduced"),
        ([{1.0: -9.0, 2.0: 1.0, 5.0: 40.0}, {1.0: 1.0}], "reproduced"),
        ([{5.0: 1.0}, {5.0: 1.0}], "not_testable"),
    ],
)
def test_little_noise_costs_little(losses, verdict):
    assert judged("N1", with_noise(losses, BOTH)).verdict == verdict


@pytest.mark.parametrize(
    ("losses", "verdict", "estimate"),
    [
        ([{5.0: 30.0}, {5.0: 2.0}], "reproduced", 16.0),
        ([{5.0: 20.0}, {5.0: 2.0}], "not_reproduced", 11.0),
        ([{2.0: 30.0}, {1.0: 30.0}], "not_testable", math.nan),
    ],
)
def test_much_noise_collapses(losses, verdict, estimate):
    finding = judged("N2", with_noise(losses, BOTH))
    assert finding.verdict == verdict
    assert finding.estimate == pytest.approx(estimate, nan_ok=True)


def test_a_collapse_in_fewer_than_half_is_inconclusive():
    one = with_noise([{5.0: 30.0}])
    others = [with_noise([{5.0: 2.0}]).replace("toy-1M", f"toy-{size}M") for size in (2, 4)]
    assert judged("N2", pd.concat([one, *others], ignore_index=True)).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.2, -0.1, 0.9], "reproduced"), ([0.5, -0.4, 0.1], "not_reproduced"), ([], "not_testable")],
)
def test_right_and_alike_are_feebly_linked(values, verdict):
    cells = world(lambda size, method, task, t: 1.0, methods=("fkl",)).query("student != 'toy-8M'")
    rows = cells.index[(cells["task"] == "svamp") & (cells["method"] == "fkl")][: len(values)]
    cells.loc[rows, "fidelity_correct_r"] = values
    cells.loc[cells["task"] == "gsm8k", "fidelity_correct_r"] = 0.99  # another task does not count
    finding = judged("F3", cells)
    assert finding.verdict == verdict
    if values:
        assert finding.estimate == pytest.approx(sorted(map(abs, values))[1])


@pytest.mark.parametrize("claim_id", ["F3", "N1", "N2"])
def test_what_was_not_released_says_so(claim_id):
    only_sft = world(lambda size, method, task, t: 0.0).query("method == 'sft'")
    assert "the authors released no" in judged(claim_id, only_sft, source="published").reason
    assert "authors" not in judged(claim_id, only_sft).reason


def test_likeness_rises_over_all_methods():
    base = world(lambda size, method, task, t: 1.0)
    cells = with_likeness(base, "fidelity", lambda size: 2 + 0.1 * size)
    cells.loc[cells["method"].isin(["revkd", "gkd"]), "fidelity"] -= 30.0
    assert judged("F1", cells).verdict == "not_reproduced"


def test_tied_temperatures_share_the_win():
    cells = world(lambda size, method, task, t: 4.0, temperatures=(1.0, 2.0))
    assert judged("P1", cells).estimate == pytest.approx(50.0)


def with_likeness(cells, measure, rise, level=lambda row: 50.0):
    cells = cells.copy()
    for index, row in cells.iterrows():
        if row["teacher"]:
            cells.loc[index, f"{measure}_sft"] = level(row)
            cells.loc[index, measure] = level(row) + rise(row["student_parameters"] / 1e6)
    return cells


@pytest.mark.parametrize(
    ("rise", "verdict"),
    [
        (lambda size: 2 + 0.1 * size, "reproduced"),
        (lambda size: -2 - 0.1 * size, "not_reproduced"),
        (lambda size: 30.0 if size == 8 else -5.0, "inconclusive"),
    ],
)
def test_likeness_rises(rise, verdict):
    base = world(lambda size, method, task, t: 1.0)
    assert judged("F1", with_likeness(base, "fidelity", rise)).verdict == verdict


def test_correlation_is_weak_and_absent_by_construction():
    base = world(lambda size, method, task, t: float(size))
    strong = with_likeness(
        base, "fidelity", lambda size: 0.0, level=lambda row: row["student_parameters"] / 1e6
    )
    assert judged("F2", strong).verdict == "not_reproduced"
    agreeing = with_likeness(
        base, "agreement", lambda size: 0.0, level=lambda row: row["student_parameters"] / 1e6
    )
    assert judged("A4", agreeing).verdict == "not_reproduced"
    flat = world(lambda size, method, task, t: {"fkl": 1.0, "revkd": 2.0, "gkd": 3.0}[method])
    level = with_likeness(
        flat, "agreement", lambda size: 0.0, level=lambda row: row["student_parameters"] / 1e6
    )
    assert judged("A4", level).verdict == "reproduced"


def test_agreement_of_small_students_must_be_the_printed_value():
    base = world(lambda size, method, task, t: 1.0)
    base["student_parameters"] *= 500
    base["teacher_parameters"] *= 1000
    level = {0.5: 89.1, 1.0: 70.0, 2.0: 95.0, 4.0: 96.0}
    near = with_likeness(
        base, "agreement", lambda size: 0.0, level=lambda row: level[row["student_parameters"] / 1e9]
    )
    assert judged("A2", near, source="published").verdict == "reproduced"
    assert judged("A3", near, source="published").verdict == "not_reproduced"


@pytest.mark.parametrize(("cost", "verdict"), [(45.0, "reproduced"), (12.0, "not_reproduced")])
def test_untuned_teacher_costs(cost, verdict):
    tuned = world(lambda size, method, task, t: 1.0, methods=("fkl",))
    untuned = tuned[tuned["teacher"] != ""].assign(teacher_tuned=False)
    untuned["accuracy"] -= cost
    finding = judged("T3", pd.concat([tuned, untuned], ignore_index=True))
    assert finding.verdict == verdict
    assert finding.estimate == pytest.approx(cost)


def test_claims_without_evidence_are_not_testable():
    only_sft = world(lambda size, method, task, t: 0.0).query("method == 'sft'")
    for claim in claims.CLAIMS:
        finding = judged(claim.id, only_sft)
        assert finding.verdict == "not_testable", claim.id
        assert math.isnan(finding.estimate)


def test_unknown_verdict_is_refused():
    with pytest.raises(ValueError, match="verdict 'true' is not one of"):
        Finding(verdict="true", reason="")


def test_printed_values_stand_beside_their_task():
    table = pd.DataFrame({"domain": ["math", "commonsense", "math"], "task": ["average", "average", "aqua"]})
    assert claims.with_printed(table)["printed"].tolist() == [-0.66, -0.54, -0.23]


MAGNITUDES = ["E4", "E5", "E6", "T3", "A2", "A3"]


def test_a_model_world_has_no_bearing_on_the_size_of_an_effect():
    cells = world(lambda size, method, task, t: 9.0 - size)
    real = {row["id"]: row["verdict"] for row in by_authors(cells)}
    tiny = {row["id"]: row for row in by_authors(cells.assign(family="mini-qwen"))}
    assert [claim.id for claim in claims.CLAIMS if claim.is_magnitude] == MAGNITUDES
    for claim_id, row in tiny.items():
        if claim_id in MAGNITUDES:
            assert row["verdict"] == "not_testable"
            assert "model world" in row["reason"] or real[claim_id] == "not_testable"
        else:
            assert row["verdict"] == real[claim_id]
    assert tiny["E5"]["estimate"] is not None  # shown all the same


def test_instruction_following_is_judged_where_there_is_some():
    cells = world(lambda size, method, task, t: 3.0 + 0.1 * size)
    assert (
        judged("E3", cells, source="published").reason
        == "the authors released nothing on instruction following"
    )
    assert judged("E3", cells).verdict == "not_testable"
    instruction = cells[cells["domain"] == "math"].assign(domain="instruction")
    assert judged("E3", pd.concat([cells, instruction])).verdict == "reproduced"
    doubled = instruction.assign(accuracy=instruction["accuracy"] + 50 * (instruction["method"] != "sft"))
    both = pd.concat([cells, doubled])
    assert judged("E5", both).estimate == judged("E5", cells).estimate  # another unit: ROUGE-L
