"""The cells of a plan before anything is trained: what is there already, and what each costs.

Needs no GPU, no hub, no network and no items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.constants import METHOD_LABELS
from kdutils.data import model_files, sources
from kdutils.grid import cost, token_lengths
from kdutils.grid.cell_table import short_name
from kdutils.grid.cost import Cost
from kdutils.grid.machines import Machine
from kdutils.grid.plan import student_protocols
from kdutils.grid.study import RELEASED_PAIRS
from kdutils.io import disk
from kdutils.runs import store
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
    is_teacher: bool  # of another run of the plan


@dataclass(frozen=True)
class PlanStatus:
    """The cells of a plan and what could not be known about them."""

    cells: list[Cell]
    unknown: list[str]  # whose digests, in words

    def count(self, status: str) -> int:
        return sum(cell.status == status for cell in self.cells)


def plan_status(planned: Iterable[PlannedRun], out: Path) -> PlanStatus:
    """The cells of a plan with their status under `out`, and of teachers that it does not name.

    Status is `done` with all evaluations, `partial` when training was begun or an evaluation is missing,
    `failed` when the last attempt failed, else `missing`. Where digests are not known, a run of the same
    settings counts, whatever its files were.
    """
    planned = list(dict.fromkeys(planned))
    protocols = student_protocols(planned)
    groups: dict[tuple[RunSpec, str], dict[EvalSpec, None]] = {}
    for run in planned:
        for spec in filter(None, (run.spec.teacher_spec, run.spec)):
            protocol = protocols[run.evaluation] if spec.method == "base" else spec.protocol
            protocol = protocol or next((known for each, known in groups if each == spec), "careful")
            groups.setdefault((spec, protocol), {})[run.evaluation] = None
    teachers = {run.spec.teacher_spec for run in planned}
    digests: dict[tuple, tuple[dict[str, str], str]] = {}  # files that several share are read once
    finished: dict[str, store.RunFolder] | None = None
    cells = []
    for (spec, protocol), evaluations in groups.items():
        files = (spec.data, spec.domain, spec.student, spec.teacher)
        if files not in digests:
            digests[files] = _digests(spec)
        known, unknown = digests[files]
        resolved = replace(spec, **known)
        if unknown:
            finished = _finished_by_settings(out) if finished is None else finished
            folder = finished.get(_settings(resolved))
        else:
            folder = store.folder_of(out, resolved.run_id)
        status = _status(folder, evaluations) if folder else "missing"
        cells.append(Cell(resolved, tuple(evaluations), protocol, status, spec in teachers))
    return PlanStatus(cells, list(dict.fromkeys(unknown for _, unknown in digests.values() if unknown)))


def _digests(spec: RunSpec) -> tuple[dict[str, str], str]:
    """The digests of a run's files; none, and whose are not known, where they are not there."""
    if token_lengths.is_at_hand(spec):
        try:
            resolved = sources.resolved(spec)
            return {name: getattr(resolved, name) for name in DIGESTS}, ""
        except model_files.ModelError as error:
            return {}, f"a model ({error})"
        except sources.DataError:
            pass
    return {}, f"items of {spec.data!r}"


def _settings(spec: RunSpec) -> str:
    """Equal for runs that differ in nothing but the digests of their files."""
    return replace(spec, **dict.fromkeys(DIGESTS, "")).digest


def _finished_by_settings(out: Path) -> dict[str, store.RunFolder]:
    found = {}
    for path in sorted((Path(out) / "runs").glob("*/spec.json")):
        try:
            spec = RunSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # damaged: set aside when the folder is filled
            continue
        found[_settings(spec)] = store.RunFolder(path.parent)
    return found


def _status(folder: store.RunFolder, evaluations: Iterable[EvalSpec]) -> str:
    try:
        result = folder.result()
        if result is not None and all(folder.evaluation_result(each) for each in evaluations):
            return "done"
    except store.DamagedError:  # it will be made again
        return "missing"
    if folder.failure() is not None:
        return "failed"
    return "partial" if result is not None or folder.checkpoint.is_dir() else "missing"


# --- costs --------------------------------------------------------------------------------------------------


def costs(found: PlanStatus, machine: Machine) -> pd.DataFrame:
    """COLUMNS and, for each of STAGES, its tokens, FLOPs, hours and disk: a row a cell.

    What runs read of one teacher is charged to them in equal parts.

    Raises:
        ModelError: for a model whose shape is not known.
    """
    readers: dict[tuple, int] = {}
    for cell in found.cells:
        if key := cost.teacher_key(cell.spec):
            readers[key] = readers.get(key, 0) + 1
    return pd.DataFrame([_row(cell, machine, readers) for cell in found.cells])


