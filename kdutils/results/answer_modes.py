"""What an accuracy depends on apart from the model: which items count, and how an answer is taken.

Contamination: the question of a test item occurs in the training set. Two ways of taking an answer to a
question with options: the text is generated and read, as the paper does it, or the options are ranked by
their likelihood, as it stands or per character.
"""

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, KD_METHODS, METHOD_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.grid import cell_table as cell_rows
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import gain_tables
from kdutils.results.gain_tables import interval_text

WAYS = {  # column of the cell table -> how the answer was taken
    "accuracy": "generated and read",
    "accuracy_ranked": "ranked by likelihood",
    "accuracy_ranked_normalised": "ranked by likelihood per character",
}
UNIT = ["teacher", "student"]


def plain_runs(cells: pd.DataFrame) -> pd.DataFrame:
    """KD at temperature 1 without noise from a tuned teacher, and its students as they are and after SFT.

    By domain and method (base and SFT first), then in task order.
    """
    kd = gain_tables.plain(cells)
    is_baseline = ~cells["method"].isin(KD_METHODS) & cells["student"].isin(kd["student"])
    runs = gain_tables.in_task_order(pd.concat([cells[is_baseline], kd]))
    return gain_tables.in_domain_order(gain_tables.in_method_order(runs)).reset_index(drop=True)


