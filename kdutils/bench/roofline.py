"""How fast a step could be here: its FLOPs at the measured rate of products, its bytes at that of copies.

A step is a row of phases that follow one another. None takes less time than its FLOPs at the rate of a
product of 1024 x 1024, or than its bytes at the rate of a copy; the bound is the sum of the longer ones.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdutils.bench.kd_steps import CACHED, CONTENDERS
from kdutils.bench.workloads import case_of
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture, forward_flops, training_flops

# Times that a logit is read or written where products and the rest are kernels apart: those of the teacher
# written and read; those of the student too, then overwritten by their gradient, which is read twice.
LOGIT_PASSES = 7
OPTIMISER_PASSES = 7  # weight, gradient and two moments are read, all but the gradient are written
Phase = tuple[str, float, float]  # name, FLOPs, bytes read or written of what does not fit into a cache


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
    size, how = product_bytes, {"context": length, "scored": 0}
    # Three products each: forward, gradient of inputs, gradient of weights.
    weights = 3 * student.head + teacher.head
    if is_cached:
        of_teacher = ("teacher's states", 0, size * scored * teacher.hidden)
    else:
        flops = forward_flops(teacher, padded_tokens, **how)
        of_teacher = ("teacher's body", flops, size * teacher.body)
    return [
        ("student's body", training_flops(student, padded_tokens, **how), size * 3 * student.body),
        of_teacher,
        ("products of the heads", 2 * scored * weights, size * weights),
        ("divergence of logits", 0, LOGIT_PASSES * size * scored * student.rows),
        ("optimiser", 0, 4 * OPTIMISER_PASSES * student.parameters),
    ]


def bound(found: list[Phase], machine: Machine, *, product_bytes: int = 4) -> pd.DataFrame:
    """The least seconds of each phase on a machine: columns phase, flops, bytes, seconds, limited_by."""
    rate = machine.flops if product_bytes == 2 else machine.flops_float32 or machine.flops
    table = pd.DataFrame(found, columns=["phase", "flops", "bytes"])
    products, copies = table["flops"] / rate, table["bytes"] / machine.bytes_per_second
    limited_by = np.where(products >= copies, "products", "memory")
    return table.assign(seconds=np.maximum(products, copies), limited_by=limited_by)


def bound_of(row: Mapping[str, Any], machine: Machine) -> pd.DataFrame:
    """`bound` of the step that a row of side_by_side.measure describes."""
    case, contender = case_of(row["case"]), CONTENDERS[row["contender"]]
    how = {key: int(row[key]) for key in ("padded_tokens", "length", "scored")}
    how["product_bytes"] = contender.product_bytes
    found = phases(case.student, case.teacher, is_cached=contender.is_cached, **how)
    return bound(found, machine, product_bytes=contender.product_bytes)


def distances(rows: Iterable[Mapping[str, Any]], machine: Machine) -> pd.DataFrame:
    """How far each measured row is from its bound: columns case, contender, seconds_per_step, bound_seconds,
    times_the_bound.
    """
    found = []
    for row in (row for row in rows if row["repeats"]):
        least = bound_of(row, machine)["seconds"].sum()
        entry = {key: row[key] for key in ("case", "contender", "seconds_per_step")}
        found.append(entry | {"bound_seconds": least, "times_the_bound": row["seconds_per_step"] / least})
    return pd.DataFrame(found)


def table(rows: Iterable[Mapping[str, Any]], machine: Machine) -> pd.DataFrame:
    """`bound_of` the step with cached states of every case that ran, with a column case and a sum."""
    parts = []
    for row in rows:
        if row["repeats"] and row["contender"] == CACHED:
            found = bound_of(row, machine)
            whole = found[["flops", "bytes", "seconds"]].sum().to_dict() | {"phase": "all", "limited_by": ""}
            parts.append(pd.concat([found, pd.DataFrame([whole])]).assign(case=row["case"]))
    columns = ["case", "phase", "flops", "bytes", "seconds", "limited_by"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
