"""What notebook 13 shows: students and teachers by the way they are scored."""

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.report import figures
from kdutils.report.plots import COLOURS, MARKERS, Style
from kdutils.report.section import Section, by_domain
from kdutils.results import gain_tables, scorings
from kdutils.results.gain_tables import interval_text
from kdutils.results.scorings import GENERATION

SCORING_LABELS = {  # of an EvalSpec
    GENERATION: "generated",
    "likelihood": "response ranked",
    "label": "label ranked",
    "cloze_sum": "words ranked",
    "cloze_per_character": "words per character",
    "cloze_pmi": "words, PMI",
}
STYLES = {
    name: Style(label, COLOURS[place], MARKERS[place])
    for place, (name, label) in enumerate(SCORING_LABELS.items())
}
PLAIN = "divergence alone, response alone"  # the plain recipe
OUTCOMES = {  # of scorings.outcomes
    "misleads": "it misleads about what students write",
    "does not mislead": "it does not mislead: perplexity did not lie here",
    "cannot be told": "these items cannot tell whether it misleads",
}


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each domain's average, or of its only task."""
    several = table.groupby("domain")["task"].transform("nunique") > 1
    return table[~several | (table["task"] == AVERAGE)]


def tasks_of(table: pd.DataFrame) -> str:
    """`Math: AQuA; Commonsense: 8`: how many tasks with options a domain has, or which one."""
    tasks = table[table["task"] != AVERAGE].groupby("domain", sort=False)["task"].unique()
    return "; ".join(
        f"{DOMAIN_LABELS[domain]}: {TASK_LABELS[own[0]] if len(own) == 1 else len(own)}"
        for domain, own in tasks.items()
    )


def gaps(section: Section, table: pd.DataFrame) -> None:
    """Figure of the gap to the teacher by scoring and method, mean over tasks."""
    shown = averages(table[table["method"] != "base"])
    shown = shown.assign(way=shown["scoring"].map(SCORING_LABELS))
    caption = "how far students stay behind their teacher by each scoring, points, means over the tasks with "
    caption += f"options ({tasks_of(table)}); 95% intervals over items. The order of the methods is that of "
    caption += "their dots."
    look = {"y": "way", "x": "gap", "xlabel": "teacher less student, points", "has_same_rows": True}
    look |= {"height": 1.2 + 0.5 * shown["way"].nunique(), "value": "gap, points"}
    section.figure("gaps", {"live": shown}, figures.interval_panels, caption, **look)


def levels(section: Section, table: pd.DataFrame, losses: pd.DataFrame) -> None:
    """Accuracy of every student by scoring, mean over tasks, beside the loss on gold responses."""
    names = ["domain", "method"]
    shown = gain_tables.in_domain_order(gain_tables.in_method_order(averages(table)))
    wide = gain_tables.wide(shown, index=names, columns="scoring", values="student")
    nll = losses.groupby(names)["gold_nll"].mean().rename("gold NLL, nats a token")
    wide = wide.rename(columns=SCORING_LABELS).join(nll, on=names)
    wide = wide.replace({"method": METHOD_NAMES, "domain": DOMAIN_LABELS})
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
    turned = pairs[pairs["flips"].astype(bool)].replace({"one": METHOD_NAMES, "other": METHOD_NAMES})
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
    bounds = {"gain": ["gain", "gain_low", "gain_high"], "change": ["change", "low", "high"]}
    texts = {
        what: [interval_text(*row).replace("undefined", "") for row in table[columns].to_numpy(float)]
        for what, columns in bounds.items()
    }
    table = table.assign(**texts).replace({"method": METHOD_NAMES, "domain": DOMAIN_LABELS})
    table = table[table["scoring"].isin([GENERATION, "label"])].melt(
        id_vars=["domain", "method", "recipe", "scoring"], value_vars=list(texts), var_name="what"
    )
    table["what"] += ", " + table["scoring"].map(SCORING_LABELS)
    wide = gain_tables.wide(table, index=["domain", "method", "recipe"], columns="what", values="value")
    caption = "gain over SFT and change against the plain recipe, points, 95% intervals over items."
    section.table({"live": wide}, caption)


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
        own = averages(differences[differences["scoring"] == row.scoring])
        tau = interval_text(row.tau, row.low, row.high, digits=2)
        said.append(
            f"{section.labels['live']}, {SCORING_LABELS[row.scoring]}: {OUTCOMES[row.outcome]} "
            f"({row.alike} of {row.tasks} gaps alike, {row.apart} apart; tau {tau}). Written answers less "
            f"ranked ones, the gap to the teacher differs by {by_domain(own, value='difference')}."
        )
    printed = scorings.PRINTED
    text = f"When Perplexity Lies prints a gap of {printed['likelihood']} points by likelihood and "
    return [*said, f"{text}{printed[GENERATION]} by generation, of another student.", contrasts]
