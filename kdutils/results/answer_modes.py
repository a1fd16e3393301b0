"""What an accuracy depends on apart from the model: which items count, and how an answer is taken.

Contamination: the question of a test item occurs in the training set. Two ways of taking an answer to a
question with options: the text is generated and read, as the paper does it, or the options are ranked by
their likelihood, as it stands or per character.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS, KD_METHODS, METHOD_LABELS, METHOD_NAMES, TASK_LABELS
from kdutils.grid import cell_table as cell_rows
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import gain_tables

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
    is_kd = cells["method"].isin(KD_METHODS)
    is_plain = (cells["temperature"] == 1.0) & (cells["noise_sigma"] == 0.0)
    is_plain &= is_kd & cells["teacher_tuned"].eq(True).fillna(False)
    is_baseline = ~is_kd & cells["student"].isin(cells.loc[is_plain, "student"])
    runs = gain_tables.in_task_order(cells[is_baseline | is_plain])
    return gain_tables.in_domain_order(gain_tables.in_method_order(runs)).reset_index(drop=True)


# --- contamination -----------------------------------------------------------------------------------


def contamination(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with and without the contaminated items: a row a domain x method x task and its average.

    Means over models or pairs and seeds of `plain_runs`. Columns domain, method, task, items, flagged (how
    many of them), accuracy, without (percent), and gain and gain_without over SFT (points). Only cells in
    which it is known which items are contaminated.
    """
    runs = plain_runs(cells)
    runs = runs[runs["n_clean"].notna()].rename(columns={"accuracy_clean": "without", "n": "items"})
    where, scores = ["domain", "task", "student"], ["accuracy", "without"]
    sft = runs[runs["method"] == "sft"].groupby(where)[scores].mean()
    before = sft.reindex(pd.MultiIndex.from_frame(runs[where])).to_numpy()
    gains = runs[scores].where(runs["method"].isin(KD_METHODS)).to_numpy() - before
    runs = runs.assign(gain=gains[:, 0], gain_without=gains[:, 1])
    runs["flagged"] = runs["items"] - runs["n_clean"]
    values = ["items", "flagged", *scores, "gain", "gain_without"]
    table = runs.groupby(["domain", "method", "label"], sort=False)[values].mean().reset_index()
    table[["items", "flagged"]] = table[["items", "flagged"]].round().astype(int)
    table["method"] = table["method"].map(METHOD_LABELS)
    return table.rename(columns={"label": "task"})


def contamination_remark(cells: pd.DataFrame) -> str:
    """How many test items occur in the training set, by task, in a sentence a domain."""
    runs = cells[(cells["task"] != AVERAGE) & cells["n"].notna()]
    sentences = []
    for domain, part in gain_tables.in_domain_order(runs).groupby("domain", sort=False):
        known = gain_tables.in_task_order(part[part["n_clean"].notna()]).drop_duplicates("task")
        label = DOMAIN_LABELS[domain]
        if known.empty:
            sentences.append(f"{label}: which items occur in the training set is not known.")
            continue
        flagged = known["n"] - known["n_clean"]
        total = int(known["n"].sum())
        if not flagged.any():
            sentences.append(f"{label}: none of the {total} test items occurs in the training set.")
            continue
        named = zip(known["label"], flagged, known["n"], strict=True)
        parts = ", ".join(f"{task} {k} of {n}" for task, k, n in named if k)
        sentences.append(
            f"{label}: {int(flagged.sum())} of {total} test items occur in the training set ({parts})."
        )
    return " ".join(sentences)


