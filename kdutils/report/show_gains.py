"""What notebooks 01 to 03 show of gains: by pair, task, student, size and teacher."""

from __future__ import annotations

from functools import partial

import pandas as pd

from kdutils.claims import student_gains
from kdutils.claims.evidence import Evidence
from kdutils.constants import AVERAGE, DOMAIN_LABELS, DOMAINS, METHOD_LABELS
from kdutils.inference import intervals
from kdutils.report import claim_figures, figures
from kdutils.report.section import Section, by_domain, span
from kdutils.results import authors_tests, gain_tables, item_gains, released_comparison

POINTS = dict.fromkeys(("loss", "gain", "rise", "difference", "low", "high"), "+.1f")


# --- 01: the gain ---------------------------------------------------------------------------------------


def paired(section: Section) -> pd.DataFrame:
    """Gains of the one live pair from the same items, temperature 1; no rows of several pairs."""
    return section.in_view(item_gains.gain_table(section.items))


def how_compared(section: Section) -> dict[str, str]:
    """By which temperature, and whether item by item, the gains of each source are taken."""
    how = dict.fromkeys(section.gains, section.selection)
    return how | ({"live": "temperature 1, paired by item"} if len(paired(section)) else {})


def intervals_by_pair(section: Section) -> dict[str, pd.DataFrame]:
    """Average gain of every pair and method with its interval, of every source."""
    keys = ["domain", "pair", "student", "task", "method"]
    found = {source: intervals.gain_intervals(table, by=keys) for source, table in section.averages.items()}
    one = paired(section)
    return found | ({"live": one[one["task"] == AVERAGE]} if len(one) else {})


def gain_by_pair(section: Section) -> None:
    """Average gain of every pair and method, and what it comes to."""
    tables, how = intervals_by_pair(section), how_compared(section)
    text = "average gain over SFT by pair ({}), small students first. † token forward KL, the authors' SeqKD."
    caption = {source: text.format(how[source]) for source in tables}

    def alt(table: pd.DataFrame) -> str:
        n_above = int((table["gain"] > 0).sum())
        return f"Average gains from {span(table['gain'], '+.1f')} points; {n_above} of {len(table)} above 0."

    section.figure("gain_by_pair", tables, figures.gain_by_pair, alt=alt, caption=caption)
    section.remarks({source: authors_tests.gain_remark(table) for source, table in tables.items()})


def gain_by_task(section: Section) -> None:
    """Gains of every student by task, mean over its teachers, a figure a source and domain."""
    keys = ["domain", "family", "student", "student_parameters", "task", "method"]
    one, how = paired(section), how_compared(section)
    for source, gains in section.gains.items():
        table = gain_tables.in_task_order(intervals.gain_intervals(gains, by=keys))
        table = one if source == "live" and len(one) else table
        for domain, part in table.groupby("domain", sort=False):
            label = DOMAIN_LABELS[domain]
            alt = f"{label}: gains by student and task, {span(part['gain'], '+.1f')} points."
            caption = f"{label.lower()}, gain by student and task, mean over teachers ({how[source]})."
            name = f"gain_by_task_{domain}"
            section.figure(name, {source: part}, figures.gain_by_task, alt=alt, caption=caption)


def selections(section: Section) -> None:
    """The authors' tests on the average under both rules of selection, and what the rule changes."""
    statistics = section.statistics[section.statistics["source"] == "published"]
    if len(statistics):
        both = authors_tests.compare_selections(statistics, task=AVERAGE)
        section.table("published", both, "the tests on the average under both rules of selection.")
        section.run.remark(selections_remark(both))


def selections_remark(both: pd.DataFrame) -> str:
    """What the rule of selection changes in the authors' tests on the average: a list in Markdown."""
    p = both.set_index(["domain", "test"])
    words = {"anova_methods": "the methods differ", "ttest_gain_gt_0": "the gain is above zero"}
    sentences = []
    for test, claim in words.items():
        for domain in DOMAINS:
            best, one = p.loc[(domain, test), ["p, best_on_test", "p, temperature_1"]].astype(float)
            changes = "changes this" if (best < 0.05) != (one < 0.05) else "does not change this"
            verdict = "" if one < 0.05 else "it cannot be shown that "
            sentences.append(
                f"{DOMAIN_LABELS[domain]}, temperature 1: {verdict}{claim} "
                f"(p = {one:.2g}; best on test: {best:.2g}): the rule of selection {changes} at 0.05."
            )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def student_forest(section: Section) -> None:
    """Gains of students and of all of them together, in points and log odds."""
    tables = {source: student_gains.forest(each) for source, each in several_pairs(section).items()}
    caption = "gains of students at temperature 1, means over teachers and methods, in points and log odds."
    section.figure(
        "student_forest",
        tables,
        claim_figures.student_forest,
        alt=lambda table: f"Mean gain over students in points {by_domain(_of_all(table), value='value')}.",
        caption=caption,
    )