def _row(cell: Cell, machine: Machine, readers: dict[tuple, int]) -> dict[str, Any]:
    spec, key = cell.spec, cost.teacher_key(cell.spec)
    own = cost.priced(spec, cell.evaluations, machine)
    stages = dict.fromkeys(STAGES, Cost()) | {"evaluation": own.evaluation}
    stages["teachers" if cell.is_teacher else "students"] = own.training
    if key:
        stages["caches"] = own.states * (1 / readers[key])
    total = sum(stages.values(), Cost())
    row = {name: getattr(spec, name) for name in COLUMNS[:8]}
    if spec.teacher is None:
        row |= {"teacher": "", "temperature": None, "noise_sigma": None, "teacher_tuned": None}
    row |= {
        "protocol": cell.protocol,
        "seed": spec.seed,
        "released_pair": is_released(spec),
        "tokens": round(total.tokens),
        "flops": total.flops,
        "gpu_memory_gb": round(own.memory_gb, 2),
        "gpu_hours": total.seconds / 3600,
        "status": cell.status,
    }
    for stage, part in stages.items():
        row |= {f"{stage} trained": part.trained_tokens, f"{stage} scored": part.scored_tokens}
        row |= {f"{stage} generated": part.generated_tokens, f"{stage} flops": part.flops}
        row |= {f"{stage} hours": part.seconds / 3600, f"{stage} disk": part.disk_bytes}
    return row


def is_released(spec: RunSpec) -> bool:
    """Whether the run is of a pair of the released tables, or without a teacher, of a model in one."""
    student = short_name(spec.student)
    if spec.teacher is not None:
        return (short_name(spec.teacher), student) in RELEASED_PAIRS
    return any(student in pair for pair in RELEASED_PAIRS)


def devices_needed(found: PlanStatus, machine: Machine) -> tuple[int, float] | None:
    """How many devices, if a run may have so many, can make all that is not done, and the most GB on each.

    None where no number of devices will do.
    """
    left = {(cost.alike(cell.spec), cell.evaluations) for cell in found.cells if cell.status != "done"}
    needed = [cost.devices_for(spec, evaluations, machine) for spec, evaluations in left]
    if None in needed:
        return None
    n = max(needed, default=1)
    each = [cost.memory_gb(replace(spec, devices=n), evaluations, machine) for spec, evaluations in left]
    return n, max(each, default=0.0)


def write(table: pd.DataFrame, path: Path) -> Path:
    """`plan.csv`: COLUMNS of `costs`."""
    return disk.write_csv(path, table[list(COLUMNS)])


# --- in words -----------------------------------------------------------------------------------------------


def brief(found: PlanStatus, table: pd.DataFrame, machine: Machine) -> list[str]:
    """The plan in a few lines: how much there is, how much is left, and the largest run."""
    states = ", ".join(f"{found.count(status)} {status}" for status in STATUS if found.count(status))
    left = table[table["status"] != "done"]
    lines = [f"{len(table)} cells of {table['run_id'].nunique()} runs: {states}"]
    if len(left):
        largest = left.loc[left["gpu_memory_gb"].idxmax()]
        teacher = f" <- {short_name(largest['teacher'])}" if largest["teacher"] else ""
        lines += [
            f"left to do, estimated: {_hours(left['gpu_hours'].sum())} on {machine.name}, "
            f"{left['flops'].sum():.2g} FLOPs, {_disk(left, 'caches')} of caches, "
            f"{_disk(left, 'teachers', 'students', 'evaluation')} of runs",
            f"largest: {largest['gpu_memory_gb']:.1f} GB for {largest['method']} "
            f"{short_name(largest['student'])}{teacher}, {largest['domain']}, protocol {largest['protocol']}",
        ]
    return lines + [f"not known here: the digest of {each}; run_id is without it" for each in found.unknown]


