"""Figures of gains, claims and runs: each function draws a tidy table, which is kept next to its picture."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdutils.constants import DOMAIN_LABELS, INSTRUCTION, METHOD_NAMES
from kdutils.grid.study import DAGGER, UNFORMATTED
from kdutils.report import plots
from kdutils.report.plots import INTERVAL, METHOD_STYLE, Style, domain_panels, with_legend

SCALES = {"points": "gain over SFT, points", "log odds": "gain in log odds"}
NO_BEARING = "·"
ERROR_TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
SHARES = {  # of what -> styles, title and end of the axis, format, legend columns, inches: in all, a row
    "answers": (plots.ANSWER_STYLE, "share of items, %", 100, ".0f", 3, 1.3, 0.28),
    "errors": (plots.ERROR_STYLE, "share of texts, %", 100, ".0f", 3, 1.6, 0.32),
    "verdicts": (plots.VERDICT_STYLE, "number of claims", None, ".0f", 4, 1.0, 0.24),
    "temperatures": (None, "share of pairs x tasks, %", 100, ".0f", 5, 1.0, 0.28),
}


# --- rows with intervals, bars --------------------------------------------------------------------------


def interval_panels(
    table: pd.DataFrame,
    *,
    y: str,
    x: str,
    xlabel: str,
    height: float,
    by: str = "method",
    styles: Mapping[Any, Style] = METHOD_STYLE,
    has_same_rows: bool = False,
) -> Figure:
    """A quantity with its interval, a panel a domain, a row a value of `y`, a dot a value of `by`.

    Columns domain, `y`, `by`, `x`, low, high. All panels have the rows of the whole table if `has_same_rows`.
    """
    rows = list(dict.fromkeys(table[y])) if has_same_rows else []
    gap = "\n" if table["domain"].nunique() > 1 else " "
    xlabel = f"{xlabel},{gap}{INTERVAL}"
    fig, parts = domain_panels(table, height=height, xlabel=xlabel, sharey=has_same_rows)
    for ax, part in parts:
        plots.interval_dots(ax, part, y=y, x=x, styles=styles, by=by, rows=rows)
    return with_legend(fig, table, by=by, styles=styles)


def gain_by_pair(table: pd.DataFrame) -> Figure:
    """Average gain of every pair and method: columns domain, pair, method, gain, low, high."""
    n_pairs = table["pair"].nunique()
    height = max(min(4.2, 1.6 + 0.6 * n_pairs), 1.0 + 0.29 * n_pairs)
    look = {"y": "pair", "has_same_rows": True, "x": "gain", "xlabel": "gain over SFT, points"}
    return interval_panels(table, height=height, **look)


def by_task(table: pd.DataFrame, *, by: str = "method", **look: Any) -> Figure:
    """A quantity with its interval by task, a panel a domain; `look` as in interval_panels."""
    n_rows = table.groupby("domain")["label"].nunique().max()
    height = 1.0 + n_rows * (0.16 + 0.07 * table[by].nunique())
    return interval_panels(table, y="label", height=height, by=by, **look)


def two_ways(table: pd.DataFrame) -> Figure:
    """Accuracy by method and way of taking the answer: the averages of answer_modes.rankings."""
    named = table.assign(student=table["method"].map(METHOD_NAMES))
    height, look = 1.2 + 0.36 * named["method"].nunique(), {"by": "way", "styles": plots.WAY_STYLE}
    return interval_panels(named, y="student", x="accuracy", xlabel="accuracy, %", height=height, **look)


def protocol_changes(table: pd.DataFrame) -> Figure:
    """What each factor of the protocol changes: protocols.changes of one KD method."""
    height, look = 1.1 + 0.38 * table["label"].nunique(), {"by": "quantity", "styles": plots.CHANGE_STYLE}
    look |= {"y": "label", "has_same_rows": True, "x": "change", "xlabel": "change against careful, points"}
    return interval_panels(table, height=height, **look)


def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations by task under both selection rules: columns domain, label, selection, rho, low, high.

    Values of a column `printed`, where there is one, are marked with a stroke.
    """
    gap = "\n" if table["domain"].nunique() > 2 else " "
    fig, parts = domain_panels(table, height=3.6, sharex=True, xlabel=f"Spearman rho,{gap}{INTERVAL}")
    for ax, part in parts:
        plots.interval_dots(ax, part, y="label", x="rho", styles=plots.SELECTION_STYLE, by="selection")
        if "printed" in table:
            printed = part.drop_duplicates("label")  # a row each, in the order of interval_dots
            look = {"marker": "|", "s": 190, "color": "black", "linewidth": 1.3, "zorder": 4}
            ax.scatter(printed["printed"], range(len(printed)), **look)
    stroke = plots.line_handle("printed", color="black", marker="|", markersize=10, linestyle="none")
    plots.figure_legend(fig, plots.SELECTION_STYLE.values(), extra=[stroke] if "printed" in table else [])
    return fig


