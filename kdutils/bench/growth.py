"""How seconds and memory of a step grow: with the vocabulary, the length of the texts, and the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdutils.bench import side_by_side
from kdutils.bench.kd_steps import CACHED, ONLINE, PLAIN
from kdutils.bench.workloads import Case
from kdutils.grid.model_shapes import Architecture

# One number changes at a time; the other two stay at the second of their values. Half of each row is scored.
AXES = {
    "vocabulary": (8_192, 16_384, 32_768, 65_536),
    "length": (32, 64, 128, 256),
    "batch": (2, 4, 8, 16),
}
AXIS_LABELS = {
    "vocabulary": "rows of the vocabulary",
    "length": "tokens of a text",
    "batch": "texts in a batch",
}
NAMES = (PLAIN, ONLINE, CACHED)
_SHAPE = {"heads": 4, "key_heads": 2, "is_tied": True, "has_bias": True}
STUDENT = Architecture(hidden=128, layers=2, intermediate=256, rows=AXES["vocabulary"][1], **_SHAPE)
TEACHER = Architecture(hidden=256, layers=4, intermediate=512, rows=AXES["vocabulary"][1], **_SHAPE)


def cases() -> dict[tuple[str, int], Case]:
    """The case at each value of each axis."""
    found = {}
    for axis, values in AXES.items():
        for value in values:
            at = {name: others[1] for name, others in AXES.items()} | {axis: value}
            found[axis, value] = Case(
                name=f"{axis}={value}",
                student=replace(STUDENT, rows=at["vocabulary"]),
                teacher=replace(TEACHER, rows=at["vocabulary"]),
                rows=at["batch"],
                length=at["length"],
                scored=at["length"] // 2,
            )
    return found


def measure(*, repeats: int, progress: side_by_side.Progress | None = None) -> list[dict[str, Any]]:
    """Rows of side_by_side.visit with columns axis and value; a contender does all in one process a round."""
    places = {case.name: place for place, case in cases().items()}
    rows = side_by_side.visit(list(cases().values()), NAMES, repeats=repeats, progress=progress)
    return [row | dict(zip(("axis", "value"), places[row["case"]], strict=True)) for row in rows]
