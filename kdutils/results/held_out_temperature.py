"""The temperature of a method chosen on items that it is not measured on.

The authors take, of each pair and method, the best temperature for each task on the test items, and measure
on the same items. Here one half of a task's items chooses and the other is measured, then the other way
round, so that every item is measured once, at a temperature that it had no say in: cross-fitting. So the
validation items are test items that are held out in turn, and nothing is trained or generated for it.
Sources: Varma and Simon 2006 (doi:10.1186/1471-2105-7-91), Cawley and Talbot 2010 (JMLR 11, 2079-2107).

What is chosen for is what the authors choose for (gain_tables.gains): a pair x method x task, seeds averaged
that have all of its temperatures, and the domain's average as one more task (the best average, not an
average of the best). Of tied temperatures the lowest. A temperature without runs is not there to be chosen,
and one alone is taken. Where a half of a task has no items, there is nothing to choose on or to measure:
NaN, and a reason, for the task and for the average, which would be one of other tasks.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE
from kdutils.inference import intervals
from kdutils.results import gain_tables
from kdutils.results.half_accuracy import ARM, HALVES
from kdutils.results.item_gains import COUNTS

CHOICE = [
    "by_0",
    "by_1",
    "by_all",
]  # the temperature that a half chooses for the other; that all items choose
ALIKE = 9  # digits to which means are equal
MEASURED = ["accuracy", "accuracy_se", "agreement", "fidelity"]
OF_ONE_RUN = [  # columns of cells that no run put together from two has
    *("n_clean", "accuracy_clean", "accuracy_ranked", "accuracy_ranked_normalised"),
    *("unparsed", "truncated", "fidelity_correct_r"),
]


def choices(halves: pd.DataFrame) -> pd.DataFrame:
    """What temperature each half and all items choose, a row a pair x method x task: ARM, task, CHOICE.

    Takes half_accuracy.read. The domain's average is one of the tasks. `reason`: why CHOICE is NaN, or "".

    Raises:
        ValueError: if two runs among which is chosen were scored on different items.
    """
    table = []
    for arm, part in _of_common_seeds(halves).groupby(ARM, sort=False):
        tasks, temperatures = list(part["task"].unique()), sorted(part["temperature"].unique())
        values, n = (_sums(part, name, tasks, temperatures) for name in ("value", "n"))
        if (odd := (n != n[..., :1]).any(axis=(1, 2))).any():
            who = f"{' '.join(arm)}: runs on {tasks[odd.argmax()]}"
            raise ValueError(f"{who} were scored on different items; evaluate them on the same")
        n_all = n.sum(axis=1)
        shares = np.divide(values, n, out=np.full(n.shape, math.nan), where=n > 0)
        totals = values.sum(axis=1) / n_all
        reasons = [
            "" if each.all() else f"a half of {task} has no items"
            for task, each in zip(tasks, n, strict=True)
        ]
        for task, of_half, of_all, reason in zip(tasks, shares, totals, reasons, strict=True):
            table.append((*arm, task, *_best(of_half, of_all, temperatures), reason))
        chosen = _best(shares.mean(axis=0), totals.mean(axis=0), temperatures)
        table.append((*arm, AVERAGE, *chosen, "; ".join(filter(None, reasons))))
    frame = pd.DataFrame(table, columns=[*ARM, "task", *CHOICE, "reason"])
    return frame.astype(dict.fromkeys(CHOICE, float))


def _of_common_seeds(halves: pd.DataFrame) -> pd.DataFrame:
    """Without seeds that lack a temperature, as in gain_tables: several would lose to the luck of one."""
    n_temperatures = halves.groupby(ARM)["temperature"].transform("nunique")
    return halves[halves.groupby([*ARM, "seed"])["temperature"].transform("nunique") == n_temperatures]


def _sums(rows: pd.DataFrame, name: str, tasks: list[str], temperatures: list[float]) -> np.ndarray:
    """A sum over seeds by task, half and temperature; 0 where there are no items."""
    table = rows.groupby(["task", "half", "temperature"])[name].sum()
    index = pd.MultiIndex.from_product([tasks, HALVES, temperatures])
    return table.reindex(index).fillna(0.0).to_numpy(float).reshape(len(tasks), len(HALVES), -1)


def _best(shares: np.ndarray, totals: np.ndarray, temperatures: list[float]) -> list[float]:
    """CHOICE of shares by half and temperature and of those over all items; NaN if a half has none."""
    if np.isnan(shares).any():
        return [math.nan] * len(CHOICE)
    return [temperatures[int(np.round(each, ALIKE).argmax())] for each in (*shares, totals)]


# --- what a choice is measured to be ----------------------------------------------------------------------


def measured(halves: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Runs whose halves are each at the temperature that the other chose: ARM, seed, task, MEASURED.

    Over all items, as in the cell table: fidelity is BLEU of all texts together, an average has no likeness.
    Takes `choices`; what could not be chosen has no row.
    """
    turns = [chosen.assign(half=half, temperature=chosen[f"by_{1 - half}"]) for half in HALVES]
    return composed(halves, pd.concat(turns))


