"""What figures are drawn with: the looks of the study, panels, dots with intervals, legends.

Nothing is computed: estimates and interval bounds are columns of a table. No colour is without a marker.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdutils.constants import DOMAIN_LABELS
from kdutils.grid.cell_table import size_label
from kdutils.grid.study import UNFORMATTED

GREY = "0.45"
COLOURS = sns.color_palette("colorblind")
FAMILY_LINES = ("-", ":", "--", "-.")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")


class Style(NamedTuple):
    label: str
    colour: tuple[float, float, float]
    marker: str
    is_hollow: bool = False

    @property
    def face(self) -> str | tuple[float, float, float]:
        """The colour within its marker."""
        return "none" if self.is_hollow else self.colour

    @property
    def points(self) -> dict[str, Any]:
        """How `Axes.scatter` draws it."""
        if self.is_hollow:
            return {"marker": self.marker, "facecolor": "none", "edgecolor": self.colour, "linewidth": 0.8}
        return {"marker": self.marker, "color": self.colour, "linewidth": 0}


def by_format(style: Style, table: pd.DataFrame) -> Iterator[tuple[Style, pd.DataFrame]]:
    """The style with its rows, hollow with those of students that have not learned the response format."""
    lost = table.get(UNFORMATTED, pd.Series(False, table.index)).astype(bool)
    for look, part in ((style, table[~lost]), (style._replace(is_hollow=True), table[lost])):
        if len(part) or not look.is_hollow:
            yield look, part


METHOD_STYLE = {
    "sft": Style("SFT", COLOURS[7], "s"),
    "fkl": Style("SeqKD†", COLOURS[0], "o"),
    "seqkd": Style("SeqKD (teacher text)", COLOURS[4], "P"),
    "revkd": Style("RevKD", COLOURS[1], "^"),
    "gkd": Style("GKD", COLOURS[2], "D"),
    "opd": Style("OPD", COLOURS[5], "v"),
}
KIND_STYLE = {
    "sft": Style("SFT student", COLOURS[7], "s"),
    "kd": Style("KD student", COLOURS[3], "o"),
    "untuned": Style("untuned teacher", COLOURS[3], "s"),
    "tuned": Style("tuned teacher", COLOURS[0], "o"),
}
DOMAIN_STYLE = {"math": Style("math", COLOURS[0], "o"), "commonsense": Style("commonsense", COLOURS[3], "s")}
SELECTION_STYLE = {
    "best_on_test": Style("best temperature per task, on test", COLOURS[0], "o"),
    "temperature_1": Style("temperature 1", COLOURS[1], "^"),
}
CHOICE_STYLE = SELECTION_STYLE | {  # of items, which released results have not
    "held_out": Style("chosen per task on held-out items", COLOURS[2], "D")
}
ANSWER_STYLE = {  # columns of agreement_fidelity.answer_shares; like answers first
    "both_right": Style("both right", COLOURS[2], "o"),
    "same_wrong": Style("both wrong, same answer", COLOURS[1], "^"),
    "other_wrong": Style("both wrong, other answers", COLOURS[4], "X"),
    "only_teacher": Style("only the teacher right", COLOURS[7], "s"),
    "only_student": Style("only the student right", COLOURS[0], "D"),
}
LIKENESS_STYLE = {  # paradox.MEASURES
    "bleu": Style("sentence BLEU", COLOURS[0], "o"),
    "rouge_l": Style("ROUGE-L", COLOURS[1], "^"),
    "wording": Style("BLEU of the words alone", COLOURS[2], "D"),
}
ERROR_STYLE = {  # solution_steps.CATEGORIES
    "right": Style("right", COLOURS[2], "o"),
    "not_followed": Style("right steps, another answer stated", COLOURS[8], "P"),
    "arithmetic": Style("wrong arithmetic", COLOURS[1], "^"),
    "operation": Style("wrong operation", COLOURS[4], "D"),
    "irrelevant": Style("irrelevant number", COLOURS[0], "v"),
    "foreign": Style("number not in the question", COLOURS[9], "X"),
    "other": Style("other steps", COLOURS[5], "s"),
    "no_step": Style("no step", COLOURS[7], "<"),
    "cut": Style("cut off or no answer", (0.85, 0.85, 0.85), "."),
}
WAY_STYLE = {  # answer_modes.WAYS
    "generated and read": Style("generated and read", COLOURS[0], "o"),
    "ranked by likelihood": Style("ranked by likelihood", COLOURS[1], "^"),
    "ranked by likelihood per character": Style("ranked by likelihood per character", COLOURS[4], "D"),
}
CHANGE_STYLE = {  # quantities of protocols.changes
    "sft": METHOD_STYLE["sft"]._replace(label="accuracy after SFT"),
    "kd": METHOD_STYLE["fkl"]._replace(label="accuracy after KD"),
    "gain": Style("gain of KD over SFT", COLOURS[3], "D"),
}
VERDICT_STYLE = {
    "reproduced": Style("reproduced", COLOURS[2], "o"),
    "inconclusive": Style("inconclusive", COLOURS[1], "D"),
    "not_reproduced": Style("not reproduced", COLOURS[3], "X"),
    "not_testable": Style("not testable", (0.72, 0.72, 0.72), "."),
}
VERDICT_LETTERS = {"reproduced": "R", "inconclusive": "I", "not_reproduced": "N", "not_testable": "–"}
FOREST_STYLE = {  # kinds of rows of student_gains.forest
    "student": Style("one student (interval over its items)", METHOD_STYLE["fkl"].colour, "o"),
    "all": Style("mean over students (interval over them)", KIND_STYLE["kd"].colour, "D"),
    "without": Style("without one family", METHOD_STYLE["revkd"].colour, "^"),
    "contaminated": Style("contaminated tasks alone", METHOD_STYLE["seqkd"].colour, "X"),
}


def set_theme() -> None:
    """The look of every figure of the study."""
    sns.set_theme(
        context="paper",
        style="whitegrid",
        palette="colorblind",
        rc={
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.labelsize": 8,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 7.5,
            "grid.linewidth": 0.5,
            "axes.edgecolor": "0.6",
            "figure.constrained_layout.use": True,
            "axes.titley": 1.0,  # where titles stand anyway; unset, ticks are measured for it again and again
        },
    )


def text_colour(background: tuple[float, float, float]) -> str:
    """Black or white, whichever contrasts more: relative luminance as in WCAG 2.2."""
    channels = np.asarray(background[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def ordered_colours(n: int) -> list[tuple[float, float, float]]:
    """n colours from light to dark, for values that have an order."""
    return list(sns.color_palette("crest", n))


def ordered_styles(values: Iterable[float], symbol: str) -> dict[float, Style]:
    """A style a value, from light to dark: `σ = 2`."""
    values = sorted(set(values))
    looks = zip(values, ordered_colours(len(values)), MARKERS, strict=False)
    return {value: Style(f"{symbol} = {value:g}", colour, marker) for value, colour, marker in looks}


# --- panels, dots, legends --------------------------------------------------------------------------------

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
    """A panel for each value of the column `rows` with each of the column `columns`, hidden without rows."""
    down, across = (list(dict.fromkeys(table[name])) for name in (rows, columns))
    fig, axes = panels(len(down), len(across), **options)
    parts = [table[(table[rows] == r) & (table[columns] == c)] for r, c in product(down, across)]
    for ax, part in zip(axes, parts, strict=True):
        ax.set_visible(len(part) > 0)
    return fig, list(zip(axes, parts, strict=True))


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
    look, dots = {"linestyle": "none"}, []
    for s in styles:
        dots.append(line_handle(s.label, color=s.colour, marker=s.marker, markerfacecolor=s.face, **look))
    legend(fig, [*dots, *extra], columns=columns, columnspacing=1.2)


def with_legend(
    fig: Figure, table: pd.DataFrame, *, by: str = "method", styles: Mapping = METHOD_STYLE, **look: Any
) -> Figure:
    """The figure with a legend of those of `styles` that the column `by` of `table` has."""
    present = set(table[by])
    figure_legend(fig, [style for key, style in styles.items() if key in present], **look)
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
        look["markerfacecolor"] = style.face
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
    """The style of each value of `by` (by_format), its rows and their heights; names the rows of `ax`.

    A row is a value of `y`; within it the lanes of all `by` lie above each other, `width` in all. `rows` are
    from top to bottom, by default in order of appearance; panels that share them must be given the same.
    """
    rows = rows or list(dict.fromkeys(table[y]))
    for edge in range(1, len(rows)):
        ax.axhline(edge - 0.5, color="0.92", linewidth=0.6, zorder=0)
    present = [key for key in styles if key in set(table[by])]
    for index, key in enumerate(present):
        offset = (index - (len(present) - 1) / 2) * width / len(present)
        for style, part in by_format(styles[key], table[table[by] == key]):
            yield style, part, [rows.index(value) + offset for value in part[y]]
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
        for look, part in by_format(style, table[table[by] == key]):
            ax.scatter(part[x], part[y], s=17, alpha=0.85, **look.points)
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
