"""The cells of a plan before anything is trained: what is there already, and what each costs.

Needs no GPU, no hub, no network and no items.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdutils.constants import METHOD_LABELS
from kdutils.data import model_files, sources
from kdutils.grid import cost
from kdutils.grid.cell_table import model_family, short_name
from kdutils.grid.cost import Cost
from kdutils.grid.evaluations import student_protocols
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import known_shape, local_file
from kdutils.grid.progress import duration
from kdutils.grid.study import RELEASED_MODELS, RELEASED_PAIRS, PlannedRun, with_needs
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

OF_TEACHER = ("teacher", "temperature", "noise_sigma", "teacher_tuned")
OF_RUN = ("run_id", "teacher", "student", "method", "domain", *OF_TEACHER[1:])
COLUMNS = (  # of plan.csv, one row a cell
    *OF_RUN,
    *("protocol", "seed", "released_pair", "tokens", "flops", "gpu_memory_gb", "gpu_hours", "status"),
)
STATUS = ("done", "partial", "failed", "missing")
STAGES = ("teachers", "caches", "students", "evaluation")
DIGESTS = ("data_digest", "student_digest", "teacher_digest")


class Cell(NamedTuple):
    """A run as it is evaluated under one protocol."""

    spec: RunSpec  # resolved, as far as files are there
    evaluations: tuple[EvalSpec, ...]
    protocol: str
    status: str  # one of STATUS
    is_teacher: bool  # of another run of the plan
    unknown: str  # whose digest is not known here, in words


def cells_of(planned: Iterable[PlannedRun], out: Path) -> list[Cell]:
    """The cells of a plan with their status under `out`, and of the runs that it needs and does not name.

    Status is `done` with all evaluations, `partial` when training was begun or an evaluation is missing,
    `failed` when the last attempt failed, else `missing`. Where digests are not known, a run of the same
    settings counts, whatever its files were.
    """
    planned = list(dict.fromkeys(planned))
    protocols = student_protocols(planned)
    groups: dict[tuple[RunSpec, str], dict[EvalSpec, None]] = {}
    for run in planned:
        for role, spec in with_needs(run.spec):
            protocol = protocols[run.evaluation] if spec.method == "base" else spec.protocol
            protocol = protocol or next((known for each, known in groups if each == spec), "careful")
            is_more = role == "itself" or role == "teacher" and run.beside_teacher
            if (spec, protocol) in groups and not is_more:
                continue  # as in jobs.jobs_of
            groups.setdefault((spec, protocol), {})[run.evaluation] = None
    teachers = {spec.teacher_spec for spec, _ in groups}
    found: dict[tuple, tuple[dict[str, str], str]] = {}  # files that several runs share are read once
    by_settings = cache(_by_settings)
    cells = []
    for (spec, protocol), evaluations in groups.items():
        files = (spec.data, spec.domain, spec.first_domain, spec.student, spec.teacher, *spec.apart)
        if files not in found:
            found[files] = _digests(spec)
        digests, unknown = found[files]
        resolved = replace(spec, **digests)
        folder = store.folder_of(out, resolved.run_id)
        if unknown:
            folder = by_settings(out).get(_settings(spec), folder)
        status = _status(folder, evaluations)
        cells.append(Cell(resolved, tuple(evaluations), protocol, status, spec in teachers, unknown))
    return cells


def _digests(spec: RunSpec) -> tuple[dict[str, str], str]:
    """The digests of a run's files; none, and whose are not known, where they are not there."""
    if cost.is_at_hand(spec):
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


def _by_settings(out: Path) -> dict[str, store.RunFolder]:
    found = {}
    for path in sorted((Path(out) / "runs").glob("*/spec.json")):
        folder = store.RunFolder(path.parent)
        with contextlib.suppress(store.DamagedError):  # set aside before the run is made
            found[_settings(folder.spec())] = folder
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


