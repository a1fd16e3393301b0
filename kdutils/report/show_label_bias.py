"""What notebook 14 shows: label bias of students and teachers, and verdicts by how the student is asked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdutils.claims import claims, ways_of_asking
from kdutils.claims.evidence import Evidence
from kdutils.constants import METHOD_NAMES, TASK_LABELS
from kdutils.inference.crossed_bootstrap import Resampled
from kdutils.report import figures, plots
from kdutils.report.plots import COLOURS, METHOD_STYLE, Style
from kdutils.report.section import Section
from kdutils.results import gain_tables, item_gains, label_bias, label_cells
from kdutils.results.gain_tables import interval_text
from kdutils.results.label_bias import TEACHER

WHO_STYLE = {
    "base": Style("base model", COLOURS[8], "X"),
    **METHOD_STYLE,
    TEACHER: Style("teacher", (0, 0, 0), "*"),
}
QUANTITIES = {
    "prior_distance": "distance from the teacher's prior",
    "d_prior_distance": "change of that distance",
    "d_sensitivity": "change of sensitivity",
    "d_criterion": "change of criterion",
}
PRIOR_STYLE = {
    "as said": Style("as said", COLOURS[0], "o"),
    "without prior": Style("without the label prior", COLOURS[1], "^"),
}


def kinds(table: pd.DataFrame, *, panels: Mapping[str, str], xlabel: str) -> Figure:
    """Quantities of label_bias.by_who by task, a panel each (titled by `panels`), a dot a model kind."""
    table = table.assign(domain=table["quantity"].map(panels))
    height = 1.2 + table["label"].nunique() * (0.16 + 0.07 * table["who"].nunique())
    look = {"y": "label", "x": "value", "xlabel": xlabel, "by": "who", "styles": WHO_STYLE}
    return figures.interval_panels(table, height=height, has_same_rows=True, **look)


def with_and_without(table: pd.DataFrame, *, panels: Mapping[str, str]) -> Figure:
    """Quantities of label_bias.by_who over all tasks, a panel each, as said and without the label prior."""
    is_free = table["quantity"].str.endswith("_free")
    domain = table["quantity"].str.removesuffix("_free").map(panels)
    way = is_free.map({False: "as said", True: "without prior"})
    table = table.assign(domain=domain, way=way, row=table["who"].map(lambda who: WHO_STYLE[who].label))
    look = {"y": "row", "x": "value", "xlabel": "percent", "by": "way", "styles": PRIOR_STYLE}
    look |= {"height": 1.2 + 0.3 * table["row"].nunique(), "has_same_rows": True}
    fig = figures.interval_panels(table, **look)
    for ax in fig.axes:
        if ax.get_title().endswith("over SFT"):
            ax.set_xlabel(ax.get_xlabel().replace("percent", "points"))
    return fig


def priors(table: pd.DataFrame) -> Figure:
    """How likely each label is whatever is asked, a panel a task: label_bias.labels."""
    table = table.assign(title=table["task"].map(TASK_LABELS))
    look = {"most": 4, "xlabel": "label", "height": 0.6, "row_height": 1.5, "sharey": True}
    return _lines(table, "title", x="place", y="prior", ylabel="prior, %", ticks="label", **look)


def one_shot(table: pd.DataFrame) -> Figure:
    """Probability of the first of two labels over temperature, a panel a task: label_bias.one_shot."""
    look = {"most": 3, "xlabel": "temperature (log)", "height": 0.9, "row_height": 1.9, "sharey": True}
    fig = _lines(table, "label", x="temperature", y="share", ylabel="P(first label), %", **look)
    ticks = list(dict.fromkeys(table["temperature"]))
    for ax in fig.axes:
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return fig


def _lines(
    table: pd.DataFrame, by: str, *, x: str, y: str, ylabel: str, ticks: str = "", **look: Any
) -> Figure:
    """Lines of `y` over `x`, one a kind of model, and how often the label is right as a dashed grey one."""
    fig, parts = plots.wrapped_panels(table, by, **look)
    for ax, part in parts:
        for who, own in part.groupby("who", sort=False):
            style = WHO_STYLE[who]
            ax.plot(own[x], own[y], style.marker + "-", color=style.colour, markersize=4, linewidth=0.9)
        first = part.drop_duplicates(x)
        ax.plot(first[x], first["gold"], "--", color=plots.GREY, linewidth=1.0, zorder=1)
        if ticks:
            ax.set_xticks(first[x], first[ticks].str.extract(r"(\d+|[a-z]+|[A-Z])$")[0])
    for ax in fig.axes[:: look["most"]]:
        ax.set_ylabel(ylabel)
    fig.axes[0].set_ylim(0, 1.05 * table[[y, "gold"]].max(axis=None))  # of all panels
    right = plots.line_handle("right, %", linestyle="--")
    return plots.with_legend(fig, table, by="who", styles=WHO_STYLE, extra=[right], columns=4)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table of label_bias.by_who, or of label_sequences, with kinds and quantities in words."""
    words = {name: style.label for name, style in WHO_STYLE.items()} | QUANTITIES
    columns = [name for name in ("who", "quantity") if name in table]
    table = table.assign(**{name: table[name].replace(words) for name in columns})
    return table.drop(columns=["task"], errors="ignore").rename(columns={"who": "model", "label": "task"})