def several_pairs(section: Section) -> dict[str, Evidence]:
    """The evidence of sources that have more than one pair: those that say something about students."""
    found = {each.evidence.source: each.evidence for each in section.judged}
    return {source: evidence for source, evidence in found.items() if not evidence.one_pair}


def _of_all(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["kind"] == "all") & (table["scale"] == "points")]


def gain_sentences(section: Section) -> list[str]:
    """The mean gain over students, of one live pair its gains by method: a sentence a source."""
    sentences = []
    for each in section.judged:
        label = section.labels[each.evidence.source]
        if each.evidence.one_pair:
            remark = authors_tests.gain_remark(intervals_by_pair(section)["live"])
            sentences.append(f"{label}: gains over SFT on the same items, 95% intervals over items: {remark}")
            continue
        table = student_gains.forest(each.evidence)
        n_students = table.loc[table["kind"] == "student", "label"].nunique()
        sentences.append(
            f"{label}: distillation changes the accuracy of {n_students} students by "
            f"{by_domain(_of_all(table), value='value')} on average, at temperature 1 and without "
            "contaminated tasks (95% intervals over students)."
        )
    return sentences


# --- 02: size -------------------------------------------------------------------------------------------


def gain_by_size(section: Section) -> None:
    """Average gain over student size, every run a point."""

    def means(points: pd.DataFrame) -> pd.DataFrame:
        keys = ["domain", "family", "student_parameters", "method"]
        return points.groupby(keys)["gain"].mean().reset_index()

    section.figure(
        "gain_by_size",
        section.points,
        lambda table: figures.gain_by_size(table, means(table)),
        alt=lambda table: f"Mean gain by student size, {span(means(table)['gain'], '+.1f')} points.",
        caption="average gain over SFT by student size: every run a point, means of a family as lines.",
    )


def selections_by_source(section: Section) -> None:
    """The correlations on the averages under both rules of selection."""
    tests = gain_tables.by_source(section.in_view(section.statistics))
    for source in gain_tables.several_pairs(section.parts):
        if source in tests:
            both = authors_tests.compare_selections(tests[source], task=AVERAGE)
            section.table(source, both, "the correlations on the averages under both rules of selection.")


def gain_by_sft(section: Section) -> None:
    """The same gains against the student's accuracy before distillation."""
    section.figure(
        "gain_by_sft",
        section.points,
        partial(figures.gain_against, x="sft_accuracy", xlabel="student's SFT {score}, %"),
        alt=lambda table: f"Gains of {len(table)} runs over SFT of {span(table['sft_accuracy'], '.0f')} %.",
        caption="the same gains against the student's accuracy before distillation.",
    )


def size_and_headroom(section: Section) -> None:
    """Rank correlations of average gain, student size and SFT accuracy with each other."""
    tables = {source: authors_tests.size_and_headroom(table) for source, table in section.points.items()}
    rhos = {name: "+.2f" for table in tables.values() for name in table if " and " in name}
    caption = "Spearman rho of average gain, student size and SFT accuracy with each other"
    section.tables(tables, f"{caption}, {section.selection}.", rhos)


def scales(section: Section) -> None:
    """Gain of students over size in points and log odds, beside a world of equal gains."""
    tables = {source: student_gains.by_size(each) for source, each in several_pairs(section).items()}
    caption = "gain of students over size in points (above) and log odds (below), temperature 1. Bands: 95% "
    caption += "of what items would show if all students gained alike in log odds."

    def alt(table: pd.DataFrame) -> str:
        n_within, n = _within_equal_gains(table)
        return f"{n_within} of {n} student means lie where equal gains in log odds would put them."

    section.figure("scales", tables, claim_figures.gain_and_scale, alt=alt, caption=caption)


def _within_equal_gains(by_size: pd.DataFrame) -> tuple[int, int]:
    """How many means in points lie where equal gains in log odds would put them, and how many there are."""
    points = by_size[by_size["scale"] == "points"]
    return int(points["value"].between(points["least"], points["most"]).sum()), len(points)


def size_sentences(section: Section) -> list[str]:
    """How the gain goes with size, and how many students equal gains in log odds would explain."""
    sentences = section.correlation_sentences("spearman_gain_size")
    for source, evidence in several_pairs(section).items():
        n_within, n = _within_equal_gains(student_gains.by_size(evidence))
        sentences.append(
            f"{section.labels[source]}: {n_within} of {n} student means, one a student and domain, lie "
            "within what equal gains in log odds would give: of these the scale of points alone may explain "
            "the differences."
        )
    return sentences