def contaminated_tasks(gain_table: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Gains on the tasks that are flagged as contaminated and on the others, by domain and method.

    Columns domain, method, contaminated, others (mean points over pairs of the mean over tasks), their
    difference with Student's t interval over pairs (low, high), pairs. Domains with both kinds of task only.
    """
    flagged = set(cells.loc[cell_rows.has_flag(cells, "contaminated"), "task"])
    table = gain_table[gain_table["task"] != AVERAGE].dropna(subset=["gain"])
    table = table.assign(kind=table["task"].isin(flagged).map({True: "contaminated", False: "others"}))
    means = table.pivot_table(index=["domain", "method", *UNIT], columns="kind", values="gain", sort=False)
    rows = []
    if {"contaminated", "others"} <= set(means.columns):
        means = means.dropna(subset=["contaminated", "others"])
        for (domain, method), part in means.groupby(["domain", "method"], sort=False):
            apart = intervals.mean_interval(part["contaminated"] - part["others"])
            kinds = part["contaminated"].mean(), part["others"].mean()
            rows.append((domain, METHOD_LABELS[method], *kinds, *apart.bounds, apart.n))
    columns = ["domain", "method", "contaminated", "others", "difference", "low", "high", "pairs"]
    return pd.DataFrame(rows, columns=columns)


# --- generated or ranked -----------------------------------------------------------------------------


def rankings(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and gain over SFT by each of WAYS, of the tasks with options: `plain_runs` that were ranked.

    A row a domain x task (and their mean as `average`) x method x way: columns label, method, way, accuracy,
    low, high, n, n_units, gain, gain_low, gain_high. With several pairs the mean over them and Student's t
    interval; of one pair intervals from the items, those of gains for independent samples (Newcombe 1998),
    which is too wide: cells hold no items to pair. Empty if nothing was ranked.
    """
    runs = plain_runs(cells)
    runs = runs[runs["accuracy_ranked"].notna() & (runs["task"] != AVERAGE)]
    keys = ["domain", "method", *UNIT, "task"]
    runs = runs.groupby(keys, sort=False).agg({"n": "first"} | dict.fromkeys(WAYS, "mean")).reset_index()
    rows = []
    for domain, of_domain in runs.groupby("domain", sort=False):
        tasks = list(dict.fromkeys(of_domain["task"]))
        for task in (*tasks, AVERAGE):
            part = of_domain if task == AVERAGE else of_domain[of_domain["task"] == task]
            rows += [(domain, task, *row) for row in _of_task(part)]
    found = ["accuracy", "low", "high", "n", "n_units", "gain", "gain_low", "gain_high"]
    table = pd.DataFrame(rows, columns=["domain", "task", "way", "method", *found])
    return table.assign(label=table["task"].map(TASK_LABELS))


def _of_task(part: pd.DataFrame) -> Iterator[tuple]:
    """The rows of one task, or of several whose mean is wanted, by way and method."""
    for way in WAYS:
        units = dict(list(part.groupby(["method", *UNIT], sort=False)))
        for method in dict.fromkeys(key[0] for key in units):
            of_method = {key: rows for key, rows in units.items() if key[0] == method}
            level = _level(list(of_method.values()), way)
            sft = {key: units.get(("sft", "", key[2])) for key in of_method if method in KD_METHODS}
            sft = {key: rows for key, rows in sft.items() if rows is not None}
            gain = _gain([of_method[key] for key in sft], list(sft.values()), way)
            n = int(next(iter(of_method.values()))["n"].sum())
            yield WAYS[way], method, *level.bounds, n, len(of_method), *gain.bounds


def _level(units: list[pd.DataFrame], way: str) -> Estimate:
    """The mean over units (rows of a model or pair by task), with the interval over items if it is one."""
    if len(units) != 1:
        return intervals.mean_interval(rows[way].mean() for rows in units)
    (rows,), values, tasks = units, [], []
    for task, share, n in zip(rows["task"], rows[way] / 100, rows["n"].astype(int), strict=True):
        n_right = round(share * n)
        values += [1.0] * n_right + [0.0] * (n - n_right)
        tasks += [task] * n
    return replace(intervals.mean_over_items(values, tasks), value=float(rows[way].mean()))


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
    shown = table[several | (table["task"] != AVERAGE)].copy()
    shown["text"] = [_way_text(row) for row in shown.to_dict("records")]
    keys = ["domain", "label", "method", "n"]
    wide = shown.pivot(index=keys, columns="way", values="text")[list(WAYS.values())]
    order = pd.MultiIndex.from_frame(shown[keys].drop_duplicates())
    wide = wide.reindex(order).reset_index().rename_axis(columns=None)
    wide["method"] = wide["method"].map(METHOD_LABELS)
    return wide.rename(columns={"label": "task", "n": "items"})


def _way_text(row: dict[str, float]) -> str:
    level = Estimate(row["accuracy"], row["low"], row["high"]).text(signed=False)
    return level if math.isnan(row["gain"]) else f"{level}, gain {_interval(row)}"


def ways_remark(table: pd.DataFrame) -> str:
    """Where the ways of taking an answer disagree about a method's gain or about the order of the methods.

    Takes `rankings`; looks at the mean over the tasks with options. A sentence or more a domain.
    """
    sentences = []
    average = table[(table["task"] == AVERAGE) & table["gain"].notna()]
    for domain, part in average.groupby("domain", sort=False):
        tasks = table.loc[(table["domain"] == domain) & (table["task"] != AVERAGE), "label"].unique()
        where = f"{DOMAIN_LABELS[domain]} ({', '.join(tasks)})"
        read, ranked = WAYS["accuracy"], [way for way in WAYS.values() if way != WAYS["accuracy"]]
        found = []
        for way in ranked:
            found += _other_signs(part, read, way)
            orders = [_order(part[part["way"] == one]) for one in (read, way)]
            if orders[0] != orders[1]:
                found.append(f"by gain the methods stand {orders[0]} {read}, and {orders[1]} {way}")
        agree = "the ways agree about the sign of every method's gain and about the methods' order"
        sentences.append(f"{where}: {'; '.join(found) or agree}.")
    return " ".join(sentences)


def _other_signs(part: pd.DataFrame, read: str, way: str) -> list[str]:
    found = []
    gains = part.set_index(["way", "method"])
    for method in part["method"].unique():
        one, other = gains.loc[(read, method)], gains.loc[(way, method)]
        if one["gain"] * other["gain"] < 0:
            clear = [row["gain_low"] > 0 or row["gain_high"] < 0 for row in (one, other)]
            sure = {0: "neither interval leaves out 0", 1: "one of the intervals leaves out 0"}
            texts = [_interval(row) for row in (one, other)]
            found.append(
                f"{METHOD_NAMES[method]} gains {texts[0]} {read} and {texts[1]} {way}, "
                f"another sign ({sure.get(sum(clear), 'both intervals leave out 0')})"
            )
    return found


def _interval(row: Mapping[str, float]) -> str:
    return Estimate(row["gain"], row["gain_low"], row["gain_high"]).text().replace("-", "−")


def _order(part: pd.DataFrame) -> str:
    """Methods from the largest gain to the least, equal ones joined."""
    by = part.assign(gain=part["gain"].round(9)).groupby("gain", sort=True)["method"]
    groups = [" = ".join(METHOD_NAMES[name] for name in names) for _, names in by]
    return " > ".join(reversed(groups))
