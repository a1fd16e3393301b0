"""Each stricter judge on cells whose truth is known: an effect is found, none is not, too little is said."""

import math

import numpy as np
import pandas as pd
import pytest

from kdutils.claims import claims, likeness, size_and_teacher, students
from kdutils.claims.evidence import Evidence
from kdutils.constants import DOMAIN_TASKS, PAPER_METHODS
from kdutils.grid import cell_table as cell_rows
from kdutils.inference import student_tests
from kdutils.inference.estimate import Estimate

SIZES = {"toy-qwen": (1, 2, 4, 8), "toy-llama": (1, 2, 4, 8)}  # millions: 1 / (4! 4!) is the smallest p
TOP = 32


def world(
    gain,
    *,
    sizes=SIZES,
    domains=("math", "commonsense"),
    methods=PAPER_METHODS,
    teachers=(TOP,),
    temperatures=(1.0,),
    sigmas=(0.0,),
    sft=lambda size: 40.0 + size,
    source="live",
    n=2_000,
):
    """Cells of two families; `gain` gets size, family, method, task, domain, teacher, temperature, sigma."""
    rows = []
    common = {"source": source, "protocol": "careful", "seed": 0, "n": n, "accuracy_se": 0.8, "flags": ""}
    for domain in domains:
        for task in (*DOMAIN_TASKS[domain], "average"):
            for family, of_family in sizes.items():
                for size in (*of_family, *teachers):
                    where = {"domain": domain, "task": task, "family": family, "noise_sigma": 0.0}
                    where |= {"student": f"{family}-{size}M", "student_parameters": size * 10**6}
                    rows.append(common | where | {"method": "sft", "accuracy": sft(size)})
                    if size in teachers:
                        continue
                    for teacher in teachers:
                        for method in methods:
                            for temperature, sigma in {(t, 0.0) for t in temperatures} | {
                                (1.0, s) for s in sigmas
                            }:
                                known = {"size": size, "family": family, "method": method, "task": task}
                                known |= {"domain": domain, "teacher": teacher}
                                known |= {"temperature": temperature, "sigma": sigma}
                                kd = {
                                    "teacher": f"{family}-{teacher}M",
                                    "teacher_parameters": teacher * 10**6,
                                }
                                kd |= {
                                    "teacher_tuned": True,
                                    "temperature": temperature,
                                    "noise_sigma": sigma,
                                }
                                kd |= {"method": method, "accuracy": sft(size) + gain(**known)}
                                rows.append(common | where | kd)
    return cell_rows.cell_table(rows)


def judged(claim_id, cells, source="live"):
    section = next(claim.section for claim in claims.CLAIMS if claim.id == claim_id)
    return claims.by_stricter_analysis(Evidence(source, "careful", cells), claims.claims_of(section))[
        claim_id
    ]


def verdict(claim_id, cells, source="live"):
    return judged(claim_id, cells, source).verdict


def bumps(size, family):
    """Something that differs from student to student and goes with nothing: mean 0 in a family."""
    return {1: 0.6, 2: -0.7, 4: -0.5, 8: 0.6}[size] * (1 if family == "toy-qwen" else -1)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (lambda size, family, **_: 4.0 + bumps(size, family), "reproduced"),
        (lambda size, family, **_: -4.0 + bumps(size, family), "not_reproduced"),
        (lambda size, family, **_: 0.1 + 9 * bumps(size, family), "inconclusive"),
        (
            lambda size, family, **_: (5 if family == "toy-qwen" else -0.2) + bumps(size, family),
            "inconclusive",
        ),
    ],
)
def test_gain_of_students(gain, expected):
    found = judged("E1", world(gain))
    assert found.verdict == expected
    assert found.p_value >= found.raw_p
    assert found.minimum_detectable > 0


def test_pairs_and_methods_of_one_student_are_one_observation():
    few = {"toy-qwen": (1, 2), "toy-llama": (1,)}
    cells = world(lambda size, method, **_: size - 1.4 + 0.01 * len(method), sizes=few, teachers=(16, 32, 64))
    found = judged("E1", cells)
    assert found.n == 3
    assert found.verdict == "inconclusive"  # 27 pairs x methods of three students


def test_one_student_is_not_testable():
    cells = world(lambda **_: 5.0, sizes={"toy-qwen": (1,)}, teachers=(16, 32))
    for claim_id in ("E1", "E7", "S1", "A1", "F1"):
        found = judged(claim_id, cells)
        assert found.verdict == "not_testable", claim_id
        assert math.isnan(found.estimate) and math.isnan(found.raw_p)


