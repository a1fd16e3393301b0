"""What notebook 12 shows: the study at several decoding temperatures, beside the table of Hot or Cold."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdutils.constants import DOMAIN_LABELS, METHOD_NAMES
from kdutils.grid.cell_table import model_family, model_parameters, short_name
from kdutils.inference import intervals
from kdutils.report import figures, plots
from kdutils.report.plots import FAMILY_LINES, MARKERS, METHOD_STYLE, Style
from kdutils.report.section import Section
from kdutils.results import decoding, gain_tables, hot_or_cold
from kdutils.results.decoding import MEASURES
from kdutils.results.gain_tables import in_domain_order, interval_text

POINTS = dict.fromkeys(["gain", "low", "high", "greedy_gain", "greedy_low", "greedy_high"], "+.1f")


def curves(section: Section, table: pd.DataFrame) -> None:
    """Figure and table of decoding.curves, of each pair."""
    keys = ["domain", "measure", "method", "top_p"]
    for place, (pair, own) in enumerate(table.groupby(["teacher", "student"], sort=False)):
        names, own = " to ".join(map(short_name, pair)), own.drop(columns=["teacher", "student"])
        caption = f"{names}: what changes with the decoding temperature, means over tasks; 95% intervals "
        caption += "over items. Of the teacher, agreement and fidelity are with itself on another sample; a "
        caption += "student that is surer than the teacher can be above it."
        name = f"curves_{place}" if place else "curves"
        section.figure(name, {"live": own}, curve_panels, caption, value="value, %")
        wide = own[own["measure"].isin(["accuracy", "agreement"])]
        wide = wide.pivot_table(index=keys, columns="temperature", values="value", sort=False)
        wide = wide.sort_index(axis=1).rename(columns="T = {:g}".format).reset_index()
        wide = wide.replace({"method": METHOD_NAMES})
        section.table({"live": wide}, f"{names}: accuracy and agreement, %.", ".1f")


def same_noise_remark(section: Section, rows: pd.DataFrame, both: pd.DataFrame) -> None:
    """How much higher agreement at temperature 1 looks on the noise that student and teacher share."""
    levels = []
    for own in (both, decoding.beside_teacher(rows, same_noise=True)):
        kd = own[~own["method"].isin(["sft", "teacher"]) & (own["temperature"] == 1) & (own["top_p"] == 1)]
        levels.append(intervals.mean_over_items(kd["agreement"], kd["task"]).value)
    if not np.isnan(levels).any():
        section.run.remark(
            f"Agreement of KD students at temperature 1: {levels[0]:.1f} % on independent samples, "
            f"{levels[1]:.1f} % on the same noise, as the sampled columns of notebooks 04 and 08 have it."
        )


# --- by model size ----------------------------------------------------------------------------------------


def ladder(section: Section, models: pd.DataFrame) -> None:
    """Accuracy of models after SFT over temperature, by size."""
    found = []
    for key, own in models.groupby(["domain", "student", "temperature"], sort=False):
        of_item = own.groupby(["task", "item_id"])["correct"].mean()
        level = intervals.mean_over_items(of_item, of_item.index.get_level_values("task"))
        found.append((*key, *level.bounds))
    table = pd.DataFrame(found, columns=["domain", "model", "temperature", "value", "low", "high"])
    table = table.assign(family=table["model"].map(model_family), size=table["model"].map(model_parameters))
    look = {"panels": "domain", "ylabel": "accuracy, %", "value": "value, %"}
    caption = "accuracy of models after SFT over the decoding temperature; 95% intervals over items."
    section.figure("by_size", {"live": table}, model_lines, caption, **look)


def half_drops(section: Section, rows: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Figure and table of half-drop temperatures: models after SFT, and students after KD."""
    rng, plain = np.random.default_rng(decoding.SEED), rows[rows["top_p"] == 1]
    kd = plain[~plain["method"].isin(["sft", "teacher"])]
    tables = []
    for part, by in ((models.assign(method="sft"), []), (kd, ["teacher"])):
        if len(part) and part["temperature"].nunique() > 1:
            drops = decoding.half_drops(part, by=["domain", *by, "student", "method"], rng=rng)
            tables.append(decoding.half_drop_table(drops, part["temperature"].max()))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    students = table.pop("student")
    by = {"family": model_family, "size": model_parameters, "label": short_name}
    table = table.assign(**{name: students.map(function) for name, function in by.items()})
    table = in_domain_order(table.sort_values(["family", "size"], kind="stable")).reset_index(drop=True)
    caption = "half-drop temperature: where accuracy above chance is half of that at the lowest temperature; "
    caption += "95% intervals over items. Models that never fall so far stand at the highest temperature."
    draw, look = figures.interval_panels, {"y": "label", "x": "value", "xlabel": "half-drop temperature"}
    look |= {"height": 1.3 + 0.26 * table["label"].nunique(), "has_same_rows": True}
    look |= {"value": "value, temperature"}
    section.figure("half_drop", {"live": table.dropna(subset=["value"])}, draw, caption, **look)
    shown = table[["domain", "label", "method", "text"]]
    shown = shown.rename(columns={"label": "model", "text": "half-drop"}).replace({"method": METHOD_NAMES})
    section.table({"live": shown}, "half-drop temperatures with 95% intervals over items.")
    return table


