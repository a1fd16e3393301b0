"""What a notebook shows while it trains, and what it says where results are missing."""

import base64

import pytest

from kdutils.grid import cell_table, plan
from kdutils.grid.scheduler import Point, State
from kdutils.report import live
from kdutils.results import authors_tables, gain_tables


class Line:
    """Stands in for a display of Jupyter."""

    def __init__(self):
        self.shown = []

    def update(self, bundle, *, raw):
        self.shown.append(bundle)


def state(**fields):
    return State(**{"n_runs": 10, "n_found": 2, "n_done": 3, "running": ["fkl <a> math s0"]} | fields)


def test_progress_shows_a_bar_the_line_and_what_runs():
    line = Line()
    live._Progress(line)(state())
    (bundle,) = line.shown
    assert '<progress value="5" max="10">' in bundle["text/html"]
    assert "fkl &lt;a&gt; math s0" in bundle["text/html"]
    assert bundle["text/plain"] == str(state())
    assert "<img" not in bundle["text/html"]


def test_progress_draws_the_curves_of_what_runs():
    curves = {"one": [Point(1, 10, 2.0), Point(5, 10, 1.0)], "two": []}
    html = live._Progress(Line()).picture(state(curves=curves))["text/html"]
    encoded = html.split("base64,")[1].split('"')[0]
    assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_progress_is_not_redrawn_at_every_change():
    line = Line()
    progress = live._Progress(line, every_seconds=600)
    progress(state())
    progress(state(n_done=4))
    assert len(line.shown) == 1


@pytest.fixture
def said(monkeypatch):
    bundles = []
    monkeypatch.setattr(live, "display", lambda bundle, raw: bundles.append(bundle["text/plain"]))
    return bundles


def test_a_profile_with_live_runs_has_the_released_results_too(tmp_path, said):
    asked = plan.plan("01", {"profile": "smoke", "out": str(tmp_path), "students": ["Qwen2.5-0.5B"]})
    assert live.cells(asked).equals(authors_tables.cells())
    assert said == [live.MODEL_WORLD]


def test_real_models_are_named_with_their_files(monkeypatch, tmp_path, said):
    monkeypatch.setattr(gain_tables, "watermarks", lambda asked: {"published": "", "live": ""})
    monkeypatch.setattr(gain_tables, "cells_of", lambda asked: cell_table.cell_table([]))
    monkeypatch.setattr(live, "train", lambda asked: None)
    live.cells(plan.plan("01", {"profile": "smoke", "out": str(tmp_path)}))
    (line,) = said
    assert line.startswith("Weights of the live results: mini-qwen-1.5B is ")
    said.clear()
    live.cells(plan.plan("01", {"profile": "published"}))
    assert said == []