def test_tasks_of_the_training_set_are_left_out_and_shown_apart():
    def gain(size, family, task, **_):
        return (30.0 if task in ("addsub", "multiarith", "singleeq") else -3.0) + bumps(size, family)

    cells = world(gain)
    assert judged("E1", cells).estimate > 10
    is_known = cells["task"].isin(["addsub", "multiarith", "singleeq"])
    found = judged("E1", cells.assign(flags=np.where(is_known, "contaminated", "")))
    assert found.estimate == pytest.approx(-3.0)
    assert "on the tasks of the training set +30.0" in found.reason


@pytest.mark.parametrize(
    ("gap", "spread", "expected"),
    [(0.2, 0.3, "reproduced"), (8.0, 0.3, "not_reproduced"), (1.0, 12.0, "inconclusive")],
)
def test_methods_alike(gap, spread, expected):
    def gain(size, family, method, **_):
        own = {"fkl": 1, "revkd": -1, "gkd": 0.3}[method]
        return gap * (method == "gkd") + spread * own * bumps(size, family)

    found = judged("E7", world(gain))
    assert found.verdict == expected
    assert (found.minimum_detectable < 5) == (expected != "inconclusive")


def test_the_size_effect_must_be_more_than_headroom():
    def falling(size, family, domain, **_):
        return {1: 14.0, 2: 9.0, 4: 4.5, 8: 0.5}[size] + bumps(size, family) * 0.1

    def baseline(size):  # the same for every size: nothing to be explained by headroom
        return {1: 40.1, 2: 39.9, 4: 40.3, 8: 40.0}.get(size, 60.0)

    found = judged("S1", world(falling, sft=baseline))
    assert found.verdict == "reproduced"
    assert found.raw_p == pytest.approx(1 / 576)
    assert found.p_value == pytest.approx(16 / 576)  # all sixteen claims are alike here


def test_equal_log_odds_are_no_size_effect():
    def sft(size):
        return {1: 30.0, 2: 50.0, 4: 70.0, 8: 90.0}.get(size, 95.0)

    def gain(size, family, **_):
        odds = sft(size) / (100 - sft(size)) * math.exp(0.5 + 0.02 * bumps(size, family))
        return 100 * odds / (1 + odds) - sft(size)

    evidence = Evidence("live", "careful", world(gain, sft=sft))
    claim = next(claim for claim in claims.CLAIMS if claim.id == "S1")
    case = claims.asked(claim, claim.rules.stricter, evidence)
    found = students.corrected({"S1": case}, {"S1": "02"})["S1"]  # whatever the other claims
    assert found.estimate < 0  # in points the gain falls with size
    assert found.verdict == "inconclusive"


def test_a_gain_that_rises_with_size_is_against_the_claim():
    assert verdict("S1", world(lambda size, **_: 1.0 * size)) == "not_reproduced"


def test_few_students_cannot_show_a_size_effect_and_the_reason_says_so():
    few = {"toy-qwen": (1, 2, 4), "toy-llama": (1, 2)}
    found = judged("S1", world(lambda size, **_: 9.0 - size, sizes=few))
    assert found.verdict == "inconclusive"
    assert f"smallest possible p {1 / 12:.2g}" in found.reason
    assert found.reason.endswith(
        "with n = 5 the smallest possible p after Holm is 1, so these data cannot show it"
    )


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (lambda teacher, size, **_: -0.05 * teacher + (size * teacher) % 3 * 0.1, "reproduced"),
        (lambda teacher, size, **_: 0.2 * teacher + (size * teacher) % 3 * 0.1, "not_reproduced"),
    ],
)
def test_better_teacher(gain, expected):
    assert verdict("T1", world(gain, teachers=(12, 16, 24, 32, 44))) == expected


def test_few_teachers_cannot_tell():
    def gain(teacher, size, **_):
        return float(teacher > 12) * (1 if size in (1, 8) else -1)

    found = judged("T1", world(gain, teachers=(12, 16)))
    assert (found.verdict, found.estimate) == ("inconclusive", pytest.approx(0.0))


def test_what_is_detectable_lies_beyond_the_limit():
    rows = pd.DataFrame({"domain": "math", "task": "svamp", "student": list("abcd")})
    rows = rows.assign(
        family=["x", "x", "y", "y"], student_parameters=[1, 2, 1, 2], value=[1.0, 2.0, 3.0, 5.0]
    )
    zero, above, below = (
        students.against_limit(rows, "value", limit=limit, is_below=is_below).minimum_detectable
        for limit, is_below in ((0.0, False), (10.0, False), (10.0, True))
    )
    assert (above, below) == pytest.approx((10 + zero, 10 - zero))