# --- 03: the teacher ------------------------------------------------------------------------------------


def gain_by_teacher(section: Section) -> None:
    """Average gain against the accuracy of the tuned teacher."""
    section.figure(
        "gain_by_teacher",
        section.points,
        partial(figures.gain_against, x="teacher_accuracy", xlabel="teacher's {score} after SFT, %"),
        alt=lambda table: f"Gains of {len(table)} runs from {table['teacher'].nunique()} tuned teachers.",
        caption="average gain over SFT against the accuracy of the tuned teacher.",
    )


def gain_within_student(section: Section) -> None:
    """Gain against teacher accuracy, both less their mean over the teachers of one student, and the slope."""
    within = {source: gain_tables.within_student(table) for source, table in section.points.items()}
    within = {source: table for source, table in within.items() if len(table)}
    axes = {"x": "teacher_within", "xlabel": "teacher's {score},\npoints from mean", "y": "gain_within"}
    section.figure(
        "gain_within_student",
        within,
        partial(figures.gain_against, **axes, ylabel="gain, points from mean"),
        alt=lambda table: f"Gain less the student's mean: {span(table['gain_within'], '+.1f')} points.",
        caption="gain against teacher accuracy, both less their mean over the teachers of one student.",
    )
    section.remarks({source: authors_tests.within_student_remark(table) for source, table in within.items()})


def teachers_of_a_student(section: Section) -> None:
    """Average gain of each student from teachers of growing size, a table a source and family."""
    caption = "average gain, points, of one student from teachers of growing size."
    for source, table in section.points.items():
        for _, part in table.groupby("family", sort=False):
            rows = gain_tables.gain_by_teacher(part)
            rows = rows.assign(method=rows["method"].map(METHOD_LABELS))
            formats = {name: "+.1f" for name in rows if rows[name].dtype == float}
            section.table(source, rows, caption, formats)


def tuning(section: Section) -> dict[str, pd.DataFrame]:
    """Students of an untuned and of the tuned teacher, of sources whose pairs are compared as wholes."""
    found = gain_tables.by_source(gain_tables.teacher_tuning(section.shown))
    return {source: table for source, table in found.items() if not (section.items and source == "live")}


def untuned_teacher(section: Section) -> None:
    """Accuracy after distillation from an untuned and from the tuned teacher, by pair."""
    tables = {source: gain_tables.averages(table) for source, table in tuning(section).items()}
    sides = {"left": "untuned", "right": "tuned", "xlabel": "student's average accuracy, %"}
    section.figure(
        "untuned_teacher",
        tables,
        partial(figures.before_and_after, **sides),
        alt=lambda table: f"An untuned teacher costs {span(table['cost'], '.1f')} points.",
        caption="average accuracy after distillation from an untuned and from a tuned teacher.",
    )
    section.remarks(tuning_remarks(section))


def tuning_remarks(section: Section) -> dict[str, str]:
    """What an untuned teacher costs, of every source."""
    return {source: authors_tests.tuning_remark(table) for source, table in tuning(section).items()}


def tuning_costs_of_one_pair(section: Section) -> None:
    """What an untuned teacher costs the one live pair by task, on the same items."""
    costs = section.in_view(item_gains.tuning_costs(section.items.scored))
    if len(costs):
        alt = f"An untuned teacher costs {span(costs['difference'], '+.1f')} points by task."
        caption = "accuracy after distillation from the tuned teacher less that from the untuned, same items."
        draw = partial(figures.by_task, x="difference", xlabel="cost of an untuned teacher, points")
        section.figure("untuned_teacher", {"live": costs}, draw, alt=alt, caption=caption)
        caption = "what an untuned teacher costs, points, with 95% intervals over items."
        section.pair_table(released_comparison.tuning_costs, caption)


def teacher_sentences(section: Section) -> list[str]:
    """How the gain goes with the teacher's accuracy, and what an untuned teacher costs."""
    sentences = section.correlation_sentences("spearman_gain_teacher")
    sentences += [f"{section.labels[source]}: {text}" for source, text in tuning_remarks(section).items()]
    costs = section.in_view(item_gains.tuning_costs(section.items.scored))
    average = costs[costs["task"] == AVERAGE]
    if len(average):
        found = by_domain(average, value="difference")
        text = f"{section.labels['live']}: an untuned teacher costs {found}"
        sentences.append(f"{text} on the same items (95% intervals over items).")
    return sentences