def error_rates(table: pd.DataFrame) -> Figure:
    """How often procedures err, on a scale of square roots: calibration.errors.

    A row a procedure, a dot a null with its Monte Carlo interval, a stroke where the procedure says it is.
    """
    nominal, names = table.groupby("row", sort=False)["nominal"].first(), list(dict.fromkeys(table["null"]))
    styles = {name: Style(name, plots.COLOURS[i], plots.MARKERS[i]) for i, name in enumerate(names)}
    fig, (ax,) = plots.panels(height=1.2 + 0.26 * len(nominal))
    plots.interval_dots(ax, table, y="row", x="actual", styles=styles, by="null")
    for place, rate in enumerate(nominal):
        ax.plot([rate, rate], [place - 0.5, place + 0.5], color="black", linewidth=1.1, zorder=1)
    ax.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    ax.set_xlim(0, 1)
    ax.set_xticks(ERROR_TICKS, [f"{100 * tick:g}" for tick in ERROR_TICKS])
    ax.set_xlabel("studies with an error, %, 95% interval")
    plots.figure_legend(fig, styles.values(), columns=3)
    return fig


def shares(table: pd.DataFrame, *, of: str) -> Figure:
    """Stacked bars of what SHARES names, a row of `table` each: its index, or label in a panel a domain."""
    styles, xlabel, end, fmt, columns, height, row_height = SHARES[of]
    if styles is None:  # of values that have an order
        colours = plots.ordered_colours(table.shape[1])
        styles = {name: Style(name, each, "s") for name, each in zip(table.columns, colours, strict=True)}
    table = table if "domain" in table else table.assign(domain="", label=table.index)
    height += row_height * table.groupby("domain").size().max()
    fig, parts = domain_panels(table, height=height, xlabel=xlabel)
    for ax, part in parts:
        widths = part[list(styles)].to_numpy(float)
        least = 0.06 * widths.sum(axis=1).max()  # a narrower bar has no room for its number
        for column, style in enumerate(styles.values()):
            width, left = widths[:, column], widths[:, :column].sum(axis=1)
            ax.barh(range(len(part)), width, left=left, color=style.colour, edgecolor="white")
            look = {"ha": "center", "va": "center", "fontsize": 7, "color": plots.text_colour(style.colour)}
            for row in np.flatnonzero(width > least):
                ax.text(left[row] + width[row] / 2, row, format(width[row], fmt), **look)
        plots.named_rows(ax, list(part["label"]))
        ax.set_xlim(0, end)
    handles = [Patch(color=style.colour, label=style.label) for style in styles.values()]
    plots.legend(fig, handles, columns=columns)
    return fig


# --- pictures with a text in each field -----------------------------------------------------------------


def coverage(grid: pd.DataFrame) -> Figure:
    """Counts of runs: a row a pair (index), a column a method x temperature; empty is none."""
    fig, (ax,) = plots.panels(height=1.2 + 0.2 * len(grid))
    counts = grid.to_numpy(int)
    ax.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.max() * 1.6, 1), aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        ax.text(column, row, counts[row, column], ha="center", va="center", fontsize=7.5)
    plots.named_grid(ax, rows=grid.index, columns=grid.columns, rotation=35, ha="right")
    return fig


