"""Figures: each function takes axes and a tidy table, draws, and returns the axes.

Nothing is computed here: estimates and interval bounds are columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdutils.report.styles import FAMILY_LINES, GREY, METHOD_STYLE, Style, text_colour

WIDTH = 6.3  # inches: drawn at final width, so fonts need no scaling


def panels(rows: int = 1, columns: int = 1, *, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of full text width and `height` inches, and its axes as a flat array."""
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **options)
    return fig, axes.ravel()


def figure_legend(fig: Figure, styles: list[Style], *, extra: list | None = None, columns: int = 5) -> None:
    """One legend for all panels, below them, in at most so many columns: long labels want fewer."""
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle="none", label=s.label) for s in styles
    ]
    handles += extra or []
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), columns),
        columnspacing=1.2,
        frameon=False,
    )


def watermark(fig: Figure, text: str) -> None:
    """`text` across the figure, behind nothing and in front of nothing that matters; nothing for ""."""
    if text:
        fig.text(
            0.5, 0.5, text, size=28, color="0.5", alpha=0.22, ha="center", va="center", rotation=20, zorder=0
        )


def line_handle(label: str, **line) -> Line2D:
    """A legend entry for a line, for `figure_legend(extra=...)`."""
    return Line2D([], [], label=label, **({"color": GREY} | line))


def interval_dots(
    ax: Axes,
    table: pd.DataFrame,
    *,
    y: str,
    x: str,
    styles: dict[str, Style],
    by: str,
    rows: list[str] | None = None,
    is_spread: bool = True,
) -> Axes:
    """Dots with horizontal intervals, one row a value of `y`, one dot a `by`.

    Reads the columns `x`, `low`, `high`; zero is a grey line. `rows` are the values of `y` from top to
    bottom, by default in order of appearance; panels that share their rows must be given the same. The dots
    of a row lie above each other, unless each `by` has a row of its own (`is_spread`).
    """
    rows = rows or list(dict.fromkeys(table[y]))
    for key, part, position in _lanes(table, y=y, by=by, styles=styles, rows=rows, width=0.72 * is_spread):
        error = [part[x] - part["low"], part["high"] - part[x]]
        ax.errorbar(
            part[x],
            position,
            xerr=np.nan_to_num(np.array(error, dtype=float)),
            fmt=styles[key].marker,
            color=styles[key].colour,
            markersize=3.6,
            elinewidth=0.9,
            label=styles[key].label,
        )
    return _lined_rows(ax, rows)


def _lanes(
    table: pd.DataFrame, *, y: str, by: str, styles: dict[str, Style], rows: Sequence[str], width: float
) -> Iterator[tuple[str, pd.DataFrame, list[float]]]:
    """Each value of `by`, its rows of the table and their heights: lanes within a row, `width` in all."""
    present = [key for key in styles if key in set(table[by])]
    for index, key in enumerate(present):
        part = table[table[by] == key]
        offset = (index - (len(present) - 1) / 2) * width / len(present)
        yield key, part, [rows.index(value) + offset for value in part[y]]


def _lined_rows(ax: Axes, rows: Sequence[str]) -> Axes:
    """Named rows with lines between them, and a grey line at zero."""
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="0.92", linewidth=0.6, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    return named_rows(ax, rows)


def named_rows(ax: Axes, rows: Sequence[str]) -> Axes:
    """Rows from top to bottom in place of a scale."""
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    return ax


def scatter(
    ax: Axes, table: pd.DataFrame, *, x: str, y: str, styles: dict[str, Style], by: str, zero: bool = True
) -> Axes:
    """Every point shown, one colour and marker a value of `by`; a grey line at y = 0 if `zero`."""
    for key, style in styles.items():
        part = table[table[by] == key]
        ax.scatter(part[x], part[y], color=style.colour, marker=style.marker, s=17, alpha=0.85, linewidth=0)
    if zero:
        ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    return ax