def test_nothing_is_detectable_beyond_the_ends_of_a_scale():
    few = {"toy-qwen": (1, 2), "toy-llama": (1,)}
    cells = world(
        lambda temperature, size, **_: float((temperature == 2) == (size == 1)),
        temperatures=(1, 2),
        sizes=few,
    )
    assert math.isnan(judged("P1", cells).minimum_detectable)  # above 100 %
    is_asked = (cells["teacher"] != "") & (cells["task"] == "svamp")
    r = np.where(is_asked, cells["student_parameters"] / 1e7, np.nan)
    assert math.isnan(judged("F3", cells.assign(fidelity_correct_r=r)).minimum_detectable)  # below 0


def test_what_is_detectable_of_correlations_is_of_the_test_against_the_margin():
    def gain(teacher, size, **_):
        return float(teacher > 12) * (1 if size in (1, 8) else -1)

    found, error = judged("T1", world(gain, teachers=(12, 16))), 1 / math.sqrt(16 - 8 - 1 - 1)
    z = np.random.default_rng(0).normal(math.atanh(found.minimum_detectable), error, size=2_000)
    is_found = [size_and_teacher.p_of_less(math.tanh(each), 0.3, error=error) < 0.05 for each in z]
    assert np.mean(is_found) == pytest.approx(0.8, abs=0.03)
    assert found.reason.endswith(
        f"found in 80 % of such studies, before Holm: {found.minimum_detectable:.2g}"
    )


def test_the_smallest_p_after_holm_is_that_of_the_smallest_of_all_claims():
    def case(**own):
        return students.Case(reason="", interval=Estimate(0.0, -1.0, 1.0, n=6), p_value=0.4, **own)

    cases = {"a": case(smallest_p=0.02), "b": case(smallest_p=0.02), "c": case(minimum_detectable=3.0)}
    found = students.corrected(cases, dict.fromkeys(cases, "02"))
    assert "smallest possible p after Holm" not in found["a"].reason  # 0.04, if that of c is about 0
    assert found["c"].reason.endswith("3")
    cases["c"] = case(smallest_p=0.02)
    reason = students.corrected(cases, dict.fromkeys(cases, "02"))["a"].reason
    assert reason.endswith(
        "with n = 6 the smallest possible p after Holm is 0.06, so these data cannot show it"
    )


def test_teachers_of_one_student_each_say_nothing():
    assert verdict("T1", world(lambda size, **_: 1.0 * size)) == "not_testable"


@pytest.mark.parametrize(
    ("cost", "expected"), [(46.0, "reproduced"), (39.8, "inconclusive"), (30.0, "not_reproduced")]
)
def test_untuned_teacher(cost, expected):
    tuned = world(lambda **_: 20.0, methods=("fkl",))
    untuned = tuned[tuned["teacher"] != ""].assign(teacher_tuned=False)
    untuned["accuracy"] -= cost
    found = judged("T3", pd.concat([tuned, untuned], ignore_index=True))
    assert found.verdict == expected
    assert found.estimate == pytest.approx(cost)


def with_likeness(cells, measure, rise):
    """Cells whose KD rows have this likeness, 50 after SFT: `rise(row)` in points."""
    is_kd = cells["teacher"] != ""
    cells = cells.assign(**{f"{measure}_sft": np.where(is_kd, 50.0, np.nan)})
    rises = [50.0 + rise(row) if row.teacher else np.nan for row in cells.itertuples()]
    return cells.assign(**{measure: rises})


