"""Figures of what students take from their teacher: its answers and texts, its noise and temperature."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS
from kdutils.report import plots
from kdutils.report.plots import INTERVAL, METHOD_STYLE, domain_panels, with_legend
from kdutils.results import agreement_fidelity, capa

# --- likeness -------------------------------------------------------------------------------------------


def before_and_after(
    table: pd.DataFrame, *, left: str, right: str, xlabel: str, by: str = "domain"
) -> Figure:
    """Two values of every pair joined by a line, a panel a value of `by`: two columns of KIND_STYLE."""
    rows = list(dict.fromkeys(table["pair"]))
    fig, parts = domain_panels(table, height=1.2 + 0.2 * len(rows), sharey=True, xlabel=xlabel, by=by)
    for ax, part in parts:
        position = [rows.index(pair) for pair in part["pair"]]
        ax.hlines(position, part[left], part[right], color="0.75", linewidth=1.4, zorder=1)
        for column in (left, right):
            style = plots.KIND_STYLE[column]
            ax.scatter(part[column], position, color=style.colour, marker=style.marker, s=22, zorder=2)
        plots.named_rows(ax, rows, has_lines=True)
    plots.figure_legend(fig, [plots.KIND_STYLE[left], plots.KIND_STYLE[right]])
    return fig


def level_and_gain(table: pd.DataFrame) -> Figure:
    """Fidelity over accuracy (left) and the gain over fidelity (right), of one source, a row a domain."""
    label = f"fidelity ({agreement_fidelity.FIDELITY_NAMES[table['source'].iloc[0]]}), %"
    domains = list(dict.fromkeys(table["domain"]))
    height = 3.2 if len(domains) == 1 else 0.5 + 2.6 * len(domains)
    fig, axes = plots.panels(len(domains), 2, height=height)
    for domain, level, gain in zip(domains, axes[::2], axes[1::2], strict=True):
        part = table[table["domain"] == domain]
        before = "" if len(domains) == 1 else f"{DOMAIN_LABELS[domain]}: "
        plots.scatter(level, part, x="accuracy", y="fidelity", has_zero=False)
        level.set(xlabel="student accuracy, %", ylabel=label, title=f"{before}level".capitalize())
        plots.scatter(gain, part, x="fidelity", y="gain")
        gain.set(xlabel=label, ylabel="gain over SFT, points", title=f"{before}gain".capitalize())
    return with_legend(fig, table)


def given_accuracy(table: pd.DataFrame) -> Figure:
    """Measures of agreement by method, a row of panels a domain, a column a measure: capa.given_accuracy."""
    n_rows = table.groupby(["domain", "measure"]).size().max()
    height = 0.5 + table["domain"].nunique() * (0.75 + 0.21 * n_rows)
    shown = pd.concat([table[table["measure"] == name] for name in capa.SHOWN])
    fig, parts = plots.crossed_panels(shown, "domain", "measure", height=height, sharex="col")
    for place, (ax, part) in enumerate(parts):
        plots.interval_dots(ax, part, y="label", x="estimate", width=0.0)
        ax.set_title(DOMAIN_LABELS[part["domain"].iloc[0]])
        if place % len(capa.SHOWN):
            ax.tick_params(labelleft=False)
    for (ax, _), measure in zip(parts[-len(capa.SHOWN) :], capa.SHOWN, strict=True):
        ax.set_xlabel(f"{capa.MEASURES[measure]},\n{INTERVAL}")
    return fig


def likeness_by_group(table: pd.DataFrame, *, xlabel: str) -> Figure:
    """Likeness to the teacher's text, a panel a method, a row a group of items, each measure a dot.

    Columns label, group, group_label, measure, estimate, low, high, n: the texts of a group.
    """
    named = table["group_label"] + "\nn = " + table["n"].map("{:,}".format)
    look = {"height": 0.9, "row_height": 0.5 + 0.36 * table["group"].nunique(), "sharex": True}
    look["xlabel"] = f"{xlabel},\n{INTERVAL}"
    fig, parts = plots.wrapped_panels(table.assign(row=named), "label", most=2, **look)
    for ax, part in parts:
        plots.interval_dots(ax, part, y="row", x="estimate", styles=plots.LIKENESS_STYLE, by="measure")
        ax.tick_params(axis="y", labelsize=7)
    plots.figure_legend(fig, plots.LIKENESS_STYLE.values())
    return fig


def right_and_alike(table: pd.DataFrame, *, bound: float) -> Figure:
    """Correlation of being right with likeness to the teacher, every run a point, a row a task.

    Columns label (task), method, fidelity_correct_r; dashed at plus and minus `bound`.
    """
    fig, (ax,) = plots.panels(height=1.1 + 0.36 * table["label"].nunique())
    look = {"s": 13, "alpha": 0.75, "zorder": 2}
    for style, part, position in plots.lanes(ax, table, y="label", width=0.7):
        ax.scatter(part["fidelity_correct_r"], position, **look, **style.points)
    for value in (-bound, bound):
        ax.axvline(value, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=1)
    ax.set(xlim=(-1.02, 1.02), xlabel="r of being right with sentence BLEU against the teacher's text")
    return with_legend(fig, table, extra=[plots.line_handle(f"r = ±{bound:g}", linestyle="--")])


# --- noise and temperature ------------------------------------------------------------------------------


def sweep_curves(average: pd.DataFrame, *, x: str) -> Figure:
    """Average accuracy over `x`, a panel a domain x pair, a line a method; in grey what there was before KD.

    `x` is temperature, on a log axis, or noise_sigma. Columns domain, pair, method, `x`, accuracy, low, high,
    sft_accuracy and, over noise, base_accuracy.
    """
    xlabel = {"temperature": "temperature (log)", "noise_sigma": "sigma of the noise"}[x]
    references = {"sft_accuracy": ("SFT student", "--")}
    if x == "noise_sigma":
        references["base_accuracy"] = ("base model", ":")
    fig, panels = _pair_panels(average, xlabel=xlabel, ylabel="average accuracy, %")
    for ax, part in panels:
        for method, style in METHOD_STYLE.items():
            runs = part[part["method"] == method].sort_values(x)
            if runs.empty:
                continue
            error = np.array([runs["accuracy"] - runs["low"], runs["high"] - runs["accuracy"]], dtype=float)
            line = {"markersize": 3.5, "linewidth": 1.1, "elinewidth": 0.8, "marker": style.marker}
            ax.errorbar(runs[x], runs["accuracy"], yerr=error, color=style.colour, **line)
            for look, lost in plots.by_format(style, runs):
                if look.is_hollow:  # the line stays one
                    white = {"s": 12, "marker": style.marker, "color": "white", "edgecolor": style.colour}
                    ax.scatter(lost[x], lost["accuracy"], zorder=3, **white)
        for column, (_, dashes) in references.items():
            ax.axhline(part[column].iloc[0], color=plots.GREY, linewidth=1, linestyle=dashes, zorder=1)
        if x == "temperature":
            ax.set_xscale("log")
        values = sorted(part[x].unique())
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    lines = [plots.line_handle(label, linestyle=dashes) for label, dashes in references.values()]
    return with_legend(fig, average, extra=lines)


def _pair_panels(table: pd.DataFrame, *, xlabel: str, ylabel: str) -> tuple[Figure, plots.Panels]:
    """A panel a domain x pair; those of a domain share y. Five side by side, four where names are long."""
    pairs, domains = list(dict.fromkeys(table["pair"])), list(dict.fromkeys(table["domain"]))
    is_short = max(map(len, pairs)) < 16
    rows_each = -(-len(pairs) // (5 if is_short else 4))
    n_columns = -(-len(pairs) // rows_each)
    n_rows = rows_each * len(domains)
    height = (1.9 if n_rows < 5 else 1.6) * n_rows + 0.9
    fig, axes = plots.panels(n_rows, n_columns, height=height, sharex=True)
    panels, titles = [], {"fontsize": 8 if is_short else 7}
    for domain, of_domain in zip(domains, axes.reshape(len(domains), -1), strict=True):
        for index, ax in enumerate(of_domain):
            pair = pairs[index] if index < len(pairs) else None
            part = table[(table["domain"] == domain) & (table["pair"] == pair)]
            ax.set_visible(len(part) > 0)
            ax.set_title(f"{domain}\n{pair}", **titles)
            if index:
                ax.sharey(of_domain[0])
                ax.tick_params(labelleft=index % n_columns == 0)
            if len(part):
                panels.append((ax, part))
        for ax in of_domain[::n_columns]:
            ax.set_ylabel(ylabel)
    for column in axes.reshape(n_rows, n_columns).T:  # below the last panel that a column has
        for ax in [ax for ax in column if ax.get_visible()][-1:]:
            ax.set_xlabel(xlabel)
            ax.tick_params(labelbottom=True)
    return fig, panels


def known_noise(known: pd.DataFrame, *, sft: float, base: float) -> Figure:
    """The few known accuracies over sigma (columns sigma, accuracy, origin) between two reference lines."""
    fig, (ax,) = plots.panels(height=2.8)
    style, text = METHOD_STYLE["fkl"], {"textcoords": "offset points", "fontsize": 7.5}
    ax.scatter(known["sigma"], known["accuracy"], color=style.colour, marker=style.marker, s=34, zorder=3)
    for row in known.itertuples():
        ax.annotate(f"{row.accuracy:.1f} ({row.origin})", (row.sigma, row.accuracy), xytext=(8, 5), **text)
    for label, value in (("SFT student", sft), ("base model", base)):
        ax.axhline(value, color=plots.GREY, linestyle="--", linewidth=0.9)
        ax.annotate(f"{label} {value:.1f}", (2.5, value), xytext=(0, -9), ha="center", **text)
    ax.set(xlim=(-0.3, 8), ylim=(0, 66), xticks=[0, 1, 2, 5])
    ax.set(xlabel="sigma of the noise on the teacher's logits", ylabel="math average, %")
    return fig


def choice_of_temperature(table: pd.DataFrame) -> Figure:
    """Accuracy of each student and method by how its temperature was chosen: of_students."""
    labels = table["student"] + ", " + table["method"].map(lambda method: METHOD_STYLE[method].label)
    rows = list(dict.fromkeys(labels))
    fig, parts = domain_panels(table, height=1.5 + 0.22 * len(rows), sharey=True, xlabel="accuracy, %")
    for ax, part in parts:
        place, values = labels[part.index].map(rows.index), part[list(plots.CHOICE_STYLE)]
        ax.hlines(place, values.min(axis=1), values.max(axis=1), color="0.8", linewidth=1.2, zorder=1)
        for name, style in plots.CHOICE_STYLE.items():
            ax.plot(part[name], place, style.marker, color=style.colour, markersize=4.5, alpha=0.85)
        plots.named_rows(ax, rows, has_lines=True)
    plots.figure_legend(fig, plots.CHOICE_STYLE.values(), columns=2)
    return fig
