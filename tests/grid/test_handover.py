"""What the driver hands over is what a notebook would have found, for that plan alone."""

import pandas as pd
import pytest

from kdutils.grid import cell_table, fill, plan
from kdutils.report import live
from kdutils.results import gain_tables


@pytest.fixture
def asked(tmp_path):
    return plan.plan("01", {"profile": "smoke", "out": str(tmp_path)})


@pytest.fixture
def handed(asked, tmp_path, monkeypatch):
    """Two cells, handed over for the plan."""
    monkeypatch.setenv(fill.HANDOVER, str(tmp_path / "handed"))
    common = {"source": "live", "protocol": "careful", "domain": "math", "task": "svamp", "seed": 0, "n": 9}
    common |= {"family": "mini-qwen", "student": "mini-qwen-1.5B", "student_parameters": 1_500_000_000}
    table = cell_table.cell_table(
        [
            common | {"method": method, "accuracy": value}
            for method, value in (("base", 0.1 + 0.2), ("sft", 50.0))
        ]
    )
    costs = pd.DataFrame({"method": ["base", "sft"], "training, s": [None, 2.5], "reason": ""})
    fill.hand_over(tmp_path / "handed", asked, fill.Handover(table, costs, "14 runs: 14 found, 0 made"))
    return table, costs


def test_what_is_handed_over_is_read_back_to_the_bit(asked, handed):
    table, costs = handed
    found = fill.handed_over(asked)
    pd.testing.assert_frame_equal(found.cells, table)
    pd.testing.assert_frame_equal(found.costs, costs)


def test_what_another_notebook_of_the_same_plan_may_be_reading_is_not_replaced(asked, handed, tmp_path):
    (folder,) = (tmp_path / "handed").iterdir()
    before = folder.stat().st_ino
    fill.hand_over(tmp_path / "handed", asked, fill.handed_over(asked))
    assert [path.stat().st_ino for path in (tmp_path / "handed").iterdir()] == [before]


def test_a_notebook_takes_it_and_trains_nothing(asked, handed, monkeypatch):
    said = []
    monkeypatch.setattr(live, "display", lambda bundle, raw: said.append(bundle["text/plain"]))
    live.train(asked)
    assert said == ["14 runs: 14 found, 0 made"]
    assert gain_tables.costs(asked).equals(handed[1])


def test_another_plan_or_no_driver_finds_nothing(asked, handed, tmp_path, monkeypatch):
    other = plan.plan("01", {"profile": "smoke", "out": str(tmp_path), "seeds": [7]})
    assert fill.handed_over(other) is None
    monkeypatch.delenv(fill.HANDOVER)
    assert fill.handed_over(asked) is None