def report(found: PlanStatus, table: pd.DataFrame, machine: Machine) -> str:
    """The plan on a page: totals by stage, status, method and pair, and what was assumed."""
    lines = [*brief(found, table, machine), "", *_by_stage(table), ""]
    for is_ours, name in ((False, "released pairs and their models"), (True, "ours")):
        part = table[table["released_pair"] != is_ours]
        if 0 < len(part) < len(table):
            lines.append(f"{name}: {len(part)} cells, {_hours(part['gpu_hours'].sum())}")
    too_large = table[table["gpu_memory_gb"] > machine.memory_gb]
    if len(too_large):
        n, each = devices_needed(found, machine) or (1, 0.0)
        remedy = f"-p devices {n} gives a run {n} of it, of which it then needs at most {each:.0f} GB each"
        if n == 1:
            remedy = f"the largest needs {-(-table['gpu_memory_gb'].max() // machine.memory_gb):.0f} of it"
        lines.append(
            f"{too_large['run_id'].nunique()} runs need more than the {machine.memory_gb:.0f} GB of "
            f"{machine.name}, even row by row; {remedy}"
        )
    lines += ["", *_by_method(table), "", *_by_pair(table), "", *_assumptions(found, machine)]
    return "\n".join(lines)


def _by_stage(table: pd.DataFrame) -> Iterator[str]:
    head = {"GPU hours": 12, "trained": 10, "scored": 10, "generated": 11, "FLOPs": 10, "disk": 10}
    yield f"{'stage':12}" + "".join(f"{name:>{width}}" for name, width in head.items())
    for names in (*((stage,) for stage in STAGES), STAGES):
        facts = ("hours", "trained", "scored", "generated", "flops")
        part = {fact: sum(table[f"{name} {fact}"].sum() for name in names) for fact in facts}
        yield (
            f"{names[0] if len(names) == 1 else 'all':12}{part['hours']:12,.2f}{_short(part['trained']):>10}"
            f"{_short(part['scored']):>10}{_short(part['generated']):>11}{part['flops']:10.2g}"
            f"{_disk(table, *names):>10}"
        )


def _by_method(table: pd.DataFrame) -> Iterator[str]:
    parts = [(label, table[table["method"] == method]) for method, label in METHOD_LABELS.items()]
    return _by("method", [(label, part) for label, part in parts if len(part)])


def _by_pair(table: pd.DataFrame) -> Iterator[str]:
    parts = []
    pairs = table[table["teacher"] != ""].groupby(["teacher", "student"], sort=False)
    for (teacher, student), part in pairs:
        mark = " *" if table["released_pair"].any() and not part["released_pair"].any() else ""
        parts.append((f"{short_name(teacher)} → {short_name(student).rsplit('-', 1)[-1]}{mark}", part))
    yield from _by("teacher → student", [*parts, ("no teacher", table[table["teacher"] == ""])])
    if table["released_pair"].nunique() > 1:
        yield "* not in the released tables"


def _by(title: str, parts: Iterable[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    yield f"{title:28}{'cells':>7}{'done':>7}{'GPU hours':>12}{'GB':>8}"
    for label, part in parts:
        done, hours = (part["status"] == "done").sum(), part["gpu_hours"].sum()
        yield f"{label:28}{len(part):7}{done:7}{hours:12,.2f}{part['gpu_memory_gb'].max():8.1f}"


def _assumptions(found: PlanStatus, machine: Machine) -> Iterator[str]:
    yield (
        f"assumed: {machine.flops / 1e12:.4g} TFLOP/s bf16, of which {machine.forward_share:.0%} forward, "
        f"{machine.training_share:.0%} in training, {machine.adapter_share:.0%} in that of LoRA; "
        f"{machine.bytes_per_second / 1e9:,.4g} GB/s, of which {machine.bytes_share:.0%}, and "
        f"{machine.decoding_share:.0%} in decoding; {machine.layer_seconds * 1e3:g} ms to launch a layer"
    )
    trained = (cell.spec for cell in found.cells if cell.spec.method != "base")
    for (data, domain), spec in {(spec.data, spec.domain): spec for spec in trained}.items():
        lengths = token_lengths.lengths_of(spec)
        mean, _, longest = lengths.of_batch(1, at_most=spec.max_tokens)
        how = "counted" if lengths.is_counted else "assumed"
        yield f"{how}: {domain} items of {data!r} have {mean:.0f} tokens, at most {longest:.0f}"


def _hours(hours: float) -> str:
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _short(count: float) -> str:
    for unit, one in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= one:
            return f"{count / one:.3g}{unit}"
    return f"{count:.0f}"


def _disk(table: pd.DataFrame, *stages: str) -> str:
    return f"{_short(sum(table[f'{stage} disk'].sum() for stage in stages))}B"
