"""Contamination, and answers that are generated or ranked: by hand on small cells."""

import math
from pathlib import Path

import pandas as pd
import pytest
from test_study import baseline, distilled

from kdutils.grid import cell_table as cell_rows
from kdutils.grid import plan
from kdutils.grid.profile import load_profile
from kdutils.results import answer_modes, authors_tables, gain_tables


def ranked(generated, likelihood, normalised):
    return {"accuracy": generated, "accuracy_ranked": likelihood, "accuracy_ranked_normalised": normalised}


def run(method, values, **fields):
    """A cell of one run; `values` are accuracies by way."""
    fields = {"task": "aqua", "domain": "math", "n": 50} | fields
    accuracy = values.pop("accuracy")
    if method in ("base", "sft"):
        return baseline("toy-1M", method, accuracy, **values, **fields)
    return distilled(method, fields.pop("temperature", 1.0), accuracy, **values, **fields)


@pytest.fixture
def cells():
    rows = [
        run("base", ranked(10.0, 20.0, 22.0)),
        run("sft", ranked(30.0, 40.0, 40.0)),
        run("fkl", ranked(40.0, 44.0, 30.0)),
        run("gkd", ranked(20.0, 50.0, 46.0)),
        run("fkl", ranked(90.0, 90.0, 90.0), temperature=2.0),
        run("fkl", ranked(90.0, 90.0, 90.0), noise_sigma=2.0),
        run("sft", {"accuracy": 60.0}, task="svamp"),  # no options
        run("sft", ranked(45.0, math.nan, math.nan), task="average"),
    ]
    rows += [baseline("toy-8M", "sft", 80.0, task="aqua", accuracy_ranked=80.0)]  # of the teacher
    return cell_rows.cell_table(rows)


def test_gain_by_each_way_is_that_of_the_same_way(cells):
    table = answer_modes.rankings(cells)
    aqua = table[table["task"] == "aqua"].set_index(["way", "method"])
    read, likely, normalised = answer_modes.WAYS.values()
    assert aqua.loc[(read, "fkl"), ["accuracy", "gain"]].tolist() == [40.0, 10.0]
    assert aqua.loc[(likely, "gkd"), ["accuracy", "gain"]].tolist() == [50.0, 10.0]
    assert aqua.loc[(normalised, "fkl"), "gain"] == -10.0
    assert math.isnan(aqua.loc[(read, "sft"), "gain"])
    assert aqua.loc[(read, "sft"), "accuracy"] == 30.0  # the student's, not the teacher's
    assert set(table["task"]) == {"aqua", "average"}


def test_interval_of_a_gain_is_newcombes(cells):
    """Wilson-like bounds l, u of each: gain - hypot(p1 - l1, u2 - p2), as statsmodels' `newcomb`."""
    row = (
        answer_modes.rankings(cells)
        .set_index(["task", "way", "method"])
        .loc[("aqua", "generated and read", "fkl")]
    )
    table = answer_modes.rankings(cells).set_index(["task", "way", "method"])
    kd, sft = (table.loc[("aqua", "generated and read", method)] for method in ("fkl", "sft"))
    assert row["gain_low"] == pytest.approx(10 - math.hypot(40 - kd["low"], sft["high"] - 30))
    assert row["gain_high"] == pytest.approx(10 + math.hypot(kd["high"] - 40, 30 - sft["low"]))
    assert row["gain_low"] < 0 < row["gain_high"]
    assert row[["n", "n_units"]].tolist() == [50, 1]


def test_disagreement_about_sign_and_order_is_said(cells):
    remark = answer_modes.ways_remark(answer_modes.rankings(cells))
    assert remark.startswith("Math (AQuA): GKD gains −10.0 [")
    assert "another sign (neither interval leaves out 0)" in remark
    assert "by gain the methods stand SeqKD† > GKD generated and read, and GKD > SeqKD† ranked" in remark
    assert "SeqKD† gains +10.0" in remark  # against the ranking per character


def test_agreement_is_said_too():
    rows = [run("sft", ranked(30.0, 40.0, 40.0)), run("fkl", ranked(40.0, 44.0, 50.0))]
    remark = answer_modes.ways_remark(answer_modes.rankings(cell_rows.cell_table(rows)))
    assert remark == (
        "Math (AQuA): the ways agree about the sign of every method's gain and about the methods' order."
    )


def test_mean_over_tasks_with_options_and_over_pairs():
    rows = []
    for task, sft, kd in (("arc_c", 40.0, 50.0), ("piqa", 60.0, 90.0)):
        where = {"domain": "commonsense", "task": task}
        rows += [run("sft", ranked(sft, sft, sft), **where), run("gkd", ranked(kd, kd, kd), **where)]
        rows += [run("gkd", ranked(kd - 4, kd - 4, kd - 4), teacher="toy-2M", **where)]
    table = answer_modes.rankings(cell_rows.cell_table(rows))
    mean = table[(table["task"] == "average") & (table["way"] == "generated and read")].set_index("method")
    assert mean.loc["gkd", ["accuracy", "gain", "n", "n_units"]].tolist() == [68.0, 18.0, 100, 2]
    assert mean.loc["gkd", "gain_low"] < 16.0  # Student's t over two pairs, at 16 and 20
    shown = answer_modes.ways_table(table)
    assert shown["task"].tolist() == ["ARC-c", "ARC-c", "PIQA", "PIQA", "Average", "Average"]


