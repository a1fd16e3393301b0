"""Figures of the stricter analysis: student-level gains on both scales, and verdicts by choice."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdutils.constants import DOMAIN_LABELS
from kdutils.report import plots
from kdutils.report.figures import INTERVAL, domain_panels
from kdutils.report.styles import (
    CHOICE_STYLE,
    GREY,
    KIND_STYLE,
    METHOD_STYLE,
    VERDICT_STYLE,
    Style,
    text_colour,
)

UNITS = {"points": "gain over SFT, points", "log odds": "gain in log odds"}
FOREST_STYLE = {  # kinds of rows of studentgains.forest
    "student": Style("one student (interval over its items)", METHOD_STYLE["fkl"].colour, "o"),
    "all": Style("mean over students (interval over them)", KIND_STYLE["kd"].colour, "D"),
    "without": Style("without one family", METHOD_STYLE["revkd"].colour, "^"),
    "contaminated": Style("contaminated tasks alone", METHOD_STYLE["seqkd"].colour, "X"),
}
VERDICT_LETTERS = {"reproduced": "R", "inconclusive": "I", "not_reproduced": "N", "not_testable": "–"}
NO_BEARING = "·"


def student_forest(table: pd.DataFrame) -> Figure:
    """Gains of students, of all, and of parts, a row of panels a domain, points left and log odds right."""
    domains, scales = list(dict.fromkeys(table["domain"])), list(UNITS)
    n_rows = [table.loc[table["domain"] == domain, "label"].nunique() for domain in domains]
    height = 1.0 + sum(0.45 + 0.17 * n for n in n_rows)
    heights = {"height_ratios": [n + 2 for n in n_rows]}
    fig, axes = plots.panels(len(domains), 2, height=height, sharex="col", sharey="row", gridspec_kw=heights)
    for place, ax in enumerate(axes):
        domain, scale = domains[place // 2], scales[place % 2]
        part = table[(table["domain"] == domain) & (table["scale"] == scale)]
        labels = list(dict.fromkeys(part["label"]))
        _intervals(ax, part, labels)
        ax.set_title(DOMAIN_LABELS[domain])
        if place // 2 == len(domains) - 1:
            ax.set_xlabel(f"{UNITS[scale]},\n{INTERVAL}")
    present = [style for kind, style in FOREST_STYLE.items() if kind in set(table["kind"])]
    plots.figure_legend(fig, present, columns=2)
    return fig


def _intervals(ax: Axes, part: pd.DataFrame, labels: list[str]) -> None:
    """One dot with its interval a row, by kind; a line where students end and means begin."""
    for kind, style in FOREST_STYLE.items():
        rows = part[part["kind"] == kind]
        error = [(rows["value"] - rows["low"]).fillna(0.0), (rows["high"] - rows["value"]).fillna(0.0)]
        position = [labels.index(label) for label in rows["label"]]
        look = {"color": style.colour, "markersize": 3.8, "elinewidth": 0.9}
        ax.errorbar(rows["value"], position, xerr=error, fmt=style.marker, **look)
    ax.axhline(part["kind"].eq("student").sum() - 0.5, color="0.7", linewidth=0.7)
    ax.axvline(0, color=GREY, linewidth=0.9, zorder=1)
    plots.named_rows(ax, labels)


def gain_and_scale(table: pd.DataFrame) -> Figure:
    """Student-level gain over size, points above and log odds below, beside a world of equal gains.

    Takes studentgains.by_size. The band joins, within a family, what 95 % of students that gain alike in log
    odds would show.
    """
    domains, scales = list(dict.fromkeys(table["domain"])), list(UNITS)
    families = list(dict.fromkeys(table["family"]))
    fig, axes = plots.panels(2, len(domains), height=4.6, sharex=True, sharey="row")
    looks = dict(
        zip(families, (KIND_STYLE["tuned"], KIND_STYLE["untuned"], *METHOD_STYLE.values()), strict=False)
    )
    for place, ax in enumerate(axes):
        scale, domain = scales[place // len(domains)], domains[place % len(domains)]
        part = table[(table["domain"] == domain) & (table["scale"] == scale)]
        for family, rows in part.groupby("family", sort=False):
            _family_line(ax, rows.sort_values("student_parameters"), looks[family])
        plots.size_axis(ax, table["student_parameters"])
        ax.set_title(DOMAIN_LABELS[domain] if scale == "points" else "")
        if scale != "points":
            ax.set_xlabel("student parameters (log)")
        if place % len(domains) == 0:
            ax.set_ylabel(UNITS[scale])
    lines = [
        plots.line_handle(name, color=style.colour, marker=style.marker) for name, style in looks.items()
    ]
    band = Patch(color="0.6", alpha=0.3, label="if all gained alike in log odds (95 % over items)")
    fig.legend(handles=[*lines, band], loc="outside lower center", ncols=3, frameon=False)
    return fig


def _family_line(ax: Axes, rows: pd.DataFrame, style: Style) -> None:
    size = rows["student_parameters"].astype(float)
    error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    ax.fill_between(size, rows["least"], rows["most"], color=style.colour, alpha=0.18, linewidth=0)
    ax.plot(size, rows["expected"], color=style.colour, linestyle=":", linewidth=1.0)
    look = {"color": style.colour, "markersize": 4, "linewidth": 1.1, "elinewidth": 0.9}
    ax.errorbar(size, rows["value"], yerr=error, fmt=f"{style.marker}-", **look)


def choice_of_temperature(table: pd.DataFrame) -> Figure:
    """Accuracy of each student and method by how its temperature was chosen: of_students."""
    labels = table["student"] + ", " + table["method"].map(lambda method: METHOD_STYLE[method].label)
    rows = list(dict.fromkeys(labels))
    fig, parts = domain_panels(table, height=1.5 + 0.22 * len(rows), sharey=True, xlabel="accuracy, %")
    for ax, part in parts:
        place, values = labels[part.index].map(rows.index), part[list(CHOICE_STYLE)]
        ax.hlines(place, values.min(axis=1), values.max(axis=1), color="0.8", linewidth=1.2, zorder=1)
        for name, style in CHOICE_STYLE.items():
            ax.plot(part[name], place, style.marker, color=style.colour, markersize=4.5, alpha=0.85)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.5, -0.5)
    plots.figure_legend(fig, list(CHOICE_STYLE.values()), columns=2)
    return fig


def verdicts_by_choice(long: pd.DataFrame) -> Figure:
    """Verdicts by claim (rows) and choice (columns), as colour and letter: takes sensitivity.table.

    A dot where a choice has no bearing on the claim.
    """
    claims, choices = list(dict.fromkeys(long["id"])), list(dict.fromkeys(long["choice"]))
    picture = [[to_rgb("white")] * len(choices) for _ in claims]
    fig, (ax,) = plots.panels(height=1.6 + 0.165 * len(claims))
    for row in long.itertuples():
        y, x = claims.index(row.id), choices.index(row.choice)
        letter, colour = NO_BEARING, "0.5"
        if row.bears:
            shade = to_rgb(VERDICT_STYLE[row.verdict].colour)
            picture[y][x] = shade
            letter, colour = VERDICT_LETTERS[row.verdict], text_colour(shade)
        ax.text(x, y, letter, ha="center", va="center", fontsize=7, color=colour)
    ax.imshow(picture, aspect="auto")
    for edge in range(1, len(choices)):
        ax.axvline(edge - 0.5, color="white", linewidth=2 if edge in (1, len(choices) - 1) else 0.8)
    for edge in range(1, len(claims)):
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
    ax.set_yticks(range(len(claims)), claims)
    ax.set_xticks(range(len(choices)), choices, rotation=35, ha="left")
    ax.xaxis.tick_top()
    ax.grid(visible=False)
    handles = [
        Patch(color=style.colour, label=f"{VERDICT_LETTERS[key]} {style.label}")
        for key, style in VERDICT_STYLE.items()
    ]
    handles.append(Patch(color="white", label=f"{NO_BEARING} no bearing"))
    fig.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return fig
