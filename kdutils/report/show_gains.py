"""What notebooks 01 to 03 show of gains: by pair, task and item, student size and teacher."""

from collections.abc import Callable
from itertools import product

import pandas as pd

from kdutils.claims import student_gains
from kdutils.claims.evidence import Evidence
from kdutils.constants import AVERAGE, DOMAIN_LABELS, DOMAINS, METHOD_NAMES
from kdutils.inference import intervals
from kdutils.report import figures
from kdutils.report.section import Section, Tables, by_domain, each
from kdutils.results import answer_modes, authors_tests, gain_tables, item_gains, paired_items

# --- 01: the gain ---------------------------------------------------------------------------------------


def how_compared(section: Section) -> dict[str, str]:
    """By which temperature, and whether item by item, the gains of each source are taken."""
    how, rule = dict.fromkeys(section.gains, section.selection), section.selection
    rule = "temperature 1" if len(section.paired) else rule
    return how | ({"live": f"{rule}, paired by item"} if "live" in how else {})


def with_intervals(section: Section, gains: Tables, *, by: list[str]) -> dict[str, pd.DataFrame]:
    """Mean gains in groups with intervals: live ones paired by item, of released ones no items are known.

    Those of one live pair are left out: see Section.paired.
    """
    found = {name: intervals.gain_intervals(table, by=by) for name, table in gains.items() if name != "live"}
    if "live" in gains and section.paired.empty:
        found["live"] = item_gains.gain_intervals(gains["live"], section.scored, by=by)
    return found


def by_pair(section: Section) -> dict[str, pd.DataFrame]:
    """Average gain of every pair and method with its interval, of every source."""
    keys, one = ["domain", "pair", "student", "task", "method"], section.paired
    found = with_intervals(section, section.averages, by=keys)
    return found | ({"live": one[one["task"] == AVERAGE]} if len(one) else {})


def gain_by_task(section: Section) -> None:
    """Gains of every student by task, mean over its teachers, a figure a source and domain."""
    keys = ["domain", "family", "student", "student_parameters", "task", "method"]
    found = with_intervals(section, section.gains, by=keys)
    for source, how in how_compared(section).items():
        table = gain_tables.in_task_order(found[source]) if source in found else section.paired
        for domain, part in table.groupby("domain", sort=False):
            name, draw = f"gain_by_task_{domain}", figures.gain_by_task
            caption = f"{DOMAIN_LABELS[domain].lower()}, gain by student and task, mean over teachers "
            section.figure(name, {source: part}, draw, f"{caption}({how}).", value="gain, points")


def selections_remark(both: pd.DataFrame) -> str:
    """What the rule of selection changes in the authors' tests on the average: a list in Markdown."""
    p = both.set_index(["domain", "test"])[["p, best_on_test", "p, temperature_1"]].astype(float)
    words = {"anova_methods": "the methods differ", "ttest_gain_gt_0": "the gain is above zero"}
    lines = []
    for (test, claim), domain in product(words.items(), DOMAINS):
        best, one = p.loc[(domain, test)]
        changes = "changes this" if (best < 0.05) != (one < 0.05) else "does not change this"
        verdict = "" if one < 0.05 else "it cannot be shown that "
        lines.append(
            f"- {DOMAIN_LABELS[domain]}, temperature 1: {verdict}{claim} "
            f"(p = {one:.2g}; best on test: {best:.2g}): the rule of selection {changes} at 0.05."
        )
    return "\n".join(lines)


