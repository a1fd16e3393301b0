"""Halves of items (held_out_temperature.read) of runs whose answers a test writes down."""

from __future__ import annotations

import math

import pandas as pd

from kdutils.results import held_out_temperature
from kdutils.results.held_out_temperature import half_of

ARM = {"protocol": "careful", "domain": "math", "teacher": "toy-32M", "student": "toy-1M", "method": "fkl"}
FIRST, SECOND = (  # ids of the two halves
    [f"i{number}" for number in range(4_000) if half_of(f"i{number}") == half] for half in (0, 1)
)


def item_rows(values, *, task="svamp"):
    """Item rows of one run: id -> whether it is right."""
    rows = pd.DataFrame({"task": task, "item_id": list(values), "sample": 0})
    return rows.assign(correct=[bool(value) for value in values.values()], rouge_l=math.nan)


def swept(runs_of, *, seed=0, task="svamp", **named):
    """Halves of runs: temperature -> id -> whether it is right."""
    parts = [
        held_out_temperature.sums(item_rows(values, task=task)).assign(temperature=temperature)
        for temperature, values in runs_of.items()
    ]
    rows = pd.concat(parts, ignore_index=True).assign(**(ARM | named), seed=seed)
    return rows[held_out_temperature.COLUMNS]


def by_task(table, task="svamp"):
    (row,) = table[table["task"] == task].to_dict("records")
    return row


A, B, C, D = *FIRST[:2], *SECOND[:2]
HAND = {1.0: {A: 1, B: 0, C: 0, D: 0}, 2.0: {A: 0, B: 0, C: 1, D: 1}}
