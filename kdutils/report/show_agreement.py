"""What notebook 04 shows of agreement: before and after KD, beside accuracy and gain, and its parts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE
from kdutils.inference import intervals
from kdutils.report import figures, likeness_figures
from kdutils.report.section import Section, by_domain, span
from kdutils.report.show_gains import POINTS
from kdutils.results import (
    agreement_fidelity,
    authors_tests,
    capa,
    gain_tables,
    item_gains,
    released_comparison,
)

BLEU = "BLEU with the teacher's texts, %"
ONE_PAIR = {  # likeness to the teacher -> what it is, title of its axis
    "agreement": ("agreement with the tuned teacher", "same answer as the teacher, % of items"),
    "fidelity": ("corpus BLEU with the tuned teacher's texts", BLEU),
}


def before_and_after(section: Section) -> None:
    """Agreement with the teacher of the SFT and of the KD student, by pair; of one live pair by task."""
    whom = {"published": "of the SFT and of the released KD student (EM1)."}
    whom["live"] = f"of the SFT student and, mean over its methods, of the KD students ({section.selection})."
    sides = {"left": "sft", "right": "kd", "xlabel": "same answer as the teacher,\n% of items"}
    tables = {
        source: agreement_fidelity.by_pair(table, measure="agreement")
        for source, table in section.gains.items()
        if not (source == "live" and len(section.items.beside))
    }
    section.figure(
        "agreement_rise",
        tables,
        partial(figures.before_and_after, **sides),
        alt=lambda table: (
            f"Agreement rises in {int((table['rise'] > 0).sum())} of {len(table)} pairs and domains, "
            f"on average by {table['rise'].mean():+.1f} points."
        ),
        caption={source: f"agreement with the teacher, mean over tasks, {whom[source]}" for source in tables},
    )
    if "live" in tables:
        caption = f"agreement, %, mean over tasks and pairs, by method, {section.selection}"
        rise_by_method(section, "agreement", caption)


def rise_by_method(section: Section, measure: str, caption: str) -> None:
    """Table of a live likeness to the teacher before (sft) and after KD, by method."""
    table = authors_tests.rise_by_method(section.gains["live"], measure=measure)
    formats = POINTS | {"sft": ".1f", "kd": ".1f"}
    section.table("live", table, f"{caption}; 95% interval over pairs.", formats)


def rise_of_one_pair(section: Section, measure: str = "agreement") -> None:
    """A likeness of the one live pair by task and method, and its rise over SFT on the same items.

    Args:
        measure: agreement or fidelity.
    """
    if not len(section.items.beside):
        return
    likeness = {"agreement": item_gains.agreements, "fidelity": item_gains.fidelities}[measure]
    beside = {"agreement": released_comparison.agreements, "fidelity": released_comparison.fidelities}
    what, xlabel = ONE_PAIR[measure]
    table = section.in_view(likeness(section.items.beside))
    alt = f"By task and method, {what} from {span(table[measure], '.0f')} percent."
    caption = f"{what} by task and method, temperature 1, intervals over items."
    draw = partial(figures.by_task, x=measure, xlabel=xlabel)
    section.figure(f"{measure}_rise", {"live": table}, draw, alt=alt, caption=caption)
    average = table[table["task"] == AVERAGE]
    rises = average[["domain", "method", "n", measure, "rise", "rise_low", "rise_high", "p_value"]]
    formats = dict.fromkeys(("rise", "rise_low", "rise_high"), "+.1f") | {measure: ".1f"}
    caption = f"{what} on average over tasks, %, and its rise over SFT on the same items."
    section.table("live", rises, caption, formats)
    section.pair_table(beside[measure], f"{what} by task, %, with 95% intervals over items.")


def against_accuracy(section: Section) -> None:
    """Agreement against accuracy, every run and task a point, and their rank correlation by task.

    Of the released results reverse KL at temperature 1, which most of the released agreement values fit.
    """
    which = {"published": "RevKD, temperature 1", "live": f"all methods, {section.selection}"}
    tables = dict(section.gains)
    if "published" in tables:
        tables["published"] = _released_at_1(section).query("method == 'revkd'")
    tables = {source: table.dropna(subset=["agreement"]) for source, table in tables.items()}
    for source, table in tables.items():
        look = {"y": "agreement", "ylabel": "same answer as the teacher, %"}
        look["by"] = "domain" if source == "published" else "method"
        draw = partial(likeness_figures.likeness_against_accuracy, **look)
        alt = f"Agreement, {span(table['agreement'], '.0f')} %, and accuracy of {len(table)} runs x tasks."
        caption = f"agreement against accuracy of the student ({which[source]}); dashed: equal."
        section.figure("agreement_by_accuracy", {source: table}, draw, alt=alt, caption=caption)
    for source, table in gain_tables.several_pairs(tables).items():
        rhos = authors_tests.correlation_by_task(table, x="accuracy", y="agreement")
        section.table(source, rhos, f"Spearman rho over pairs of agreement and accuracy ({which[source]}).")


def _released_at_1(section: Section) -> pd.DataFrame:
    return gain_tables.gains(section.of("published"), selection="temperature_1")


def paired_answers(section: Section) -> pd.DataFrame:
    """What live students answer beside their teacher; no rows without live runs."""
    return section.in_view(section.run.kept(agreement_fidelity.paired_answers, section.asked))


def answer_shares(section: Section) -> None:
    """What the agreement is made of: both right, both wrong alike, and the rest."""
    answers = agreement_fidelity.answers(paired_answers(section))
    if answers.empty:
        return
    shares = agreement_fidelity.answer_shares(answers)
    alike = span(shares["same_wrong"], ".1f")
    alt = f"Answers of student and teacher by method; both wrong alike on {alike} % of items."
    caption = "answers of student and tuned teacher, mean over tasks, seeds and pairs, temperature 1."
    draw = likeness_figures.answer_shares
    section.figure("answer_shares", {"live": shares}, draw, alt=alt, caption=caption)
    names = {"domain": "domain", "label": "student", "n_pairs": "pairs", "agreement": "same answer, %"}
    names |= {"both_right": "both right, %", "same_wrong": "both wrong alike, %"}
    table = shares[list(names)].rename(columns=names)
    formats = {name: ".1f" for name in table if name.endswith("%")}
    section.table("live", table, "agreement, and what it is made of.", formats)


def adjusted(section: Section) -> pd.DataFrame:
    """Agreement, kappa and CAPA of live students by method with intervals; no rows without live runs."""
    paired = paired_answers(section)
    if paired.empty:
        return pd.DataFrame()
    return section.run.kept(capa.given_accuracy, paired, rng=np.random.default_rng(20_240_504))


def given_accuracy(section: Section) -> None:
    """Agreement as it is and given both accuracies, by method, and its change from the SFT student."""
    table = adjusted(section)
    if table.empty:
        return
    measures = {name: capa.MEASURES[name] for name in capa.SHOWN}
    lies = span(table.query("measure == 'capa'")["estimate"], "+.2f")
    alt = f"Raw agreement, kappa and CAPA by method; CAPA lies between {lies}."
    caption = "agreement with the tuned teacher, and given both accuracies, mean over tasks and pairs, T = 1."
    draw = partial(likeness_figures.given_accuracy, measures=measures)
    section.figure("agreement_given_accuracy", {"live": table}, draw, alt=alt, caption=caption)
    caption = "agreement, kappa and CAPA, and change from SFT (same pair, seed and items), 95% intervals."
    section.table("live", capa.readable(table), caption)
    section.run.remark(capa.remark(table))


def released_bounds(section: Section) -> None:
    """What released agreement and accuracies allow CAPA to be, of each method at temperature 1."""
    bounds = capa.of_cells(_released_at_1(section))
    bounds = bounds.rename(columns=lambda name: name.replace("_", " ").replace("capa", "CAPA"))
    formats = dict.fromkeys(("agreement", "by chance", "most by chance"), ".1f") | {"CAPA": "+.2f"}
    caption = "agreement, %; by chance, if errors are independent and spread evenly, and at most, if all "
    caption += "wrong answers are one; agreement above chance, points, with a 95% interval over pairs."
    section.table("published", bounds, caption, formats | POINTS | {"above": "+.1f"})


def whose(section: Section) -> None:
    """Released agreement of the four students of Qwen2.5-14B on the two tasks that the poster names."""
    released = section.cells[section.cells["source"] == "published"]
    if released.empty:
        print("The released tables are not here.")
        return
    gains = gain_tables.gains(released, selection="best_on_test")
    table = agreement_fidelity.agreement_with(gains, teacher="Qwen2.5-14B", tasks=["addsub", "multiarith"])
    caption = "agreement with Qwen2.5-14B, %, of its four students."
    section.table("published", table, caption, dict.fromkeys(table, ".1f"))


def sentences(section: Section) -> list[str]:
    """How far agreement rises, whether it goes with the gain, and whether it rises beyond accuracy."""
    said = rise_sentences(section, "agreement", "the share of answers that are the teacher's")
    said += section.correlation_sentences("spearman_gain_agreement")
    if len(table := adjusted(section)):
        said.append(f"{section.labels['live']}: given accuracy: {capa.remark(table)}")
    return said


def rise_sentences(section: Section, measure: str, what: str) -> list[str]:
    """How much KD raises a likeness to the teacher, mean over pairs with an interval over them.

    One sentence for all sources that have several pairs, all methods together.
    """
    parts = []
    for source, gains in gain_tables.several_pairs(section.gains).items():
        pairs = agreement_fidelity.by_pair(gains, measure=measure).groupby("domain", sort=False)["rise"]
        rows = [{"domain": domain} | vars(intervals.mean_interval(rise)) for domain, rise in pairs]
        parts.append(f"{section.labels[source]}: {by_domain(pd.DataFrame(rows), value='value')}")
    return [f"KD changes {what}. {'; '.join(parts)} (95% intervals over pairs)."] if parts else []
