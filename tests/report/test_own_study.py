"""A study file of two tasks that the package does not know, one pair, one method: in every notebook."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ownstudy import write_study

from kdutils.grid.study import NOTEBOOKS, PLANNED
from kdutils.report import notebook_parameters, render

ROOT = Path(__file__).parents[2]
OF_ITSELF = ("09_performance", "10_calibration")  # show nothing of a study
pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def out(once):
    """Folder of its outputs."""

    def make(folder):
        own = [key for key in PLANNED if key not in ("00", "01b", "08", "12", "13", "14")]
        study = write_study(folder, notebooks=[n for n in NOTEBOOKS if n not in OF_ITSELF], sections=own)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        # A path that begins where the call is made.
        command = [sys.executable, "-P", "-m", "kdutils", study.name, "--out", str(folder)]
        run = subprocess.run(
            command,
            cwd=folder,
            env=plain | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr

    return once("own_study", make) / "legs_and_largest"


def test_every_notebook_has_a_page_without_a_wrong_number(out):
    pages = {path.stem: path.read_text() for path in (out / "reports").glob("*.html")}
    assert set(pages) == set(NOTEBOOKS) - set(OF_ITSELF)
    for name in pages:
        notebook = json.loads((out / "reports" / f"{name}.ipynb").read_text())
        shown = json.dumps([cell.get("outputs", []) for cell in notebook["cells"]])
        assert "Traceback" not in shown and "nan" not in shown.split() and "answer=number" not in shown, name
    assert "one pair (mini-qwen 3B→0.5B): nothing to correlate" in pages["02_size_correlation"]
    assert render.SILENT in pages["06_noise"]


def test_figures_and_claims_are_of_its_own_tasks(out):
    gains = pd.read_csv(out / "figures" / "01_gain_by_task_counting_live.csv")
    assert set(gains["label"]) == {"largest", "legs", "Average"}
    errors = pd.read_csv(out / "figures" / "05_right_and_alike_live.csv")
    assert set(errors["label"]) <= {"largest", "legs"}
    empty = [path for path in (out / "figures").glob("*.csv") if pd.read_csv(path).empty]
    assert empty == []
    rows = [row for row in json.loads((out / "claims.json").read_text()) if row["analysis"] == "authors"]
    assert {row["verdict"] for row in rows} == {"not_testable"}
    page = (out / "reports" / "08_claims.html").read_text()
    assert "39</strong> cannot be tested there: the claims are about the paper" in page


def test_a_notebook_takes_the_path_as_its_profile(out):
    declared = notebook_parameters.declared(notebook_parameters.NOTEBOOKS / "01_effectiveness.ipynb")
    given = notebook_parameters.check(declared, {"profile": "own/study.toml"})
    assert given == {"profile": "own/study.toml"}
    with pytest.raises(notebook_parameters.ParameterError, match="profile='studies' is not a known value"):
        notebook_parameters.check(declared, {"profile": "studies"})
