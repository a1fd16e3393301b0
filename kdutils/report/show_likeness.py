"""What notebooks 04 and 05 show of likeness to the teacher: agreement of answers, fidelity of texts."""

from __future__ import annotations

import pandas as pd

from kdutils.constants import AVERAGE
from kdutils.inference import intervals
from kdutils.report import figures, teacher_figures
from kdutils.report.section import Section, by_domain, each, span
from kdutils.results import (
    agreement_fidelity,
    authors_tests,
    capa,
    gain_tables,
    item_gains,
    paradox,
    released_comparison,
    solution_steps,
    sweeps,
)

BLEU = "BLEU with the teacher's texts, %"
ONE_PAIR = {  # likeness -> its values, live beside released ones, what it is, title of its axis
    "agreement": (
        item_gains.agreements,
        released_comparison.agreements,
        "agreement with the tuned teacher",
        "same answer as the teacher, % of items",
    ),
    "fidelity": (
        item_gains.fidelities,
        released_comparison.fidelities,
        "corpus BLEU with the tuned teacher's texts",
        BLEU,
    ),
}
SIGNED = dict.fromkeys(("rise", "rise_low", "rise_high", "low", "high", "above"), "+.1f")

# --- before and after KD --------------------------------------------------------------------------------


def rise_by_method(section: Section, measure: str, caption: str) -> None:
    """Table of a live likeness to the teacher before (sft) and after KD, by method."""
    table = authors_tests.rise_by_method(section.gains["live"], measure=measure)
    formats = SIGNED | {"sft": ".1f", "kd": ".1f"}
    section.table({"live": table}, f"{caption}; 95% interval over pairs.", formats)


def rise_of_one_pair(section: Section, measure: str = "agreement") -> None:
    """Agreement or fidelity of the one live pair by task and method, and its rise over SFT by item."""
    if section.items.beside.empty:
        return
    likeness, released, what, xlabel = ONE_PAIR[measure]
    table = section.in_view(likeness(section.items.beside))
    look = {"x": measure, "xlabel": xlabel, "value": f"{measure}, %"}
    caption = f"{what} by task and method, temperature 1, intervals over items."
    section.figure(f"{measure}_rise", {"live": table}, figures.by_task, caption, **look)
    average = table[table["task"] == AVERAGE]
    rises = average[["domain", "method", "n", measure, "rise", "rise_low", "rise_high", "p_value"]]
    caption = f"{what} on average over tasks, %, and its rise over SFT on the same items."
    section.table({"live": rises}, caption, SIGNED | {measure: ".1f"})
    section.pair_tables({f"{what} by task, %, with 95% intervals over items.": released})


def agreement_rise(section: Section) -> None:
    """Agreement with the teacher of the SFT and of the KD student, by pair; of one live pair by task."""
    tables = each(section.gains, agreement_fidelity.by_pair, measure="agreement")
    if len(section.items.beside):
        tables.pop("live", None)
    whom = {"published": "of the SFT and of the released KD student (EM1)."}
    whom["live"] = f"of the SFT student and, mean over its methods, of the KD students ({section.selection})."
    captions = {source: f"agreement with the teacher, mean over tasks, {whom[source]}" for source in tables}
    look = {"left": "sft", "right": "kd", "xlabel": "same answer as the teacher,\n% of items"}
    look |= {"draw": teacher_figures.before_and_after, "value": "rise, points"}
    section.figure("agreement_rise", tables, caption=captions, **look)
    if "live" in tables:
        caption = f"agreement, %, mean over tasks and pairs, by method, {section.selection}"
        rise_by_method(section, "agreement", caption)
    rise_of_one_pair(section)


def with_fidelity(section: Section, *sources: str) -> dict[str, pd.DataFrame]:
    """The gains of these sources whose fidelity is known, where there are any."""
    tables = {source: table.dropna(subset=["fidelity"]) for source, table in section.gains.items()}
    return {source: table for source, table in tables.items() if len(table) and source in sources}


def live_fidelity(section: Section) -> None:
    """Live BLEU of the SFT and of each KD student, by pair; of one live pair by task, with its rise."""
    rise_of_one_pair(section, "fidelity")
    tables = with_fidelity(section, "live")
    if len(tables) and section.items.beside.empty:
        means = each(tables, agreement_fidelity.by_method, measure="fidelity")
        look = {"measure": "fidelity", "xlabel": BLEU, "value": "fidelity, %"}
        caption = f"mean over tasks of the BLEU with the teacher's texts ({sweeps.decoding(tables['live'])})."
        section.figure("fidelity_rise", means, teacher_figures.likeness_by_method, caption, **look)
        rise_by_method(section, "fidelity", "BLEU before (sft) and after KD, %, and its rise")


