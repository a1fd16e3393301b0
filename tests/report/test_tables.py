"""Tables that notebooks show: they say what the ledgers hold."""

import json

import pytest

from kdutils.claims import answer_sheet, claims
from kdutils.report import ledger
from kdutils.results import agreement_fidelity, authors_tables, authors_tests, gain_tables


def test_readable_tests_have_a_row_a_task_in_the_studys_order(cells):
    statistics = authors_tests.ledger(cells, section="02")
    table = authors_tests.readable_tests(
        statistics[statistics["selection"] == "best_on_test"], "spearman_gain_size"
    )
    assert table["task"].tolist()[:2] == ["AQuA", "AddSub"]
    assert len(table) == 16
    assert table["task"].tolist()[-1] == "Average"
    assert table.loc[6, "all methods"] == "-0.66 (p = 3.4e-05)"


def test_selections_stand_side_by_side(cells):
    table = authors_tests.compare_selections(
        authors_tests.ledger(cells, section="01"), task="average"
    ).set_index(["domain", "test"])
    anova = table.loc[("math", "anova_methods")]
    assert anova["p, best_on_test"] == pytest.approx(0.12108053158590967)
    assert anova["p, temperature_1"] == pytest.approx(0.00938, abs=1e-5)


def test_two_fidelity_tables_compared(gains):
    table = authors_tests.compare_fidelity_tables(gains.dropna(subset=["fidelity"])).set_index("file")
    assert table["share of 32-bit floats"].to_dict() == {"BLEU.csv": 1.0, "BLEU2.csv": 0.0}
    assert table.loc["BLEU.csv", "n"] == 66
    assert table.loc["BLEU.csv", "rho with the other"] > 0.9


def test_agreement_as_a_level_follows_accuracy(cells):
    at_1 = gain_tables.gains(cells, selection="temperature_1").query(
        "method == 'revkd' and agreement.notna()"
    )
    table = authors_tests.correlation_by_task(at_1, x="accuracy", y="agreement").set_index("task")
    assert set(table["n"]) == {11}
    assert (table.drop(index="AQuA")["rho"] >= 0.895).all()


def test_whose_agreement_the_poster_prints(gains):
    table = agreement_fidelity.agreement_with(gains, teacher="Qwen2.5-14B", tasks=["addsub", "multiarith"])
    assert table.round(1).to_dict("index") == {
        "Qwen2.5-0.5B": {"AddSub": 81.8, "MultiArith": 84.7},
        "Qwen2.5-1.5B": {"AddSub": 88.1, "MultiArith": 93.5},
        "Qwen2.5-3B": {"AddSub": 89.1, "MultiArith": 94.7},
        "Qwen2.5-7B": {"AddSub": 86.3, "MultiArith": 94.5},
    }


def test_coverage_counts_runs_once(cells):
    grid = gain_tables.coverage(cells)
    assert grid.shape == (11, 8)
    assert int(grid.to_numpy().sum()) == 2 * (11 * 3 + 5 * 4 + 5)


def test_likeness_tables_hold_both_measures(gains):
    table = agreement_fidelity.tables(
        gains.dropna(subset=["fidelity"]), measures={"BLEU.csv": "fidelity", "BLEU2.csv": "fidelity_bleu2"}
    )
    rise = table.groupby("table")["rise"].mean()
    assert rise["BLEU.csv"] == pytest.approx(1.02, abs=0.005)
    assert rise["BLEU2.csv"] == pytest.approx(1.76, abs=0.005)


def test_noise_results_name_their_origin(cells):
    table = authors_tables.noise_results()
    assert table["accuracy"].tolist() == [55.87, 5.9]
    assert table["origin"].tolist() == ["released table", "second-hand summary"]


def test_claims_for_people(cells):
    table = (
        answer_sheet.readable(claims.ledger_rows(claims.judgements(cells, section="02")))
        .set_index(["analysis", "id"])
        .loc["authors"]
    )
    assert table.loc["S1", "ours"] == "-0.66 [-0.83, -0.37]"
    assert table.loc["S3.winogrande", "verdict"] == "inconclusive"
    assert (
        answer_sheet.readable(claims.ledger_rows(claims.judgements(cells, section="06")))["ours"].tolist()
        == ["—"] * 4
    )
    assert len(claims.rules()) == 39


def test_claims_of_another_profile_are_its_own_or_else_those_kept_in_the_repository(tmp_path):
    rows, where = ledger.claims_of("qwen-small", tmp_path / "mini")
    assert {row["source"] for row in rows} == {"published", "live"} and "repository" in where
    assert ledger.claims_of("no-such-profile", tmp_path / "mini")[0] == []
    (tmp_path / "qwen-small").mkdir()
    (tmp_path / "qwen-small" / "claims.json").write_text(json.dumps(rows[:1]))
    assert ledger.claims_of("qwen-small", tmp_path / "mini") == (rows[:1], "the same folder of outputs")
