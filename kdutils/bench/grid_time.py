"""What a whole grid costs with the teacher's states kept and with the teacher asked at every step.

Four students x three methods x three temperatures on one teacher, made by kdutils.grid.fill as all runs.
By hand: `KDUTILS_TEACHER_STATES=always|never python -m kdutils.bench.grid_time FAMILY STUDENTS` prints a line
of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdutils import store
from kdutils.compute import Compute
from kdutils.grid import model_shapes
from kdutils.grid.model_shapes import Architecture
from kdutils.io.environment import REPOSITORY
from kdutils.spec import EvalSpec, PlannedRun, RunSpec

STUDENTS = {  # by family; one student is the first, two the first two
    "mini": ("mini-qwen-105k", "mini-qwen-66k", "mini-qwen-36k", "mini-qwen-14k"),
    "deep teacher": ("mini-qwen-105k", "mini-qwen-66k", "mini-llama-66k", "mini-llama-140k"),
}
MINI_TEACHER = "mini-qwen-493k"
METHODS = ("fkl", "revkd", "gkd")
TEMPERATURES = (1.0, 2.0, 5.0)
MODES = ("always", "never")  # of KDUTILS_TEACHER_STATES
# The teacher of the second: 16 layers of random weights, whose forward pass takes 5 to 13 times the FLOPs of
# training one of its students; that of Qwen2.5-14B takes 10 times those of Qwen2.5-0.5B (see `regime`).
FAMILIES = tuple(STUDENTS)
DEEP = Architecture(
    layers=16, hidden=128, heads=8, key_heads=2, intermediate=256, rows=544, is_tied=True, has_bias=True
)
SETTINGS = {"train_items": 256, "epochs": 3, "validation_items": 0, "max_new_tokens": 32}
EVALUATION = EvalSpec(tasks=("addsub",), items_per_task=1, max_new_tokens=4)  # next to nothing


def plan(teacher: str, students: Sequence[str], **settings: Any) -> list[PlannedRun]:
    """The runs: every student by every method at every temperature, from an untuned teacher."""
    settings = SETTINGS | settings
    planned = []
    for student in students:
        for method in METHODS:
            own = {
                key: value for key, value in settings.items() if key != "max_new_tokens" or method == "gkd"
            }
            for temperature in TEMPERATURES:
                pair = {"student": student, "teacher": teacher, "teacher_tuned": False, "domain": "math"}
                spec = RunSpec(**pair, method=method, temperature=temperature, **own)
                planned.append(PlannedRun(spec, EVALUATION))
    return planned


def regime(student: str, teacher: Architecture, *, tokens: int = 80, scored: int = 40) -> float:
    """FLOPs of the teacher's body over those of training the student, for a row of some length."""
    how = {"context": tokens, "scored": scored}
    trained = model_shapes.training_flops(model_shapes.architecture_of(student), tokens, **how)
    return model_shapes.forward_flops(teacher, tokens, context=tokens, scored=0) / trained


def teacher_of(family: str, folder: Path) -> str:
    """Name of the teacher of a family; that of 16 layers is made in `folder`, with the mini tokenizer.

    Raises:
        ValueError: for another family.
    """
    if family == "mini":
        return MINI_TEACHER
    if family != "deep teacher":
        raise ValueError(f"unknown family {family!r}; choose one of {list(FAMILIES)}")
    from kdutils import models
    from kdutils.bench import workloads

    path = folder / "deep-teacher"
    workloads.network_of(DEEP, seed=workloads.SEED).save_pretrained(path)
    models.load_tokenizer(STUDENTS[family][0]).save_pretrained(path)
    return str(path)


def cost(family: str, n_students: int = 4, **settings: Any) -> dict[str, Any]:
    """Seconds of the whole grid and, over its runs, of the training loops by method; peak memory of a worker.

    The mode is that of the environment, which the workers inherit.

    Raises:
        RuntimeError: if a run failed.
    """
    from kdutils.grid import fill

    mode = MODES[not Compute.from_environment().keeps_teacher_states]
    scratch = Path(tempfile.mkdtemp(prefix="kdutils-grid-"))
    try:
        planned, out = (
            plan(teacher_of(family, scratch), STUDENTS[family][:n_students], **settings),
            scratch / "out",
        )
        started = time.perf_counter()
        state = fill.fill(planned, out)
        seconds = time.perf_counter() - started
        if state.failures:
            raise RuntimeError(f"{len(state.failures)} runs failed: {next(iter(state.failures.values()))}")
        table = fill.costs(planned, out)
        made = [store.folder_of(out, each.name).result() for each in (out / "runs").iterdir()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {
        "family": family,
        "mode": mode,
        "students": n_students,
        "seconds": seconds,
        "training_seconds": table.groupby("method")["training, s"].sum().to_dict(),
        "peak_gb": float(table["peak memory, GB"].max()),
        "runs": len(table),
        "steps": sum(result.get("steps", 0) for result in made),
    }


def compare(
    family: str, n_students: Sequence[int], *, progress: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """`cost` in both modes for each number of students, each in a process of its own.

    Raises:
        RuntimeError: if a grid could not be made; with the last line of what it said.
    """
    rows = []
    for number in n_students:
        for mode in MODES:
            if progress:
                progress(f"grid, {family}: {number} students, teacher states {mode}")
            command = [sys.executable, "-W", "ignore", "-P", "-m", __name__, family, str(number)]
            own = {"KDUTILS_TEACHER_STATES": mode}
            own |= {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
            run = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
            if run.returncode:
                said = [line for line in run.stderr.splitlines() if line.strip()] or ["nothing said"]
                raise RuntimeError(f"grid {family}, {mode}, {number} students: {said[-1].strip()[:300]}")
            rows.append(json.loads(run.stdout.splitlines()[-1]))
    return rows


def as_row(cost: dict[str, Any]) -> dict[str, Any]:
    """A grid as a row of performance.csv: seconds of the whole over the steps of all its runs."""
    return {
        "case": f"grid, {cost['family']}, {cost['students']} students",
        "contender": f"kdutils, teacher states {cost['mode']}",
        "seconds_per_step": cost["seconds"] / cost["steps"],
        "repeats": 1,
    }


if __name__ == "__main__":
    print(json.dumps(cost(sys.argv[1], int(sys.argv[2]))))
