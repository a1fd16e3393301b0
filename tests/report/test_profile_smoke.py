"""Profile `smoke` on one domain, as a user runs it: a pair trained, and shown beside the released results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from kdutils.grid import fill, plan
from kdutils.report import notebook_api
from kdutils.runs import store

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.notebook, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def out(once):
    """Folder of one complete run."""

    def make(folder):
        plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        command = [sys.executable, "-m", "kdutils", "smoke", "-p", "domains", "math", "--out", str(folder)]
        run = subprocess.run(
            command, env=plain | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr

    return once("smoke", make)


def asked(out):
    return plan.plan("00", {"profile": "smoke", "out": str(out), "domains": ["math"]})


def test_every_run_of_the_plan_is_in_the_store(out):
    planned = asked(out).runs
    assert len(list(store.finished(out))) == len(planned)
    costs = fill.costs(planned, out)
    assert set(costs["status"]) == {"untrained", "done"}
    assert costs["peak memory, GB"].max() < 2


def test_no_folder_of_the_store_may_be_a_link_out_of_it(out):
    found = {path.name for path in out.iterdir() if path.is_dir()}
    assert "runs" in found
    assert found <= {*notebook_api.SHARED_FOLDERS, "smoke"}


def test_options_are_ranked_beside_what_is_generated(out):
    cells = fill.live_cells(asked(out).runs, out)
    ranked = cells[cells["accuracy_ranked"].notna()]
    assert set(ranked["task"]) == {"aqua"} and len(ranked) == len(asked(out).runs)
    assert ranked["accuracy_ranked"].between(0, 100).all()


def test_live_and_released_results_stand_side_by_side(out):
    statistics = pd.read_csv(out / "smoke" / "statistics.csv")
    assert set(statistics["source"]) == {"published", "live"}
    claims = json.loads((out / "smoke" / "claims.json").read_text())
    assert {(row["source"], row["protocol"]) for row in claims} == {
        ("published", "paper"),
        ("live", "careful"),
    }
    contaminated = {row["source"] for row in claims if "are in the training set" in row["reason"]}
    assert contaminated == {"published"}  # the mini world's splits are disjoint
    stems = {path.stem for path in (out / "smoke" / "figures").glob("*.png")}
    assert {"01_gain_by_pair", "01_gain_by_pair_live"} <= stems


def test_what_is_trained_is_not_trained_again(out):
    state = fill.fill(asked(out).runs, out)
    assert (state.n_found, state.n_done, state.failures) == (state.n_runs, 0, {})


def test_live_figures_say_that_they_show_a_model_world(out):
    live, released = (out / "smoke" / "figures" / f"01_gain_by_pair{kind}.svg" for kind in ("_live", ""))
    assert live.is_file() and released.is_file()
    report = nbformat.read(out / "smoke" / "reports" / "01_effectiveness.ipynb", as_version=4)
    captions = [
        output.data["text/plain"]
        for cell in report.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "display_data" and "text/plain" in output.data
    ]
    assert any(text.startswith("Live: average gain") for text in captions)
    assert any(text.startswith("7 runs: 7 found, 0 made in") for text in captions)  # made before