def of_students(section: Section, function: Callable[[Evidence], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """What `function` makes of each source that has several pairs: one alone says nothing about students."""
    found = [judged.evidence for judged in section.judged]
    return {one.source: function(one) for one in found if not one.one_pair}


def of_all_students(forest: pd.DataFrame) -> str:
    """The mean gain over students in points by domain, in words: takes student_gains.forest."""
    means = forest[(forest["kind"] == "all") & (forest["scale"] == "points")]
    return by_domain(means, value="value")


def gain_sentences(section: Section) -> list[str]:
    """The mean gain over students, of one live pair its gains by method: a sentence a source."""
    said = {}
    for judged in section.judged:
        evidence = judged.evidence
        if evidence.one_pair:
            remark = authors_tests.gain_remark(by_pair(section)["live"])
            said["live"] = f"gains over SFT on the same items, 95% intervals over items: {remark}"
            continue
        table = student_gains.forest(evidence)
        n_students = table.loc[table["kind"] == "student", "label"].nunique()
        said[evidence.source] = (
            f"distillation changes the accuracy of {n_students} students by {of_all_students(table)} on "
            "average, at temperature 1 and without contaminated tasks (95% intervals over students)."
        )
    return section.named(said)


# --- 01b: what lies behind it ---------------------------------------------------------------------------


def contaminated_items(section: Section) -> None:
    """Live accuracies and gains with and without test items that occur in the training set."""
    flagged = answer_modes.contamination(section.of("live"))
    if not flagged["flagged"].any():
        known = "which test items occur in the training set is not known."
        known = "no test item occurs in the training set." if len(flagged) else known
        section.remarks({"live": known} if len(section.of("live")) else {})
        return
    formats = dict.fromkeys(["accuracy", "without"], ".1f") | {"gain": "+.1f", "gain_without": "+.1f"}
    caption = "accuracy, %, and gain over SFT, points, T = 1, on all items and without those flagged."
    section.table({"live": flagged}, caption, formats)


def sentences_behind(
    section: Section, *, apart: pd.DataFrame, won: pd.DataFrame, ranked: pd.DataFrame
) -> list[str]:
    """What contamination, single items and the format of answers show.

    Takes contaminated_tasks and rankings of answer_modes and paired_items.won_and_lost.
    """
    said = []
    if len(apart):
        groups = apart.groupby("method", sort=False)
        found = "; ".join(f"{name} {by_domain(part, value='difference')}" for name, part in groups)
        text = "Released: gain on contaminated tasks less that on the others, 95% intervals over pairs"
        said.append(f"{text}: {found}.")
    said += section.named({"live": paired_items.map_remark(won)})
    if len(ranked):
        average = ranked[ranked["task"] == AVERAGE]
        best = average.loc[average.groupby(["domain", "way"], sort=False)["accuracy"].idxmax()]
        parts = (
            f"{DOMAIN_LABELS[row.domain]}, {row.way}: {METHOD_NAMES[row.method]} {row.accuracy:.1f} % "
            f"[{row.low:.1f}, {row.high:.1f}]"
            for row in best.itertuples()
        )
        said += section.named({"live": f"the highest accuracy on tasks with options, {'; '.join(parts)}."})
    return said


def readings(section: Section) -> None:
    """Gains of live runs under the three readings of answers, where the robust one moves them."""
    found = section.run.kept(paired_items.readings, section.asked)
    section.remarks({"live": paired_items.reading_remark(found)})
    caption = "gain over SFT of one seed, points, temperature 1, by how answers are read, where the robust "
    caption += "reading moves it; *: McNemar's test, q < 0.05 over all gains of that reading."
    section.table({"live": paired_items.moved_by_reading(found)}, caption)


# --- 02: size -------------------------------------------------------------------------------------------


def within_equal_gains(by_size: pd.DataFrame) -> str:
    """How many means in points lie where equal gains in log odds would put them, in words."""
    points = by_size[by_size["scale"] == "points"]
    n_within = int(points["value"].between(points["least"], points["most"]).sum())
    return (
        f"{n_within} of {len(points)} student means, one a student and domain, lie "
        "within what equal gains in log odds would give"
    )


def size_sentences(section: Section, sizes: Tables) -> list[str]:
    """How the gain goes with size, and how many students equal gains in log odds would explain."""
    text = "{}: of these the scale of points alone may explain the differences."
    found = {source: text.format(within_equal_gains(table)) for source, table in sizes.items()}
    return section.correlation_sentences("spearman_gain_size") + section.named(found)


# --- 03: the teacher ------------------------------------------------------------------------------------


def tuning(section: Section) -> dict[str, pd.DataFrame]:
    """Students of an untuned and of the tuned teacher, of sources whose pairs are compared as wholes."""
    found = gain_tables.by_source(gain_tables.teacher_tuning(section.shown))
    return {source: table for source, table in found.items() if not (section.items and source == "live")}


def teacher_sentences(section: Section, tuning: Tables, costs: pd.DataFrame) -> list[str]:
    """How the gain goes with the teacher's accuracy, and what an untuned teacher costs."""
    said = section.correlation_sentences("spearman_gain_teacher")
    said += section.named(each(tuning, authors_tests.tuning_remark))
    if len(average := costs[costs["task"] == AVERAGE]):
        text = f"an untuned teacher costs {by_domain(average, value='difference')} on the same items"
        said += section.named({"live": f"{text} (95% intervals over items)."})
    return said