def gain_map(table: pd.DataFrame) -> Figure:
    """Gains as a map, blue above and red below zero: columns domain, pair, method, gain, is_marked."""
    pairs, height = list(dict.fromkeys(table["pair"])), 1.4 + 0.24 * table["pair"].nunique()
    fig, parts = domain_panels(table, height=height, sharey=True, xlabel="gain over SFT, points")
    bound = max(10.0, float(table["gain"].abs().max()))
    for ax, part in parts:
        methods = [method for method in METHOD_NAMES if (part["method"] == method).any()]
        gains = part.pivot(index="pair", columns="method", values="gain").reindex(pairs, columns=methods)
        image = ax.imshow(gains.to_numpy(float), cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
        for row in part.dropna(subset=["gain"]).itertuples():
            text = f"{row.gain:+.1f}{'*' * bool(row.is_marked)}".replace("-", "−")
            text += DAGGER * bool(getattr(row, UNFORMATTED, False))
            look = {"fontsize": 7.5, "color": plots.text_colour(image.to_rgba(row.gain)[:3])}
            place = (methods.index(row.method), pairs.index(row.pair))
            ax.text(*place, text, ha="center", va="center", **look)
        plots.named_grid(ax, rows=pairs, columns=[METHOD_NAMES[method] for method in methods])
    return fig


def verdicts_by_choice(long: pd.DataFrame) -> Figure:
    """Verdicts by claim (rows) and choice (columns), as colour and letter: sensitivity.table."""
    claims, choices = list(dict.fromkeys(long["id"])), list(dict.fromkeys(long["choice"]))
    picture = np.ones((len(claims), len(choices), 3))
    fig, (ax,) = plots.panels(height=1.6 + 0.165 * len(claims))
    for row in long.itertuples():
        y, x = claims.index(row.id), choices.index(row.choice)
        letter, colour = NO_BEARING, "0.5"
        if row.bears:
            picture[y, x] = to_rgb(plots.VERDICT_STYLE[row.verdict].colour)
            letter, colour = plots.VERDICT_LETTERS[row.verdict], plots.text_colour(picture[y, x])
        ax.text(x, y, letter, ha="center", va="center", fontsize=7, color=colour)
    ax.imshow(picture, aspect="auto")
    for edge in range(1, len(choices)):
        ax.axvline(edge - 0.5, color="white", linewidth=2 if edge in (1, len(choices) - 1) else 0.8)
    for edge in range(1, len(claims)):
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
    plots.named_grid(ax, rows=claims, columns=choices, rotation=35, ha="left")
    ax.xaxis.tick_top()
    handles = [
        Patch(color=s.colour, label=f"{plots.VERDICT_LETTERS[v]} {s.label}")
        for v, s in plots.VERDICT_STYLE.items()
    ]
    plots.legend(fig, [*handles, Patch(color="white", label=f"{NO_BEARING} no bearing")], columns=5)
    return fig


# --- gains by task, size and student --------------------------------------------------------------------


def gain_by_task(table: pd.DataFrame) -> Figure:
    """Gains of one domain, a panel a student: columns student, label (task), method, gain, low, high."""
    tasks, look = list(dict.fromkeys(table["label"])), {"height": 0.5, "sharex": True, "sharey": True}
    look |= {"row_height": 0.9 + 0.27 * len(tasks), "xlabel": f"gain, points, {INTERVAL}"}
    fig, parts = plots.wrapped_panels(table, "student", most=3, **look)
    for ax, part in parts:
        plots.interval_dots(ax, part, y="label", x="gain", rows=tasks)
    return with_legend(fig, table)


def gain_by_size(points: pd.DataFrame) -> Figure:
    """Gain over size: columns domain, family, student_parameters, method, gain; means of a size as lines."""
    families = dict(zip(dict.fromkeys(points["family"]), plots.FAMILY_LINES, strict=False))
    # Families are nudged apart by 4 % of a size, so that the two 3B students do not cover each other.
    nudges = {family: 1.04 ** (i * 2 - 1) for i, family in enumerate(families)}
    points = points.astype({"student_parameters": float})
    fig, parts = domain_panels(points, height=3.4, sharey=True, xlabel="student parameters (log)")
    for ax, part in parts:
        for method, style in METHOD_STYLE.items():
            for look, own in plots.by_format(style, part[part["method"] == method]):
                size = own["student_parameters"] * own["family"].map(nudges).astype(float)
                ax.scatter(size, own["gain"], s=15, alpha=0.75, **look.points)
        for (family, line), (method, style) in product(families.items(), METHOD_STYLE.items()):
            own = part[(part["family"] == family) & (part["method"] == method)]
            means = own.groupby("student_parameters")["gain"].mean()
            ax.plot(means.index, means, color=style.colour, linestyle=line, linewidth=1.1)
        plots.size_axis(ax, part["student_parameters"])
    parts[0][0].set_ylabel("average gain over SFT, points")
    lines = [plots.line_handle(f"{family}, mean", linestyle=line) for family, line in families.items()]
    return with_legend(fig, points, extra=lines)


def against(
    table: pd.DataFrame,
    *,
    x: str,
    xlabel: str,
    y: str = "gain",
    ylabel: str = "average gain over SFT, points",
    by: str = "method",
    has_equal: bool = False,
) -> Figure:
    """One quantity over another, every row a point, a panel a domain; `{score}` in `xlabel` is its score."""
    styles = METHOD_STYLE if by == "method" else plots.DOMAIN_STYLE
    fig, parts = domain_panels(table, height=3.2 if has_equal else 3.0, sharey=True)
    for ax, part in parts:
        plots.scatter(ax, part, x=x, y=y, styles=styles, by=by, has_zero=not has_equal)
        if has_equal:
            ax.axline((50, 50), slope=1, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=1)
        score = "ROUGE-L" if part["domain"].iloc[0] == INSTRUCTION else "accuracy"
        ax.set_xlabel(xlabel.format(score=score))
    parts[0][0].set_ylabel(ylabel)
    return with_legend(fig, table) if by == "method" else fig


def student_forest(table: pd.DataFrame) -> Figure:
    """Gains of students, of all, and of parts: student_gains.forest, points left and log odds right."""
    n_rows = table.groupby("domain", sort=False)["label"].nunique()
    look = {"sharex": "col", "sharey": "row", "gridspec_kw": {"height_ratios": n_rows + 2}}
    look["height"] = 1.0 + sum(0.45 + 0.17 * n for n in n_rows)
    fig, parts = plots.crossed_panels(table, "domain", "scale", **look)
    for ax, part in parts:
        labels = list(dict.fromkeys(part["label"]))
        for kind, style in plots.FOREST_STYLE.items():
            rows = part[part["kind"] == kind]
            error = [(rows["value"] - rows["low"]).fillna(0.0), (rows["high"] - rows["value"]).fillna(0.0)]
            dots = {"color": style.colour, "markersize": 3.8, "elinewidth": 0.9, "fmt": style.marker}
            ax.errorbar(rows["value"], rows["label"].map(labels.index), xerr=error, **dots)
        ax.axhline(part["kind"].eq("student").sum() - 0.5, color="0.7", linewidth=0.7)
        ax.axvline(0, color=plots.GREY, linewidth=0.9, zorder=1)
        plots.named_rows(ax, labels)
        ax.set_title(DOMAIN_LABELS[part["domain"].iloc[0]])
    for ax, part in parts[-2:]:
        ax.set_xlabel(f"{SCALES[part['scale'].iloc[0]]},\n{INTERVAL}")
    return with_legend(fig, table, by="kind", styles=plots.FOREST_STYLE, columns=2)


def gain_and_scale(table: pd.DataFrame) -> Figure:
    """Gain of students over size: student_gains.by_size, points above and log odds below.

    The band joins, within a family, what 95 % of students that gain alike in log odds would show.
    """
    styles = (plots.KIND_STYLE["tuned"], plots.KIND_STYLE["untuned"], *METHOD_STYLE.values())
    looks = dict(zip(dict.fromkeys(table["family"]), styles, strict=False))
    table = table.astype({"student_parameters": float})
    fig, parts = plots.crossed_panels(table, "scale", "domain", height=4.6, sharex=True, sharey="row")
    n_domains = table["domain"].nunique()
    for place, (ax, part) in enumerate(parts):
        for family, rows in part.groupby("family", sort=False):
            style, rows = looks[family], rows.sort_values("student_parameters")
            size, value = rows["student_parameters"], rows["value"]
            ax.fill_between(size, rows["least"], rows["most"], color=style.colour, alpha=0.18, linewidth=0)
            ax.plot(size, rows["expected"], color=style.colour, linestyle=":", linewidth=1.0)
            look = {"color": style.colour, "markersize": 4, "linewidth": 1.1, "elinewidth": 0.9}
            error = [value - rows["low"], rows["high"] - value]
            ax.errorbar(size, value, yerr=error, fmt=f"{style.marker}-", **look)
        plots.size_axis(ax, table["student_parameters"])
        ax.set_title(DOMAIN_LABELS[part["domain"].iloc[0]] if place < n_domains else "")
        ax.set_xlabel("student parameters (log)" if place >= n_domains else "")
        ax.set_ylabel("" if place % n_domains else SCALES[part["scale"].iloc[0]])
    lines = [plots.line_handle(name, color=s.colour, marker=s.marker) for name, s in looks.items()]
    band = Patch(color="0.6", alpha=0.3, label="if all gained alike in log odds (95 % over items)")
    plots.legend(fig, [*lines, band], columns=3)
    return fig
