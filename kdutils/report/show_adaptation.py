"""What notebook 15 shows: students by the way they are adapted."""

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    shown = table.assign(method=table["method"].map(METHOD_NAMES), way=table["arm"].map(LABELS))
    shown = shown.sort_values("arm", key=lambda arms: arms.map(list(LABELS).index), kind="stable")
    caption = "benefit of KD (loss after SFT less that after KD) by arm and number of training items. "
    caption += "95% intervals over test items and seeds; the training items are one draw. Every panel has a "
    caption += "scale of its own."
    section.figure("benefit", {"live": shown}, _benefits, caption, value="benefit, nats a token")


def _benefits(table: pd.DataFrame) -> Figure:
    """A row of panels a student, a column a method."""
    rows, n_students = list(dict.fromkeys(table["way"])), table["student"].nunique()
    styles, height = plots.ordered_styles(table["train_items"], "items"), 0.9 + 0.3 * len(rows)
    fig, parts = plots.crossed_panels(table, "student", "method", height=height * n_students, sharey=True)
    for ax, part in parts:
        plots.interval_dots(ax, part, y="way", x="benefit", styles=styles, by="train_items", rows=rows)
        if len(part):
            ax.set_title(f"{part['method'].iloc[0]}\n{part['student'].iloc[0]}")
        ax.set_xlabel(f"benefit, nats a token,\n{figures.INTERVAL}")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    plots.figure_legend(fig, styles.values())
    return fig


def interactions(section: Section, table: pd.DataFrame, analysis: pd.DataFrame) -> None:
    """By how much less each arm benefits than all weights, and the analysis of variance."""
    texts = [interval_text(*row, digits=3) for row in table[["interaction", "low", "high"]].to_numpy(float)]
    shown = table.assign(less=texts).replace(NAMES)
    shown = shown[["method", "arm", "students", "less", "n", "p_value", "p_holm"]]
    caption = "benefit of KD under full fine-tuning less that under each arm, nats a token, means over "
    caption += "numbers of items and the students that have both, 95% intervals over items and seeds; p by "
    caption += "Student's t over n students x seeds, the students fixed, corrected by Holm for all rows."
    section.table({"live": shown}, caption, {"p_value": ".3g", "p_holm": ".3g"})
    caption = "repeated-measures analysis of variance of the benefit of forward KL, arms x numbers of items, "
    caption += "over n students x seeds: the row *arm* asks whether the benefit differs between arms. An arm "
    caption += "that is void for any student is left out."
    section.table({"live": analysis}, caption, {"F": ".2f", "p": ".3g", "partial_eta_squared": ".2f"})


def measures(section: Section, table: pd.DataFrame) -> None:
    """Everything that is measured on held-out items, means over the numbers of training items."""
    names = ["student", "method", "arm"]
    percent = table.assign(**{name: 100 * table[name] for name in PERCENT})
    shown = percent.groupby(names, sort=False)[list(UNITS)].mean().reset_index().replace(NAMES)
    formats = {UNITS[name]: ".1f" if name in PERCENT else ".3f" for name in UNITS}
    caption = "on test items, means over seeds and numbers of training items: loss (nats a token of the gold "
    caption += "response), KL divergence from the teacher and to it, tokens at which both find one token "
    caption += "likeliest, accuracy and agreement of greedy texts, rise of the loss on the other domain "
    caption += "(forgetting)."
    section.table({"live": shown.rename(columns=UNITS)}, caption, formats)


def budgets(section: Section, runs: pd.DataFrame) -> None:
    """What each arm trains, updates, takes and stores."""
    names, final = ["student", "arm"], runs[runs["is_final"]]
    methods = arms.shared_methods(final)
    final = final[final["method"].isin(methods)]
    shown = final.groupby(names, sort=False)[arms.FACTS].mean().reset_index()
    if len(shown):
        shown = shown.dropna(axis=1, how="all")  # not every version counted what is stored
    shown = shown.assign(memory=1000 * shown.pop("peak_memory_gb"), kilobytes=shown.pop("file_bytes") / 1000)
    shown = shown.rename(columns={"memory": "peak memory, MB", "kilobytes": "file, kB"}).replace(NAMES)
    shown.columns = shown.columns.str.replace("_", " ")
    whole = ["trainable", "coordinate updates", "stored parameters", "steps", "peak memory, MB", "file, kB"]
    formats = dict.fromkeys(whole, ",.0f") | {"seconds": ".1f", "effective rank": ".1f"}
    said = ", ".join(METHOD_NAMES[method] for method in methods)
    caption = f"budgets after {said}, means over numbers of items and seeds: values that are trained, "
    caption += "updates of single values in all steps, seconds of training (other runs beside it), its "
    caption += "process's peak memory, what is stored, effective rank of the change."
    section.table({"live": shown}, caption, formats)


def sentences(
    section: Section, table: pd.DataFrame, analysis: pd.DataFrame, runs: pd.DataFrame, judged: str
) -> list[str]:
    """Does the benefit hang on the adaptation? By the analysis of variance and the range over arms."""
    if table.empty:
        return ["No arm was trained by SFT and by KD at a chosen learning rate, so nothing is said.", judged]
    label, said = section.labels["live"], []
    for method, own in table.groupby("method", sort=False):
        places = ["teacher", "student", "train_items"]
        means = own.pivot(index="arm", columns=places, values="benefit").dropna().mean(axis=1)
        if len(means) < 2:
            said.append(f"{label}, {METHOD_NAMES[method]}: no two arms are there for all students alike.")
            continue
        low, high = means.idxmin(), means.idxmax()
        said.append(
            f"{label}, {METHOD_NAMES[method]}: the benefit over SFT is {span(means, '+.3f')} nats a token "
            f"over {len(means)} arms, the least with {LABELS[low]}, the most with {LABELS[high]}."
        )
    for row in analysis[analysis["source"] == "arm"].itertuples():
        if not math.isnan(row.p):
            is_found = "differs between arms" if row.p < 0.05 else "is not shown to differ between arms"
            said.append(
                f"{label}: the benefit of forward KL {is_found} (F = {row.F:.1f}, p = {row.p:.2g}, "
                f"{row.arms} arms, {row.n} students x seeds)."
            )
    updates = runs[runs["is_final"]].groupby("arm")["coordinate_updates"].mean()
    if {"id3", "static_mask"} <= set(updates.index):
        share = 100 * updates["id3"] / updates["static_mask"]
        said.append(f"{label}: ID3 makes {share:.0f} % of the coordinate updates of the static mask.")
    return [*said, judged]
