"""The looks of the study: the theme, and what is drawn in which colour, never without a marker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import seaborn as sns

GREY = "0.45"
COLOURS = sns.color_palette("colorblind")
FAMILY_LINES = ("-", ":", "--", "-.")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "*")


class Style(NamedTuple):
    label: str
    colour: tuple[float, float, float]
    marker: str


METHOD_STYLE = {
    "sft": Style("SFT", COLOURS[7], "s"),
    "fkl": Style("SeqKD†", COLOURS[0], "o"),
    "seqkd": Style("SeqKD (teacher text)", COLOURS[4], "P"),
    "revkd": Style("RevKD", COLOURS[1], "^"),
    "gkd": Style("GKD", COLOURS[2], "D"),
}
KIND_STYLE = {
    "sft": Style("SFT student", COLOURS[7], "s"),
    "kd": Style("KD student", COLOURS[3], "o"),
    "untuned": Style("untuned teacher", COLOURS[3], "s"),
    "tuned": Style("tuned teacher", COLOURS[0], "o"),
}
DOMAIN_STYLE = {
    "math": Style("math", COLOURS[0], "o"),
    "commonsense": Style("commonsense", COLOURS[3], "s"),
}
SELECTION_STYLE = {
    "best_on_test": Style("best temperature per task, on test", COLOURS[0], "o"),
    "temperature_1": Style("temperature 1", COLOURS[1], "^"),
}
CHOICE_STYLE = SELECTION_STYLE | {  # of items, which released results have not
    "held_out": Style("chosen per task on held-out items", COLOURS[2], "D"),
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