def size_label(parameters: float) -> str:
    """A parameter count as in a model's name: `14k`, `135M`, `0.5B`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.5 * factor:
            return f"{parameters / factor:g}{unit}"
    return f"{parameters:g}"


def size_ticks(sizes: Iterable[float]) -> tuple[list[float], list[str]]:
    """Places and labels of sizes on a log axis; sizes within 5 % of each other share one: `72k, 73k`."""
    groups: list[list[float]] = []
    for size in sorted(float(size) for size in set(sizes)):
        if groups and size <= 1.05 * groups[-1][0]:
            groups[-1].append(size)
        else:
            groups.append([size])
    places = [float(np.exp(np.mean(np.log(group)))) for group in groups]
    return places, [", ".join(size_label(size) for size in group) for group in groups]


def size_curves(ax: Axes, points: pd.DataFrame, means: pd.DataFrame) -> Axes:
    """Gain over student size on a log axis: every run a point, and the mean of each size as a line.

    A solid line joins one family, a dotted line the other; columns: student_parameters, gain, method,
    family.
    """
    families = list(dict.fromkeys(points["family"]))
    for method, style in METHOD_STYLE.items():
        part = points[points["method"] == method]
        # families are nudged apart by 4 % of a size, so that the two 3B students do not cover each other
        nudge = part["family"].map({family: 1.04 ** (i * 2 - 1) for i, family in enumerate(families)})
        size = part["student_parameters"].astype(float) * nudge.astype(float)
        ax.scatter(size, part["gain"], color=style.colour, marker=style.marker, s=15, alpha=0.75, linewidth=0)
    for family, line in zip(families, FAMILY_LINES, strict=False):
        for method, style in METHOD_STYLE.items():
            part = means[(means["family"] == family) & (means["method"] == method)]
            size = part["student_parameters"].astype(float)
            ax.plot(size, part["gain"], color=style.colour, linestyle=line, linewidth=1.1)
    return size_axis(ax, points["student_parameters"])


def size_axis(ax: Axes, sizes: Iterable[float]) -> Axes:
    """A log axis of sizes with a label for each, and a grey line at y = 0."""
    places, labels = size_ticks(sizes)
    ax.set_xscale("log")
    ax.set_xticks(places, labels)
    if len(places) > 5:
        ax.tick_params(axis="x", labelrotation=60)
    ax.minorticks_off()
    ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)
    return ax


def sweep_curves(ax: Axes, runs: pd.DataFrame, *, x: str) -> Axes:
    """Accuracy over `x`, one line a method; in grey the SFT student and, over noise, the base model.

    `x` is temperature, on a log axis, or noise_sigma. Also reads accuracy, low, high, method, sft_accuracy
    and, over noise, base_accuracy.
    """
    for method, style in METHOD_STYLE.items():
        part = runs[runs["method"] == method].sort_values(x)
        if part.empty:
            continue
        error = np.array([part["accuracy"] - part["low"], part["high"] - part["accuracy"]], dtype=float)
        line = {"markersize": 3.5, "linewidth": 1.1, "elinewidth": 0.8, "marker": style.marker}
        ax.errorbar(part[x], part["accuracy"], yerr=error, color=style.colour, **line)
    references = {"sft_accuracy": "--"} | ({"base_accuracy": ":"} if x == "noise_sigma" else {})
    for column, dashes in references.items():
        ax.axhline(runs[column].iloc[0], color=GREY, linewidth=1, linestyle=dashes, zorder=1)
    if x == "temperature":
        ax.set_xscale("log")
    values = sorted(runs[x].unique())
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
    return ax


def point_rows(ax: Axes, table: pd.DataFrame, *, y: str, x: str, styles: dict[str, Style], by: str) -> Axes:
    """Every point of a row, one row a value of `y` in order of appearance, a lane within it for each `by`."""
    rows = list(dict.fromkeys(table[y]))
    for key, part, position in _lanes(table, y=y, by=by, styles=styles, rows=rows, width=0.7):
        style = styles[key]
        look = {"color": style.colour, "marker": style.marker, "s": 13, "alpha": 0.75, "linewidth": 0}
        ax.scatter(part[x], position, zorder=2, **look)
    return _lined_rows(ax, rows)


def last_panels(axes: Sequence[Axes], n: int, *, columns: int, xlabel: str) -> None:
    """Hide all but the first n panels of a grid; `xlabel` stands below the last of each column."""
    for ax in axes[n:]:
        ax.set_visible(False)
    for ax in axes[max(0, n - columns) : n]:
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)  # also where the row below has no panel in this column


def stacked_shares(ax: Axes, table: pd.DataFrame, *, styles: dict[str, Style], fmt: str = "{:.0%}") -> Axes:
    """Horizontal bars, one a row of `table`, stacked over the columns that `styles` names."""
    left = np.zeros(len(table))
    total = table[list(styles)].sum(axis=1).to_numpy(float)
    for column, style in styles.items():
        width = table[column].to_numpy(float)
        ax.barh(range(len(table)), width, left=left, color=style.colour, edgecolor="white", label=style.label)
        for row, value in enumerate(width):
            if value > 0.06 * total.max():
                ax.text(
                    left[row] + value / 2,
                    row,
                    fmt.format(value),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=text_colour(style.colour),
                )
        left += width
    return named_rows(ax, list(table.index))


def shade_legend(fig: Figure, styles: dict[str, Style], *, columns: int) -> None:
    """One legend for `stacked_shares`, below the panels."""
    handles = [Patch(color=style.colour, label=style.label) for style in styles.values()]
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def signed_grid(ax: Axes, table: pd.DataFrame, marked: pd.DataFrame, bound: float) -> Axes:
    """Differences as a grid, blue above and red below zero, up to `bound`; marked ones have a star."""
    values = table.to_numpy(float)
    image = ax.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
        value, star = values[row, column], "*" * bool(marked.iloc[row, column])
        text, colour = f"{value:+.1f}{star}".replace("-", "−"), text_colour(image.to_rgba(value)[:3])
        ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(table.shape[0]), table.index)
    ax.grid(visible=False)
    return ax