def released(section: Section) -> str:
    """Instruction following over temperature in Hot or Cold, what it keeps by size, and a sentence of it."""
    table, rng = hot_or_cold.read(), np.random.default_rng(decoding.SEED)
    several = table.groupby("family")["model"].transform("nunique") > 1
    shown = table[several & (table["ability"] == "IF")].rename(columns={"billions": "size", "score": "value"})
    fig = model_lines(shown, panels="family", ylabel="instruction following, share of prompts")
    caption = "Hot or Cold, released: instruction following over the decoding temperature (top_p 0.9), "
    caption += "families with several sizes. One number a cell, no error."
    span = f"{shown['value'].min():g} to {shown['value'].max():g}"
    alt = f"{len(shown)} scores of {shown['model'].nunique()} models, {span}."
    section.run.figure(fig, "hot_or_cold", alt=alt, data=shown, caption=caption)
    models = hot_or_cold.by_model(table)
    rises = hot_or_cold.rise_with_size(models, rng=rng)
    caption = "Hot or Cold: Spearman's rho of model size and the share of the score at temperature 0.1 that "
    caption += "is kept at 1.9: over all models, and within families."
    formats = dict.fromkeys(["all", "within"], "+.2f") | dict.fromkeys(["p", "within_p"], ".2g")
    section.run.table(rises, caption=caption, formats=formats)
    drops = models.loc[models["ability"] == "IF", ["family", "model", "billions", "half_drop"]]
    caption = "Hot or Cold, instruction following: temperature at which half of the score at 0.1 is left; "
    section.run.table(drops, caption=f"{caption}1.9, the highest, where it never falls so far.")
    own = rises.set_index("ability").loc["instruction following"]
    return (
        f"Hot or Cold, instruction following: rho of size and what is kept is {own['all']:+.2f} over "
        f"{own['n']:.0f} models and {own['within']:+.2f} within families ({own['within_n']:.0f} models, p = "
        f"{own['within_p']:.2g})."
    )


# --- a chosen temperature ----------------------------------------------------------------------------------


def selected(section: Section, table: pd.DataFrame) -> list[str]:
    """Table of decoding.selected, and a sentence a domain."""
    table = table.assign(**{name: table[name].round(9) + 0.0 for name in POINTS})  # no −0.0
    shown = table.drop(columns=["teacher", "student"]) if gain_tables.n_pairs(table) == 1 else table
    caption = "accuracy at a temperature chosen by task on held-out items, %, and what it is above "
    caption += "temperature 1 and above greedy decoding on the same items, points, with 95% intervals."
    section.table({"live": shown.replace({"method": METHOD_NAMES})}, caption, POINTS | {"selected": ".1f"})
    said = []
    for domain, own in table[table["method"] != "teacher"].groupby("domain", sort=False):
        _, most = _ends(own, ["gain", "low", "high"])
        greedy = " to ".join(_ends(own, ["greedy_gain", "greedy_low", "greedy_high"]))
        said.append(
            f"{DOMAIN_LABELS[domain]}: a temperature chosen on held-out items gives at most {most} points "
            f"over temperature 1, and {greedy} over greedy decoding."
        )
    return said


