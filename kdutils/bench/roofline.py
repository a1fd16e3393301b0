"""How fast a step could be here: its FLOPs at the measured rate of products, its bytes at that of copies.

A step is a row of phases that follow one another. None takes less time than its FLOPs at the rate of a
product of 1024 x 1024, or than its bytes at the rate of a copy; the bound is the sum of the longer ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdutils.bench.kd_steps import BFLOAT16, CACHED, COMPILED
from kdutils.bench.workloads import case_of
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture, forward_flops, training_flops

# Times that a logit is read or written where products and the rest are kernels apart: those of the teacher
# written and read; those of the student too, then overwritten by their gradient, which is read twice.
LOGIT_PASSES = 7
OPTIMISER_PASSES = 7  # weight, gradient and two moments are read, all but the gradient are written


class Phase(NamedTuple):
    """A part of a step."""

    name: str
    flops: float
    bytes: float  # read or written, of what does not fit into a cache


def phases(
    student: Architecture,
    teacher: Architecture,
    *,
    padded_tokens: int,
    length: int,
    scored: int,
    is_cached: bool,
    product_bytes: int = 4,
) -> list[Phase]:
    """The phases of a step on `scored` positions of a batch of `padded_tokens`, all weights trained.

    Weights count once for each product that reads them, activations of the bodies not at all.

    Args:
        is_cached: the teacher's states are read; else its body runs.
        product_bytes: of a number in a product and of a logit: 4 for float32, 2 for bfloat16.
    """
    size, tokens = product_bytes, padded_tokens
    how = {"context": length, "scored": 0}
    body = 3 * size * student.body  # forward, gradient of inputs, gradient of weights
    found = [Phase("student's body", training_flops(student, tokens, **how), body)]
    if is_cached:
        found.append(Phase("teacher's states", 0, size * scored * teacher.hidden))
    else:
        found.append(Phase("teacher's body", forward_flops(teacher, tokens, **how), size * teacher.body))
    heads = 2 * scored * (3 * student.head + teacher.head)
    found.append(Phase("products of the heads", heads, size * (3 * student.head + teacher.head)))
    found.append(Phase("divergence of logits", 0, LOGIT_PASSES * size * scored * student.rows))
    found.append(Phase("optimiser", 0, 4 * OPTIMISER_PASSES * student.parameters))
    return found


def bound(found: list[Phase], machine: Machine, *, product_bytes: int = 4) -> pd.DataFrame:
    """The least seconds of each phase on a machine: columns phase, flops, bytes, seconds, limited_by."""
    rate = machine.flops if product_bytes == 2 else machine.flops_float32 or machine.flops
    table = pd.DataFrame(found).rename(columns={"name": "phase"})
    products, copies = table["flops"] / rate, table["bytes"] / machine.bytes_per_second
    limited_by = np.where(products >= copies, "products", "memory")
    return table.assign(seconds=np.maximum(products, copies), limited_by=limited_by)


def phases_of(row: Mapping[str, Any]) -> list[Phase]:
    """The phases of the step that a row of side_by_side.measure describes."""
    case, sizes = case_of(row["case"]), {key: int(row[key]) for key in ("padded_tokens", "length", "scored")}
    is_cached = row["contender"] in (CACHED, BFLOAT16, COMPILED)
    return phases(case.student, case.teacher, is_cached=is_cached, product_bytes=_product_bytes(row), **sizes)


def distances(rows: Iterable[Mapping[str, Any]], machine: Machine) -> pd.DataFrame:
    """How far each measured row is from its bound: columns case, contender, bound_seconds, seconds_per_step,
    times_the_bound.
    """
    found = []
    for row in (row for row in rows if row["repeats"]):
        least = bound(phases_of(row), machine, product_bytes=_product_bytes(row))["seconds"].sum()
        entry = {key: row[key] for key in ("case", "contender", "seconds_per_step")}
        found.append(entry | {"bound_seconds": least, "times_the_bound": row["seconds_per_step"] / least})
    return pd.DataFrame(found)


def _product_bytes(row: Mapping[str, Any]) -> int:
    return 2 if row["contender"] == BFLOAT16 else 4


def table(rows: Iterable[Mapping[str, Any]], machine: Machine) -> pd.DataFrame:
    """`bound` of the step with cached states of every case that ran, with a column case and a sum."""
    parts = []
    for row in rows:
        if row["repeats"] and row["contender"] == CACHED:
            found = bound(phases_of(row), machine)
            whole = found[["flops", "bytes", "seconds"]].sum().to_dict() | {"phase": "all", "limited_by": ""}
            parts.append(pd.concat([found, pd.DataFrame([whole])]).assign(case=row["case"]))
    columns = ["case", "phase", "flops", "bytes", "seconds", "limited_by"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
