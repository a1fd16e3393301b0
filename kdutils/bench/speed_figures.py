"""Figures of notebook 09: time, memory and the distance from what the machine could do."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.report import plots
from kdutils.report.plots import GREY, Style

_COLOURS = plots.ordered_colours(3)
# Ours in shades of one colour, the plain loop and the peers each in its own.
CONTENDER_STYLE = {
    name: Style(name, colour, marker)
    for name, colour, marker in (
        ("TRL GKDTrainer", (0.80, 0.47, 0.74), "s"),
        ("TRL DistillationTrainer", (0.84, 0.37, 0.0), "P"),
        ("llm-distil", (0.58, 0.58, 0.58), "X"),
        ("plain loop", (0.87, 0.56, 0.02), "^"),
        ("kdutils", _COLOURS[0], "o"),
        ("kdutils, cached states", _COLOURS[1], "D"),
        ("kdutils, cached states, bfloat16", _COLOURS[2], "v"),
        ("kdutils, cached and compiled", (0.0, 0.0, 0.0), "*"),
    )
}


def by_contender(table: pd.DataFrame, *, x: str, xlabel: str, fmt: str) -> Figure:
    """A quantity of each contender with its number, a panel a case: columns case, contender, repeats, `x`."""
    ran = table[table["repeats"] > 0]
    names = [name for name in CONTENDER_STYLE if name in set(ran["contender"])]
    fig, axes = plots.panels(1, ran["case"].nunique(), height=1.0 + 0.3 * len(names), sharey=True)
    for ax, (case, part) in zip(axes, ran.groupby("case", sort=False), strict=True):
        for name, value in zip(part["contender"], part[x].astype(float), strict=True):
            place, style = names.index(name), CONTENDER_STYLE[name]
            ax.plot([0, value], [place, place], color="0.85", linewidth=1.2, zorder=1)
            ax.plot(value, place, style.marker, color=style.colour, markersize=4.5)
            how = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            ax.annotate(format(value, fmt), (value, place), **how)
        ax.set(title=case, xlabel=xlabel, xlim=(0, 1.28 * max(float(part[x].max()), 1e-9)))
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
    return fig


def roofline(table: pd.DataFrame) -> Figure:
    """Seconds a step over the bound, both on log axes: columns case, contender, bound_seconds, ..."""
    fig, (ax,) = plots.panels(height=3.2)
    for name, part in table.groupby("contender", sort=False):
        style = CONTENDER_STYLE[name]
        ax.plot(part["bound_seconds"], part["seconds_per_step"], style.marker, color=style.colour)
    low, high = table["bound_seconds"].min() / 1.5, table["bound_seconds"].max() * 1.5
    line = np.array([low, high])
    for times in (1, 2, 4, 8):
        ax.plot(line, times * line, color=GREY, linewidth=0.8, linestyle="-" if times == 1 else ":")
        ax.annotate(f"{times} x", (high, times * high), fontsize=7, va="center", color=GREY)
    for case, part in table.groupby("case", sort=False):
        top = (part["bound_seconds"].max(), part["seconds_per_step"].max())
        ax.annotate(case, top, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7.5)
    ax.set(xscale="log", yscale="log", xlabel="least seconds by roofline", ylabel="seconds a step, measured")
    ax.set_ylim(top=max(ax.get_ylim()[1], 1.8 * table["seconds_per_step"].max()))  # room for a name
    there = [CONTENDER_STYLE[name] for name in dict.fromkeys(table["contender"])]
    plots.figure_legend(fig, there, columns=3)  # five columns are wider than the figure
    return fig
