"""A choice that matters changes the verdict, one that does not leaves a dot, and the summary counts both."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from test_stricter import world

from kdutils.claims import answer_sheet, claims, sensitivity
from kdutils.claims.evidence import VERDICTS
from kdutils.report import figures, plots
from kdutils.results import held_out_temperature

SECTIONS = {claim.id: claim.section for claim in claims.CLAIMS}


def judgement(cells, section=None):
    (found,) = claims.judgements(cells, section=section)
    return found


def verdicts(cells, claim, held_out=None):
    """Choice -> verdict of one claim, "·" without bearing. The others are left out: they take their time."""
    found = judgement(cells, SECTIONS[claim])
    alone = replace(found, **{side: {claim: getattr(found, side)[claim]} for side in ("authors", "stricter")})
    part = sensitivity.table(alone, held_out).set_index("choice")
    assert set(part["id"]) == {claim}
    return part["verdict"].where(part["bears"], "·").to_dict()


@pytest.fixture(scope="module")
def lucky_judgement():
    return judgement(world(lucky, temperatures=(1.0, 2.0)))


@pytest.fixture(scope="module")
def lucky_table(lucky_judgement):
    return sensitivity.table(lucky_judgement)


def lucky(size, family, method, temperature, **_):
    """A gain that only the pick of a temperature makes."""
    return {1.0: -2.0, 2.0: 3.0 if method == "fkl" else 2.5}[temperature] + 0.1 * size


def test_picking_the_temperature_makes_the_gain():
    found = verdicts(world(lucky, temperatures=(1.0, 2.0)), "E1")
    assert found["as the authors"] == "reproduced"
    assert found["temperature 1"] == "not_reproduced"
    assert found["log odds"] == found["toy-qwen alone"] == "reproduced"
    assert found["not in training set"] == "·"


def test_a_choice_without_bearing_is_a_dot():
    cells = world(lambda size, family, **_: 3.0 + 0.1 * size)
    assert verdicts(cells, "E1")["temperature 1"] == "·"
    assert verdicts(cells, "E4")["log odds"] == "·"  # printed in points
    assert verdicts(cells, "T1")["students"] == "·"


def test_one_family_may_carry_a_claim():
    found = verdicts(
        world(lambda size, family, **_: (9.0 if family == "toy-qwen" else -1.0) - 0.1 * size), "E1"
    )
    assert (found["toy-qwen alone"], found["toy-llama alone"]) == ("reproduced", "not_reproduced")


def test_tasks_of_the_training_set_may_carry_a_claim():
    cells = world(
        lambda size, task, **_: (
            (9.0 if task == "addsub" else 0.0 if task == "average" else -1.0) + 0.01 * size
        )
    )
    cells.loc[(cells["task"] == "average") & (cells["teacher"] != ""), "accuracy"] += 1.5
    flags = cells["task"].map(lambda task: "contaminated" if task == "addsub" else "")
    found = verdicts(cells.assign(flags=flags), "E1")
    assert (found["as the authors"], found["not in training set"]) == ("reproduced", "not_reproduced")


def test_averages_are_those_of_the_tasks_left():
    cells = world(lambda task, **_: 10.0 if task == "addsub" else 1.0, domains=("math",))
    left = sensitivity.without_tasks(cells, {"addsub"})
    assert "addsub" not in set(left["task"])
    averages = left[left["task"] == "average"].set_index(["student", "method"])["accuracy"]
    assert averages["toy-qwen-1M", "fkl"] == pytest.approx(42.0)
    assert len(averages) == (cells["task"] == "average").sum()


def test_a_seed_stands_for_what_was_repeated():
    cells = world(lambda size, **_: 2.0 + 0.1 * size)
    again = cells[(cells["method"] == "fkl")].assign(seed=1)
    again["accuracy"] -= 9.0
    found = verdicts(pd.concat([cells, again], ignore_index=True), "E1")
    assert found["seed 0"] == "reproduced"
    assert found["seed 1"] == "not_reproduced"


def test_runs_of_a_student_are_one_where_sweeps_are_judged():
    cells = world(
        lambda temperature, size, **_: -15.0 * (temperature == 5.0) - size,
        temperatures=(1.0, 5.0),
        teachers=(16, 32),
    )
    found = verdicts(cells, "P2")
    assert found["students"] == "reproduced"
    one = sensitivity._runs_of_students(judgement(cells, "07").evidence, varied="temperature")
    runs = one.cells[(one.cells["teacher"] != "") & (one.cells["task"] == "average")]
    assert runs.groupby(["domain", "student", "temperature"]).size().max() == 1


def test_values_of_a_sweep_have_the_same_runs():
    cells = world(lambda noise_sigma=0.0, **_: 0.0, temperatures=(1.0,))
    is_swept = (cells["method"] == "fkl") & cells["student"].str.startswith("toy-qwen")
    noisy = cells[is_swept].assign(noise_sigma=5.0)  # costs nothing
    cells.loc[(cells["teacher"] != "") & ~is_swept, "accuracy"] += 30.0  # never trained with noise
    evidence = judgement(pd.concat([cells, noisy], ignore_index=True), "06").evidence
    one = sensitivity._runs_of_students(evidence, varied="noise_sigma")
    assert len(one.noise_losses)
    assert one.noise_losses["loss"].to_numpy() == pytest.approx(0.0)


def test_a_student_is_one_value_however_many_methods_it_had():
    evidence = judgement(world(lambda size, method, **_: len(method) + 0.1 * size), "01").evidence
    students = evidence.all_cells.loc[evidence.all_cells["teacher"] != "", "student"].nunique()
    (e1,), (e7,) = ([claim for claim in claims.CLAIMS if claim.id == own] for own in ("E1", "E7"))
    of_e1, of_e7 = (sensitivity._of_students(claim)(evidence) for claim in (e1, e7))
    assert len(of_e1.average_gains("math")) == students
    assert len(of_e7.average_gains("math")) == students * 3
    means = of_e7.average_gains("math").groupby("student")["gain"].mean()
    assert of_e1.average_gains("math").set_index("student")["gain"].to_dict() == pytest.approx(
        means.to_dict()
    )


def test_the_summary_counts_choices_that_bear(lucky_table):
    summary = sensitivity.holds(lucky_table).set_index("id")
    assert summary.loc["E1", "holds under"] == "some"
    assert "temperature 1: not reproduced" in summary.loc["E1", "changed by"]
    assert summary.loc["N1", "holds under"] == "not testable"
    remark = sensitivity.holds_remark(summary.reset_index())
    assert remark.startswith("Of 39 claims are reproduced ")
    counts = summary["holds under"].value_counts()
    assert f"{counts['some']} under some single choice" in remark
    assert "the stricter analysis, makes several choices at once and is not counted" in remark


def test_values_that_were_printed_are_not_asked_of_another_analysis():
    from kdutils.results import authors_tables

    found = verdicts(authors_tables.cells(), "S1")
    assert found["as the authors"] == found["students"] == found["Qwen2.5 alone"] == "reproduced"
    assert verdicts(authors_tables.cells(), "A2")["temperature 1"] == "·"


def test_the_picture_has_a_letter_or_a_dot_in_every_place(lucky_table):
    table = lucky_table
    (ax,) = figures.verdicts_by_choice(table).axes
    marks = [text.get_text() for text in ax.texts]
    assert len(marks) == len(table) == 39 * table["choice"].nunique()
    assert set(marks) <= {*plots.VERDICT_LETTERS.values(), figures.NO_BEARING}
    assert marks.count(figures.NO_BEARING) == (~table["bears"]).sum()


def test_one_pair_has_no_choices():
    cells = world(lambda **_: 1.0, sizes={"toy-qwen": (1,)}, domains=("math",))
    found = judgement(cells, "01")
    assert found.evidence.one_pair
    assert sensitivity.table(found).empty


# --- a temperature chosen on held-out items -------------------------------------------------------------


def lucky_at_2(size, family, temperature, **_):
    """At 2 a gain, as far as the sums over all items tell."""
    return (3.0 if temperature == 2.0 else -2.0) + 0.1 * size


def halves_of(cells, *, by_luck):
    """Halves of 1000 items each with the accuracies of the cells; by luck one half of them is right alone."""
    kd = cells[(cells["teacher"] != "") & (cells["task"] != "average")]
    rows = []
    for cell in kd.to_dict("records"):
        right = 20 * cell["accuracy"]
        extra = (100.0 if cell["temperature"] == 2.0 else -100.0) * by_luck
        for half, more in ((0, extra), (1, -extra)):
            value = right / 2 + more
            rows.append(
                {name: cell[name] for name in (*held_out_temperature.CASE, "temperature", "seed", "task")}
                | {"half": half, "n": 1_000.0, "value": value, "square": value}
            )
    return pd.DataFrame(rows, columns=held_out_temperature.COLUMNS).astype(
        dict.fromkeys(held_out_temperature.LIKENESS_SUMS, float)
    )


SMALL = {"temperatures": (1.0, 2.0), "domains": ("math",), "methods": ("fkl",)}


def verdict_of_gains(cells, table):
    return verdicts(cells, "E1", table)


def test_a_gain_that_the_choice_on_test_items_makes_is_gone_on_held_out_ones():
    cells = world(lucky_at_2, **SMALL)
    found = verdict_of_gains(cells, halves_of(cells, by_luck=1.0))
    assert found["as the authors"] == "reproduced"
    assert found[sensitivity.HELD_OUT] == found["temperature 1"] == "not_reproduced"
    real = verdict_of_gains(cells, halves_of(cells, by_luck=0.0))
    assert real["temperature 1"] == "not_reproduced"
    assert real[sensitivity.HELD_OUT] == "·"  # both halves choose 2: the authors' choice to the digit
    half = halves_of(cells, by_luck=1.0).query("half == 0 or task != 'svamp'")
    assert verdict_of_gains(cells, half)[sensitivity.HELD_OUT] == "not_testable"


@pytest.mark.parametrize("source", ["published", "live"])
def test_without_items_the_choice_is_untestable_and_counts_for_nothing(source):
    cells = world(lucky_at_2, **SMALL, source=source)
    assert verdict_of_gains(cells, None)[sensitivity.HELD_OUT] == "not_testable"
    (judged,) = claims.judgements(cells, section="01")
    table = sensitivity.table(judged)
    without = table[table["choice"] != sensitivity.HELD_OUT]
    pd.testing.assert_frame_equal(sensitivity.holds(table), sensitivity.holds(without))
    assert sensitivity.cannot_remark(table).endswith("not be chosen on held-out items, for want of them.")
    assert sensitivity.cannot_remark(without) == ""


def test_released_results_have_no_items_whoever_hands_some_over():
    cells = world(lucky_at_2, **SMALL, source="published")
    assert verdict_of_gains(cells, halves_of(cells, by_luck=1.0))[sensitivity.HELD_OUT] == "not_testable"


def test_without_a_sweep_the_choice_has_no_bearing():
    cells = world(lambda size, **_: 3.0 + 0.1 * size, **(SMALL | {"temperatures": (1.0,)}))
    assert verdict_of_gains(cells, None)[sensitivity.HELD_OUT] == "·"


# --- the answer sheet --------------------------------------------------------------------------------------


def test_every_claim_has_a_column_for_each_analysis():
    rows = claims.ledger_rows(claims.judgements(world(lambda size, family, **_: 3.0 + 0.1 * size)))
    columns = answer_sheet.columns(rows + [row | {"source": "published"} for row in rows])
    remark = answer_sheet.counts_remark(columns)
    assert list(columns) == ["Released, authors", "Released, strict", "Live, authors", "Live, strict"]
    table = answer_sheet.table(columns).set_index("id")
    assert table.loc["E1", "Live, authors"] == table.loc["E1", "Released, authors"]
    assert table.loc["E1", "Live, authors"].endswith(": reproduced")
    counted = [list(map(int, re.findall(r"\*\*(\d+)", text))) for text in remark.split("\n\n")]
    assert all(n_claims == sum(verdicts) == 39 for n_claims, *verdicts in counted)


def test_a_study_without_the_papers_tasks_says_why_no_claim_can_be_tested():
    cells = world(lambda size, family, **_: 3.0 + 0.1 * size)
    cells = cells.assign(domain="counting", task=cells["task"].replace("gsm8k", "legs?answer=number"))
    rows = claims.ledger_rows(claims.judgements(cells))
    assert len(rows) == 2 * 39 and {row["verdict"] for row in rows} == {"not_testable"}
    said = "**39** cannot be tested there: the claims are about the paper's own tasks, and this study has"
    assert answer_sheet.counts_remark(answer_sheet.columns(rows)).count(said) == 2
    other = [row | {"reason": row["id"]} for row in rows]  # several reasons are none of all
    assert answer_sheet.counts_remark(answer_sheet.columns(other)).count("cannot be tested there.") == 2


def test_another_profile_is_a_column_only_where_it_judges_something():
    rows = claims.ledger_rows(
        claims.judgements(world(lambda size, family, **_: 3.0 + 0.1 * size), section="01")
    )
    dead = [
        row | {"verdict": "not_testable", "estimate": None} for row in rows if row["analysis"] == "authors"
    ]
    alive = [row for row in rows if row["analysis"] == "strict"]
    assert list(answer_sheet.of_profile(dead + alive, label="Other")) == ["Other, strict"]
    assert answer_sheet.of_profile([], label="Other") == {}


def test_what_changes_is_said_with_its_numbers(lucky_judgement, lucky_table):
    rows = lucky_judgement.rows
    changed = answer_sheet.changes(rows).set_index("id")
    assert changed.loc["E1", ["authors", "strict"]].tolist() == ["reproduced", "not reproduced"]
    assert changed.loc["E1", "why"].startswith("mean over students -1.6 [")
    texts = list(answer_sheet.paragraphs(answer_sheet.columns(rows), {"Live": lucky_table}))
    assert len(texts) == 39
    assert "a single choice that changes the verdict: temperature 1 (not reproduced)" in texts[0]
    assert "Live, the stricter analysis: mean over students -1.6 [" in texts[0]


def test_the_stricter_table_holds_both_p_values():
    table = answer_sheet.stricter_table(judgement(world(lambda size, family, **_: 3.0 + 0.1 * size)))
    assert len(table) == 39
    both = table.dropna(subset=["raw p", "p after Holm"])
    assert len(both) and (both["p after Holm"] >= both["raw p"]).all()
    assert set(table["strict"]) <= {verdict.replace("_", " ") for verdict in VERDICTS}
