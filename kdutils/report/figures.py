"""The study's figures: each function takes tidy tables and returns a finished figure.

One panel a domain where a table has both, one legend below, axis titles with units. What is drawn is
the table that was passed, which the notebook stores beside the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES
from kdutils.report import plots
from kdutils.report.plots import (
    ANSWER_STYLE,
    CHANGE_STYLE,
    DOMAIN_STYLE,
    METHOD_STYLE,
    SELECTION_STYLE,
    VERDICT_STYLE,
    WAY_STYLE,
    Style,
)

INTERVAL = "95% interval"


def _domains(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["domain"]))


def _methods(table: pd.DataFrame) -> list[Style]:
    present = set(table["method"])
    return [style for method, style in METHOD_STYLE.items() if method in present]


def coverage(grid: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Counts of runs: a row a pair (index), a column a method x temperature."""
    fig, (ax,) = plots.panels(height=1.2 + 0.2 * len(grid))
    plots.count_grid(ax, grid)
    plots.watermark(fig, watermark)
    return fig


def gain_by_pair(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Average gain of every pair and method: columns domain, pair, method, gain, low, high."""
    pairs = list(dict.fromkeys(table["pair"]))
    height = max(min(4.2, 1.6 + 0.6 * len(pairs)), 1.0 + 0.29 * len(pairs))
    fig, axes = plots.panels(1, len(_domains(table)), height=height, sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="pair", x="gain", styles=METHOD_STYLE, by="method", rows=pairs)
        ax.set(title=DOMAIN_LABELS[domain], xlabel=f"gain over SFT, points,\n{INTERVAL}")
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def gain_map(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Gains as a map, a panel a domain: columns domain, pair, method, gain, is_marked."""
    pairs, domains = list(dict.fromkeys(table["pair"])), _domains(table)
    fig, axes = plots.panels(1, len(domains), height=1.4 + 0.24 * len(pairs), sharey=True)
    bound = max(10.0, float(table["gain"].abs().max()))
    for ax, domain in zip(axes, domains, strict=True):
        part = table[table["domain"] == domain]
        methods = [method for method in METHOD_NAMES if (part["method"] == method).any()]
        gains, marked = (
            part.pivot(index="pair", columns="method", values=name).reindex(index=pairs, columns=methods)
            for name in ("gain", "is_marked")
        )
        plots.signed_grid(ax, gains.rename(columns=METHOD_NAMES), marked, bound)
        ax.set(title=DOMAIN_LABELS[domain], xlabel="gain over SFT, points")
    plots.watermark(fig, watermark)
    return fig


def gain_by_task(table: pd.DataFrame, *, watermark: str = "") -> Figure:
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
    for ax in axes[len(students) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(students) - 3) : len(students)]:
        ax.set_xlabel(f"gain, points, {INTERVAL}")
        ax.tick_params(labelbottom=True)  # also where the row below has no panel in this column
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def by_task(
    table: pd.DataFrame,
    *,
    x: str,
    xlabel: str,
    by: str = "method",
    styles: Mapping[object, Style] = METHOD_STYLE,
    watermark: str = "",
) -> Figure:
    """A quantity with its interval by task, a panel a domain.

    Columns domain, label (the task's), `by`, `x`, low, high.
    """
    present = [key for key in styles if key in set(table[by])]
    rows = max(part["label"].nunique() for _, part in table.groupby("domain"))
    height = 1.0 + rows * (0.16 + 0.07 * len(present))
    fig, axes = plots.panels(1, len(_domains(table)), height=height)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="label", x=x, styles=dict(styles), by=by)
        ax.set(title=DOMAIN_LABELS[domain], xlabel=f"{xlabel},{_gap(axes)}{INTERVAL}")
    plots.figure_legend(fig, [styles[key] for key in present])
    plots.watermark(fig, watermark)
    return fig


def _gap(axes: Sequence[Axes]) -> str:
    return "\n" if len(axes) > 1 else " "