def _ends(table: pd.DataFrame, columns: list[str]) -> list[str]:
    """The least and the largest of `columns[0]`, each with its interval and method."""
    ends = (table.loc[place] for place in (table[columns[0]].idxmin(), table[columns[0]].idxmax()))
    return [f"{interval_text(*row[columns])} ({METHOD_NAMES[row['method']]})" for row in ends]


# --- figures ---------------------------------------------------------------------------------------------

STYLES = METHOD_STYLE | {"teacher": Style("teacher", (0.15, 0.15, 0.15), "*")}
XLABEL = "decoding temperature"


def _line(ax: Axes, table: pd.DataFrame, style: Style, *, dashes: str = "-") -> None:
    """A value over temperature with its interval, where it has one."""
    error = None
    if "low" in table:
        bounds = [table["value"] - table["low"], table["high"] - table["value"]]
        error = np.nan_to_num(np.array(bounds, dtype=float))
    look = {"markersize": 3.5, "linewidth": 1.1, "elinewidth": 0.8, "marker": style.marker}
    look |= {"markerfacecolor": style.face, "linestyle": dashes}
    ax.errorbar(table["temperature"], table["value"], yerr=error, color=style.colour, **look)


def curve_panels(table: pd.DataFrame) -> Figure:
    """MEASURES over temperature by method, a column of panels a domain: decoding.curves of one pair.

    Hollow markers and dashes where top_p is below 1.
    """
    look = {"height": 0.9 + 1.35 * table["measure"].nunique(), "sharex": True, "sharey": "row"}
    fig, parts = plots.crossed_panels(table, "measure", "domain", **look)
    n_domains = table["domain"].nunique()
    for place, (ax, part) in enumerate(parts):
        for (method, top_p), own in part.groupby(["method", "top_p"], sort=False):
            style = STYLES[method]
            _line(ax, own, style._replace(is_hollow=top_p < 1), dashes="-" if top_p == 1 else "--")
        if len(part) and place % n_domains == 0:
            ax.set_ylabel("\n".join(textwrap.wrap(MEASURES[part["measure"].iloc[0]], 16)))
        if place < n_domains:
            ax.set_title(DOMAIN_LABELS[table["domain"].unique()[place]])
        if place >= len(parts) - n_domains:
            ax.set_xlabel(XLABEL)
    hollow = plots.line_handle("top_p below 1", marker="o", markerfacecolor="none", linestyle="none")
    extra = [] if (table["top_p"] == 1).all() else [hollow]
    return plots.with_legend(fig, table, styles=STYLES, extra=extra, columns=6)


def model_lines(table: pd.DataFrame, *, panels: str, ylabel: str) -> Figure:
    """A value over temperature, a panel a value of `panels`, a line a model, darker the larger it is.

    Columns `panels`, family, model, size, temperature, value, and where known low and high.
    """
    sizes = table.drop_duplicates("model").sort_values("size", kind="stable")
    styles, dashes = {}, dict(zip(sizes["family"].unique(), FAMILY_LINES * 2, strict=False))
    for _, own in sizes.groupby("family", sort=False):
        looks = zip(own["model"], plots.ordered_colours(len(own)), MARKERS, strict=False)
        styles |= {model: Style(model, colour, marker) for model, colour, marker in looks}
    fig, parts = plots.domain_panels(table, height=3.3, by=panels, xlabel=XLABEL, sharey=True)
    for ax, part in parts:
        for (family, model), own in part.groupby(["family", "model"], sort=False):
            _line(ax, own.sort_values("temperature"), styles[model], dashes=dashes[family])
        ax.set_xticks(sorted(part["temperature"].unique()))
    parts[0][0].set_ylabel(ylabel)
    handles = []
    for row in sizes.sort_values(["family", "size"], kind="stable").itertuples():
        look = {"color": styles[row.model].colour, "marker": styles[row.model].marker}
        handles.append(plots.line_handle(row.model, linestyle=dashes[row.family], **look))
    plots.legend(fig, handles, columns=4 if len(handles) < 9 else 3)
    return fig
