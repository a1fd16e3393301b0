"""What notebook 01b shows: gains item by item, by contamination and by how answers are taken."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, CONTAMINATED_TASKS, DOMAIN_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.report import figures
from kdutils.report.section import Section, by_domain
from kdutils.report.show_gains import POINTS, paired
from kdutils.results import (
    agreement_fidelity,
    answer_modes,
    gain_tables,
    item_gains,
    paired_items,
    released_comparison,
)


def one_pair(section: Section) -> None:
    """The one live pair beside the released ones: accuracy and gain by task."""
    if not len(paired(section)):
        print("Not one live pair alone: nothing to show here.")
        return
    caption = "accuracy of the student, %, with 95% intervals over items."
    section.table("live", released_comparison.accuracies(section.comparison), caption)
    section.pair_table(released_comparison.gains, "gain over SFT on the same items, points, temperature 1.")


def against_sft(section: Section) -> pd.DataFrame:
    """Every item that KD and SFT student of a live pair answered; no rows without live runs."""
    answered = section.in_view(section.run.kept(agreement_fidelity.paired_answers, section.asked))
    return section.run.kept(paired_items.against_sft, answered)


def won_and_lost(section: Section) -> None:
    """McNemar's test of every live pair, method and domain, as a map."""
    won = paired_items.won_and_lost(against_sft(section))
    won = won.assign(is_marked=won["q_value"] < paired_items.ALPHA)
    alt = paired_items.map_remark(won)
    caption = "gain over SFT of one seed, points, temperature 1; *: McNemar's test, q < 0.05 over the map."
    section.figure("won_and_lost", {"live": won}, figures.gain_map, alt=alt, caption=f"{caption} {alt}")


def three_ways(section: Section) -> None:
    """The mean gain by three analyses, which speak of other students, items and tasks."""
    same = against_sft(section)
    if len(same):
        ways = section.run.kept(paired_items.three_ways, same, rng=np.random.default_rng(20_240_507))
        ways = ways.rename(columns={"label": "method", "way": "analysis", "n_students": "students"})
        caption = "mean gain, points, temperature 1, by three analyses, 95% intervals."
        section.table("live", ways, caption, POINTS | {"estimate": "+.1f"})


def contaminated_items(section: Section) -> None:
    """Live accuracies and gains with and without test items that occur in the training set."""
    cells = section.of("live")
    flagged = answer_modes.contamination(cells)
    if len(cells):
        section.remarks({"live": answer_modes.contamination_remark(cells)})
    if flagged["flagged"].any():
        formats = dict.fromkeys(["accuracy", "without"], ".1f") | {"gain": "+.1f", "gain_without": "+.1f"}
        caption = "accuracy, %, and gain over SFT, points, T = 1, on all items and without those flagged."
        section.table("live", flagged, caption, formats)
        if len(paired(section)):
            both = item_gains.with_and_without(section.items.scored).drop(columns="task")
            both = both.rename(columns={"difference": "gain", "difference_without": "without"})
            signed = {name: "+.1f" for name in both if name.startswith(("gain", "without", "low", "high"))}
            caption = "the gains with their 95% intervals over items, with and without."
            section.table("live", both, caption, signed)


def contaminated_tasks(section: Section) -> pd.DataFrame:
    """Released gains on contaminated tasks and on the others, by domain and method, shown and returned."""
    released = section.of("published")
    apart = answer_modes.contaminated_tasks(gain_tables.gains(released, selection="temperature_1"), released)
    tasks = ", ".join(TASK_LABELS[task] for task in CONTAMINATED_TASKS)
    caption = f"mean gain, points, temperature 1, on the contaminated tasks ({tasks}) and on the others, and "
    caption += "their difference with a 95% interval over pairs."
    formats = POINTS | dict.fromkeys(["contaminated", "others"], "+.1f")
    section.table("published", apart, caption, formats)
    return apart


def two_ways(section: Section) -> None:
    """Accuracy where answers are read from the text and where the options are ranked by likelihood."""
    ranked = answer_modes.rankings(section.of("live"))
    if ranked.empty:
        print("No options were ranked in these results.")
        return
    average = ranked[ranked["task"] == AVERAGE]
    means = average.groupby("way", sort=False)["accuracy"].mean()
    alt = "Mean accuracy " + ", ".join(f"{value:.1f} percent {way}" for way, value in means.items()) + "."
    caption = "accuracy on tasks with options by the way the answer is taken, temperature 1, 95% intervals."
    section.figure("two_ways", {"live": average}, figures.two_ways, alt=alt, caption=caption)
    section.remarks({"live": answer_modes.ways_remark(ranked)})
    caption = "accuracy, %, and gain over SFT, points, by the way the answer is taken."
    section.table("live", answer_modes.ways_table(ranked), caption)


def failures(section: Section) -> None:
    """Accuracy beside the texts in which no answer was found and those cut off."""
    caption = "mean accuracy at temperature 1, texts without an answer and cut off, percent."
    formats = dict.fromkeys(["accuracy", "unparsed", "truncated"], ".1f")
    section.table("live", answer_modes.failures(section.shown), caption, formats)


def sentences(section: Section, *, apart: pd.DataFrame) -> list[str]:
    """What contamination, single items and the format of answers come to."""
    said = []
    if len(apart):
        groups = apart.groupby("method", sort=False)
        found = "; ".join(f"{name} {by_domain(part, value='difference')}" for name, part in groups)
        text = "Released: gain on contaminated tasks less that on the others, 95% intervals over pairs"
        said.append(f"{text}: {found}.")
    won = paired_items.won_and_lost(against_sft(section))
    if len(won):
        said.append(f"{section.labels['live']}: {paired_items.map_remark(won)}")
    if len(ranked := answer_modes.rankings(section.of("live"))):
        said.append(f"{section.labels['live']}: {_highest(ranked[ranked['task'] == AVERAGE])}")
    return said


def _highest(average: pd.DataFrame) -> str:
    """Which method scores highest by each way of taking the answer, a sentence."""
    best = average.loc[average.groupby(["domain", "way"], sort=False)["accuracy"].idxmax()]
    parts = (
        f"{DOMAIN_LABELS[row.domain]}, {row.way}: {METHOD_NAMES[row.method]} {row.accuracy:.1f} % "
        f"[{row.low:.1f}, {row.high:.1f}]"
        for row in best.itertuples()
    )
    return f"the highest accuracy on tasks with options, {'; '.join(parts)}."
