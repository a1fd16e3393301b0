"""What notebook 13 shows: students and teachers by the way they are scored."""

from __future__ import annotations

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.report import figures
from kdutils.report.plots import COLOURS, MARKERS, Style
from kdutils.report.section import Section, signed
from kdutils.results import gain_tables, scorings
from kdutils.results.gain_tables import interval_text
from kdutils.results.scorings import GENERATION, SCORING_LABELS

STYLES = {
    name: Style(label, COLOURS[place], MARKERS[place])
    for place, (name, label) in enumerate(SCORING_LABELS.items())
}
PLAIN = "divergence alone, response alone"  # the plain recipe


def gaps(section: Section, table: pd.DataFrame) -> None:
    """Figure of the gap to the teacher by scoring and method, mean over tasks."""
    several = table[table["task"] == AVERAGE]
    one = table[~table["domain"].isin(several["domain"])]  # domains with one such task
    shown = gain_tables.in_domain_order(pd.concat([several, one]))
    shown = shown[shown["method"] != "base"].assign(way=shown["scoring"].map(SCORING_LABELS))
    caption = "how far students stay behind their teacher by each scoring, points, means over the tasks with "
    caption += "options; 95% intervals over items. The order of the methods is that of their dots."
    look = {"y": "way", "x": "gap", "xlabel": "teacher less student, points", "has_same_rows": True}
    height = 1.2 + 0.5 * shown["way"].nunique()
    section.figure("gaps", {"live": shown}, figures.interval_panels, caption, height=height, **look)


def levels(section: Section, table: pd.DataFrame, losses: pd.DataFrame) -> None:
    """Accuracy of every student by scoring, mean over tasks, beside the loss on gold responses."""
    of_task = table[table["task"] != AVERAGE]
    names = ["domain", "method"]
    wide = of_task.pivot_table(index=names, columns="scoring", values="student", sort=False)
    nll = losses.groupby(names, sort=False)["gold_nll"].mean().rename("gold NLL, nats a token")
    wide = wide.rename(columns=SCORING_LABELS).join(nll).reset_index().replace({"method": METHOD_NAMES})
    formats = dict.fromkeys(wide.select_dtypes("float"), ".1f") | {nll.name: ".3f"}
    caption = "accuracy by scoring, %, mean over the tasks with options; the loss is on validation items."
    section.table({"live": wide}, caption, formats)


def differences(section: Section, table: pd.DataFrame) -> None:
    """Figure of how much larger the gap is under generation, by task and scoring."""
    shown = table.assign(label=table["task"].map(TASK_LABELS))
    caption = "gap of KD students to the teacher in generated texts less that by each other scoring, points; "
    caption += "right of zero they are further behind when they write. 95% intervals over items."
    look = {"by": "scoring", "styles": STYLES, "x": "difference", "value": "difference, points"}
    look["xlabel"] = "difference of the gaps, points"
    section.figure("gap_differences", {"live": shown}, figures.by_task, caption, **look)


