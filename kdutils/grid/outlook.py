"""The cells of a plan before anything is trained: what is there already, and what each costs.

Needs no GPU, no hub, no network and no items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils import store
from kdutils.constants import RELEASED_PAIRS
from kdutils.data import model_files, sources
from kdutils.grid import cost_model, token_lengths
from kdutils.grid.cell_table import short_name
from kdutils.grid.cost_model import Cost, Training
from kdutils.grid.machines import Machine
from kdutils.io import disk
from kdutils.spec import EvalSpec, PlannedRun, RunSpec

COLUMNS = (  # of plan.csv, one row a cell
    *("run_id", "teacher", "student", "method", "domain", "temperature", "noise_sigma", "teacher_tuned"),
    *("protocol", "seed", "released_pair", "tokens", "flops", "gpu_memory_gb", "gpu_hours", "status"),
)
STATUS = ("done", "partial", "failed", "missing")
STAGES = ("teachers", "caches", "students", "evaluation")
DIGESTS = ("data_digest", "student_digest", "teacher_digest")


@dataclass(frozen=True)
class Cell:
    """A run as it is evaluated under one protocol."""

    spec: RunSpec  # resolved, as far as files are there
    evaluations: tuple[EvalSpec, ...]
    protocol: str
    status: str  # one of STATUS
    is_teacher: bool  # some run's teacher is made here


@dataclass(frozen=True)
class Look:
    """The cells of a plan and what could not be known about them."""

    cells: list[Cell]
    unknown: list[str]  # whose digests, in words

    def count(self, status: str) -> int:
        return sum(cell.status == status for cell in self.cells)


def look(planned: Iterable[PlannedRun], out: Path) -> Look:
    """The cells of a plan with their status under `out`, and of teachers that it does not name.

    Status is `done` with all evaluations, `partial` when training was begun or an evaluation lacks, `failed`
    when the last attempt did, else `missing`. Where digests are not known, a run of the same settings
    counts, whatever its files were.
    """
    planned = list(dict.fromkeys(planned))
    protocols = _protocols(planned)
    groups: dict[tuple[RunSpec, str], dict[EvalSpec, None]] = {}
    for run in planned:
        for spec in (run.spec.teacher_spec(), run.spec):
            if spec is not None:
                protocol = protocols[run.evaluation] if spec.method == "base" else spec.protocol
                protocol = protocol or next((known for each, known in groups if each == spec), "careful")
                groups.setdefault((spec, protocol), {})[run.evaluation] = None
    teachers = {run.spec.teacher_spec() for run in planned}
    digests: dict[tuple, tuple[dict[str, str], str]] = {}  # files that several share are looked at once
    finished: dict[str, store.RunFolder] | None = None
    unknown: dict[str, None] = {}
    cells = []
    for (spec, protocol), evaluations in groups.items():
        files = (spec.data, spec.domain, spec.student, spec.teacher)
        if files not in digests:
            digests[files] = _digests(spec)
        known, reason = digests[files]
        resolved = replace(spec, **known)
        if reason:
            unknown[reason] = None
            finished = _finished_by_settings(out) if finished is None else finished
            folder = finished.get(_settings(resolved))
        else:
            folder = store.folder_of(out, resolved.run_id)
        status = _status(folder, tuple(evaluations)) if folder else "missing"
        cells.append(Cell(resolved, tuple(evaluations), protocol, status, spec in teachers))
    return Look(cells, list(unknown))


def _protocols(planned: Sequence[PlannedRun]) -> dict[EvalSpec, str | None]:
    """The protocol of the students that an evaluation is of; None where they are of several."""
    found: dict[EvalSpec, set[str]] = {}
    for run in planned:
        known = found.setdefault(run.evaluation, set())
        if run.spec.method != "base":
            known.add(run.spec.protocol)
    return {each: next(iter(known)) if len(known) == 1 else None for each, known in found.items()}


def _digests(spec: RunSpec) -> tuple[dict[str, str], str]:
    """The digests of a run's files; none, and whose are not known, where they are not there."""
    if not token_lengths.is_at_hand(spec):
        return {}, f"items of {spec.data!r}"
    try:
        resolved = sources.resolved(spec)
    except sources.DataError:
        return {}, f"items of {spec.data!r}"
    except model_files.ModelError as error:
        return {}, f"a model ({error})"
    return {name: getattr(resolved, name) for name in DIGESTS}, ""


def _settings(spec: RunSpec) -> str:
    """Equal for runs that differ in nothing but the digests of their files."""
    return replace(spec, **dict.fromkeys(DIGESTS, "")).digest


def _finished_by_settings(out: Path) -> dict[str, store.RunFolder]:
    found = {}
    for path in sorted((Path(out) / "runs").glob("*/spec.json")):
        try:
            spec = RunSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # damaged: whoever fills the folder sets it aside
            continue
        found[_settings(spec)] = store.RunFolder(path.parent)
    return found


