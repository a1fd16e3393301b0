"""Figure of notebook 10: how often procedures err under each null, beside how often they say they do."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.inference import calibration
from kdutils.report import plots
from kdutils.report.notebook_api import Report
from kdutils.report.styles import COLOURS, MARKERS, Style

TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)


def error_rates(table: pd.DataFrame) -> Figure:
    """A row a procedure, a dot a null with its Monte Carlo interval, a stroke where the procedure says it is.

    Columns row, null, actual, low, high and nominal, as calibration.errors gives them. The axis is that of
    square roots, on which a share near 0 and one near 1 can both be read.
    """
    rows, names = (list(dict.fromkeys(table[column])) for column in ("row", "null"))
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} nulls have too few colours: draw at most {len(COLOURS)} at a time")
    looks = zip(names, COLOURS, MARKERS, strict=False)
    styles = {name: Style(name, colour, marker) for name, colour, marker in looks}
    fig, (ax,) = plots.panels(height=1.2 + 0.26 * len(rows))
    plots.interval_dots(ax, table, y="row", x="actual", styles=styles, by="null", rows=rows)
    for place, name in enumerate(rows):
        nominal = table.loc[table["row"] == name, "nominal"].iloc[0]
        ax.plot([nominal, nominal], [place - 0.5, place + 0.5], color="black", linewidth=1.1, zorder=1)
    ax.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ax.set_xlim(0, 1)
    ax.set_xticks(TICKS, [f"{100 * tick:g}" for tick in TICKS])
    ax.set_xlabel("studies with an error, %, 95% interval")
    plots.figure_legend(fig, list(styles.values()), columns=3)
    return fig


def show(run: Report, table: pd.DataFrame, name: str) -> None:
    """One of calibration.FIGURES in a report."""
    drawn = calibration.drawn(table, name)
    fig, alt, caption = error_rates(drawn), calibration.alt(drawn), calibration.caption(name)
    run.figure(fig, name, data=drawn, alt=alt, caption=caption)


def sentences(table: pd.DataFrame) -> list[str]:
    """How the authors' unit and that of the stricter analysis err, and what is not recommended."""
    chosen = ("t-test > 0 over cells (authors)", "t-test of students", "orders of students within families")
    said = [calibration.remark(table, procedure=name, quantity=calibration.SAID[name]) for name in chosen]
    n_refused = int((table["recommended"] == "no").sum())
    refused = f"{n_refused} of {len(table)} procedures under a null are not recommended"
    return [*said, f"{refused}; the table says which."]