def costs(cells: Iterable[Cell], machine: Machine) -> pd.DataFrame:
    """A row a cell: COLUMNS, a Cost for each of STAGES, and the cell's `spec`, `evaluations` and `unknown`.

    What runs read of one teacher is charged to them in equal parts.

    Raises:
        ModelError: for a model whose shape is not known.
    """
    cells = list(cells)
    n_readers = Counter(key for cell in cells for key in cost.teacher_keys(cell.spec))
    rows = []
    for cell in cells:
        spec, own = cell.spec, cost.Estimate(cell.spec, machine)
        caches = (own.teacher_cost(key) * (1 / n_readers[key]) for key in cost.teacher_keys(spec))
        stages = dict.fromkeys(STAGES, Cost()) | {
            "teachers" if cell.is_teacher else "students": own.training(),
            "caches": sum(caches, Cost()),
            "evaluation": own.evaluations(cell.evaluations),
        }
        total = sum(stages.values(), Cost())
        row = {name: getattr(spec, name) for name in (*OF_RUN, "seed")}
        if spec.teacher is None:
            row |= dict.fromkeys(OF_TEACHER) | {"teacher": ""}
        row["released_pair"] = short_name(spec.student) in RELEASED_MODELS
        if spec.teacher is not None:
            row["released_pair"] = (short_name(spec.teacher), short_name(spec.student)) in RELEASED_PAIRS
        row |= {"tokens": round(total.tokens), "flops": total.flops}
        row |= {"gpu_memory_gb": round(own.memory_gb(cell.evaluations), 2), "gpu_hours": total.seconds / 3600}
        rows.append(row | cell._asdict() | stages)
    return pd.DataFrame(rows)


# --- in words -----------------------------------------------------------------------------------------------


def brief(table: pd.DataFrame, machine: Machine) -> list[str]:
    """The plan in a few lines: how much there is, how much is left, and the largest run."""
    counts = table["status"].value_counts()
    states = ", ".join(f"{counts[status]} {status}" for status in STATUS if status in counts)
    left = table[table["status"] != "done"]
    n_runs = table["run_id"].nunique()
    twice = f" ({len(table)}, those of two protocols counted twice)" if len(table) > n_runs else ""
    lines = [f"{n_runs} runs{twice}: {states}"]
    if len(left):
        largest = left.loc[left["gpu_memory_gb"].idxmax()]
        teacher = f" <- {short_name(largest['teacher'])}" if largest["teacher"] else ""
        caches = left["caches"].sum().disk_bytes
        runs = left[["teachers", "students", "evaluation"]].sum(axis=1).sum().disk_bytes
        lines += [
            f"left to do, estimated: {duration(3600 * left['gpu_hours'].sum())} on {machine.name}, "
            f"{left['flops'].sum():.2g} FLOPs, {_short(caches)}B of caches, {_short(runs)}B of runs",
            f"largest: {largest['gpu_memory_gb']:.1f} GB for {largest['method']} "
            f"{short_name(largest['student'])}{teacher}, {largest['domain']}, protocol {largest['protocol']}",
        ]
    unknown = filter(None, table["unknown"].unique())
    return lines + [f"not known here: the digest of {each}; run_id is without it" for each in unknown]


def report(table: pd.DataFrame, machine: Machine) -> str:
    """The plan on a page: totals by stage, status, method and pair, and what was assumed."""
    lines = [*brief(table, machine), "", *_by_stage(table), ""]
    for is_ours, name in ((False, "released pairs and their models"), (True, "ours")):
        part = table[table["released_pair"] != is_ours]
        if 0 < len(part) < len(table):
            lines.append(f"{name}: {len(part)} runs, {duration(3600 * part['gpu_hours'].sum())}")
    lines += _too_large(table, machine)
    methods = ((label, table[table["method"] == method]) for method, label in METHOD_LABELS.items())
    lines += ["", *_by("method", methods), "", *_by("teacher → student", _by_pair(table))]
    if table["released_pair"].nunique() > 1:
        lines.append("* not in the released tables")
    return "\n".join([*lines, "", *_assumptions(table, machine)])


