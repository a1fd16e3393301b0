"""The runs of a profile: which there are, which are missing, and making those on all cores.

Base models and SFT come first, since every distilled run needs its tuned teacher and is compared with SFT.
A run that fails is a row with its reason; what is finished stays finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from kdutils import cells, running, runs
from kdutils.runspec import LOGIT_METHODS, EvalSpec, RunSpec
from kdutils.spec import DOMAIN_TASKS, INSTRUCTION_TASKS, Live

Progress = Callable[["State"], None]


@dataclass
class State:
    """How far the runs of a profile are."""

    n_runs: int
    n_found: int  # were there before
    n_done: int = 0  # made this time
    seconds: float = 0.0  # since the start
    failures: dict[str, str] = field(default_factory=dict)  # run_id -> reason

    @property
    def n_left(self) -> int:
        """Neither found, made nor failed."""
        return self.n_runs - self.n_found - self.n_done - len(self.failures)

    def __str__(self) -> str:
        text = f"{self.n_runs} runs: {self.n_found} were there, {self.n_done} made in {self.seconds:.0f} s"
        parts = [text, f"{self.n_left} left" if self.n_left else "", *self._reasons()]
        return "; ".join(filter(None, parts))

    def _reasons(self) -> list[str]:
        return [f"{run_id} failed: {reason}" for run_id, reason in self.failures.items()]


def specs(live: Live) -> list[RunSpec]:
    """Every run of a profile once, in the order they are made: base, SFT, then the distilled ones.

    Raises:
        ValueError: for a method, domain or setting that RunSpec refuses.
    """
    models = list(dict.fromkeys(name for pair in live.pairs for name in pair))
    teachers, students = ({pair[side] for pair in live.pairs} for side in (0, 1))
    common = {"data": live.data} | live.settings
    found = []
    for domain in live.domains:
        found += [RunSpec(student=name, method="base", domain=domain, data=live.data) for name in models]
        for name in models:
            seeds = [0] * (name in teachers) + list(live.seeds) * (name in students)  # teachers: seed 0
            found += [
                RunSpec(student=name, method="sft", domain=domain, seed=seed, **common) for seed in seeds
            ]
    for domain in live.domains:
        for teacher, student in live.pairs:
            for method in live.methods:
                for variant in _variants(live, method):
                    pair = {"teacher": teacher, "student": student, "domain": domain, "method": method}
                    found += [RunSpec(**pair, **variant, seed=seed, **common) for seed in live.seeds]
    return list(dict.fromkeys(found))


def _variants(live: Live, method: str) -> list[dict[str, float]]:
    """Temperatures without noise, and noise at temperature 1; one plain run where neither has an effect."""
    if method not in LOGIT_METHODS:
        return [{}]
    variants = [{"temperature": temperature} for temperature in live.temperatures]
    variants += [{"noise_sigma": sigma} for sigma in live.noise_sigmas if sigma > 0]
    return variants


def evaluation(live: Live, domain: str) -> EvalSpec:
    """How the runs of a domain are evaluated."""
    tasks = DOMAIN_TASKS.get(domain, INSTRUCTION_TASKS)
    return EvalSpec(tasks=tuple(tasks), items_per_task=live.items_per_task)


def fill(live: Live, out: Path, *, workers: int | None = None, progress: Progress | None = None) -> State:
    """Make every run that is missing under `out`, `workers` at a time; one caller at a time.

    Args:
        workers: processes, each with one thread; by default one a GPU, or one a core.
        progress: called after every run.

    Raises:
        ModelError, DataError, ValueError: before any training, for a run that cannot be made.
    """
    planned = [running.resolved(spec) for spec in specs(live)]
    for spec in planned:
        if not _is_there(spec, live, out):
            running.check(spec, evaluation(live, spec.domain))
    started = time.monotonic()
    with _alone(out):
        missing = [spec for spec in planned if not _is_there(spec, live, out)]
        state = State(len(planned), len(planned) - len(missing))
        for stage in (_is_first, lambda spec: not _is_first(spec)):
            todo = [spec for spec in missing if stage(spec)]
            for run_id, reason in _made(todo, live, out, workers):
                if reason:
                    state.failures[run_id] = reason
                else:
                    state.n_done += 1
                state.seconds = time.monotonic() - started
                if progress:
                    progress(state)
    return state


def _is_first(spec: RunSpec) -> bool:
    return spec.teacher is None


def _is_there(spec: RunSpec, live: Live, out: Path) -> bool:
    folder = runs.folder_of(out, spec.run_id)
    return folder.result() is not None and folder.evaluation(evaluation(live, spec.domain)) is not None


def _made(
    todo: list[RunSpec], live: Live, out: Path, workers: int | None
) -> Iterator[tuple[str, str | None]]:
    """(run_id, None or why it failed) of each run, as they end."""
    import torch

    gpus = list(range(torch.cuda.device_count()))
    n_workers = min(workers or len(gpus) or os.cpu_count() or 1, max(len(todo), 1))
    context = multiprocessing.get_context("spawn")
    turns = context.Queue()
    for index in range(n_workers):
        turns.put(gpus[index % len(gpus)] if gpus else None)
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start, initargs=(turns,)) as pool:
        futures = {pool.submit(_make, spec, evaluation(live, spec.domain), out): spec.run_id for spec in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(turns: multiprocessing.Queue) -> None:
    """A worker: one thread, its own GPU, denormal numbers as zero (some steps take many times as long)."""
    gpu = turns.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _make(spec: RunSpec, wanted: EvalSpec, out: Path) -> str | None:
    """None, or why the run failed. Interrupts are not caught."""
    try:
        running.run(spec, out=out, evaluation=wanted)
    except Exception as error:  # one failed cell must not take the others along
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Wait until nobody else fills this folder; the lock dies with its holder."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        file = (Path(out) / ".grid.lock").open("w")
    except OSError as error:
        raise runs.StoreError(f"{out} cannot be written ({error.strerror}); choose another out") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def live_cells(live: Live, out: Path) -> pd.DataFrame:
    """The finished runs of a profile as cells, source `live`; what is missing is missing."""
    planned = [running.resolved(spec) for spec in specs(live)]
    tables = []
    for domain in live.domains:
        ids = {spec.run_id for spec in planned if spec.domain == domain}
        tables.append(runs.cells_of(out, evaluation(live, domain), only=ids))
    return cells.cell_table(pd.concat(tables, ignore_index=True).to_dict("records"))


def costs(live: Live, out: Path) -> pd.DataFrame:
    """What each finished run of a profile cost: seconds, and the peak memory of its worker."""
    table = []
    for spec in map(running.resolved, specs(live)):
        folder = runs.folder_of(out, spec.run_id)
        result = folder.result()
        if result is None:
            continue
        scored = folder.evaluation_result(evaluation(live, spec.domain)) or {}
        table.append(
            {
                "domain": spec.domain,
                "student": spec.student,
                "teacher": spec.teacher or "",
                "method": spec.method,
                "seed": spec.seed,
                "status": result["status"],
                "training, s": result.get("seconds", 0.0),
                "evaluation, s": scored.get("seconds"),
                "peak memory, GB": result.get("peak_memory_gb"),
            }
        )
    return pd.DataFrame(table)
