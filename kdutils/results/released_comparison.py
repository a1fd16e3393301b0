"""Live results of one real pair compared with the released values of the same quantity.

A pair that was not released is compared with the nearest one that was, and with the range over all; the
column says which. Results of a model world stand alone: no released value is one of the same quantity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, METHOD_NAMES, TASK_LABELS
from kdutils.grid import cell_table as cell_rows
from kdutils.grid.plan import Plan
from kdutils.inference.estimate import Estimate
from kdutils.results import authors_tables, gain_tables, item_gains, sweeps
from kdutils.results.item_gains import Items

PAIR = ["teacher", "student"]
MISSING = "—"


@dataclass(frozen=True)
class Comparison:
    """The cells of both sources, the items of the one live pair, and the plan that asks for them."""

    cells: pd.DataFrame
    items: Items
    plan: Plan

    @property
    def released(self) -> pd.DataFrame:
        """The released cells."""
        return self.cells[self.cells["source"] == "published"]


def nearest_pair(released: pd.DataFrame, teacher: str, student: str) -> tuple[str, str] | None:
    """The released pair of the same student whose teacher is nearest in size (ratio), itself if there is one.

    None if that student was not released. Of two equally near teachers the smaller.
    """
    pairs = released.loc[released["teacher"] != "", PAIR].drop_duplicates()
    pairs = pairs[pairs["student"] == cell_rows.short_name(student)]
    if pairs.empty:
        return None
    size = cell_rows.model_parameters(cell_rows.short_name(teacher))
    sizes = pairs["teacher"].map(cell_rows.model_parameters).astype(float)
    distance = np.log(sizes / size).abs()
    order = pd.DataFrame({"distance": distance.round(9), "size": sizes}).sort_values(["distance", "size"])
    found = pairs.loc[order.index[0]]
    return found["teacher"], found["student"]


def pair_remark(cells: pd.DataFrame) -> str:
    """Which released pair the live one is compared with, a sentence; "" where there is none to compare."""
    found = _pairs(cells)
    if found is None:
        return ""
    live, near = (_label(*pair) for pair in found)
    if live == near:
        text = f"{live} was released too."
    else:
        text = f"{live} was not released. The nearest released pair is {near}: the same student with the "
        text += "teacher nearest in size."
    ways = [f"{source}: {sweeps.decoding(part)}" for source, part in gain_tables.by_source(cells).items()]
    return f"{text} How the texts came about: {'; '.join(ways)}.".replace("published:", "released:")


def _pairs(cells: pd.DataFrame) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The one live pair and the released one nearest to it; None if there are none or several."""
    sources = gain_tables.by_source(cells)
    if set(sources) != {"published", "live"} or gain_tables.n_pairs(sources["live"]) != 1:
        return None
    if cell_rows.is_model_world(sources["live"]):
        return None
    live = sources["live"]
    pair = tuple(live.loc[live["teacher"] != "", PAIR].iloc[0])
    near = nearest_pair(sources["published"], *pair)
    return None if near is None else (pair, near)


def _label(teacher: str, student: str) -> str:
    return gain_tables.pair_label(pd.DataFrame({"teacher": [teacher], "student": [student]})).iloc[0]


def table(
    comparison: Comparison, live: pd.DataFrame, released: pd.DataFrame, *, value: str, by: Sequence[str]
) -> pd.DataFrame:
    """Live values with their intervals and released ones, as texts: a line a task x `by`.

    The live column is called as `gain_tables.labels_of` calls it, such as `live, Qwen2.5`.

    Args:
        live: tables of item_gains: domain, task, the columns `by`, `value`, low, high, n. A value of `value`
            "difference" is written with its sign.
        released: the same quantity of every released pair: domain, task, teacher ("" where none is involved),
            student, the columns `by` and `value`; may be empty.
    """
    sign = "+" if value == "difference" else ""
    cells, keys = comparison.cells, ["domain", "task", *by]
    pairs, live = _pairs(cells), gain_tables.in_view(live, comparison.plan)
    shown = live[keys].copy()
    if pairs is not None and len(released):
        (teacher, student), is_same = pairs[1], pairs[0] == pairs[1]
        is_near = (released["student"] == student) & released["teacher"].isin(["", teacher])
        title = "released, same pair" if is_same else f"released, {_label(teacher, student)}"
        near = released[is_near].groupby(keys)[value].mean()
        span = released.dropna(subset=[value]).groupby(keys)[value].agg(["min", "max", "size"])
        places = pd.MultiIndex.from_frame(live[keys])
        shown[title] = [_number(number, sign) for number in near.reindex(places)]
        shown["released, range (runs)"] = [_range(*row, sign) for row in span.reindex(places).to_numpy()]
    label = gain_tables.labels_of(cells)["live"]
    shown[label[:1].lower() + label[1:]] = [
        Estimate(row[value], row["low"], row["high"]).text(signed=bool(sign)).replace("-", "−")
        for row in live.to_dict("records")
    ]
    shown["items"] = live["n"].to_numpy()
    shown["task"] = shown["task"].map(TASK_LABELS)
    if "method" in shown:
        shown["method"] = shown["method"].map(METHOD_NAMES)
    return shown.reset_index(drop=True)