def orders(section: Section, order: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Kendall's tau of each scoring with generation, and the pairs of methods that flip."""
    shown = order.assign(
        domain=[DOMAIN_LABELS.get(name, name) for name in order["domain"]],
        tau=[interval_text(*row, digits=2) for row in order[["tau", "low", "high"]].to_numpy()],
        scoring=order["scoring"].map(SCORING_LABELS),
    ).drop(columns=["low", "high"])
    shown = shown.rename(columns={"itself": "noise alone", "halves": "on other items", "n": "items"})
    caption = "Kendall's tau between the methods' rankings by generation and by each scoring, 95% interval "
    caption += "of a bootstrap of items. On other items: each on one half of them; noise alone: generation "
    section.table({"live": shown}, f"{caption}on both halves.", ".2f")
    turned = pairs[pairs["flips"]].replace({"one": METHOD_NAMES, "other": METHOD_NAMES})
    for way in ("generation", "ranked"):
        bounds = turned[[way, f"{way}_low", f"{way}_high"]].to_numpy(float)
        turned = turned.assign(**{way: [interval_text(*row) for row in bounds]})
    turned = turned.replace({"scoring": SCORING_LABELS})
    columns = ["domain", "scoring", "one", "other", "generation", "ranked"]
    caption = "methods whose order turns round, `one` less `other`, points, both 95% intervals off zero."
    section.table({"live": turned[columns]}, caption)
    n = ", ".join(
        f"{int(own['flips'].sum())} of {len(own)} ({SCORING_LABELS[name]})"
        for name, own in pairs.groupby("scoring", sort=False)
    )
    section.remarks({"live": f"pairs of methods that turn round: {n}." if n else ""})


def recipes(section: Section, table: pd.DataFrame) -> None:
    """Gain of every recipe by generation and by label, and what it changes, as figure and table."""
    table = table.assign(recipe=table["variation"].replace("", PLAIN))
    shown = table[(table["variation"] != "") & table["scoring"].isin([GENERATION, "likelihood", "label"])]
    caption = "change of KD accuracy against the plain recipe by scoring, points; 95% intervals over items."
    look = {"y": "recipe", "x": "change", "xlabel": "change of accuracy, points", "by": "scoring"}
    look |= {"styles": STYLES, "has_same_rows": True, "height": 1.2 + 0.4 * shown["recipe"].nunique()}
    look["value"] = "change, points"
    section.figure("recipes", {"live": shown}, figures.interval_panels, caption, **look)
    texts = {
        what: [interval_text(*row) for row in table[columns].to_numpy(float)]
        for what, columns in {
            "gain": ["gain", "gain_low", "gain_high"],
            "change": ["change", "low", "high"],
        }.items()
    }
    table = table.assign(**texts, method=table["method"].map(METHOD_NAMES))
    table = table[table["scoring"].isin([GENERATION, "label"])]
    wide = table.pivot(index=["domain", "method", "recipe"], columns="scoring", values=list(texts))
    wide.columns = [f"{what}, {SCORING_LABELS[way]}" for what, way in wide.columns]
    caption = "gain over SFT and change against the plain recipe, points, 95% intervals over items."
    section.table({"live": wide.reset_index()}, caption)


def rule(section: Section, found: pd.DataFrame) -> None:
    """What scorings.outcomes says of each scoring."""
    tau = [interval_text(*row, digits=2) for row in found[["tau", "low", "high"]].to_numpy(float)]
    shown = found.assign(tau=tau, scoring=found["scoring"].map(SCORING_LABELS)).drop(columns=["low", "high"])
    caption = f"does a scoring mislead about generation? Alike: gaps within {scorings.MARGIN:g} points (two "
    caption += "one-sided tests at 5 %); apart: further than that (95 %, Bonferroni over tasks)."
    section.table({"live": shown}, caption)


def sentences(section: Section, differences: pd.DataFrame, found: pd.DataFrame, contrasts: str) -> list[str]:
    """Does ranking mislead? By the rule, and by how much the gap differs; then the declared contrasts."""
    said = []
    for row in found.itertuples():
        own = differences[differences["scoring"] == row.scoring]
        average = own[(own["task"] == AVERAGE) | ~own["domain"].isin(own[own["task"] == AVERAGE]["domain"])]
        by = ", ".join(
            f"{signed(each.difference, each.low, each.high)} points in {DOMAIN_LABELS[each.domain].lower()}"
            for each in average.itertuples()
        )
        said.append(
            f"{SCORING_LABELS[row.scoring]}: it {row.outcome} about generation "
            f"({row.alike} of {row.tasks} gaps alike, {row.apart} apart, tau {row.tau:.2f}); the gap is "
            f"larger when students write by {by}."
        )
    printed = scorings.PRINTED
    text = f"When Perplexity Lies prints a gap of {printed['likelihood']} points by likelihood and "
    said = [f"{section.labels['live']}, {sentence}" for sentence in said]
    return [*said, f"{text}{printed[GENERATION]} by generation, of another student.", contrasts]
