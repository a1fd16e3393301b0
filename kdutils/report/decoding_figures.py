"""Figures of notebook 12: what changes with the decoding temperature."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS
from kdutils.report import plots
from kdutils.report.plots import FAMILY_LINES, MARKERS, METHOD_STYLE, Style
from kdutils.results.decoding import MEASURES

STYLES = METHOD_STYLE | {"teacher": Style("teacher", (0.15, 0.15, 0.15), "*")}
XLABEL = "decoding temperature"


def _line(ax: Axes, table: pd.DataFrame, style: Style, *, y: str = "value", dashes: str = "-") -> None:
    """A value over temperature with its interval, where it has one."""
    error = None
    if "low" in table:
        error = np.nan_to_num(np.array([table[y] - table["low"], table["high"] - table[y]], dtype=float))
    look = {
        "markersize": 3.5,
        "linewidth": 1.1,
        "elinewidth": 0.8,
        "markerfacecolor": "none" if style.is_hollow else style.colour,
    }
    look |= {"color": style.colour, "marker": style.marker, "linestyle": dashes}
    ax.errorbar(table["temperature"], table[y], yerr=error, **look)


def curves(table: pd.DataFrame) -> Figure:
    """MEASURES over temperature by method, a column of panels a domain: decoding.curves of one pair.

    Hollow markers and dashes where top_p is below 1.
    """
    shown = table["measure"].nunique()
    fig, parts = plots.crossed_panels(
        table, "measure", "domain", height=0.9 + 1.35 * shown, sharex=True, sharey="row"
    )
    n_domains = table["domain"].nunique()
    for place, (ax, part) in enumerate(parts):
        ax.set_visible(len(part) > 0)
        for (method, top_p), own in part.groupby(["method", "top_p"], sort=False):
            style = STYLES[method]
            _line(ax, own, style._replace(is_hollow=top_p < 1), dashes="-" if top_p == 1 else "--")
        if len(part) and place % n_domains == 0:
            ax.set_ylabel("\n".join(textwrap.wrap(MEASURES[part["measure"].iloc[0]], 16)))
        if place < n_domains:
            ax.set_title(DOMAIN_LABELS[table["domain"].unique()[place]])
        if place >= len(parts) - n_domains:
            ax.set_xlabel(XLABEL)
    dashed = [] if (table["top_p"] == 1).all() else [plots.line_handle("top_p below 1", linestyle="--")]
    styles = [style for name, style in STYLES.items() if name in set(table["method"])]
    plots.figure_legend(fig, styles, extra=dashed, columns=6)
    return fig


def by_model(table: pd.DataFrame, *, panels: str, ylabel: str) -> Figure:
    """A value over temperature, a panel a value of `panels`, a line a model, darker the larger it is.

    Columns `panels`, family, model, size, temperature, value, and where known low and high.
    """
    sizes = table.drop_duplicates("model").sort_values("size", kind="stable")
    styles, dashes = {}, dict(zip(sizes["family"].unique(), FAMILY_LINES * 2, strict=False))
    for _, own in sizes.groupby("family", sort=False):
        looks = zip(own["model"], plots.ordered_colours(len(own)), MARKERS, strict=False)
        styles |= {model: Style(model, colour, marker) for model, colour, marker in looks}
    fig, parts = plots.domain_panels(table, height=3.3, by=panels, xlabel=XLABEL, sharey=True)
    for ax, part in parts:
        for (family, model), own in part.groupby(["family", "model"], sort=False):
            _line(ax, own.sort_values("temperature"), styles[model], dashes=dashes[family])
        ax.set_xticks(sorted(part["temperature"].unique()))
    parts[0][0].set_ylabel(ylabel)
    families = sizes.sort_values(["family", "size"], kind="stable")
    handles = [
        plots.line_handle(
            model, color=styles[model].colour, marker=styles[model].marker, linestyle=dashes[family]
        )
        for family, model in zip(families["family"], families["model"], strict=True)
    ]
    plots.legend(fig, handles, columns=4 if len(handles) < 9 else 3)
    return fig