def _number(value: float, sign: str) -> str:
    return MISSING if math.isnan(value) else f"{value:{sign}.1f}".replace("-", "−")


def _range(low: float, high: float, n: float, sign: str) -> str:
    if math.isnan(n):
        return MISSING
    return f"{_number(low, sign)} to {_number(high, sign)} ({n:.0f})"


# --- what the sections compare -----------------------------------------------------------------------


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Accuracy of the student by task and method: as it is, after SFT, after KD (gain_tables.plain)."""
    scored = comparison.items.scored
    student = gain_tables.plain(scored)["student"].unique()
    baselines = scored[scored["method"].isin(["base", "sft"]) & scored["student"].isin(student)]
    live = item_gains.accuracies(pd.concat([baselines, gain_tables.plain(scored)]))
    released = comparison.released
    is_baseline = released["method"].isin(["base", "sft"])
    released = pd.concat([released[is_baseline], gain_tables.plain(released)])
    return table(comparison, live, released, value="accuracy", by=["method"])


def gains(comparison: Comparison) -> pd.DataFrame:
    """Gain over SFT by task and method at temperature 1."""
    released = gain_tables.gains(comparison.released, selection="temperature_1")
    released = released.rename(columns={"gain": "difference"})
    live = item_gains.gains(comparison.items.scored)
    return table(comparison, live, released, value="difference", by=["method"])


def tuning_costs(comparison: Comparison) -> pd.DataFrame:
    """What an untuned teacher costs the student, by task."""
    released = gain_tables.teacher_tuning(comparison.released).rename(columns={"cost": "difference"})
    live = item_gains.tuning_costs(comparison.items.scored)
    return table(comparison, live, released, value="difference", by=[])


def agreements(comparison: Comparison) -> pd.DataFrame:
    """Agreement with the teacher by task and method, SFT included; a released value is of all methods."""
    released = _of_students(comparison, "agreement")
    live = item_gains.agreements(comparison.items.beside)
    return table(comparison, live, released, value="agreement", by=["method"])


def fidelities(comparison: Comparison) -> pd.DataFrame:
    """BLEU with the teacher's text by task and method, and BLEU2.csv, most likely the released BLEU."""
    released = _of_students(comparison, "fidelity_bleu2").rename(columns={"fidelity_bleu2": "fidelity"})
    live = item_gains.fidelities(comparison.items.beside)
    return table(comparison, live, released, value="fidelity", by=["method"])


def noise(comparison: Comparison) -> pd.DataFrame:
    """Accuracy by task, method and sigma, and what is known of the paper's (authors_tables.noise_results)."""
    released = gain_tables.plain(comparison.released)
    if len(released):
        known = authors_tables.noise_results().rename(columns={"sigma": "noise_sigma"})
        pair = dict(zip(PAIR, authors_tables.NOISE_PAIR, strict=True))
        known = known.assign(domain="math", task=AVERAGE, method="fkl", **pair)
        released = pd.concat([released, known[known["noise_sigma"] > 0]])
    at_1 = comparison.items.scored[comparison.items.scored["temperature"] == 1.0]
    live = item_gains.accuracies(_swept(at_1, "noise_sigma"))
    return table(comparison, live, released, value="accuracy", by=["method", "noise_sigma"])


def temperatures(comparison: Comparison) -> pd.DataFrame:
    """Accuracy by task, method and temperature, of the methods that were trained at several."""
    released = sweeps.temperature_runs(comparison.released)
    noise_free = comparison.items.scored[comparison.items.scored["noise_sigma"] == 0.0]
    live = item_gains.accuracies(_swept(noise_free, "temperature"))
    return table(comparison, live, released, value="accuracy", by=["method", "temperature"])


def _swept(scored: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Rows of tuned teachers, of the methods that were trained at several values of `varied`."""
    tuned = scored[scored["teacher_tuned"].eq(True)]
    return tuned[tuned.groupby(["domain", "method"])[varied].transform("nunique") > 1]


def _of_students(comparison: Comparison, measure: str) -> pd.DataFrame:
    """A released likeness by pair, task and method, the SFT student's as method `sft`."""
    kd = gain_tables.gains(comparison.released, selection="temperature_1")
    sft = kd.drop_duplicates(["domain", "task", *PAIR]).assign(method="sft")
    sft[measure] = sft[f"{measure}_sft"]
    kept = pd.concat([sft, kd])[["domain", "task", *PAIR, "method", measure]]
    of_tasks = kept[kept["task"] != AVERAGE]
    mean = of_tasks.groupby(["domain", *PAIR, "method"], sort=False)[measure].mean().reset_index()
    return pd.concat([of_tasks, mean.assign(task=AVERAGE)]).dropna(subset=[measure])
