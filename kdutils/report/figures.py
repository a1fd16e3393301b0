"""The study's figures: each function takes tidy tables and returns a finished figure.

One panel a domain where a table has both, one legend below, axis titles with units. What is drawn is
the table that was passed, which the notebook stores beside the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES
from kdutils.report import plots
from kdutils.report.styles import (
    CHANGE_STYLE,
    COLOURS,
    FAMILY_LINES,
    GREY,
    KIND_STYLE,
    METHOD_STYLE,
    SELECTION_STYLE,
    VERDICT_STYLE,
    WAY_STYLE,
    Style,
    ordered_colours,
)

INTERVAL = "95% interval"


def domains_of(table: pd.DataFrame) -> list[str]:
    """The domains of a table in order of appearance."""
    return list(dict.fromkeys(table["domain"]))


def domain_panels(
    table: pd.DataFrame, *, height: float, xlabel: str = "", by: str = "domain", **share: bool
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with a titled panel for each value of `by`, and of each panel its axes and rows."""
    names = list(dict.fromkeys(table[by]))
    fig, axes = plots.panels(1, len(names), height=height, **share)
    for ax, name in zip(axes, names, strict=True):
        ax.set(title=DOMAIN_LABELS.get(name, name), xlabel=xlabel)
    return fig, [(ax, table[table[by] == name]) for ax, name in zip(axes, names, strict=True)]


def interval_panels(
    table: pd.DataFrame,
    *,
    y: str,
    x: str,
    xlabel: str,
    height: float,
    by: str = "method",
    styles: Mapping[object, Style] = METHOD_STYLE,
    has_same_rows: bool = False,
) -> Figure:
    """A quantity with its interval, a panel a domain, a row a value of `y`, a dot a value of `by`.

    Columns domain, `y`, `by`, `x`, low, high. All panels have the rows of the whole table if `has_same_rows`.
    """
    rows = list(dict.fromkeys(table[y])) if has_same_rows else None
    gap = "\n" if len(domains_of(table)) > 1 else " "
    share = {"sharey": True} if has_same_rows else {}
    fig, parts = domain_panels(table, height=height, xlabel=f"{xlabel},{gap}{INTERVAL}", **share)
    for ax, part in parts:
        plots.interval_dots(ax, part, y=y, x=x, styles=dict(styles), by=by, rows=rows)
    plots.figure_legend(fig, [styles[key] for key in styles if key in set(table[by])])
    return fig


def with_methods(fig: Figure, table: pd.DataFrame, *, extra: Sequence[Line2D] = ()) -> Figure:
    """The figure with a legend of the methods in `table`."""
    present = [style for method, style in METHOD_STYLE.items() if method in set(table["method"])]
    plots.figure_legend(fig, present, extra=list(extra))
    return fig


def coverage(grid: pd.DataFrame) -> Figure:
    """Counts of runs: a row a pair (index), a column a method x temperature; empty is none."""
    fig, (ax,) = plots.panels(height=1.2 + 0.2 * len(grid))
    counts = grid.to_numpy(int)
    ax.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.max() * 1.6, 1), aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        ax.text(column, row, counts[row, column], ha="center", va="center", fontsize=7.5)
    ax.set_xticks(range(grid.shape[1]), grid.columns, rotation=35, ha="right")
    ax.set_yticks(range(grid.shape[0]), grid.index)
    ax.grid(visible=False)
    return fig


def gain_by_pair(table: pd.DataFrame) -> Figure:
    """Average gain of every pair and method: columns domain, pair, method, gain, low, high."""
    n_pairs = table["pair"].nunique()
    height = max(min(4.2, 1.6 + 0.6 * n_pairs), 1.0 + 0.29 * n_pairs)
    rows = {"y": "pair", "has_same_rows": True}
    return interval_panels(table, **rows, x="gain", xlabel="gain over SFT, points", height=height)


