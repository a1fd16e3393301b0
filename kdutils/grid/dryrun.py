"""A plan in words before anything is trained, and its costs beside measured ones afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from kdutils.constants import METHOD_LABELS
from kdutils.grid import cost_model, machines, outlook, token_lengths
from kdutils.grid.cell_table import model_parameters, short_name
from kdutils.grid.cost_model import Training
from kdutils.grid.machines import Machine
from kdutils.grid.outlook import STAGES, STATUS, Look
from kdutils.grid.plan import Plan


def brief(found: Look, table: pd.DataFrame, machine: Machine) -> list[str]:
    """The plan in a few lines: how much there is, how much is left, and the largest run."""
    states = ", ".join(f"{found.count(status)} {status}" for status in STATUS if found.count(status))
    left = table[table["status"] != "done"]
    lines = [f"{len(table)} cells of {table['run_id'].nunique()} runs: {states}"]
    if len(left):
        largest = left.loc[left["gpu_memory_gb"].idxmax()]
        lines.append(
            f"left to do, estimated: {_hours(left['gpu_hours'].sum())} on {machine.name}, "
            f"{left['flops'].sum():.2g} FLOPs, {_disk(left, 'caches')} of caches, "
            f"{_disk(left, 'teachers', 'students', 'evaluation')} of runs"
        )
        lines.append(f"largest: {largest['gpu_memory_gb']:.1f} GB for {_label(largest)}")
    lines += [f"not known here: the digest of {reason}; run_id is without it" for reason in found.unknown]
    return lines


def report(found: Look, table: pd.DataFrame, machine: Machine) -> str:
    """The plan on a page: totals by stage, status, method and pair, and what was assumed."""
    lines = [*brief(found, table, machine), "", *_by_stage(table), ""]
    for is_ours, name in ((False, "released pairs and their models"), (True, "ours")):
        part = table[table["released_pair"] != is_ours]
        if 0 < len(part) < len(table):
            lines.append(f"{name}: {len(part)} cells, {_hours(part['gpu_hours'].sum())}")
    too_large = table[table["gpu_memory_gb"] > machine.memory_gb]
    if len(too_large):
        runs_, most = too_large["run_id"].nunique(), too_large["gpu_memory_gb"].max()
        line = (
            f"{runs_} runs need more than the {machine.memory_gb:.0f} GB of {machine.name}, even row by row"
        )
        lines.append(f"{line}; {_remedy(found, machine, most)}")
    lines += [
        "",
        *_by(table, "method", METHOD_LABELS),
        "",
        *_by_pair(table),
        "",
        *_assumptions(found, machine),
    ]
    return "\n".join(lines)


def _remedy(found: Look, machine: Machine, most: float) -> str:
    n, each = outlook.on_several(found, machine) or (1, most)
    if n == 1:
        return f"the largest needs {-(-most // machine.memory_gb):.0f} of it"
    return f"-p devices {n} gives a run {n} of it, of which it then needs at most {each:.0f} GB each"


def _by_stage(table: pd.DataFrame) -> Iterator[str]:
    head = {"GPU hours": 12, "trained": 10, "scored": 10, "generated": 11, "FLOPs": 10, "disk": 10}
    yield f"{'stage':12}" + "".join(f"{name:>{width}}" for name, width in head.items())
    for names in (*((stage,) for stage in STAGES), STAGES):
        part = {
            fact: sum(table[f"{name} {fact}"].sum() for name in names)
            for fact in ("hours", "trained", "scored", "generated", "flops")
        }
        yield (
            f"{names[0] if len(names) == 1 else 'all':12}{part['hours']:12,.2f}{_short(part['trained']):>10}"
            f"{_short(part['scored']):>10}{_short(part['generated']):>11}{part['flops']:10.2g}"
            f"{_disk(table, *names):>10}"
        )


def _by(table: pd.DataFrame, column: str, labels: dict[str, str]) -> Iterator[str]:
    yield f"{column:28}{'cells':>7}{'done':>7}{'GPU hours':>12}{'GB':>8}"
    for key, label in labels.items():
        part = table[table[column] == key]
        if len(part):
            yield _line(label, part)


def _by_pair(table: pd.DataFrame) -> Iterator[str]:
    yield f"{'teacher → student':28}{'cells':>7}{'done':>7}{'GPU hours':>12}{'GB':>8}"
    pairs = table[table["teacher"] != ""].groupby(["teacher", "student"], sort=False)
    for (teacher, student), part in pairs:
        mark = " *" if table["released_pair"].any() and not part["released_pair"].any() else ""
        yield _line(f"{short_name(teacher)} → {_size(student)}{mark}", part)
    yield _line("no teacher", table[table["teacher"] == ""])
    if table["released_pair"].nunique() > 1:
        yield "* not in the released tables"


def _line(label: str, part: pd.DataFrame) -> str:
    done = (part["status"] == "done").sum()
    hours, most = part["gpu_hours"].sum(), part["gpu_memory_gb"].max()
    return f"{label:28}{len(part):7}{done:7}{hours:12,.2f}{most:8.1f}"


def _assumptions(found: Look, machine: Machine) -> Iterator[str]:
    yield (
        f"assumed: {machine.flops / 1e12:.4g} TFLOP/s bf16, of which {machine.forward_share:.0%} forward, "
        f"{machine.training_share:.0%} in training, {machine.adapter_share:.0%} in that of LoRA; "
        f"{machine.bytes_per_second / 1e9:,.4g} GB/s, of which {machine.bytes_share:.0%}, and "
        f"{machine.decoding_share:.0%} in decoding; {machine.layer_seconds * 1e3:g} ms to launch a layer"
    )
    trained = {
        (cell.spec.data, cell.spec.domain): cell.spec for cell in found.cells if cell.spec.method != "base"
    }
    for (data, domain), spec in trained.items():
        items = token_lengths.of_training(spec)
        mean, _, longest = items.of_batch(1, at_most=spec.max_tokens)
        how = "counted" if items.is_counted else "assumed"
        yield f"{how}: {domain} items of {data!r} have {mean:.0f} tokens, at most {longest:.0f}"


def _label(row: pd.Series) -> str:
    teacher = f" <- {short_name(row['teacher'])}" if row["teacher"] else ""
    return (
        f"{row['method']} {short_name(row['student'])}{teacher}, {row['domain']}, protocol {row['protocol']}"
    )


def _size(name: str) -> str:
    try:
        model_parameters(name)
    except ValueError:  # a name without a size
        return short_name(name)
    return short_name(name).rsplit("-", 1)[-1]


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


# --- against what was measured ------------------------------------------------------------------------------


def compare(plan: Plan, measured: pd.DataFrame, machine: Machine | None = None) -> pd.DataFrame:
    """Estimated beside measured seconds of the finished runs of a plan, by stage.

    Args:
        measured: `fill.costs` of the plan's runs: `training, s` and `evaluation, s`, a row a run in the
            plan's order; `cache, s` too, if it is there.
        machine: where they ran; by default this machine, measured now.

    Returns:
        stage (teachers, caches, then methods, evaluation, all), runs, estimated, measured (seconds), ratio
        (estimated / measured). Stages of which nothing was measured are left out.
    """
    machine = machine or machines.this_machine()
    teachers = {run.spec.teacher_spec() for run in plan.runs}
    rows, trained, cached = [], set(), set()
    for run, (_, row) in zip(plan.runs, measured.iterrows(), strict=True):
        spec, key = run.spec, cost_model.teacher_key(run.spec)
        if spec not in trained and spec.method != "base" and pd.notna(row["training, s"]):
            trained.add(spec)
            stage = "teachers" if spec in teachers else spec.method
            rows.append((stage, Training(spec, machine).cost().seconds, row["training, s"]))
        if "cache, s" in measured and key and key not in cached and pd.notna(row["cache, s"]):
            cached.add(key)
            rows.append(("caches", cost_model.teacher_cost(spec, machine).seconds, row["cache, s"]))
        if pd.notna(row["evaluation, s"]):
            seconds = cost_model.evaluation_cost(spec, run.evaluation, machine).seconds
            rows.append((f"evaluation, {run.evaluation.scoring}", seconds, row["evaluation, s"]))
    table = pd.DataFrame(rows, columns=["stage", "estimated", "measured"])
    by = table.groupby("stage", sort=False)
    found = by.sum().assign(runs=by.size()).reset_index()
    total = {"stage": "all", "runs": len(table)} | table[["estimated", "measured"]].sum().to_dict()
    found = pd.concat([found, pd.DataFrame([total])], ignore_index=True)
    found["ratio"] = found["estimated"] / found["measured"].where(found["measured"] > 0)
    return found[["stage", "runs", "estimated", "measured", "ratio"]]
