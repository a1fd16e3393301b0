"""The whole profile `published`, run as a user runs it, on the released tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from kdutils.claims import claims
from kdutils.grid.profile import load_profile
from kdutils.report import ledger
from kdutils.results import authors_tables

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "outputs" / "reference" / "published"
REPORTS = list(load_profile("published").notebooks)
# The first test to ask makes the run, the others wait for it: on a loaded machine, more than the usual guard.
pytestmark = pytest.mark.timeout(900)


def plain_environment():
    """Without what measures coverage: it slows nine kernels down, and other tests cover these lines."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return plain | {"PYTHONPATH": str(ROOT)}


def run_study(*arguments):
    command = [sys.executable, "-m", "kdutils", *map(str, arguments)]
    return subprocess.run(command, env=plain_environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outputs(once):
    """Folder of one complete run."""

    def make(folder):
        run = run_study("published", "--out", folder)
        assert run.returncode == 0, run.stderr

    return once("published", make) / "published"


@pytest.mark.notebook
def test_every_report_is_there_and_none_failed(outputs):
    names = sorted(path.name for path in (outputs / "reports").iterdir())
    assert names == sorted(f"{name}.{suffix}" for name in REPORTS for suffix in ("html", "ipynb"))


@pytest.mark.notebook
def test_statistics_are_those_of_the_authors_under_both_selections(outputs):
    statistics = pd.read_csv(outputs / "statistics.csv", dtype={"section": "str"})
    assert list(statistics.columns) == list(ledger.STATISTICS_COLUMNS)
    counts = statistics.groupby(["selection", "domain"]).size().to_dict()
    assert counts == {
        (rule, domain): n
        for rule in ("best_on_test", "temperature_1")
        for domain, n in (("math", 167), ("commonsense", 185))
    }


@pytest.mark.notebook
def test_claims_ledger_is_complete_and_in_order(outputs):
    rows = json.loads((outputs / "claims.json").read_text())
    for analysis in ("authors", "strict"):
        ids = [row["id"] for row in rows if row["analysis"] == analysis]
        assert ids == [claim.id for claim in claims.CLAIMS]
    assert len(rows) == 2 * len(claims.CLAIMS)


@pytest.mark.notebook
@pytest.mark.parametrize("name", ["statistics.csv", "claims.json"])
def test_ledgers_equal_the_committed_reference(outputs, name):
    assert (outputs / name).read_bytes() == (REFERENCE / name).read_bytes()


@pytest.mark.notebook
def test_every_figure_has_its_files_and_numbers_in_its_alt_text(outputs):
    stems = {path.stem for path in (outputs / "figures").iterdir()}
    assert len(stems) == 28
    for stem in stems:
        for suffix in (".png", ".svg", ".csv", ".json"):
            assert (outputs / "figures" / (stem + suffix)).stat().st_size > 0
        facts = json.loads((outputs / "figures" / f"{stem}.json").read_text())
        assert any(character.isdigit() for character in facts["alt"])
        made_of = {} if stem.startswith("10_") else {"authors_tables.csv": authors_tables.SHA256}
        assert facts["made_by"]["inputs"] == made_of


@pytest.mark.notebook
@pytest.mark.parametrize("page", ["index.html", *(f"reports/{name}.html" for name in REPORTS)])
def test_no_page_names_a_machine_or_asks_for_anything(outputs, page):
    text = (outputs / page).read_text()
    assert "No description has been provided" not in text
    assert "<script" not in text.lower()
    assert 'src="http' not in text
    assert str(ROOT) not in text


@pytest.mark.notebook
@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_real_pages_fit_and_ask_for_nothing(outputs, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    for name in ["index.html", *(f"reports/{name}.html" for name in REPORTS)]:
        page.goto((outputs / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        alts = page.eval_on_selector_all("img", "images => images.map(image => image.alt)")
        assert all(alts), name
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.notebook
def test_plain_papermill_takes_a_parameter(tmp_path):
    """That it refuses a misspelt one is shown on a small notebook in test_runner."""
    notebook = ROOT / "notebooks" / "02_size_correlation.ipynb"
    command = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar", notebook]
    command += [tmp_path / "out.ipynb", "-p", "profile", "published", "-p", "out", tmp_path / "out"]
    command += ["-p", "selection", "temperature_1"]
    run = subprocess.run(
        list(map(str, command)), env=plain_environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Spearman rho (p) of gain and student size, temperature_1." in (tmp_path / "out.ipynb").read_text()


def test_the_reference_of_the_live_study_has_the_same_released_rows():
    live = REFERENCE.parent / "mini"
    for name, read in (("statistics.csv", pd.read_csv), ("claims.json", pd.read_json)):
        released, both = read(REFERENCE / name), read(live / name)
        assert {source.split(",")[0] for source in both["source"]} == {"published", "live"}
        same = both[both["source"] == "published"].reset_index(drop=True)
        assert (
            same.drop(columns=released.columns).isna().all(axis=None)
        )  # the decoding, which is of live claims
        same = same[released.columns]
        pd.testing.assert_frame_equal(same, released, check_dtype=False, rtol=0, atol=0)