def test_the_mean_of_one_task_is_not_shown_twice(cells):
    shown = answer_modes.ways_table(answer_modes.rankings(cells))
    assert set(shown["task"]) == {"AQuA"}
    fkl = shown.set_index("method").loc["SeqKD† (token forward KL)"]
    assert fkl["generated and read"].startswith("40.0 [")
    assert "gain +10.0 [" in fkl["generated and read"]


def test_nothing_ranked_gives_nothing(cells):
    table = answer_modes.rankings(cells.assign(accuracy_ranked=math.nan))
    assert table.empty
    assert answer_modes.ways_remark(table) == ""


# --- contamination ----------------------------------------------------------------------------------------


def known(n_clean, accuracy_clean):
    return {"n_clean": n_clean, "accuracy_clean": accuracy_clean}


@pytest.fixture
def flagged():
    return cell_rows.cell_table(
        [
            baseline("toy-1M", "sft", 50.0, task="addsub", **known(60, 40.0)),
            distilled("fkl", 1.0, 60.0, task="addsub", **known(60, 45.0)),
            baseline("toy-1M", "sft", 30.0, **known(100, 30.0)),
            distilled("fkl", 1.0, 33.0, **known(100, 33.0)),
            baseline("toy-8M", "sft", 90.0, task="addsub", **known(60, 90.0)),
        ]
    )


def test_accuracy_and_gain_with_and_without_the_flagged_items(flagged):
    table = answer_modes.contamination(flagged).set_index(["method", "task"])
    values = ["items", "flagged", "accuracy", "without", "gain", "gain_without"]
    fkl = table.loc[("SeqKD† (token forward KL)", "AddSub"), values]
    assert fkl.tolist() == [100, 40, 60.0, 45.0, 10.0, 5.0]
    sft = table.loc[("SFT", "AddSub"), values]
    assert sft.tolist()[:4] == [100, 40, 50.0, 40.0]  # of the student alone
    assert sft[["gain", "gain_without"]].isna().all()


def test_no_flag_and_not_known_are_two_things(flagged):
    clean = flagged.assign(n_clean=flagged["n"], accuracy_clean=flagged["accuracy"])
    assert not answer_modes.contamination(clean)["flagged"].any()
    unknown = flagged.assign(n_clean=pd.NA, accuracy_clean=math.nan).astype(cell_rows.SCHEMA)
    assert answer_modes.contamination(unknown).empty


def test_contaminated_tasks_stand_apart():
    rows = []
    for student, extra in (("toy-1M", 2.0), ("toy-2M", 4.0)):
        for task in ("addsub", "svamp", "gsm8k"):
            flags = "contaminated" if task == "addsub" else ""
            rows.append(baseline(student, "sft", 40.0, task=task) | {"flags": flags})
            gain = {"addsub": 5.0 + extra, "svamp": 1.0, "gsm8k": 3.0}[task]
            rows.append(distilled("fkl", 1.0, 40.0 + gain, task=task, student=student) | {"flags": flags})
    cells = cell_rows.cell_table(rows)
    table = answer_modes.contaminated_tasks(gain_tables.gains(cells, selection="temperature_1"), cells)
    assert table.loc[0, ["contaminated", "others", "difference", "pairs"]].tolist() == [8.0, 2.0, 6.0, 2]
    none = answer_modes.contaminated_tasks(
        gain_tables.gains(cells, selection="temperature_1"), cells.assign(flags="")
    )
    assert none.empty


def test_released_math_has_contaminated_tasks_and_commonsense_none():
    cells = authors_tables.cells()
    table = answer_modes.contaminated_tasks(gain_tables.gains(cells, selection="temperature_1"), cells)
    assert set(table["domain"]) == {"math"}
    assert table["pairs"].tolist() == [11, 11, 11]


@pytest.mark.parametrize(("name", "is_kept"), [("smoke", True), ("mini", False)])
def test_what_another_section_ranked_is_no_cell_of_a_profile_that_does_not_rank(monkeypatch, name, is_kept):
    found = cell_rows.cell_table([baseline("toy-8M", "sft", 80.0, task="aqua", accuracy_ranked=80.0)])
    monkeypatch.setattr(gain_tables.fill, "live_cells", lambda runs, out: found.copy())
    planned = plan.Plan("01", load_profile(name), Path("nowhere"), (), plan.Filter())
    assert gain_tables.live_cells(planned)["accuracy_ranked"].notna().all() == is_kept