# --- verdicts by how the student is asked ------------------------------------------------------------------


def evidence(section: Section, rows: pd.DataFrame) -> list[Evidence]:
    """Released results, live ones by texts under each decoding, and by labels with and without the prior."""
    asked = section.asked
    found = claims.evidence_of(section.cells, items=section.items)
    for plan in asked.others:
        found += claims.evidence_of(gain_tables.live_cells(plan), items=item_gains.read(plan))
    for way, cells in label_cells.cells(asked, rows).groupby("decoding", sort=False):
        items = label_cells.items(asked, rows, way) if section.items else None
        found.append(Evidence("live", "careful", cells, items))
    return [each for each in found if (each.source, each.protocol) != ("live", "paper")]


def verdicts(section: Section, rows: pd.DataFrame) -> pd.DataFrame:
    """The one table: claims by way of asking, drawn for each analysis; those by labels go into the ledger.

    Returns ways_of_asking.changing.
    """
    judged = ways_of_asking.judgements(evidence(section, rows), kept=section.run.kept)
    by_label = [each for each in judged if each.evidence.decoding in label_cells.WAYS]
    section.run.claims(claims.ledger_rows(by_label))
    long = ways_of_asking.table(judged)
    for analysis, part in long.groupby("analysis"):
        counts = part.value_counts("verdict").items()
        alt = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counts)
        caption = f"verdicts on {part['id'].nunique()} claims by how the student is asked, analysis: "
        caption += f"{analysis}; released results beside. Claims about math and commonsense are asked of "
        caption += "commonsense alone, so that a verdict may differ from that of notebook 08. A dot: cannot "
        caption += "be asked so."
        table = {"live": part if part["bears"].any() else part[:0]}
        section.figure(f"verdicts_{analysis}", table, figures.verdicts_by_choice, caption, alt=alt)
    changing = ways_of_asking.changing(long)
    caption = "claims whose verdict is not the same under two ways of asking, of those that both can judge."
    section.table({"live": changing.drop(columns="ids")}, caption)
    return changing


def sentences(drawn: Resampled, found: Mapping[str, np.ndarray], changing: pd.DataFrame) -> list[str]:
    """What this says in numbers: bias, distance of priors, gains without them, and verdicts that change."""
    said = []
    if len(drawn.keys):
        same = label_bias.by_who(drawn, found, ["same_label", "same_option"], by_task=False)
        shares = {name: part.set_index("who")["value"] for name, part in same.groupby("quantity", sort=False)}
        texts = (
            f"{WHO_STYLE[who].label} {shares['same_label'][who]:.0f} % and {shares['same_option'][who]:.0f} %"
            for who in shares["same_label"].index
        )
        said.append(f"Same label in every order, and same option: {', '.join(texts)}.")
        nearer = label_bias.by_who(drawn, found, ["d_prior_distance", "gain", "gain_free"], by_task=False)
        for quantity, words in (
            ("d_prior_distance", "Distance of the label prior from the teacher's, KD less SFT, points"),
            ("gain", "Gain over SFT by labels, points"),
            ("gain_free", "The same without label priors"),
        ):
            each = (
                f"{METHOD_NAMES[row.who]} {interval_text(row.value, row.low, row.high)}"
                for row in nearer[nearer["quantity"] == quantity].itertuples()
            )
            said.append(f"{words}: {', '.join(each)}.")
    for analysis, part in changing.groupby("analysis"):
        every, *two = part.itertuples()
        if every.judged:  # none by the authors' analysis of one pair
            pairs = ", ".join(f"{row.ways} {row.differ} of {row.judged}" for row in two)
            text = f"Verdicts that depend on how the student is asked ({analysis}): {every.differ} of "
            said.append(f"{text}{every.judged} ({every.ids or 'none'}). Between two ways: {pairs}.")
    return said