def _by_stage(table: pd.DataFrame) -> Iterator[str]:
    yield f"{'stage':12}{'hours':>12}    tokens     FLOPs      disk"
    totals = table[list(STAGES)].sum()
    for name, total in (totals.to_dict() | {"all": totals.sum()}).items():
        yield (
            f"{name:12}{total.seconds / 3600:12,.2f}{_short(total.tokens):>10}{total.flops:10.2g}"
            f"{_short(total.disk_bytes) + 'B':>10}"
        )


def _too_large(table: pd.DataFrame, machine: Machine) -> Iterator[str]:
    """How many runs do not fit a machine, and how many machines a run would have to have."""
    largest, memory = table["gpu_memory_gb"].max(), machine.memory_gb
    if largest <= memory:
        return
    left = table[table["status"] != "done"]
    one_of_each = left.drop_duplicates(["student", "teacher", "method", "domain", "protocol"])
    found = cost.devices_for(list(zip(one_of_each["spec"], one_of_each["evaluations"], strict=True)), machine)
    remedy = f"the largest needs {-(-largest // memory):.0f} of it"
    if found is not None:
        n, each = found
        remedy = f"-p devices {n} gives a run {n} of it, of which it then needs at most {each:.0f} GB each"
    n_runs = table.loc[table["gpu_memory_gb"] > memory, "run_id"].nunique()
    yield f"{n_runs} runs need more than the {memory:.0f} GB of {machine.name}, even row by row; {remedy}"


def _by_pair(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for (teacher, student), part in table[table["teacher"] != ""].groupby(["teacher", "student"], sort=False):
        mark = " *" if table["released_pair"].any() and not part["released_pair"].any() else ""
        name = short_name(student)
        if model_family(teacher) == model_family(student):
            name = name.rsplit("-", 1)[-1]
        yield f"{short_name(teacher)} → {name}{mark}", part
    yield "no teacher", table[table["teacher"] == ""]


def _by(title: str, parts: Iterable[tuple[str, pd.DataFrame]]) -> Iterator[str]:
    yield f"{title:28}{'runs':>7}{'done':>7}{'hours':>12}{'GB held':>8}"
    for label, part in parts:
        if len(part):
            done, hours = (part["status"] == "done").sum(), part["gpu_hours"].sum()
            yield f"{label:28}{len(part):7}{done:7}{hours:12,.2f}{part['gpu_memory_gb'].max():8.1f}"


def _assumptions(table: pd.DataFrame, machine: Machine) -> Iterator[str]:
    yield (
        f"assumed: {machine.flops / 1e12:.4g} TFLOP/s bf16, of which {machine.forward_share:.0%} forward, "
        f"{machine.full_share:.0%} in training, {machine.lora_share:.0%} in that of LoRA; "
        f"{machine.bytes_per_second / 1e9:,.4g} GB/s, of which {machine.bytes_share:.0%}; "
        f"{machine.layer_seconds * 1e3:g} ms to launch a layer"
    )
    models = {(spec.student, spec.student_source) for spec in table["spec"]}
    models |= {(spec.teacher, spec.teacher_source) for spec in table["spec"] if spec.teacher}
    for name, source in sorted(models):
        known = known_shape(name)
        if known != short_name(name) and local_file(name, source, "config.json") is None:
            yield f"assumed: {name} has the shape of {known}, the nearest in size whose shape is known"
    trained = {(spec.data, spec.domain): spec for spec in table["spec"] if spec.method != "base"}
    for (data, domain), spec in trained.items():
        lengths = cost.lengths_of(spec)
        mean, longest = lengths.prompt + lengths.response, min(lengths.longest, spec.max_tokens)
        yield f"{lengths.how}: {domain} items of {data!r} have {mean:.0f} tokens, at most {longest:.0f}"


def _short(count: float) -> str:
    for unit, one in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= one:
            return f"{count / one:.3g}{unit}"
    return f"{count:.0f}"
