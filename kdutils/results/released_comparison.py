"""Live results of one real pair compared with the released values of the same quantity; their weights.

A pair that was not released is compared with the nearest one that was, and with the range over all; the
column says which. Results of a model world stand alone: no released value is one of the same quantity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, METHOD_NAMES, TASK_LABELS
from kdutils.data import model_facts
from kdutils.grid import cell_table as cell_rows
from kdutils.grid.plan import Plan
from kdutils.results import agreement_fidelity, authors_tables, gain_tables, item_gains, sweeps
from kdutils.results.gain_tables import interval_text
from kdutils.results.item_gains import Items

PAIR = ["teacher", "student"]
WEIGHTS = {  # of model_facts.describe -> in a table
    "name": "asked for",
    "source": "read from",
    "file": "file",
    "quantisation": "stored as",
    "parameters": "numbers stored",
    "digest": "digest",
    "note": "note",
}


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
    sizes = pairs["teacher"].map(cell_rows.model_parameters).astype(float)
    distance = np.log(sizes / cell_rows.model_parameters(teacher)).abs().round(9)
    order = pairs.assign(distance=distance, size=sizes).sort_values(["distance", "size"])
    return tuple(order[PAIR].iloc[0])


def pair_remark(cells: pd.DataFrame) -> str:
    """Which released pair the live one is compared with, a sentence; "" where there is none to compare."""
    found = _pairs(cells)
    if found is None:
        return ""
    live, near = (_label(*pair) for pair in found)
    text = f"{live} was released too."
    if live != near:
        text = f"{live} was not released. The nearest released pair is {near}: the same student with the "
        text += "teacher nearest in size."
    ways = [f"{source}: {sweeps.decoding(part)}" for source, part in gain_tables.by_source(cells).items()]
    return f"{text} How the texts came about: {'; '.join(ways)}.".replace("published:", "released:")


def _pairs(cells: pd.DataFrame) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The one live pair and the released one nearest to it; None if there are none or several."""
    sources = gain_tables.by_source(cells)
    live = sources.get("live", cells.head(0))
    if "published" not in sources or gain_tables.n_pairs(live) != 1 or cell_rows.is_model_world(live):
        return None
    pair = tuple(live.loc[live["teacher"] != "", PAIR].iloc[0])
    near = nearest_pair(sources["published"], *pair)
    return None if near is None else (pair, near)


def _label(teacher: str, student: str) -> str:
    return gain_tables.pair_label(pd.DataFrame({"teacher": [teacher], "student": [student]})).iloc[0]


def table(
    comparison: Comparison, live: pd.DataFrame, released: pd.DataFrame, *, value: str, by: Sequence[str]
) -> pd.DataFrame:
    """Live values with their intervals and released ones, as texts: a line a task x `by`.

    Args:
        live: tables of item_gains: domain, task, the columns `by`, `value`, low, high, n. A value of `value`
            "difference" is written with its sign.
        released: the same quantity of every released pair: domain, task, teacher ("" where none is involved),
            student, the columns `by` and `value`; may be empty.
    """
    sign = "+" if value == "difference" else ""
    keys = ["domain", "task", *by]
    pairs, live = _pairs(comparison.cells), gain_tables.in_view(live, comparison.plan)
    shown = live[keys].reset_index(drop=True)
    if pairs is not None and len(released):
        (teacher, student), is_same = pairs[1], pairs[0] == pairs[1]
        is_near = (released["student"] == student) & released["teacher"].isin(["", teacher])
        title = "released, same pair" if is_same else f"released, {_label(teacher, student)}"
        near = released[is_near].groupby(keys)[value].mean()
        span = released.dropna(subset=[value]).groupby(keys)[value].agg(["min", "max", "size"])
        places = pd.MultiIndex.from_frame(live[keys])
        shown[title] = [_number(number, sign) for number in near.reindex(places)]
        shown["released, range (runs)"] = [
            "—" if math.isnan(n) else f"{_number(low, sign)} to {_number(high, sign)} ({n:.0f})"
            for low, high, n in span.reindex(places).to_numpy()
        ]
    label = gain_tables.labels_of(comparison.cells)["live"]
    bounds = live[[value, "low", "high"]].to_numpy()
    shown[label[:1].lower() + label[1:]] = [interval_text(*each, signed=bool(sign)) for each in bounds]
    shown["items"] = live["n"].to_numpy()
    names = {"task": TASK_LABELS, "method": METHOD_NAMES}
    return shown.assign(**{name: shown[name].map(names[name]) for name in names if name in shown})


def _number(value: float, sign: str) -> str:
    return "—" if math.isnan(value) else f"{value:{sign}.1f}".replace("-", "−")


# --- what the sections compare -----------------------------------------------------------------------


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Accuracy of the student by task and method: as it is, after SFT, after KD (gain_tables.plain)."""
    live, released = (
        pd.concat([rows[rows["method"].isin(["base", "sft"])], gain_tables.plain(rows)])
        for rows in (comparison.items.scored, comparison.released)
    )
    live = live[live["student"].isin(gain_tables.plain(live)["student"])]  # not its teacher
    return table(comparison, item_gains.accuracies(live), released, value="accuracy", by=["method"])


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
    scored = comparison.items.scored
    live = item_gains.accuracies(_swept(scored[scored["temperature"] == 1.0], "noise_sigma"))
    return table(comparison, live, released, value="accuracy", by=["method", "noise_sigma"])


def temperatures(comparison: Comparison) -> pd.DataFrame:
    """Accuracy by task, method and temperature, of the methods that were trained at several."""
    released = sweeps.temperature_runs(comparison.released)
    live = item_gains.accuracies(
        _swept(gain_tables.plain(comparison.items.scored, temperature=None), "temperature")
    )
    return table(comparison, live, released, value="accuracy", by=["method", "temperature"])


def _swept(scored: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Rows of tuned teachers, of the methods that were trained at several values of `varied`."""
    tuned = scored[scored["teacher_tuned"].eq(True)]
    return tuned[tuned.groupby(["domain", "method"])[varied].transform("nunique") > 1]


def _of_students(comparison: Comparison, measure: str) -> pd.DataFrame:
    kd = gain_tables.gains(comparison.released, selection="temperature_1")
    return agreement_fidelity.of_students(kd, measure=measure)


# --- which weights the live results are of ---------------------------------------------------------------


def weights(plan: Plan) -> pd.DataFrame:
    """A line a model of a plan's live runs, students before teachers: the exact files behind the names."""
    return _weights(plan).rename(columns=WEIGHTS).replace("", "—")


def weights_line(plan: Plan) -> str:
    """The same in a sentence; "" without live runs."""
    models = []
    for facts in _weights(plan).itertuples():
        parts = (facts.quantisation, facts.digest and f"digest {facts.digest}", facts.note)
        models.append(f"{facts.name} is {facts.file or facts.source} ({', '.join(filter(None, parts))})")
    return f"Weights of the live results: {'; '.join(models)}." if models else ""


def _weights(plan: Plan) -> pd.DataFrame:
    kd = [run.spec for run in plan.runs if run.spec.teacher]
    models = [(spec.student, spec.student_source) for spec in kd]
    models += [(spec.teacher, spec.teacher_source) for spec in kd]
    facts = [model_facts.describe(*model) for model in dict.fromkeys(models)]
    return pd.DataFrame(facts, columns=list(WEIGHTS))