def failures(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, strict too, texts in the format, without answer and cut off, percent: by domain and method.

    Means over `plain_runs` and tasks; `not learned` is how many of them have the flag format_not_learned. No
    rows where texts were not released.
    """
    runs = plain_runs(cells[(cells["task"] == AVERAGE) & cells["unparsed"].notna()])
    by = runs.groupby(["domain", "method"], sort=False)
    values = ["accuracy", "accuracy_strict", "in_format", "unparsed", "truncated"]
    flagged = cell_rows.has_flag(runs, "format_not_learned").groupby([runs["domain"], runs["method"]]).mean()
    table = by[values].mean().assign(**{"not learned": 100 * flagged, "runs": by.size()}).reset_index()
    table["method"] = table["method"].map(METHOD_LABELS)
    return table.rename(columns={"accuracy_strict": "strict", "in_format": "in the format"})


# --- contamination -----------------------------------------------------------------------------------


def contamination(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with and without the contaminated items: a row a domain x method x task and its average.

    Means over models or pairs and seeds of `plain_runs`. Columns domain, method, task, items, flagged (how
    many of them), accuracy, without (percent), and gain and gain_without over SFT (points). Only cells in
    which it is known which items are contaminated.
    """
    runs = plain_runs(cells).dropna(subset=["n_clean"])
    runs = runs.rename(columns={"accuracy_clean": "without", "n": "items"})
    where, scores = ["domain", "task", "student"], ["accuracy", "without"]
    sft = runs[runs["method"] == "sft"].groupby(where)[scores].mean().add_suffix("_sft")
    runs = runs.join(sft, on=where)
    for name, score in zip(("gain", "gain_without"), scores, strict=True):
        runs[name] = (runs[score] - runs[f"{score}_sft"]).where(runs["method"].isin(KD_METHODS))
    runs["flagged"] = runs["items"] - runs["n_clean"]
    values = ["items", "flagged", *scores, "gain", "gain_without"]
    table = runs.groupby(["domain", "method", "label"], sort=False)[values].mean().reset_index()
    table[["items", "flagged"]] = table[["items", "flagged"]].round().astype(int)
    return table.assign(method=table["method"].map(METHOD_LABELS)).rename(columns={"label": "task"})


def contaminated_tasks(gain_table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Gains on the tasks that are flagged as contaminated and on the others, by domain and method.

    Columns domain, method, contaminated, others (mean points over pairs of the mean over tasks), their
    difference with Student's t interval over pairs (low, high), pairs. Domains with both kinds of task only.
    """
    flagged = set(cells.loc[cell_rows.has_flag(cells, "contaminated"), "task"])
    table = gain_table[gain_table["task"] != AVERAGE].dropna(subset=["gain"])
    kind = table["task"].isin(flagged).map({True: "contaminated", False: "others"})
    keys = ["domain", "method", *UNIT]
    means = table.assign(kind=kind).pivot_table(index=keys, columns="kind", values="gain", sort=False)
    means = means.reindex(columns=["contaminated", "others"]).dropna().reset_index()
    apart = means["contaminated"] - means["others"]
    means = means.assign(difference=apart, method=means["method"].map(METHOD_LABELS))
    found = gain_tables.mean_intervals(means, ["domain", "method"], "contaminated", "others", "difference")
    return found.rename(columns={"n": "pairs"})


# --- generated or ranked -----------------------------------------------------------------------------


def rankings(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and gain over SFT by each of WAYS, of the tasks with options: `plain_runs` that were ranked.

    A row a domain x task (and their mean as `average`) x method x way: columns label, method, way, accuracy,
    low, high, n, n_units, gain, gain_low, gain_high. With several pairs the mean over them and Student's t
    interval; of one pair intervals from the items, those of gains for independent samples (Newcombe 1998),
    which is too wide: cells hold no items to pair. Empty if nothing was ranked.
    """
    runs = plain_runs(cells[cells["task"] != AVERAGE]).dropna(subset=["accuracy_ranked"])
    keys = ["domain", "method", *UNIT, "task"]
    runs = runs.groupby(keys, sort=False).agg({"n": "first"} | dict.fromkeys(WAYS, "mean")).reset_index()
    table = []
    for domain, of_domain in runs.groupby("domain", sort=False):
        for task in (*of_domain["task"].unique(), AVERAGE):
            part = of_domain if task == AVERAGE else of_domain[of_domain["task"] == task]
            sft = dict(list(part[part["method"] == "sft"].groupby("student")))
            for column, way in WAYS.items():
                for method, of_method in part.groupby("method", sort=False):
                    units = [rows for _, rows in of_method.groupby(UNIT, sort=False)]
                    level, n = _level(units, column), int(units[0]["n"].sum())
                    own = [rows for rows in units if method in KD_METHODS and rows["student"].iloc[0] in sft]
                    gain = _gain(own, [sft[rows["student"].iloc[0]] for rows in own], column)
                    where = (domain, task, way, method)
                    table.append((*where, *level.bounds, n, len(units), *gain.bounds))
    found = ["accuracy", "low", "high", "n", "n_units", "gain", "gain_low", "gain_high"]
    frame = pd.DataFrame(table, columns=["domain", "task", "way", "method", *found])
    return frame.assign(label=frame["task"].map(TASK_LABELS))


def _level(units: list[pd.DataFrame], way: str) -> Estimate:
    """The mean over units (rows of a model or pair by task), with the interval over items if it is one."""
    if len(units) != 1:
        return intervals.mean_interval(rows[way].mean() for rows in units)
    (rows,) = units
    n = rows["n"].astype(int)
    n_right = (rows[way] / 100 * n).round()
    values = np.concatenate([np.arange(size) < hits for size, hits in zip(n, n_right, strict=True)])
    return replace(intervals.mean_over_items(values, rows["task"].repeat(n)), value=float(rows[way].mean()))


def _gain(kd: list[pd.DataFrame], sft: list[pd.DataFrame], way: str) -> Estimate:
    """KD less SFT; of one unit from their own intervals (Newcombe 1998, method 10)."""
    if len(kd) != 1:
        return intervals.mean_interval(
            one[way].mean() - other[way].mean() for one, other in zip(kd, sft, strict=True)
        )
    after, before = _level(kd, way), _level(sft, way)
    gain = after.value - before.value
    low = gain - math.hypot(after.value - after.low, before.high - before.value)
    high = gain + math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(gain, low, high, n=after.n)


def ways_table(table: pd.DataFrame) -> pd.DataFrame:
    """`rankings` for people to read: a row a domain x task x method, a column a way with accuracy and gain.

    The mean over tasks is left out where there is one task.
    """
    several = table.groupby("domain")["task"].transform("nunique") > 2
    shown = table[several | (table["task"] != AVERAGE)]
    texts = [
        interval_text(*row[:3], signed=False)
        + ("" if math.isnan(row[3]) else f", gain {interval_text(*row[3:])}")
        for row in shown[["accuracy", "low", "high", "gain", "gain_low", "gain_high"]].to_numpy()
    ]
    shown = shown.assign(text=texts, method=shown["method"].map(METHOD_LABELS))
    found = gain_tables.wide(shown, index=["domain", "label", "method", "n"], columns="way", values="text")
    return found.rename(columns={"label": "task", "n": "items"})


def ways_remark(table: pd.DataFrame) -> str:
    """Where the ways of taking an answer disagree about a method's gain or about the order of the methods.

    Takes `rankings`; looks at the mean over the tasks with options. A sentence or more a domain.
    """
    sentences = []
    average = table[(table["task"] == AVERAGE) & table["gain"].notna()]
    read, *ranked = WAYS.values()
    for domain, part in average.groupby("domain", sort=False):
        tasks = table.loc[(table["domain"] == domain) & (table["task"] != AVERAGE), "label"].unique()
        found, gains = [], part.set_index(["way", "method"])[["gain", "gain_low", "gain_high"]]
        for way in ranked:
            for method in part["method"].unique():
                both = gains.loc[[(read, method), (way, method)]]
                if both["gain"].prod() < 0:
                    n_clear = ((both["gain_low"] > 0) | (both["gain_high"] < 0)).sum()
                    sure = ("neither interval leaves", "one of the intervals leaves", "both intervals leave")
                    one, other = (interval_text(*bounds) for bounds in both.to_numpy())
                    found.append(
                        f"{METHOD_NAMES[method]} gains {one} {read} and {other} {way}, "
                        f"another sign ({sure[n_clear]} out 0)"
                    )
            orders = [_order(part[part["way"] == one]) for one in (read, way)]
            if orders[0] != orders[1]:
                found.append(f"by gain the methods stand {orders[0]} {read}, and {orders[1]} {way}")
        agree = "the ways agree about the sign of every method's gain and about the methods' order"
        sentences.append(f"{DOMAIN_LABELS[domain]} ({', '.join(tasks)}): {'; '.join(found) or agree}.")
    return " ".join(sentences)


def _order(part: pd.DataFrame) -> str:
    """Methods from the largest gain to the least, equal ones joined."""
    by = part.assign(gain=part["gain"].round(9)).groupby("gain", sort=True)["method"]
    groups = [" = ".join(METHOD_NAMES[name] for name in names) for _, names in by]
    return " > ".join(reversed(groups))