def two_ways(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Accuracy by method and way of taking the answer, a panel a domain: the averages of scoring.rankings."""
    fig, axes = plots.panels(1, len(_domains(table)), height=1.2 + 0.36 * table["method"].nunique())
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain].assign(student=lambda t: t["method"].map(METHOD_NAMES))
        plots.interval_dots(ax, part, y="student", x="accuracy", styles=WAY_STYLE, by="way")
        ax.set(title=DOMAIN_LABELS[domain], xlabel=f"accuracy, %,{_gap(axes)}{INTERVAL}")
    plots.figure_legend(fig, list(WAY_STYLE.values()))
    plots.watermark(fig, watermark)
    return fig


def protocol_changes(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """What each factor of the protocol changes, a panel a domain: protocols.changes of one KD method."""
    rows = list(dict.fromkeys(table["label"]))
    fig, axes = plots.panels(1, len(_domains(table)), height=1.1 + 0.38 * len(rows), sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="label", x="change", styles=CHANGE_STYLE, by="quantity", rows=rows)
        ax.set(title=DOMAIN_LABELS[domain], xlabel=f"change against careful, points,\n{INTERVAL}")
    plots.figure_legend(fig, list(CHANGE_STYLE.values()))
    plots.watermark(fig, watermark)
    return fig


def gain_by_size(points: pd.DataFrame, means: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Gain over student size: every run a point, means as lines; columns as in plots.size_curves."""
    fig, axes = plots.panels(1, len(_domains(points)), height=3.4, sharey=True)
    for ax, domain in zip(axes, _domains(points), strict=True):
        plots.size_curves(ax, points[points["domain"] == domain], means[means["domain"] == domain])
        ax.set(title=DOMAIN_LABELS[domain], xlabel="student parameters (log)")
    axes[0].set_ylabel("average gain over SFT, points")
    families = zip(dict.fromkeys(points["family"]), plots.FAMILY_LINES, strict=False)
    lines = [plots.line_handle(f"{family}, mean", linestyle=dash) for family, dash in families]
    plots.figure_legend(fig, _methods(points), extra=lines)
    plots.watermark(fig, watermark)
    return fig


def correlations(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Rank correlations by task under both selection rules: columns domain, label, selection, rho, low, high.

    Where a column `printed` stands, its values are marked with a stroke.
    """
    fig, axes = plots.panels(1, len(_domains(table)), height=3.6, sharex=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.interval_dots(ax, part, y="label", x="rho", styles=SELECTION_STYLE, by="selection")
        if "printed" in table:
            plots.printed_ticks(ax, part.drop_duplicates("label"), y="label", x="printed")
        gap = "\n" if len(axes) > 2 else " "
        ax.set(title=DOMAIN_LABELS[domain], xlabel=f"Spearman rho,{gap}{INTERVAL}")
    stroke = plots.line_handle("printed", color="black", marker="|", markersize=10, linestyle="none")
    plots.figure_legend(fig, list(SELECTION_STYLE.values()), extra=[stroke] if "printed" in table else None)
    plots.watermark(fig, watermark)
    return fig


def gain_against(
    points: pd.DataFrame,
    *,
    x: str,
    xlabel: str,
    y: str = "gain",
    ylabel: str = "average gain over SFT, points",
    watermark: str = "",
) -> Figure:
    """Average gain over another quantity, every run a point: columns domain, method, `y` and `x`.

    `{score}` in `xlabel` is what the domain is scored by: accuracy, or ROUGE-L.
    """
    fig, axes = plots.panels(1, len(_domains(points)), height=3.0, sharey=True)
    for ax, domain in zip(axes, _domains(points), strict=True):
        part = points[points["domain"] == domain]
        plots.scatter(ax, part, x=x, y=y, styles=METHOD_STYLE, by="method")
        score = "ROUGE-L" if domain == "instruction" else "accuracy"
        ax.set(title=DOMAIN_LABELS[domain], xlabel=xlabel.format(score=score))
    axes[0].set_ylabel(ylabel)
    plots.figure_legend(fig, _methods(points))
    plots.watermark(fig, watermark)
    return fig


def before_and_after(
    table: pd.DataFrame,
    *,
    left: str,
    right: str,
    styles: tuple[Style, Style],
    xlabel: str,
    by: str = "domain",
    watermark: str = "",
) -> Figure:
    """Two values of every pair joined by a line, a panel a value of `by`: columns pair, `left`, `right`."""
    names = list(dict.fromkeys(table[by]))
    fig, axes = plots.panels(1, len(names), height=1.2 + 0.2 * table["pair"].nunique(), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        part, columns = table[table[by] == name], {"left": left, "right": right}
        plots.dumbbells(ax, part, y="pair", **columns, styles=styles, rows=list(dict.fromkeys(table["pair"])))
        ax.set(title=DOMAIN_LABELS[name] if by == "domain" else name, xlabel=xlabel)
    plots.figure_legend(fig, list(styles))
    plots.watermark(fig, watermark)
    return fig


def likeness_against_accuracy(
    table: pd.DataFrame, *, y: str, ylabel: str, by: str = "domain", watermark: str = ""
) -> Figure:
    """Agreement or fidelity over accuracy, every pair x task a point; dashed where the two are equal.

    `by` is domain or method; with the methods there is a legend.
    """
    styles = METHOD_STYLE if by == "method" else DOMAIN_STYLE
    fig, axes = plots.panels(1, len(_domains(table)), height=3.2, sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.scatter(ax, part, x="accuracy", y=y, styles=styles, by=by, zero=False)
        plots.diagonal(ax)
        ax.set(title=DOMAIN_LABELS[domain], xlabel="student accuracy, %")
    axes[0].set_ylabel(ylabel)
    if by == "method":
        plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def answer_shares(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """What student and teacher answer, as shares of the items: a panel a domain, a bar a kind of student.

    Columns domain, label and those of ANSWER_STYLE, in percent.
    """
    rows = table.groupby("domain", sort=False).size().max()
    fig, axes = plots.panels(1, len(_domains(table)), height=1.3 + 0.28 * rows)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain].set_index("label")
        plots.stacked_shares(ax, part, styles=ANSWER_STYLE, fmt="{:.0f}")
        ax.set(title=DOMAIN_LABELS[domain], xlabel="share of items, %", xlim=(0, 100))
    handles = plots.shade_handles(ANSWER_STYLE)
    fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    plots.watermark(fig, watermark)
    return fig


def given_accuracy(table: pd.DataFrame, *, measures: Mapping[str, str], watermark: str = "") -> Figure:
    """Measures of agreement by method, a row of panels a domain, a column a measure.

    Columns domain, method, label, measure, estimate, low, high; `measures` names those drawn, with their axis
    titles. Chance is at zero where a measure is adjusted for it.
    """
    domains, n_rows = _domains(table), table.groupby(["domain", "measure"]).size().max()
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
    plots.watermark(fig, watermark)
    return fig


def likeness_by_group(table: pd.DataFrame, *, xlabel: str, watermark: str = "") -> Figure:
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
        look = {"styles": plots.LIKENESS_STYLE, "by": "measure"}
        plots.interval_dots(ax, part, y="row", x="estimate", **look)
        ax.set(title=label)
        ax.tick_params(axis="y", labelsize=7)
    for ax in axes[len(labels) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(labels) - n_columns) : len(labels)]:
        ax.set_xlabel(f"{xlabel},\n{INTERVAL}")
        ax.tick_params(labelbottom=True)
    plots.figure_legend(fig, list(plots.LIKENESS_STYLE.values()))
    plots.watermark(fig, watermark)
    return fig


def error_shares(table: pd.DataFrame, *, watermark: str = "") -> Figure:
    """What is wrong with the answers: a bar a method (index), a column a category of plots.ERROR_STYLE."""
    fig, (ax,) = plots.panels(height=1.6 + 0.32 * len(table))
    plots.stacked_shares(ax, table, styles=plots.ERROR_STYLE, fmt="{:.0f}")
    ax.set(xlabel="share of texts, %", xlim=(0, 100))
    handles = plots.shade_handles(plots.ERROR_STYLE)
    fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    plots.watermark(fig, watermark)
    return fig


def level_and_gain(table: pd.DataFrame, *, measure: str, label: str, watermark: str = "") -> Figure:
    """A likeness to the teacher over accuracy (left) and the gain over it (right), a row a domain."""
    domains = _domains(table)
    height = 3.2 if len(domains) == 1 else 0.5 + 2.6 * len(domains)
    fig, axes = plots.panels(len(domains), 2, height=height)
    for domain, level, gain in zip(domains, axes[::2], axes[1::2], strict=True):
        part = table[table["domain"] == domain]
        before = "" if len(domains) == 1 else f"{DOMAIN_LABELS[domain]}: "
        plots.scatter(level, part, x="accuracy", y=measure, styles=METHOD_STYLE, by="method", zero=False)
        level.set(xlabel="student accuracy, %", ylabel=label, title=f"{before}level".capitalize())
        plots.scatter(gain, part, x=measure, y="gain", styles=METHOD_STYLE, by="method")
        gain.set(xlabel=label, ylabel="gain over SFT, points", title=f"{before}gain".capitalize())
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def likeness_by_method(table: pd.DataFrame, *, measure: str, xlabel: str, watermark: str = "") -> Figure:
    """A likeness of the SFT student and of each method's, a row a pair, a panel a domain.

    Columns domain, pair, method (`sft` among them) and `measure`; a line joins what belongs to a pair.
    """
    pairs = list(dict.fromkeys(table["pair"]))
    height = 1.3 + 0.2 * len(pairs)
    fig, axes = plots.panels(1, len(_domains(table)), height=height, sharey=True)
    for ax, domain in zip(axes, _domains(table), strict=True):
        part = table[table["domain"] == domain]
        plots.joined_dots(ax, part, y="pair", x=measure, styles=METHOD_STYLE, by="method", rows=pairs)
        ax.set(title=DOMAIN_LABELS[domain], xlabel=xlabel)
    plots.figure_legend(fig, _methods(table))
    plots.watermark(fig, watermark)
    return fig


def right_and_alike(table: pd.DataFrame, *, bound: float, watermark: str = "") -> Figure:
    """Correlation of being right with likeness to the teacher, every run a point, a row a task.

    Columns label (task), method, fidelity_correct_r; dashed at plus and minus `bound`.
    """
    tasks = list(dict.fromkeys(table["label"]))
    fig, (ax,) = plots.panels(height=1.1 + 0.36 * len(tasks))
    plots.point_rows(ax, table, y="label", x="fidelity_correct_r", styles=METHOD_STYLE, by="method")
    for value in (-bound, bound):
        ax.axvline(value, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlim=(-1.02, 1.02), xlabel="r of being right with sentence BLEU against the teacher's text")
    dashed = plots.line_handle(f"r = ±{bound:g}", linestyle="--")
    plots.figure_legend(fig, _methods(table), extra=[dashed])
    plots.watermark(fig, watermark)
    return fig


def temperature_curves(average: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Average accuracy over temperature: rows of panels a domain, a panel a pair."""
    fig, panels = _pair_panels(average, xlabel="temperature (log)", ylabel="average accuracy, %")
    for ax, part in panels:
        plots.temperature_curves(ax, part)
    dashed = plots.line_handle("SFT student", linestyle="--")
    plots.figure_legend(fig, _methods(average), extra=[dashed])
    plots.watermark(fig, watermark)
    return fig


def noise_curves(average: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Average accuracy over the noise on the teacher's logits: rows of panels a domain, a panel a pair."""
    fig, panels = _pair_panels(average, xlabel="sigma of the noise", ylabel="average accuracy, %")
    for ax, part in panels:
        plots.noise_curves(ax, part)
    lines = [plots.line_handle("SFT student", linestyle="--"), plots.line_handle("base model", linestyle=":")]
    plots.figure_legend(fig, _methods(average), extra=lines)
    plots.watermark(fig, watermark)
    return fig


def _pair_panels(
    table: pd.DataFrame, *, xlabel: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel a domain x pair and its rows of `table`; those of a domain share y.

    At most five side by side, four where names are long.
    """
    pairs, domains = list(dict.fromkeys(table["pair"])), _domains(table)
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


def best_temperature(shares: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Share of cases in which a temperature is the best: a row a kind of run, a column a temperature."""
    colours = plots.ordered_colours(shares.shape[1])
    styles = {name: Style(name, colour, "s") for name, colour in zip(shares.columns, colours, strict=True)}
    fig, (ax,) = plots.panels(height=1.0 + 0.28 * len(shares))
    plots.stacked_shares(ax, shares, styles=styles)
    ax.set(xlabel="share of pairs x tasks", xlim=(0, 1))
    fig.legend(
        handles=plots.shade_handles(styles), loc="outside lower center", ncols=len(styles), frameon=False
    )
    plots.watermark(fig, watermark)
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


def verdict_bars(counts: pd.DataFrame, *, watermark: str = "") -> Figure:
    """Claims by section (index) and verdict (columns)."""
    fig, (ax,) = plots.panels(height=1.0 + 0.24 * len(counts))
    plots.stacked_shares(ax, counts, styles=VERDICT_STYLE, fmt="{:.0f}")
    ax.set_xlabel("number of claims")
    fig.legend(handles=plots.shade_handles(VERDICT_STYLE), loc="outside lower center", ncols=4, frameon=False)
    plots.watermark(fig, watermark)
    return fig


def running_curves(curves: dict[str, list[tuple[int, int, float]]]) -> Figure:
    """Losses of the trainings that are running, by the share of their steps: points (step, n_steps, loss)."""
    fig, (ax,) = plots.panels(height=2.2)
    for (label, points), colour in zip(curves.items(), plots.ordered_colours(len(curves)), strict=True):
        shares = [100 * step / n_steps for step, n_steps, _ in points]
        ax.plot(shares, [loss for *_, loss in points], color=colour, marker=".", label=label)
    ax.set(xlabel="steps done, %", ylabel="loss, nats a token", xlim=(0, 100))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return fig


def training_curve(entries: pd.DataFrame) -> Figure:
    """Loss by step and, where there is one, validation loss by epoch: entries of curve.jsonl."""
    fig, (ax,) = plots.panels(height=2.6)
    plots.loss_curve(ax, entries)
    return fig
