"""What figures are drawn with; nothing is computed: estimates and interval bounds are columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdutils.constants import DOMAIN_LABELS
from kdutils.grid.cell_table import size_label
from kdutils.report.styles import GREY, METHOD_STYLE, Style

WIDTH = 6.3  # inches: drawn at final width, so fonts need no scaling
INTERVAL = "95% interval"
Panels = list[tuple[Axes, pd.DataFrame]]  # each with its rows of the table


def panels(rows: int = 1, columns: int = 1, *, height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of full text width and `height` inches, and its axes as a flat array."""
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **options)
    return fig, axes.ravel()


def domain_panels(
    table: pd.DataFrame, *, height: float, xlabel: str = "", by: str = "domain", **share: bool
) -> tuple[Figure, Panels]:
    """A titled panel for each value of `by`, side by side."""
    names = list(dict.fromkeys(table[by]))
    fig, axes = panels(1, len(names), height=height, **share)
    for ax, name in zip(axes, names, strict=True):
        ax.set(title=DOMAIN_LABELS.get(name, name), xlabel=xlabel)
    return fig, [(ax, table[table[by] == name]) for ax, name in zip(axes, names, strict=True)]


def crossed_panels(table: pd.DataFrame, rows: str, columns: str, **options: Any) -> tuple[Figure, Panels]:
    """A panel for each value of the column `rows` with each of the column `columns`, as a grid."""
    down, across = (list(dict.fromkeys(table[name])) for name in (rows, columns))
    fig, axes = panels(len(down), len(across), **options)
    places = zip(axes, product(down, across), strict=True)
    return fig, [(ax, table[(table[rows] == r) & (table[columns] == c)]) for ax, (r, c) in places]


def wrapped_panels(
    table: pd.DataFrame, by: str, *, most: int, xlabel: str, height: float, row_height: float, **share: Any
) -> tuple[Figure, Panels]:
    """A titled panel for each value of `by`, at most so many side by side, `xlabel` below the last."""
    names = list(dict.fromkeys(table[by]))
    n_columns = min(most, len(names))
    n_rows = -(-len(names) // n_columns)
    fig, axes = panels(n_rows, n_columns, height=height + n_rows * row_height, **share)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(names) - n_columns) : len(names)]:
        ax.set_xlabel(xlabel)
        ax.tick_params(labelbottom=True)  # also where the row below has no panel in this column
    for ax, name in zip(axes, names, strict=False):
        ax.set_title(name)
    return fig, [(ax, table[table[by] == name]) for ax, name in zip(axes, names, strict=False)]


def legend(fig: Figure, handles: Sequence[Line2D | Patch], *, columns: int, **look: Any) -> None:
    """One legend for all panels, below them, in at most so many columns."""
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, **look)


def figure_legend(
    fig: Figure, styles: Iterable[Style], *, extra: Iterable[Line2D | Patch] = (), columns: int = 5
) -> None:
    """A legend of dots, and of what is `extra`: long labels want fewer columns."""
    dots = [line_handle(s.label, color=s.colour, marker=s.marker, linestyle="none") for s in styles]
    legend(fig, [*dots, *extra], columns=columns, columnspacing=1.2)


def with_methods(fig: Figure, table: pd.DataFrame, *, extra: Iterable[Line2D] = ()) -> Figure:
    """The figure with a legend of the methods in `table`."""
    present = set(table["method"])
    figure_legend(fig, [style for name, style in METHOD_STYLE.items() if name in present], extra=extra)
    return fig


def line_handle(label: str, **line) -> Line2D:
    """A legend entry for a line, for `figure_legend(extra=...)`."""
    return Line2D([], [], label=label, **({"color": GREY} | line))


def watermark(fig: Figure, text: str) -> None:
    """`text` across the figure, behind what it shows; nothing for ""."""
    if text:
        look = {"size": 28, "color": "0.5", "alpha": 0.22, "ha": "center", "va": "center", "rotation": 20}
        fig.text(0.5, 0.5, text, zorder=0, **look)


def interval_dots(ax: Axes, table: pd.DataFrame, *, x: str, **where: Any) -> None:
    """Dots with horizontal intervals, columns `x`, low, high, in `lanes`."""
    for style, part, position in lanes(ax, table, **where):
        error = np.array([part[x] - part["low"], part["high"] - part[x]], dtype=float)
        look = {"color": style.colour, "markersize": 3.6, "elinewidth": 0.9, "label": style.label}
        ax.errorbar(part[x], position, xerr=np.nan_to_num(error), fmt=style.marker, **look)


def lanes(
    ax: Axes,
    table: pd.DataFrame,
    *,
    y: str,
    by: str = "method",
    styles: Mapping[Any, Style] = METHOD_STYLE,
    rows: Sequence[str] = (),
    width: float = 0.72,
) -> Iterator[tuple[Style, pd.DataFrame, list[float]]]:
    """The style of each value of `by`, its rows of the table and their heights; names the rows of `ax`.

    A row is a value of `y`; within it the lanes of all `by` lie above each other, `width` in all. `rows` are
    from top to bottom, by default in order of appearance; panels that share them must be given the same.
    """
    rows = rows or list(dict.fromkeys(table[y]))
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="0.92", linewidth=0.6, zorder=0)
    present = [key for key in styles if key in set(table[by])]
    for index, key in enumerate(present):
        part = table[table[by] == key]
        offset = (index - (len(present) - 1) / 2) * width / len(present)
        yield styles[key], part, [rows.index(value) + offset for value in part[y]]
    ax.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    named_rows(ax, rows)


def named_rows(ax: Axes, rows: Sequence[str], *, has_lines: bool = False) -> None:
    """Rows from top to bottom in place of a scale; with the lines of the grid if `has_lines`."""
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    if not has_lines:
        ax.grid(axis="y", visible=False)


def scatter(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    styles: Mapping[str, Style] = METHOD_STYLE,
    by: str = "method",
    has_zero: bool = True,
) -> None:
    """Every point shown, one colour and marker a value of `by`; a grey line at y = 0 if `has_zero`."""
    for key, style in styles.items():
        part = table[table[by] == key]
        ax.scatter(part[x], part[y], color=style.colour, marker=style.marker, s=17, alpha=0.85, linewidth=0)
    if has_zero:
        ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)


def size_axis(ax: Axes, sizes: Iterable[float]) -> None:
    """A log axis of sizes with a label for each, and a grey line at y = 0."""
    places, labels = size_ticks(sizes)
    ax.set_xscale("log")
    ax.set_xticks(places, labels)
    if len(places) > 5:
        ax.tick_params(axis="x", labelrotation=60)
    ax.minorticks_off()
    ax.axhline(0, color=GREY, linewidth=0.9, zorder=1)


def size_ticks(sizes: Iterable[float]) -> tuple[list[float], list[str]]:
    """Places and labels of sizes on a log axis; sizes within 5 % of each other share one: `72k, 73k`."""
    groups: list[list[float]] = []
    for size in sorted(set(map(float, sizes))):
        if groups and size <= 1.05 * groups[-1][0]:
            groups[-1].append(size)
        else:
            groups.append([size])
    places = [float(np.exp(np.mean(np.log(group)))) for group in groups]
    return places, [", ".join(map(size_label, group)) for group in groups]


def named_grid(ax: Axes, *, rows: Sequence[str], columns: Sequence[str], **names: Any) -> None:
    """Names along the fields of a picture, without the lines of a scale; `names` are those of the columns."""
    ax.set_xticks(range(len(columns)), columns, **names)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(visible=False)