def composed(halves: pd.DataFrame, turns: pd.DataFrame) -> pd.DataFrame:
    """Runs put together from halves at the temperatures of `turns`: ARM, task, half, temperature."""
    known = _of_common_seeds(halves)
    turns = turns[[*ARM, "task", "half", "temperature"]].rename(columns={"task": "asked"})
    parts = known.merge(turns, on=[*ARM, "half", "temperature"])
    parts = parts[(parts["asked"] == parts["task"]) | (parts["asked"] == AVERAGE)]
    keys = [*ARM, "seed", "asked", "task"]
    sums = parts.groupby(keys, sort=False)[["n", "value", "square", "n_texts", "same", *COUNTS]]
    sums = sums.sum(min_count=1).reset_index()
    share = sums["value"] / sums["n"]
    spread = (sums["square"] / sums["n"] - share**2).clip(lower=0.0) / (sums["n"] - 1)
    sums = sums.assign(accuracy=100 * share, variance=100**2 * spread)
    sums["agreement"] = 100 * sums["same"] / sums["n_texts"]
    sums["fidelity"] = intervals.bleu(sums[COUNTS].to_numpy(float))
    sums["fidelity"] = sums["fidelity"].where(sums["n_texts"].notna())
    runs = sums.groupby([*ARM, "seed", "asked"], sort=False)
    table = runs[["accuracy", "agreement", "fidelity"]].mean()
    table["accuracy_se"] = runs["variance"].sum(min_count=1) ** 0.5 / runs.size()
    table = table.reset_index().rename(columns={"asked": "task"})
    table.loc[table["task"] == AVERAGE, ["agreement", "fidelity"]] = math.nan
    return table[[*ARM, "seed", "task", *MEASURED]]


def cells(cells: pd.DataFrame, halves: pd.DataFrame) -> pd.DataFrame:
    """Live cells in which one run stands for the temperatures of a pair x method x task x seed.

    Where both halves choose the same one, it is that cell; else its temperature is NaN, and accuracy,
    agreement and fidelity are `measured`; what is of one run alone is then NaN. Pairs and methods of one
    temperature, baselines, noisy runs and untuned teachers stay as they are. What could not be chosen has no
    row: ask `lacking` first.
    """
    kept = gain_tables.of_common_seeds(cells)
    swept = _swept(kept)
    chosen = choices(halves).dropna(subset=CHOICE)
    rows = swept.merge(chosen, on=[*ARM, "task"], how="inner", validate="many_to_one")
    is_one = rows["by_0"] == rows["by_1"]
    same = rows[is_one & (rows["temperature"] == rows["by_0"])]
    mixed = rows[~is_one].drop_duplicates([*ARM, "task", "seed"]).drop(columns=MEASURED)
    mixed = mixed.merge(measured(halves, chosen), on=[*ARM, "task", "seed"])
    mixed = mixed.assign(temperature=math.nan, **dict.fromkeys(OF_ONE_RUN, math.nan))
    tables = [kept.drop(swept.index), same, mixed]
    return pd.concat([table[kept.columns].astype(kept.dtypes) for table in tables], ignore_index=True)


def lacking(cells: pd.DataFrame, halves: pd.DataFrame) -> str:
    """Why a temperature of some pair, method or task of these cells cannot be chosen; "" if all can."""
    chosen = choices(halves)
    wanted = _swept(gain_tables.of_common_seeds(cells))[[*ARM, "task"]].drop_duplicates()
    rows = wanted.merge(chosen, on=[*ARM, "task"], how="left")
    without = rows[rows["by_0"].isna()]
    reasons = without["reason"].fillna("no items to choose a temperature on").unique()
    return "; ".join(reasons)


def _swept(cells: pd.DataFrame) -> pd.DataFrame:
    """Noise-free KD of a tuned teacher at several temperatures, of those of which one is chosen."""
    is_plain = (cells["teacher"] != "") & cells["teacher_tuned"].fillna(False) & (cells["noise_sigma"] == 0.0)
    plain = cells[is_plain]
    return plain[plain.groupby(ARM)["temperature"].transform("nunique") > 1]
