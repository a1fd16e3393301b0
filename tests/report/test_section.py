"""What notebooks say in sentences: numbers with intervals, and inconclusive where one holds 0."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from kdutils.report import section, show_gains
from kdutils.results import authors_tables, authors_tests


def test_a_value_whose_interval_holds_zero_is_inconclusive():
    rows = [
        ("math", 2.0, 1.0, 3.0),
        ("commonsense", -1.0, -2.5, 0.5),
        ("instruction", 1.0, math.nan, math.nan),
    ]
    table = pd.DataFrame(rows, columns=["domain", "gain", "low", "high"])
    assert section.by_domain(table, value="gain") == (
        "+2.0 [+1.0, +3.0] points in math, −1.0 [−2.5, +0.5] points in commonsense (inconclusive), "
        "+1.0 points in instruction following (inconclusive)"
    )


def test_a_span_is_from_the_least_to_the_greatest():
    assert section.span(pd.Series([3.0, -1.5, 2.0]), "+.1f") == "−1.5 to +3.0"


def test_what_the_rule_of_selection_changes_is_computed():
    statistics = authors_tests.ledger(authors_tables.cells(), section="01")
    both = authors_tests.compare_selections(statistics, task="average")
    said = show_gains.selections_remark(both).split("\n")
    assert len(said) == 4
    assert said[0].startswith("- Math, temperature 1: the methods differ (p = 0.0094; best on test: 0.12)")
    assert said[0].endswith("changes this at 0.05.")
    assert "it cannot be shown that the gain is above zero (p = 0.77; best on test: 0.00026)" in said[3]


@pytest.mark.parametrize("p", [0.2, 0.01])
def test_a_rule_that_changes_nothing_is_said_to_change_nothing(p):
    rows = [
        (domain, test, p, p)
        for domain in ("math", "commonsense")
        for test in ("anova_methods", "ttest_gain_gt_0")
    ]
    both = pd.DataFrame(rows, columns=["domain", "test", "p, best_on_test", "p, temperature_1"])
    said = show_gains.selections_remark(both)
    assert said.count("does not change this") == 4
    assert said.count("cannot be shown") == (4 if p > 0.05 else 0)


def test_figures_after_a_second_round_name_its_runs_too(monkeypatch):
    def planned(*runs):
        return SimpleNamespace(to_make=runs, evaluated=list)

    own = section.Section.__new__(section.Section)
    own.run, own.number = SimpleNamespace(inputs={}, parameters=SimpleNamespace()), "15"
    own.asked = planned("a trial")
    own._record_runs()
    first = own.run.inputs["runs"]
    monkeypatch.setattr(section.plan, "plan", lambda *asked: planned("a trial", "a run at the best rate"))
    monkeypatch.setattr(section.live, "train", lambda *plans, **how: None)
    own.proceed()
    assert own.run.inputs["runs"] != first