def _status(folder: store.RunFolder, evaluations: Sequence[EvalSpec]) -> str:
    try:
        result = folder.result()
        if result is not None and all(folder.evaluation_result(each) for each in evaluations):
            return "done"
    except store.DamagedError:  # it will be made anew
        return "missing"
    if folder.failure() is not None:
        return "failed"
    return "partial" if result is not None or folder.checkpoint.is_dir() else "missing"


# --- costs --------------------------------------------------------------------------------------------------


def costs(found: Look, machine: Machine) -> pd.DataFrame:
    """COLUMNS and, for each of STAGES, its tokens, FLOPs, hours and disk: a row a cell.

    What runs read of one teacher is charged to them in equal parts.

    Raises:
        ModelError: for a model whose shape is not known.
    """
    readers: dict[tuple, int] = {}
    for cell in found.cells:
        if key := cost_model.teacher_key(cell.spec):
            readers[key] = readers.get(key, 0) + 1
    return pd.DataFrame([_row(cell, machine, readers) for cell in found.cells])


def _row(cell: Cell, machine: Machine, readers: dict[tuple, int]) -> dict[str, Any]:
    spec, key = cell.spec, cost_model.teacher_key(cell.spec)
    alike = _alike(spec)
    stages = dict.fromkeys(STAGES, Cost())
    stages["teachers" if cell.is_teacher else "students"] = _training_cost(alike, machine, spec.devices)
    if key:
        stages["caches"] = _teacher_cost(alike, machine) * (1 / readers[key])
    stages["evaluation"] = _evaluation_cost(alike, cell.evaluations, machine)
    total = sum(stages.values(), Cost())
    has_teacher = spec.teacher is not None
    row = {
        "run_id": spec.run_id,
        "teacher": spec.teacher or "",
        "student": spec.student,
        "method": spec.method,
        "domain": spec.domain,
        "temperature": spec.temperature if has_teacher else None,
        "noise_sigma": spec.noise_sigma if has_teacher else None,
        "teacher_tuned": spec.teacher_tuned if has_teacher else None,
        "protocol": cell.protocol,
        "seed": spec.seed,
        "released_pair": is_released(spec),
        "tokens": round(total.tokens),
        "flops": total.flops,
        "gpu_memory_gb": round(_memory_gb(alike, cell.evaluations, machine, spec.devices), 2),
        "gpu_hours": total.seconds / 3600,
        "status": cell.status,
    }
    for stage, cost in stages.items():
        row |= {f"{stage} trained": cost.trained_tokens, f"{stage} scored": cost.scored_tokens}
        row |= {f"{stage} generated": cost.generated_tokens, f"{stage} flops": cost.flops}
        row |= {f"{stage} hours": cost.seconds / 3600, f"{stage} disk": cost.disk_bytes}
    return row


def is_released(spec: RunSpec) -> bool:
    """Whether the run is of a pair of the released tables, or without a teacher, of a model in one."""
    student = short_name(spec.student)
    if spec.teacher is not None:
        return (short_name(spec.teacher), student) in RELEASED_PAIRS
    return any(student in pair for pair in RELEASED_PAIRS)


def _alike(spec: RunSpec) -> RunSpec:
    """One spec for all that cost the same."""
    same = {"seed": 0, "teacher_seed": 0} if spec.method != "base" else {}
    return replace(spec, temperature=1.0, noise_sigma=float(spec.noise_sigma > 0), **same)


@cache
def _training_cost(spec: RunSpec, machine: Machine, devices: int) -> Cost:  # of equal specs, who differ in it
    return Training(spec, machine).cost()


@cache
def _teacher_cost(spec: RunSpec, machine: Machine) -> Cost:
    return cost_model.teacher_cost(spec, machine)


@cache
def _evaluation_cost(spec: RunSpec, evaluations: tuple[EvalSpec, ...], machine: Machine) -> Cost:
    return sum((cost_model.evaluation_cost(spec, each, machine) for each in evaluations), Cost())


@cache
def _memory_gb(spec: RunSpec, evaluations: tuple[EvalSpec, ...], machine: Machine, devices: int) -> float:
    return cost_model.memory_gb(spec, list(evaluations), machine)


def on_several(found: Look, machine: Machine) -> tuple[int, float] | None:
    """How many devices, if a run may have so many, can make all that is not done, and the most GB on each.

    None where no number of devices will do.
    """
    alike = {(_alike(cell.spec), cell.evaluations) for cell in found.cells if cell.status != "done"}
    needed = [cost_model.devices_for(spec, list(evaluations), machine) for spec, evaluations in alike]
    if None in needed:
        return None
    n = max(needed, default=1)
    each = [_memory_gb(replace(spec, devices=n), evaluations, machine, n) for spec, evaluations in alike]
    return n, max(each, default=0.0)


def write(table: pd.DataFrame, path: Path) -> Path:
    """`plan.csv`: COLUMNS of `costs`."""
    return disk.write_csv(path, table[list(COLUMNS)])