def rise_sentences(section: Section, measure: str, what: str) -> list[str]:
    """How much KD raises a likeness to the teacher, mean over pairs with an interval over them.

    One sentence for all sources that have several pairs, all methods together.
    """
    found = {}
    for source, gains in gain_tables.several_pairs(section.gains).items():
        pairs = agreement_fidelity.by_pair(gains, measure=measure).groupby("domain", sort=False)["rise"]
        rows = [{"domain": domain} | vars(intervals.mean_interval(rise)) for domain, rise in pairs]
        found[source] = by_domain(pd.DataFrame(rows), value="value")
    said = "; ".join(section.named(found))
    return [f"KD changes {what}. {said} (95% intervals over pairs)."] if found else []


# --- 04: agreement --------------------------------------------------------------------------------------


def against_accuracy(section: Section) -> None:
    """Agreement against accuracy, every run and task a point, and their rank correlation by task.

    Of the released results reverse KL at temperature 1, which most of the released agreement values fit.
    """
    which = {"published": "RevKD, temperature 1", "live": f"all methods, {section.selection}"}
    released = gain_tables.gains(section.of("published"), selection="temperature_1")
    tables = section.gains | {"published": released[released["method"] == "revkd"]}
    look = {"x": "accuracy", "xlabel": "student accuracy, %", "has_equal": True}
    look |= {"y": "agreement", "ylabel": "same answer as the teacher, %", "value": "agreement, %"}
    for source, table in tables.items():
        shown, by = {source: table.dropna(subset=["agreement"])}, "method" if source == "live" else "domain"
        caption = f"agreement against accuracy of the student ({which[source]}); dashed: equal."
        section.figure("agreement_by_accuracy", shown, figures.against, caption, **look, by=by)
    for source, table in tables.items():
        several = gain_tables.several_pairs({source: table.dropna(subset=["agreement"])})
        rhos = each(several, authors_tests.correlation_by_task, x="accuracy", y="agreement")
        section.table(rhos, f"Spearman rho over pairs of agreement and accuracy ({which[source]}).")


def agreement_sentences(section: Section, adjusted: pd.DataFrame) -> list[str]:
    """How far agreement rises, whether it goes with the gain, and whether it rises beyond accuracy."""
    said = rise_sentences(section, "agreement", "the share of answers that are the teacher's")
    said += section.correlation_sentences("spearman_gain_agreement")
    if len(adjusted):
        said += section.named({"live": f"given accuracy: {capa.remark(adjusted)}"})
    return said


# --- 05: fidelity ---------------------------------------------------------------------------------------


def readable_contrasts(contrasts: pd.DataFrame) -> pd.DataFrame:
    """paradox.contrasts for people."""
    names = {"label": "method", "than_label": "became right, less", "measure": "measure"}
    names |= {"estimate": "difference, points", "low": "low", "high": "high", "reason": "reason"}
    table = contrasts.assign(measure=contrasts["measure"].map(paradox.MEASURES))
    names |= {"n": "n", "n_than": "n of the others"}
    return table[list(names)].rename(columns=names)


def readable_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """solution_steps.errors for people."""
    names = {"label": "student", "category": "category", "estimate": "share, %", "low": "low"}
    names |= {"high": "high", "n": "texts", "n_pairs": "pairs", "n_without": "left out"}
    table = errors.assign(category=errors["category"].map(solution_steps.CATEGORIES))
    return table[list(names)].rename(columns=names)


def fidelity_sentences(section: Section, contrasts: pd.DataFrame) -> list[str]:
    """How far fidelity rises, and whether it goes with the gain and, by method, with becoming right."""
    said = rise_sentences(section, "fidelity", "the likeness to the teacher's texts")
    said += section.correlation_sentences("spearman_gain_fidelity")
    rows = contrasts[contrasts["than"] == "stayed_wrong"].set_index("measure")
    if rows.empty:
        return said
    above = {name: int((rows.loc[[name], "low"] > 0).sum()) for name in ("bleu", "wording")}
    n_methods, bleu = rows["method"].nunique(), span(rows.loc[["bleu"], "estimate"], "+.1f")
    return [
        *said,
        f"{section.labels['live']}, item by item: sentence BLEU with the teacher rises more where "
        f"items became right than where they stayed wrong in {above['bleu']} of {n_methods} methods "
        f"({bleu} points, 95% interval above 0), in the words alone in {above['wording']}.",
    ]