def gain_map(table: pd.DataFrame) -> Figure:
    """Gains as a map, a panel a domain: columns domain, pair, method, gain, is_marked."""
    pairs, height = list(dict.fromkeys(table["pair"])), 1.4 + 0.24 * table["pair"].nunique()
    fig, parts = domain_panels(table, height=height, sharey=True, xlabel="gain over SFT, points")
    bound = max(10.0, float(table["gain"].abs().max()))
    for ax, part in parts:
        methods = [method for method in METHOD_NAMES if (part["method"] == method).any()]
        gains, marked = (
            part.pivot(index="pair", columns="method", values=name).reindex(index=pairs, columns=methods)
            for name in ("gain", "is_marked")
        )
        plots.signed_grid(ax, gains.rename(columns=METHOD_NAMES), marked, bound)
    return fig


def gain_by_task(table: pd.DataFrame) -> Figure:
    """Gains of one domain, a panel a student: columns student, label (task), method, gain, low, high."""
    students = list(dict.fromkeys(table["student"]))
    n_rows = -(-len(students) // 3)
    tasks = list(dict.fromkeys(table["label"]))
    height = n_rows * (0.9 + 0.27 * len(tasks)) + 0.5
    fig, axes = plots.panels(n_rows, min(3, len(students)), height=height, sharey=True, sharex=True)
    for ax, student in zip(axes, students, strict=False):
        part = table[table["student"] == student]
        plots.interval_dots(ax, part, y="label", x="gain", styles=METHOD_STYLE, by="method", rows=tasks)
        ax.set_title(student)
    plots.last_panels(axes, len(students), columns=3, xlabel=f"gain, points, {INTERVAL}")
    return with_methods(fig, table)


def by_task(
    table: pd.DataFrame,
    *,
    x: str,
    xlabel: str,
    by: str = "method",
    styles: Mapping[object, Style] = METHOD_STYLE,
) -> Figure:
    """A quantity with its interval by task, a panel a domain: columns domain, label, `by`, `x`, low, high."""
    rows = max(part["label"].nunique() for _, part in table.groupby("domain"))
    height = 1.0 + rows * (0.16 + 0.07 * table[by].nunique())
    return interval_panels(table, y="label", x=x, xlabel=xlabel, height=height, by=by, styles=styles)


def two_ways(table: pd.DataFrame) -> Figure:
    """Accuracy by method and way of taking the answer: the averages of answer_modes.rankings."""
    named = table.assign(student=table["method"].map(METHOD_NAMES))
    height, look = 1.2 + 0.36 * named["method"].nunique(), {"by": "way", "styles": WAY_STYLE}
    return interval_panels(named, y="student", x="accuracy", xlabel="accuracy, %", height=height, **look)


def protocol_changes(table: pd.DataFrame) -> Figure:
    """What each factor of the protocol changes: protocols.changes of one KD method."""
    height, look = 1.1 + 0.38 * table["label"].nunique(), {"by": "quantity", "styles": CHANGE_STYLE}
    rows = {"y": "label", "has_same_rows": True}
    xlabel = "change against careful, points"
    return interval_panels(table, **rows, x="change", xlabel=xlabel, height=height, **look)


def gain_by_size(points: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Gain over student size: every run a point, means as lines; columns as in plots.size_curves."""
    fig, parts = domain_panels(points, height=3.4, sharey=True, xlabel="student parameters (log)")
    for ax, part in parts:
        plots.size_curves(ax, part, means[means["domain"] == part["domain"].iloc[0]])
    parts[0][0].set_ylabel("average gain over SFT, points")
    families = zip(dict.fromkeys(points["family"]), FAMILY_LINES, strict=False)
    lines = [plots.line_handle(f"{family}, mean", linestyle=dash) for family, dash in families]
    return with_methods(fig, points, extra=lines)


def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations by task under both selection rules: columns domain, label, selection, rho, low, high.

    Where a column `printed` stands, its values are marked with a stroke.
    """
    gap = "\n" if len(domains_of(table)) > 2 else " "
    fig, parts = domain_panels(table, height=3.6, sharex=True, xlabel=f"Spearman rho,{gap}{INTERVAL}")
    for ax, part in parts:
        plots.interval_dots(ax, part, y="label", x="rho", styles=SELECTION_STYLE, by="selection")
        if "printed" in table:
            printed = part.drop_duplicates("label")  # a row each, in the order of interval_dots
            look = {"marker": "|", "s": 190, "color": "black", "linewidth": 1.3, "zorder": 4}
            ax.scatter(printed["printed"], range(len(printed)), **look)
    stroke = plots.line_handle("printed", color="black", marker="|", markersize=10, linestyle="none")
    plots.figure_legend(fig, list(SELECTION_STYLE.values()), extra=[stroke] if "printed" in table else None)
    return fig


def gain_against(
    points: pd.DataFrame,
    *,
    x: str,
    xlabel: str,
    y: str = "gain",
    ylabel: str = "average gain over SFT, points",
) -> Figure:
    """Average gain over another quantity, every run a point: columns domain, method, `y` and `x`.

    `{score}` in `xlabel` is what the domain is scored by: accuracy, or ROUGE-L.
    """
    fig, parts = domain_panels(points, height=3.0, sharey=True)
    for ax, part in parts:
        plots.scatter(ax, part, x=x, y=y, styles=METHOD_STYLE, by="method")
        score = "ROUGE-L" if part["domain"].iloc[0] == "instruction" else "accuracy"
        ax.set(xlabel=xlabel.format(score=score))
    parts[0][0].set_ylabel(ylabel)
    return with_methods(fig, points)


def before_and_after(
    table: pd.DataFrame, *, left: str, right: str, xlabel: str, by: str = "domain"
) -> Figure:
    """Two values of every pair joined by a line, a panel a value of `by`: columns pair, `left`, `right`.

    `left` and `right` are keys of KIND_STYLE.
    """
    rows = list(dict.fromkeys(table["pair"]))
    fig, parts = domain_panels(table, height=1.2 + 0.2 * len(rows), sharey=True, xlabel=xlabel, by=by)
    for ax, part in parts:
        position = [rows.index(pair) for pair in part["pair"]]
        ax.hlines(position, part[left], part[right], color="0.75", linewidth=1.4, zorder=1)
        for column, style in ((left, KIND_STYLE[left]), (right, KIND_STYLE[right])):
            ax.scatter(part[column], position, color=style.colour, marker=style.marker, s=22, zorder=2)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.5)
    plots.figure_legend(fig, [KIND_STYLE[left], KIND_STYLE[right]])
    return fig


def sweep_curves(average: pd.DataFrame, *, x: str) -> Figure:
    """Average accuracy over `x` (temperature or noise_sigma): rows of panels a domain, a panel a pair."""
    xlabel = {"temperature": "temperature (log)", "noise_sigma": "sigma of the noise"}[x]
    fig, panels = _pair_panels(average, xlabel=xlabel, ylabel="average accuracy, %")
    for ax, part in panels:
        plots.sweep_curves(ax, part, x=x)
    lines = [plots.line_handle("SFT student", linestyle="--")]
    if x == "noise_sigma":
        lines.append(plots.line_handle("base model", linestyle=":"))
    return with_methods(fig, average, extra=lines)


def _pair_panels(
    table: pd.DataFrame, *, xlabel: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel a domain x pair and its rows of `table`; those of a domain share y.

    At most five side by side, four where names are long.
    """
    pairs, domains = list(dict.fromkeys(table["pair"])), domains_of(table)
    rows_each = -(-len(pairs) // (5 if max(map(len, pairs)) < 16 else 4))
    n_columns = -(-len(pairs) // rows_each)
    n_rows = rows_each * len(domains)
    height = (1.9 if n_rows < 5 else 1.6) * n_rows + 0.9
    share = {"sharey": "row"} if rows_each == 1 else {}
    fig, axes = plots.panels(n_rows, n_columns, height=height, sharex=True, **share)
    grid, panels = axes.reshape(n_rows, n_columns), []
    for place, domain in enumerate(domains):
        of_domain = grid[place * rows_each : (place + 1) * rows_each].ravel()
        for index, ax in enumerate(of_domain):
            if index % n_columns == 0:
                ax.set_ylabel(ylabel)
            if rows_each > 1 and index:
                ax.sharey(of_domain[0])
                ax.tick_params(labelleft=index % n_columns == 0)
            pair = pairs[index] if index < len(pairs) else None
            part = table[(table["domain"] == domain) & (table["pair"] == pair)]
            if part.empty:
                ax.set_visible(False)
                continue
            ax.set_title(f"{domain}\n{pair}", fontsize=8 if len(pair) < 16 else 7)
            panels.append((ax, part))
    for column in grid.T:  # below the last panel that a column has
        lowest = [ax for ax in column if ax.get_visible()][-1:]
        for ax in lowest:
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
    return fig, panels


def best_temperature(shares: pd.DataFrame) -> Figure:
    """Share of cases in which a temperature is the best: a row a kind of run, a column a temperature."""
    colours = ordered_colours(shares.shape[1])
    styles = {name: Style(name, colour, "s") for name, colour in zip(shares.columns, colours, strict=True)}
    fig, (ax,) = plots.panels(height=1.0 + 0.28 * len(shares))
    plots.stacked_shares(ax, shares, styles=styles)
    ax.set(xlabel="share of pairs x tasks", xlim=(0, 1))
    plots.shade_legend(fig, styles, columns=len(styles))
    return fig


def known_noise(known: pd.DataFrame, *, sft: float, base: float) -> Figure:
    """The few known accuracies over sigma (columns sigma, accuracy, origin) between two reference lines."""
    fig, (ax,) = plots.panels(height=2.8)
    style = METHOD_STYLE["fkl"]
    ax.scatter(known["sigma"], known["accuracy"], color=style.colour, marker=style.marker, s=34, zorder=3)
    text = {"textcoords": "offset points", "fontsize": 7.5}
    for row in known.itertuples():
        ax.annotate(f"{row.accuracy:.1f} ({row.origin})", (row.sigma, row.accuracy), xytext=(8, 5), **text)
    for label, value in (("SFT student", sft), ("base model", base)):
        ax.axhline(value, color=GREY, linestyle="--", linewidth=0.9)
        ax.annotate(f"{label} {value:.1f}", (2.5, value), xytext=(0, -9), ha="center", **text)
    ax.set(xlim=(-0.3, 8), ylim=(0, 66), xticks=[0, 1, 2, 5])
    ax.set(xlabel="sigma of the noise on the teacher's logits", ylabel="math average, %")
    return fig


def verdict_bars(counts: pd.DataFrame) -> Figure:
    """Claims by section (index) and verdict (columns)."""
    fig, (ax,) = plots.panels(height=1.0 + 0.24 * len(counts))
    plots.stacked_shares(ax, counts, styles=VERDICT_STYLE, fmt="{:.0f}")
    ax.set_xlabel("number of claims")
    plots.shade_legend(fig, VERDICT_STYLE, columns=4)
    return fig


def running_curves(curves: dict[str, list[tuple[int, int, float]]]) -> Figure:
    """Losses of the trainings that are running, by the share of their steps: points (step, n_steps, loss)."""
    fig, (ax,) = plots.panels(height=2.2)
    for (label, points), colour in zip(curves.items(), ordered_colours(len(curves)), strict=True):
        shares = [100 * step / n_steps for step, n_steps, _ in points]
        ax.plot(shares, [loss for *_, loss in points], color=colour, marker=".", label=label)
    ax.set(xlabel="steps done, %", ylabel="loss, nats a token", xlim=(0, 100))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return fig


def training_curve(entries: pd.DataFrame) -> Figure:
    """Loss by step and, where there is one, validation loss by epoch: entries of curve.jsonl."""
    fig, (ax,) = plots.panels(height=2.6)
    steps = entries.dropna(subset=["step"])
    ax.plot(steps["step"], steps["loss"], color=COLOURS[0], linewidth=1, label="training")
    if "validation_loss" in entries:
        at_step = entries["step"].ffill().fillna(0)
        known = entries["validation_loss"].notna()
        losses = entries.loc[known, "validation_loss"]
        ax.plot(at_step[known], losses, "o-", color=COLOURS[3], label="validation")
        ax.legend(frameon=False)
    ax.set(xlabel="step", ylabel="loss, nats a token")
    return fig
