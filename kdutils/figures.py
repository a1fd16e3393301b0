"""The study's figures: each function takes tidy tables and returns a finished figure.

One panel a domain where a table has both, one legend below, axis titles with units. What is drawn is
the table that was passed, which the notebook stores beside the picture.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from kdutils import plots
from kdutils.plots import DOMAIN_STYLE, METHOD_STYLE, SELECTION_STYLE, VERDICT_STYLE, Style

INTERVAL = "95% interval"


def _domains(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["domain"]))


def _methods(table: pd.DataFrame) -> list[Style]:
    present = set(table["method"])
    return [style for method, style in METHOD_STYLE.items() if method in present]


def coverage(grid: pd.DataFrame) -> Figure:
    """Counts of runs: a row a pair (index), a column a method x temperature."""
    fig, (ax,) = plots.panels(height=3.4)
    plots.count_grid(ax, grid)
    return fig


def gain_by_pair(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Average gain of every pair and method: columns domain, pair, method, gain, low, high."""
    height = min(4.2, 1.6 + 0.6 * table["pair"].nunique())
    fig, axes = plots.panels(1, len(_domains(table)), height=height, sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="pair", x="gain", styles=METHOD_STYLE, by="method")
        ax.set(title=domain.capitalize(), xlabel=f"gain over SFT, points, {INTERVAL}")
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def gain_by_task(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Gains of one domain, a panel a student: columns student, label (task), method, gain, low, high."""
    students = list(dict.fromkeys(table["student"]))
    n_rows = -(-len(students) // 3)
    height = n_rows * (0.9 + 0.27 * table["label"].nunique()) + 0.5
    fig, axes = plots.panels(n_rows, min(3, len(students)), height=height, sharey=True, sharex=True)
    for ax, student in zip(axes, students, strict=False):
        part = table[table["student"] == student]
        plots.interval_dots(ax, part, y="label", x="gain", styles=METHOD_STYLE, by="method")
        ax.set_title(student)
    for ax in axes[len(students) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(students) - 3) : len(students)]:
        ax.set_xlabel(f"gain, points, {INTERVAL}")
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def gain_by_size(points: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Gain over student size: every run a point, means as lines; columns as in plots.size_curves."""
    fig, axes = plots.panels(1, len(_domains(points)), height=3.4, sharey=True)
    for ax, domain in zip(axes, _domains(points), strict=True):
        plots.size_curves(ax, points[points["domain"] == domain], means[means["domain"] == domain])
        ax.set(title=domain.capitalize(), xlabel="student size, billion parameters (log)")
    axes[0].set_ylabel("average gain over SFT, points")
    families = zip(dict.fromkeys(points["family"]), plots.FAMILY_LINES, strict=False)
    lines = [plots.line_handle(f"{family}, mean", linestyle=dash) for family, dash in families]
    plots.figure_legend(fig, _methods(points), extra=lines)
    return fig


def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations by task under both selection rules: columns domain, label, selection, rho, low, high.

    Where a column `printed` stands, its values are marked with a stroke.
    """
    fig, axes = plots.panels(1, len(_domains(table)), height=3.6, sharex=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="label", x="rho", styles=SELECTION_STYLE, by="selection")
        if "printed" in table:
            plots.printed_ticks(ax, part.drop_duplicates("label"), y="label", x="printed")
        ax.set(title=domain.capitalize(), xlabel=f"Spearman rho, {INTERVAL}")
    stroke = plots.line_handle("printed", color="black", marker="|", markersize=10, linestyle="none")
    plots.figure_legend(fig, list(SELECTION_STYLE.values()), extra=[stroke] if "printed" in table else None)
    return fig


def gain_against(points: pd.DataFrame, *, x: str, xlabel: str) -> Figure:
    """Average gain over another quantity, every run a point: columns domain, method, gain and `x`."""
    fig, axes = plots.panels(1, len(_domains(points)), height=3.0, sharey=True)
    for ax, domain in zip(axes, _domains(points), strict=True):
        part = points[points["domain"] == domain]
        plots.scatter(ax, part, x=x, y="gain", styles=METHOD_STYLE, by="method")
        ax.set(title=domain.capitalize(), xlabel=xlabel)
    axes[0].set_ylabel("average gain over SFT, points")
    plots.figure_legend(fig, _methods(points))
    return fig


def before_and_after(
    table: pd.DataFrame,
    *,
    left: str,
    right: str,
    styles: tuple[Style, Style],
    xlabel: str,
    by: str = "domain",
) -> Figure:
    """Two values of every pair joined by a line, a panel a value of `by`: columns pair, `left`, `right`."""
    names = list(dict.fromkeys(table[by]))
    fig, axes = plots.panels(1, len(names), height=1.2 + 0.2 * table["pair"].nunique(), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        plots.dumbbells(ax, table[table[by] == name], y="pair", left=left, right=right, styles=styles)
        ax.set(title=name.capitalize() if by == "domain" else name, xlabel=xlabel)
    plots.figure_legend(fig, list(styles))
    return fig


def likeness_against_accuracy(table: pd.DataFrame, *, y: str, ylabel: str) -> Figure:
    """Agreement or fidelity over accuracy, every pair x task a point; dashed where the two are equal."""
    fig, axes = plots.panels(1, len(_domains(table)), height=3.2, sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.scatter(ax, part, x="accuracy", y=y, styles=DOMAIN_STYLE, by="domain", zero=False)
        plots.diagonal(ax)
        ax.set(title=domain.capitalize(), xlabel="student accuracy, %")
    axes[0].set_ylabel(ylabel)
    return fig


def level_and_gain(table: pd.DataFrame, *, measure: str, label: str) -> Figure:
    """A likeness to the teacher over accuracy (left) and the gain over it (right)."""
    fig, (level, gain) = plots.panels(1, 2, height=3.2)
    plots.scatter(level, table, x="accuracy", y=measure, styles=METHOD_STYLE, by="method", zero=False)
    level.set(xlabel="student accuracy, %", ylabel=label, title="Level")
    plots.scatter(gain, table, x=measure, y="gain", styles=METHOD_STYLE, by="method")
    gain.set(xlabel=label, ylabel="gain over SFT, points", title="Gain")
    plots.figure_legend(fig, _methods(table))
    return fig


def temperature_curves(average: pd.DataFrame) -> Figure:
    """Average accuracy over temperature: a row of panels a domain, a column a pair."""
    pairs = list(dict.fromkeys(average["pair"]))
    domains = _domains(average)
    height = 1.9 * len(domains) + 0.9
    fig, axes = plots.panels(len(domains), len(pairs), height=height, sharex=True, sharey="row")
    places = [(domain, pair) for domain in domains for pair in pairs]
    for ax, (domain, pair) in zip(axes, places, strict=True):
        plots.temperature_curves(ax, average[(average["domain"] == domain) & (average["pair"] == pair)])
        ax.set_title(f"{domain}\n{pair}", fontsize=8)
    for ax in axes[-len(pairs) :]:
        ax.set_xlabel("temperature (log)")
    for ax in axes[:: len(pairs)]:
        ax.set_ylabel("average accuracy, %")
    dashed = plots.line_handle("SFT student", linestyle="--")
    plots.figure_legend(fig, _methods(average), extra=[dashed])
    return fig


def best_temperature(shares: pd.DataFrame) -> Figure:
    """Share of cases in which a temperature is the best: a row a kind of run, a column a temperature."""
    colours = plots.ordered_colours(shares.shape[1])
    styles = {name: Style(name, colour, "s") for name, colour in zip(shares.columns, colours, strict=True)}
    fig, (ax,) = plots.panels(height=1.0 + 0.28 * len(shares))
    plots.stacked_shares(ax, shares, styles=styles)
    ax.set(xlabel="share of pairs x tasks", xlim=(0, 1))
    fig.legend(
        handles=plots.shade_handles(styles), loc="outside lower center", ncols=len(styles), frameon=False
    )
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
        ax.axhline(value, color=plots.GREY, linestyle="--", linewidth=0.9)
        ax.annotate(f"{label} {value:.1f}", (2.5, value), xytext=(0, -9), ha="center", **text)
    ax.set(xlim=(-0.3, 8), ylim=(0, 66), xticks=[0, 1, 2, 5])
    ax.set(xlabel="sigma of the noise on the teacher's logits", ylabel="math average, %")
    return fig


def verdict_bars(counts: pd.DataFrame) -> Figure:
    """Claims by section (index) and verdict (columns)."""
    fig, (ax,) = plots.panels(height=1.0 + 0.24 * len(counts))
    plots.stacked_shares(ax, counts, styles=VERDICT_STYLE, fmt="{:.0f}")
    ax.set_xlabel("number of claims")
    fig.legend(handles=plots.shade_handles(VERDICT_STYLE), loc="outside lower center", ncols=4, frameon=False)
    return fig


def training_curve(entries: pd.DataFrame) -> Figure:
    """Loss by step and, where there is one, validation loss by epoch: entries of curve.jsonl."""
    fig, (ax,) = plots.panels(height=2.6)
    plots.loss_curve(ax, entries)
    return fig
