"""What notebook 15 shows: students by the way they are arms."""

from __future__ import annotations

import math

import pandas as pd

from kdutils.constants import METHOD_NAMES
from kdutils.report import figures, plots
from kdutils.report.section import Section, span
from kdutils.report.show_arms import LABELS, NAMES
from kdutils.results import arms
from kdutils.results.gain_tables import interval_text

UNITS = {"nll": "loss", "forward_kl": "KL(T, S)", "reverse_kl": "KL(S, T)", "same_top1": "same token, %"}
UNITS |= {"right": "accuracy, %", "same": "agreement, %", "forgetting": "forgetting"}
PERCENT = ("same_top1", "right", "same")


def benefits(section: Section, table: pd.DataFrame) -> None:
    """The interaction: benefit of KD by arm and number of training items."""
    shown = table.assign(domain=table["method"].map(METHOD_NAMES) + ", " + table["student"])
    shown = shown.assign(way=shown["arm"].map(LABELS), order=shown["arm"].map(list(LABELS).index))
    shown = shown.sort_values("order", kind="stable").drop(columns="order")
    look = {"y": "way", "x": "benefit", "xlabel": "benefit, nats a token"}
    look |= {"by": "train_items", "styles": plots.ordered_styles(table["train_items"], "items")}
    look |= {"height": 1.4 + 0.36 * shown["way"].nunique(), "value": "benefit, nats a token"}
    caption = "benefit of KD (loss after SFT less that after KD) by arm and number of training items. "
    caption += "95% intervals over test items and seeds."
    section.figure("benefit", {"live": shown}, figures.interval_panels, caption, has_same_rows=True, **look)


def interactions(section: Section, table: pd.DataFrame, analysis: pd.DataFrame) -> None:
    """By how much less each arm benefits than all weights, and the analysis of variance."""
    texts = [interval_text(*row, digits=3) for row in table[["interaction", "low", "high"]].to_numpy(float)]
    shown = table.assign(less=texts).replace(NAMES)[["method", "arm", "less", "n", "p_value", "p_holm"]]
    caption = (
        "benefit of KD under full fine-tuning less that under each arm, nats a token, 95% intervals over "
    )
    caption += "items and seeds; p by Student's t over runs, corrected by Holm for all rows."
    section.table({"live": shown}, caption, {"p_value": ".3g", "p_holm": ".3g"})
    caption = "repeated-measures analysis of variance of the loss, SFT and forward KL x arms; the last row "
    caption += "asks whether the benefit differs between arms."
    section.table({"live": analysis}, caption, {"F": ".2f", "p": ".3g", "partial_eta_squared": ".2f"})


def measures(section: Section, table: pd.DataFrame) -> None:
    """Everything that is measured on held-out items, means over the numbers of training items."""
    names = ["student", "method", "arm"]
    percent = table.assign(**{name: 100 * table[name] for name in PERCENT})
    shown = percent.groupby(names, sort=False)[list(UNITS)].mean().reset_index().replace(NAMES)
    formats = {UNITS[name]: ".1f" if name in PERCENT else ".3f" for name in UNITS}
    caption = "on test items, means over seeds and numbers of training items: loss (nats a token of the gold "
    caption += (
        "response), KL divergence from the teacher and to it, tokens at which both find one token likeliest, "
    )
    caption += "accuracy and agreement of greedy texts, rise of the loss on the other domain (forgetting)."
    section.table({"live": shown.rename(columns=UNITS)}, caption, formats)


def budgets(section: Section, runs: pd.DataFrame) -> None:
    """What each arm trains, updates, takes and stores."""
    names = ["student", "arm"]
    shown = runs[runs["is_final"]].groupby(names, sort=False)[arms.FACTS].mean().reset_index()
    if len(shown):
        shown = shown.dropna(axis=1, how="all")  # not every version counted what is stored
    shown = shown.assign(memory=1000 * shown.pop("peak_memory_gb"), kilobytes=shown.pop("file_bytes") / 1000)
    shown = shown.rename(columns={"memory": "peak memory, MB", "kilobytes": "file, kB"}).replace(NAMES)
    whole = dict.fromkeys(
        ["trainable", "coordinate_updates", "stored_parameters", "steps", "peak memory, MB", "file, kB"],
        ",.0f",
    )
    caption = (
        "budgets, means over methods, numbers of items and seeds: values that are trained, updates of single "
    )
    caption += "values in all steps, seconds of training (other runs beside it), its peak memory, what is "
    caption += "stored, effective rank of the change."
    shown.columns = shown.columns.str.replace("_", " ")
    whole = {name.replace("_", " "): fmt for name, fmt in whole.items()}
    section.table({"live": shown}, caption, whole | {"seconds": ".1f", "effective rank": ".1f"})


def sentences(
    section: Section, table: pd.DataFrame, analysis: pd.DataFrame, runs: pd.DataFrame, judged: str
) -> list[str]:
    """Does the benefit hang on the adaptation? By the analysis of variance and the range over arms."""
    if table.empty:
        return ["No arm was trained by SFT and by KD at a chosen learning rate, so nothing is said.", judged]
    label, said = section.labels["live"], []
    for method, own in table.groupby("method", sort=False):
        means = own.groupby("arm")["benefit"].mean()
        low, high = means.idxmin(), means.idxmax()
        said.append(
            f"{label}, {METHOD_NAMES[method]}: the benefit over SFT is {span(means, '+.3f')} nats a token "
            f"over {len(means)} arms, the least with {LABELS[low]}, the most with {LABELS[high]}."
        )
    for row in analysis.itertuples():
        if "*" in row.source and not math.isnan(row.p):
            is_found = "differs between arms" if row.p < 0.05 else "is not shown to differ between arms"
            said.append(
                f"{label}: the benefit of forward KL {is_found} (F = {row.F:.1f}, p = {row.p:.2g}, "
                f"{row.arms} arms)."
            )
    updates = runs[runs["is_final"]].groupby("arm")["coordinate_updates"].mean()
    if {"id3", "static_mask"} <= set(updates.index):
        share = 100 * updates["id3"] / updates["static_mask"]
        said.append(f"{label}: ID3 makes {share:.0f} % of the coordinate updates of the static mask.")
    return [*said, judged]