@pytest.mark.parametrize(
    ("level", "spread", "expected"),
    [(4.0, 1.0, "reproduced"), (-4.0, 1.0, "not_reproduced"), (0.5, 8.0, "inconclusive")],
)
def test_likeness_rise(level, spread, expected):
    def rise(row):
        return level + spread * bumps(row.student_parameters // 10**6, row.family)

    cells = world(lambda **_: 1.0)
    assert verdict("A1", with_likeness(cells, "agreement", rise)) == expected
    assert verdict("F1", with_likeness(cells, "fidelity", rise)) == expected


def test_likeness_and_gain_go_together_or_not():
    many = {"toy-qwen": tuple(range(1, 41)), "toy-llama": tuple(range(1, 41))}
    rng = np.random.default_rng(5)
    noise = {(family, size): rng.normal(size=3) for family, sizes in many.items() for size in sizes}

    def gain(size, family, **_):
        return float(noise[family, size][0])

    def together(row):
        own = noise[row.family, row.student_parameters // 10**6]
        return float(own[0] + 0.3 * own[2])

    def apart(row):
        return float(noise[row.family, row.student_parameters // 10**6][1])

    cells = world(gain, sizes=many, teachers=(64,), methods=("fkl",), sft=lambda size: 40 + 7 * size % 11)
    cells = cells[cells["task"].isin(["gsm8k", "svamp", "boolq", "piqa", "average"])]
    assert verdict("A4", with_likeness(cells, "agreement", together)) == "not_reproduced"
    assert verdict("F2", with_likeness(cells, "fidelity", together)) == "not_reproduced"
    assert verdict("F2", with_likeness(cells, "fidelity", apart)) == "reproduced"


def test_few_pairs_cannot_show_that_likeness_and_gain_are_apart():
    sizes = {"toy-qwen": tuple(range(1, 8)), "toy-llama": tuple(range(1, 5))}
    cells = world(lambda size, **_: float(size * 7 % 5), sizes=sizes, sft=lambda size: 40 + 7 * size % 11)
    cells = with_likeness(cells, "fidelity", lambda row: float(row.student_parameters // 10**6 * 3 % 7))
    found = judged("F2", cells)
    assert math.isnan(found.minimum_detectable)
    assert "with n = 11 the smallest possible p after Holm is 0.13" in found.reason


def test_a_partial_rank_correlation_is_that_of_pingouin():
    import pingouin

    rng = np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(12, 3)), columns=["x", "y", "z"])
    table["y"] += table["z"]
    ours = likeness.partial_rank_correlation(table["x"], table["y"], table["z"])
    theirs = pingouin.partial_corr(table, x="x", y="y", covar="z", method="spearman")
    assert ours == pytest.approx(float(theirs["r"].iloc[0]))
    assert math.isnan(likeness.partial_rank_correlation(table["x"], table["z"], table["z"]))


def test_agreement_is_that_of_the_authors_rule_with_an_interval():
    cells = world(lambda **_: 1.0, sizes={"toy-qwen": (1, 2, 4)})
    cells = cells.assign(student_parameters=cells["student_parameters"] * 500)
    near = with_likeness(cells, "agreement", lambda row: 39.1 if row.student_parameters < 2e9 else 45.0)
    found = judged("A2", near)
    assert (found.verdict, found.n) == ("reproduced", 2_000)
    assert found.ci_low < found.estimate < found.ci_high


@pytest.mark.parametrize(
    ("level", "expected"), [(0.1, "reproduced"), (0.6, "not_reproduced"), (0.3, "inconclusive")]
)
def test_feeble_link(level, expected):
    cells = world(lambda **_: 1.0)
    is_asked = (cells["teacher"] != "") & (cells["task"] == "svamp")
    own = [
        bumps(row.student_parameters // 10**6, row.family) if kd else 0.0
        for row, kd in zip(cells.itertuples(), is_asked, strict=True)
    ]
    r = np.where(is_asked, level + 0.05 * np.array(own), np.nan)
    found = judged("F3", cells.assign(fidelity_correct_r=r))
    assert found.verdict == expected
    assert 0.2 < found.minimum_detectable < 0.3


def noisy(loss):
    return world(
        lambda sigma, size, family, **_: -loss(sigma) + 0.3 * sigma * bumps(size, family),
        sigmas=(0.0, 1.0, 2.0, 5.0),
    )


@pytest.mark.parametrize(
    ("loss", "n1", "n2"),
    [
        (lambda sigma: 0.2 * sigma if sigma < 5 else 30.0, "reproduced", "reproduced"),
        (lambda sigma: 6.0 * (sigma > 0), "not_reproduced", "not_reproduced"),
        (lambda sigma: {0.0: 0.0, 5.0: 20.5}.get(sigma, 2.0), "inconclusive", "inconclusive"),
    ],
)
def test_noise(loss, n1, n2):
    cells = noisy(loss)
    found = judged("N1", cells)
    assert found.verdict == n1
    assert 1 < found.minimum_detectable < 2
    assert verdict("N2", cells) == n2


@pytest.mark.parametrize(
    ("by_temperature", "p1", "p2", "p3"),
    [
        ({1.0: 0.0, 2.0: 3.0, 5.0: -20.0}, "not_testable", "reproduced", "reproduced"),
        ({1.0: 3.0, 2.0: 0.0, 5.0: 2.0}, "not_testable", "not_reproduced", "reproduced"),
    ],
)
def test_temperature(by_temperature, p1, p2, p3):
    """Where the same temperature is best in all tasks of all students nothing varies, and t is undefined."""

    def gain(temperature, size, **_):
        return by_temperature[temperature] + (0.3 * size if temperature == 5.0 else 0.0)

    cells = world(gain, temperatures=(1.0, 2.0, 5.0))
    assert verdict("P1", cells) == p1
    found = judged("P2", cells)
    assert found.verdict == p2
    assert found.minimum_detectable > 10
    assert verdict("P3", cells) == p3


@pytest.mark.parametrize(
    ("n_won", "expected"), [(7, "reproduced"), (1, "not_reproduced"), (4, "inconclusive")]
)
def test_best_temperature(n_won, expected):
    def gain(temperature, size, family, task, domain, **_):
        place = DOMAIN_TASKS[domain].index(task) if task != "average" else 0
        is_won = place < n_won + (-1 if size > 3 else 1)
        return float((temperature == 2.0) == is_won)

    cells = world(gain, temperatures=(1.0, 2.0), domains=("commonsense",))
    found = judged("P1", cells)
    assert found.verdict == expected
    assert 50 < found.minimum_detectable <= 100


def test_a_loss_that_rises_with_size_is_against_the_claim():
    cells = world(lambda temperature, size, **_: -1.0 * size * (temperature == 5.0), temperatures=(1.0, 5.0))
    assert verdict("P3", cells) == "not_reproduced"


def test_largest_gains_know_that_they_were_picked():
    rng = np.random.default_rng(1)
    values, errors = pd.Series(rng.normal(0, 2, size=500)), pd.Series(np.full(500, 2.0))
    found = students.largest(values, errors)
    assert found.value == pytest.approx(values.max()) and found.value > 4
    assert found.low < 0 < found.high  # every true value is 0


@pytest.mark.parametrize(
    ("gain", "expected"), [(10.0, "reproduced"), (4.0, "not_reproduced"), (18.0, "not_reproduced")]
)
def test_largest_gain(gain, expected):
    sizes = {"toy-qwen": (1, 2), "toy-llama": (1, 2)}
    assert verdict("E4", world(lambda **_: gain, sizes=sizes)) == expected


@pytest.mark.parametrize(("gain", "expected"), [(9.0, "not_reproduced"), (1.3, "reproduced")])
def test_gain_of_the_largest_student(gain, expected):
    cells = world(lambda size, **_: gain if size == 8 else 50.0, n=2_000).assign(accuracy_se=0.2)
    assert verdict("E6", cells) == expected


def test_a_blurred_size_is_inconclusive():
    cells = world(lambda size, **_: 1.0, n=2_000).assign(accuracy_se=5.0)
    assert verdict("E6", cells) == "inconclusive"


def test_p_is_corrected_within_the_section():
    found = claims.by_stricter_analysis(
        Evidence("live", "careful", world(lambda size, family, **_: 4.0 + bumps(size, family)))
    )
    for section in ("01", "02"):
        chosen = {claim.id: found[claim.id] for claim in claims.claims_of(section)}
        raw = np.array([one.raw_p for one in chosen.values()])
        corrected = [one.p_value for one in chosen.values()]
        np.testing.assert_allclose(corrected, student_tests.holm(raw))
    assert 0 < np.isfinite(raw).sum() <= 16


def test_a_section_alone_gives_what_all_give():
    evidence = Evidence("live", "careful", world(lambda size, family, **_: 4.0 + bumps(size, family)))
    whole, alone = (
        claims.by_stricter_analysis(evidence),
        claims.by_stricter_analysis(evidence, claims.claims_of("02")),
    )
    assert all(repr(whole[key]) == repr(alone[key]) for key in alone)


def test_nothing_is_testable_without_students():
    only_sft = world(lambda **_: 0.0).query("method == 'sft'")
    for key, found in claims.by_stricter_analysis(Evidence("live", "careful", only_sft)).items():
        assert found.verdict == "not_testable", key
        assert found.reason


def test_released_results_are_judged_as_reported():
    from kdutils.results import authors_tables

    rows = [
        row
        for row in claims.ledger_rows(claims.judgements(authors_tables.cells()))
        if row["analysis"] == "strict"
    ]
    by = {}
    for row in rows:
        by.setdefault(row["verdict"], []).append(row["id"])
    assert by["reproduced"] == ["E1", "E4", "E5", "T3", "F1"]
    assert by["not_reproduced"] == ["E7", "A2", "A3", "A4"]
    assert by["not_testable"] == ["E3", "F3", "N1", "N2"]
    assert len(by["inconclusive"]) == 26
