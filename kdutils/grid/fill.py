"""The runs of a plan: which there are, which are missing, and making those on all cores.

What is finished stays finished, whatever happens to the rest: a run that fails or whose worker is killed is
a failure with its reason, and a damaged one is set aside and made again. Several callers, on several
machines, may fill one folder: no run is made twice.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.data.model_files import is_large, locate
from kdutils.devices import launch
from kdutils.grid import cell_table, ray_engine
from kdutils.grid.evaluations import student_protocols
from kdutils.grid.jobs import Shard, ids_of, jobs_of
from kdutils.grid.local_pool import Do, Pool
from kdutils.grid.progress import Progress, State
from kdutils.grid.scheduler import Ready, Scheduler
from kdutils.grid.study import PlannedRun
from kdutils.grid.worker import TICK_SECONDS, Setting, prepare
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

ENGINES = ("local", "ray")
MAKER = "kdutils.runs.experiment"  # what a process that makes a run imports, torch among it: seconds


def fill(
    planned: Sequence[PlannedRun],
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    engine: str = "local",
    address: str | None = None,
    shard: Shard | None = None,
    silence_seconds: float | None = None,
    parts: Mapping[str, Sequence[PlannedRun]] | None = None,
    ready: Ready | None = None,
) -> State:
    """Make every run that is missing under `out`, with the teachers that they need, `workers` at a time.

    Args:
        workers: processes that share the cores; by default one a GPU, or for as many GPUs as a run asks for
            (`devices`); else one a core for tiny models, and one with all cores for large ones, of which two
            might not fit into memory.
        progress: called after every change, and about once a second.
        engine: `local`, processes of this machine; or `ray`, of which `address` names a cluster whose nodes
            all see `out`, or is None for Ray on this machine.
        shard: make this part only.
        silence_seconds: end a run that for so long neither trained a step nor came to the end of its training
            or of an evaluation, and give it once more. Longer than evaluations that are made together take;
            None: never.
        parts: parts of `planned` by name, of which the one that costs least is made first; not with `shard`.
        ready: called with the names of parts as soon as each of their runs is there or has failed; first
            once nothing is refused any more, perhaps with none. A run that is found to be damaged later
            is not taken back.

    Raises:
        ModelError, DataError, StoreError, ClusterError, ValueError: before any training, for a run that
            cannot be made, a store that is of another layout or cannot be written, or an engine that is not
            there.
    """
    out = Path(out).expanduser()
    jobs = jobs_of(planned)
    models = {(run.spec.student, run.spec.student_source) for run in planned}
    models |= {(run.spec.teacher, run.spec.teacher_source) for run in planned if run.spec.teacher}
    how = {"workers": workers, "is_large": any(is_large(locate(*model)) for model in models)}
    how["n_devices"] = max((run.spec.devices for run in planned), default=1)
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    if engine == "ray":
        ray_engine.require(address)
        how |= {"address": address, "preload": MAKER}
        # Ray itself shows a process its GPUs.
        start = partial(ray_engine.RayPool, setting=lambda share: Setting(None, share.n_threads), **how)
    else:

        def start(do: Do, **named: Any) -> Pool:
            return Pool(do, _settings(**how), **named)  # loads torch

    own = shard.jobs(jobs) if shard else jobs
    named = {name: ids_of(runs) for name, runs in (parts or {}).items()}
    told = {"silence_seconds": silence_seconds, "parts": named, "ready": ready}
    scheduler = Scheduler(own, out, progress or (lambda state: None), **told)
    scheduler.check_store()
    if scheduler.has_work:
        for run in planned if engine == "local" else ():  # Ray knows what its nodes have
            launch.check_devices(run.spec, Compute.from_environment())
        scheduler.run(start)
    else:
        scheduler.tell_ready(at_first=True)
    return scheduler.state()


def in_workers(do: Do, tasks: Sequence[Any]) -> None:
    """Call `do(task, send)` for each task in worker processes, one a GPU or else one a core.

    What `do` returns is dropped, so it has to store its result; a task whose process fails is left undone.
    """
    waiting, n_left = list(enumerate(tasks)), len(tasks)
    with Pool(do, _settings(workers=None, is_large=False), prepare=prepare) as pool:
        while n_left:
            while waiting and pool.n_idle:
                pool.submit(*waiting.pop(0))
            n_left -= len(pool.results(TICK_SECONDS))


def _settings(*, workers: int | None, is_large: bool, n_devices: int = 1) -> list[Setting]:
    """What each worker has: its GPUs, as many as a run may ask for, or its share of the cores."""
    import torch

    all_gpus = list(map(str, range(torch.cuda.device_count())))
    starts = range(0, len(all_gpus) - n_devices + 1, n_devices)
    gpus = [",".join(all_gpus[start : start + n_devices]) for start in starts]
    n_cores = os.cpu_count() or 1
    n_workers = workers or len(gpus) or (1 if is_large else max(1, n_cores // n_devices))
    n_threads = max(1, n_cores // n_workers) if is_large else n_devices
    return [Setting(gpus[index % len(gpus)] if gpus else None, n_threads) for index in range(n_workers)]


def live_cells(planned: Sequence[PlannedRun], out: Path) -> pd.DataFrame:
    """The finished runs of a plan as cells, source `live`; what is missing is missing.

    A model as it is has no protocol. Evaluated as the students of one protocol are, it is their baseline.
    """
    specs: dict[EvalSpec, list[RunSpec]] = {}
    for run, spec in zip(planned, sources.resolved_all(run.spec for run in planned), strict=True):
        specs.setdefault(run.evaluation, []).append(spec)
    rows = []
    for evaluation, protocol in student_protocols(planned).items():
        found = cell_table.rows_of(out, evaluation, specs[evaluation])
        if protocol is not None:
            found = [row | {"protocol": protocol} if row["method"] == "base" else row for row in found]
        rows += found
    return cell_table.cell_table(rows)


def costs(planned: Sequence[PlannedRun], out: Path) -> pd.DataFrame:
    """What each run of a plan cost: seconds, and the peak memory of its worker; a row also without result.

    `status` is done, diverged, untrained (a base model), failed or missing; `reason` says why.
    """
    names = ("domain", "student", "teacher", "method", "temperature", "noise_sigma", "teacher_tuned", "seed")
    rows = []
    for run, spec in zip(planned, sources.resolved_all(run.spec for run in planned), strict=True):
        folder = store.folder_of(out, spec.run_id)
        result, scored = folder.result() or {}, folder.evaluation_result(run.evaluation) or {}
        status, reason = result.get("status"), result.get("reason")
        if not scored:
            failure = folder.failure()
            for role, own in spec.needs.items() if failure is None else ():
                if above := store.folder_of(out, own.run_id).failure():
                    failure = {"reason": f"its {role} {own.run_id} failed: {above['reason']}"}
            status, reason = ("failed", failure["reason"]) if failure else ("missing", "")
        rows.append(
            {name: getattr(spec, name) for name in names}
            | {"teacher": spec.teacher or ""}
            | {"status": "done" if status == "trained" else status, "reason": reason or ""}
            | {"training, s": result.get("seconds", 0.0 if result else None)}
            | {"evaluation, s": scored.get("seconds"), "peak memory, GB": result.get("peak_memory_gb")}
        )
    return pd.DataFrame(rows)
