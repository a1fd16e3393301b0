"""What notebook 17 shows of optimisers, from tables made by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kdutils.report import show_optimisers
from kdutils.results import optimisers
from kdutils.results.arms import CELL


class Shown:
    """In the place of a section: keeps what it is given."""

    labels = {"live": "mini"}

    def __init__(self):
        self.tables, self.figures = [], []

    def table(self, tables, caption, formats=""):
        self.tables.append(tables["live"])

    def figure(self, name, tables, draw, caption, **how):
        if len(tables["live"]):
            self.figures.append(draw(tables["live"]))


def best():
    rows = [
        ("", f"S{width}", method, arm, width)
        for method in ("sft", "fkl")
        for arm in show_optimisers.STYLE
        for width in (48, 64, 96)
    ]
    table = pd.DataFrame(rows, columns=[*CELL, "width"])
    return table.assign(family="mini-qwen", rate=1e-3 * table["width"] / 48, outcome="chosen")


def test_optimisers_are_drawn_with_markers_and_named_in_words():
    section, none = Shown(), best()[:0]
    show_optimisers.best_rates(section, best())
    (figure,) = section.figures
    assert [ax.get_title() for ax in figure.axes] == ["SFT", "SeqKD†"]
    figure.draw_without_rendering()
    assert {"0.0008", "0.0016"} <= {tick.get_text() for tick in figure.axes[0].get_yticklabels()}
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert len({line.get_marker() for line in lines}) == len(lines) == len(optimisers.OPTIMISERS)
    assert section.tables[0]["arm"].tolist() == ["AdamW", "Muon", "Muon, spectral"]
    show_optimisers.best_rates(section, none)
    assert len(section.figures) == 1 and section.tables[1].empty
    plt.close("all")


def test_norms_are_those_before_and_after_and_signs_are_said():
    cell = dict(zip(CELL, ("", "S", "sft", "muon"), strict=True)) | {"train_items": 16, "seed": 0}
    bands = pd.DataFrame({"epoch": [0, 1, 2], "least_norm": [1.0, 0.5, 0.9], "largest_norm": [4.0, 4.0, 6.0]})
    section, bands = Shown(), bands.assign(drift=[0, 1, 0.58], **cell)
    show_optimisers.norms(section, bands)
    row = section.tables[0].iloc[0]
    assert row[["least before", "least after", "largest after", "octaves"]].tolist() == [1.0, 0.9, 6.0, 1.0]
    cells = [("T", "S", method, arm, 16) for method in ("sft", "fkl") for arm in ("adamw", "muon")]
    levels = {
        key: np.linspace(0, 0.01, 50) + (key[2:4] in (("sft", "adamw"), ("fkl", "muon"))) for key in cells
    }
    found = optimisers.signs(pd.DataFrame(levels).rename_axis(columns=[*CELL, "train_items"]))
    show_optimisers.signs(section, found)
    assert section.tables[1]["changes"].tolist() == ["", "yes"]
    said = show_optimisers.sentences(section, best(), found)
    assert said[0].startswith("mini: the best rate moves over the widths by, in octaves, AdamW +1.0 [")
    assert said[1] == "mini: 1 of 1 contrasts of methods have another sign under Muon."
    assert show_optimisers.sentences(section, best()[:0], found[:0]) == []
