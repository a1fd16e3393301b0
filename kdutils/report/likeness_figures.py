"""Figures of agreement and fidelity: how like its teacher a student answers and writes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS
from kdutils.report import plots
from kdutils.report.figures import INTERVAL, domain_panels, domains_of, with_methods
from kdutils.report.styles import (
    ANSWER_STYLE,
    DOMAIN_STYLE,
    ERROR_STYLE,
    GREY,
    LIKENESS_STYLE,
    METHOD_STYLE,
)


def likeness_against_accuracy(table: pd.DataFrame, *, y: str, ylabel: str, by: str = "domain") -> Figure:
    """Agreement or fidelity over accuracy, every pair x task a point; dashed where the two are equal.

    `by` is domain or method; with the methods there is a legend.
    """
    styles = METHOD_STYLE if by == "method" else DOMAIN_STYLE
    fig, parts = domain_panels(table, height=3.2, sharey=True, xlabel="student accuracy, %")
    for ax, part in parts:
        plots.scatter(ax, part, x="accuracy", y=y, styles=styles, by=by, zero=False)
        ax.axline((50, 50), slope=1, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    parts[0][0].set_ylabel(ylabel)
    return with_methods(fig, table) if by == "method" else fig


def answer_shares(table: pd.DataFrame) -> Figure:
    """What student and teacher answer, as shares of the items: a panel a domain, a bar a kind of student.

    Columns domain, label and those of ANSWER_STYLE, in percent.
    """
    rows = table.groupby("domain", sort=False).size().max()
    fig, parts = domain_panels(table, height=1.3 + 0.28 * rows)
    for ax, part in parts:
        plots.stacked_shares(ax, part.set_index("label"), styles=ANSWER_STYLE, fmt="{:.0f}")
        ax.set(xlabel="share of items, %", xlim=(0, 100))
    plots.shade_legend(fig, ANSWER_STYLE, columns=3)
    return fig


def given_accuracy(table: pd.DataFrame, *, measures: Mapping[str, str]) -> Figure:
    """Measures of agreement by method, a row of panels a domain, a column a measure.

    Columns domain, method, label, measure, estimate, low, high; `measures` names those drawn, with their axis
    titles. Chance is at zero where a measure is adjusted for it.
    """
    domains, n_rows = domains_of(table), table.groupby(["domain", "measure"]).size().max()
    height = 0.5 + len(domains) * (0.75 + 0.21 * n_rows)
    fig, axes = plots.panels(len(domains), len(measures), height=height, sharex="col")
    for ax, (domain, measure) in zip(axes, product(domains, measures), strict=True):
        part = table[(table["domain"] == domain) & (table["measure"] == measure)]
        part = part.rename(columns={"estimate": "x"})
        plots.interval_dots(ax, part, y="label", x="x", styles=METHOD_STYLE, by="method", is_spread=False)
        ax.set(title=DOMAIN_LABELS[domain])
        if measure != next(iter(measures)):
            ax.tick_params(labelleft=False)
    for ax, text in zip(axes[-len(measures) :], measures.values(), strict=True):
        ax.set_xlabel(f"{text},\n{INTERVAL}")
    return fig


def likeness_by_group(table: pd.DataFrame, *, xlabel: str) -> Figure:
    """Likeness to the teacher's text by group of items, a panel a method, each measure a dot.

    Columns label, group_label, measure, estimate, low, high, n; the number of texts stands beside a group.
    """
    labels = list(dict.fromkeys(table["label"]))
    n_columns, n_groups = min(2, len(labels)), table["group"].nunique()
    n_rows = -(-len(labels) // n_columns)
    fig, axes = plots.panels(n_rows, n_columns, height=0.9 + n_rows * (0.5 + 0.36 * n_groups), sharex=True)
    for ax, label in zip(axes, labels, strict=False):
        part = table[table["label"] == label]
        part = part.assign(row=[f"{row.group_label}\nn = {row.n:,}" for row in part.itertuples()])
        look = {"styles": LIKENESS_STYLE, "by": "measure"}
        plots.interval_dots(ax, part, y="row", x="estimate", **look)
        ax.set(title=label)
        ax.tick_params(axis="y", labelsize=7)
    plots.last_panels(axes, len(labels), columns=n_columns, xlabel=f"{xlabel},\n{INTERVAL}")
    plots.figure_legend(fig, list(LIKENESS_STYLE.values()))
    return fig


def error_shares(table: pd.DataFrame) -> Figure:
    """What is wrong with the answers: a bar a method (index), a column a category of ERROR_STYLE."""
    fig, (ax,) = plots.panels(height=1.6 + 0.32 * len(table))
    plots.stacked_shares(ax, table, styles=ERROR_STYLE, fmt="{:.0f}")
    ax.set(xlabel="share of texts, %", xlim=(0, 100))
    plots.shade_legend(fig, ERROR_STYLE, columns=3)
    return fig


def level_and_gain(table: pd.DataFrame, *, measure: str, label: str) -> Figure:
    """A likeness to the teacher over accuracy (left) and the gain over it (right), a row a domain."""
    domains = domains_of(table)
    height = 3.2 if len(domains) == 1 else 0.5 + 2.6 * len(domains)
    fig, axes = plots.panels(len(domains), 2, height=height)
    for domain, level, gain in zip(domains, axes[::2], axes[1::2], strict=True):
        part = table[table["domain"] == domain]
        before = "" if len(domains) == 1 else f"{DOMAIN_LABELS[domain]}: "
        plots.scatter(level, part, x="accuracy", y=measure, styles=METHOD_STYLE, by="method", zero=False)
        level.set(xlabel="student accuracy, %", ylabel=label, title=f"{before}level".capitalize())
        plots.scatter(gain, part, x=measure, y="gain", styles=METHOD_STYLE, by="method")
        gain.set(xlabel=label, ylabel="gain over SFT, points", title=f"{before}gain".capitalize())
    return with_methods(fig, table)


def likeness_by_method(table: pd.DataFrame, *, measure: str, xlabel: str) -> Figure:
    """A likeness of the SFT student and of each method's, a row a pair, a panel a domain.

    Columns domain, pair, method (`sft` among them) and `measure`; a line joins what belongs to a pair.
    """
    pairs = list(dict.fromkeys(table["pair"]))
    height = 1.3 + 0.2 * len(pairs)
    fig, parts = domain_panels(table, height=height, sharey=True, xlabel=xlabel)
    for ax, part in parts:
        span = part.groupby("pair")[measure].agg(["min", "max"])
        ax.hlines([pairs.index(pair) for pair in span.index], span["min"], span["max"], color="0.8", zorder=1)
        for method, style in METHOD_STYLE.items():
            own = part[part["method"] == method]
            look = {"color": style.colour, "marker": style.marker, "s": 16, "linewidth": 0, "zorder": 2}
            ax.scatter(own[measure], [pairs.index(pair) for pair in own["pair"]], **look)
        plots.named_rows(ax, pairs)
    return with_methods(fig, table)


def right_and_alike(table: pd.DataFrame, *, bound: float) -> Figure:
    """Correlation of being right with likeness to the teacher, every run a point, a row a task.

    Columns label (task), method, fidelity_correct_r; dashed at plus and minus `bound`.
    """
    tasks = list(dict.fromkeys(table["label"]))
    fig, (ax,) = plots.panels(height=1.1 + 0.36 * len(tasks))
    plots.point_rows(ax, table, y="label", x="fidelity_correct_r", styles=METHOD_STYLE, by="method")
    for value in (-bound, bound):
        ax.axvline(value, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlim=(-1.02, 1.02), xlabel="r of being right with sentence BLEU against the teacher's text")
    dashed = plots.line_handle(f"r = ±{bound:g}", linestyle="--")
    return with_methods(fig, table, extra=[dashed])
