"""One filling of a folder with the runs of a plan: which are there, which are next, what became of each.

The driver decides and the workers make; a worker never waits for another process, but says that it would
have to, and gets something else to do.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdutils import store
from kdutils.grid import run_cells
from kdutils.grid.engine import Death, Engine, Start
from kdutils.grid.schedule import Job
from kdutils.io import environment, leases
from kdutils.spec import EvalSpec, PlannedRun, RunSpec

TICK_SECONDS = 1.0  # between two looks at what others make, and two reports at most
SILENT = 75  # exit code of a worker that has ended itself since its run showed no progress
PATIENCE = 2  # how often one thing is set aside before what needs it counts as failed

Progress = Callable[["State"], None]


class Point(NamedTuple):
    """A point of a training curve."""

    step: int
    n_steps: int
    loss: float  # nats a token


@dataclass(frozen=True)
class State:
    """How far the runs of a plan are; every run is found, done, failed, running or left."""

    n_runs: int
    n_found: int = 0  # were there before, or were made by somebody else meanwhile
    n_done: int = 0  # made this time
    running: list[str] = field(default_factory=list)  # short labels
    curves: dict[str, list[Point]] = field(default_factory=dict)  # label -> curve, of what is running
    failures: dict[str, str] = field(default_factory=dict)  # run_id -> reason
    set_aside: dict[str, str] = field(default_factory=dict)  # id of what was damaged -> reason
    seconds: float = 0.0  # since the start
    seconds_left: float | None = None  # an estimate; None before anything is made

    @property
    def n_left(self) -> int:
        """Neither found, made, failed nor running."""
        return self.n_runs - self.n_found - self.n_done - len(self.failures) - len(self.running)

    def __str__(self) -> str:
        parts = [f"{self.n_found} found", f"{self.n_done} made"]
        parts += [f"{len(self.failures)} failed"] * bool(self.failures)
        parts += [f"{len(self.running)} running"] * bool(self.running)
        parts += [f"{self.n_left} left"] * bool(self.n_left)
        if self.n_left or self.running:
            if self.seconds_left is not None:
                parts.append(f"about {_duration(self.seconds_left)}")
            return f"{self.n_runs} runs: {', '.join(parts)}"
        asides = [f"{run_id} set aside: {reason}" for run_id, reason in self.set_aside.items()]
        failures = [f"{run_id} failed: {reason}" for run_id, reason in self.failures.items()]
        first = f"{self.n_runs} runs: {', '.join(parts)} in {_duration(self.seconds)}"
        return "; ".join([first, *asides, *failures])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Filling:
    """One call of `fill`: the status of every job, and what happens next.

    Args:
        silence_seconds: a run that shows no progress for so long is ended, given once more, and then fails.
    """

    def __init__(
        self, jobs: dict[str, Job], out: Path, progress: Progress, *, silence_seconds: float | None = None
    ) -> None:
        self._jobs, self._out, self._progress = jobs, out, progress
        self._silence_seconds, self._silent = silence_seconds, set[str]()
        self._status = dict.fromkeys(jobs, "waiting")  # | running | found | made | failed
        self._failures: dict[str, str] = {}
        self._set_aside: dict[str, str] = {}
        self._n_set_aside: dict[str, int] = {}
        self._held: dict[str, str] = {}  # run_id -> lease that another process holds
        self._begun: dict[str, float] = {}  # run_id -> when it was given to a worker
        self._curves: dict[str, list[Point]] = {}
        self._n_workers = 1
        self._started = time.monotonic()
        self._cost_made = self._seconds_made = 0.0  # cost and worker seconds of what was made

    # --- before anything is trained ----------------------------------------------------------------

    def look(self) -> None:
        """See what is there, refuse what cannot be made, and set aside what is damaged."""
        damaged = []
        for run_id, job in self._jobs.items():
            folder = store.folder_of(self._out, run_id)
            try:
                if all(folder.is_whole(evaluation) for evaluation in job.evaluations):
                    self._status[run_id] = "found"
            except store.DamagedError as error:
                damaged.append((run_id, error))
        missing = [self._jobs[run_id] for run_id in self._jobs if self._status[run_id] == "waiting"]
        if missing:
            from kdutils import inputs  # loads torch, which is not needed where all is there

            inputs.check_all(PlannedRun(job.spec, each) for job in missing for each in job.evaluations)
            _refuse_unwritable(self._out)
        for run_id, error in damaged:
            self._take(run_id, set_aside(self._out, error))

    @property
    def is_wanting(self) -> bool:
        """Whether a run is to be made."""
        return "waiting" in self._status.values()

    # --- the loop ----------------------------------------------------------------------------------

    def fill(self, start: Start) -> None:
        """Make what is missing, on the engine that `start` makes."""
        with start(make_run, prepare=prepare, hear=self._hear) as engine:
            self._n_workers = engine.n_workers
            self._report()
            while self.is_wanting or self._with("running"):
                self._give(engine)
                is_waiting = self._held or self._with("running")
                for run_id, outcome in engine.results(TICK_SECONDS if is_waiting else 0):
                    self._take(run_id, outcome)
                    self._report()
                self._report()

    def _give(self, engine: Engine) -> None:
        """Start as much of what is ready as there are idle workers."""
        self._held = {
            run_id: name for run_id, name in self._held.items() if not leases.is_free(self._out, name)
        }
        ready = sorted(self._ready(), key=lambda run_id: self._jobs[run_id].place) if engine.n_idle else []
        for run_id in ready:
            if not engine.n_idle:  # of the others nothing is read, again and again, before their turn
                break
            if reason := self._known_failure(run_id):
                self._fail(run_id, reason)
                self._report()
            else:
                job = self._jobs[run_id]
                engine.give(run_id, _Task(job.spec, job.evaluations, self._out, self._silence_seconds))
                self._status[run_id] = "running"
                self._begun[run_id] = time.monotonic()
                self._curves[run_id] = []
                self._report()

    def _hear(self, run_id: str, point: Point) -> None:
        self._curves[run_id].append(point)

    def _ready(self) -> list[str]:
        there = {run_id for run_id, status in self._status.items() if status in ("found", "made")}
        return [
            run_id
            for run_id, job in self._jobs.items()
            if self._status[run_id] == "waiting"
            and run_id not in self._held
            and (job.teacher is None or job.teacher in there)
        ]

    def _known_failure(self, run_id: str) -> str | None:
        """Why a run failed earlier in this run of the runner; it would fail again."""
        token = os.environ.get(environment.RUN_TOKEN)
        record = store.folder_of(self._out, run_id).failure() if token else None
        return record["reason"] if record and record["run_token"] == token else None

    def _take(self, run_id: str, outcome: _Outcome | Death) -> None:
        """What has become of a run."""
        if isinstance(outcome, Death) and outcome.code == SILENT:
            if run_id not in self._silent:
                self._silent.add(run_id)
                self._status[run_id] = "waiting"
                return
            outcome = Death(
                f"it showed no progress for {_duration(self._silence_seconds)}, twice; give it longer with "
                "--silence, or find out with workers=1 and py-spy where it hangs"
            )
        if isinstance(outcome, Death):
            with contextlib.suppress(OSError):  # a folder that cannot be written; the reason is kept here
                store.folder_of(self._out, run_id).record_failure(outcome.reason)
            outcome = _Outcome("failed", outcome.reason)
        if outcome.kind == "made":
            self._cost_made += self._jobs[run_id].cost
            self._seconds_made += time.monotonic() - self._begun[run_id]
        if outcome.kind in ("found", "made"):
            self._status[run_id] = outcome.kind
        elif outcome.kind == "failed":
            self._fail(run_id, outcome.reason)
        else:
            self._status[run_id] = "waiting"
            if outcome.kind == "held":
                self._held[run_id] = outcome.name
            else:
                self._remake(run_id, outcome)

    def _remake(self, run_id: str, outcome: _Outcome) -> None:
        """Something that a run needs, or it itself, was damaged and is set aside now."""
        name = outcome.name
        self._set_aside[name] = outcome.reason
        self._n_set_aside[name] = self._n_set_aside.get(name, 0) + 1
        if self._status.get(name) in ("found", "made"):
            self._status[name] = "waiting"
        if self._n_set_aside[name] > PATIENCE:
            self._fail(
                run_id, f"{name} was set aside {PATIENCE} times and is damaged again: {outcome.reason}"
            )

    def _fail(self, run_id: str, reason: str) -> None:
        """Record a failure; the students of a teacher fail with it."""
        self._status[run_id] = "failed"
        self._failures[run_id] = reason
        for student, job in self._jobs.items():
            if job.teacher == run_id and self._status[student] == "waiting":
                self._fail(student, f"its teacher {run_id} failed: {reason}")

    # --- how far it is -----------------------------------------------------------------------------

    def state(self) -> State:
        """A snapshot."""
        status, running = list(self._status.values()), self._with("running")
        return State(
            n_runs=len(self._jobs),
            n_found=status.count("found"),
            n_done=status.count("made"),
            running=[self._jobs[run_id].label for run_id in running],
            curves={self._jobs[run_id].label: list(self._curves[run_id]) for run_id in running},
            failures=dict(self._failures),
            set_aside=dict(self._set_aside),
            seconds=time.monotonic() - self._started,
            seconds_left=self._seconds_left(),
        )

    def _report(self) -> None:
        self._progress(self.state())

    def _with(self, status: str) -> list[str]:
        return [run_id for run_id, own in self._status.items() if own == status]

    def _seconds_left(self) -> float | None:
        """From the speed at which costs were worked off so far, on all workers."""
        if self._cost_made == 0:
            return None
        speed = self._cost_made / self._seconds_made
        cost = sum(self._jobs[run_id].cost for run_id in self._with("waiting"))
        for run_id in self._with("running"):
            done = speed * (time.monotonic() - self._begun[run_id])
            cost += max(self._jobs[run_id].cost - done, 0.0)
        return cost / speed / self._n_workers


def _refuse_unwritable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise store.unwritable(out, error) from error


# --- in a worker -------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    spec: RunSpec
    evaluations: tuple[EvalSpec, ...]
    out: Path
    silence_seconds: float | None = None


class _Outcome(NamedTuple):
    kind: str  # made | found | held | damaged | failed
    reason: str = ""
    name: str = ""  # held: of the lease; damaged: of what was set aside


class Setting(NamedTuple):
    """What a worker may use."""

    gpu: str | None  # its number; several, with commas, where runs are on several devices
    n_threads: int


def prepare(setting: Setting) -> None:
    """A worker: its threads, its own GPUs, denormal numbers as zero (some steps take many times as long)."""
    if setting.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setting.gpu
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars have no place in the driver's terminal
    torch.set_num_threads(setting.n_threads)
    torch.set_flush_denormal(True)


def make_run(task: _Task, tell: Callable[[Point], None]) -> _Outcome:
    """Make a run, tell its curve, and say what came of it. Interrupts are not caught."""
    from kdutils import experiment  # as above

    told = 0.0

    def progress(entry: dict[str, Any]) -> None:
        nonlocal told
        live()
        if "loss" in entry and time.monotonic() - told > TICK_SECONDS:
            told = time.monotonic()
            tell(Point(entry["step"], entry["n_steps"], entry["loss"]))

    try:
        made = []
        with _ending_when_silent(task.silence_seconds) as live:
            for evaluation in task.evaluations:
                made.append(experiment.make(task.spec, evaluation, task.out, progress=progress, waits=False))
                live()
                if evaluation.scoring == "generation":
                    run_cells.keep(task.out, evaluation, task.spec)  # here, where there are many of us
    except (leases.HeldError, leases.LostError) as error:
        return _Outcome("held", name=error.name)
    except store.DamagedError as error:
        return set_aside(task.out, error)
    except Exception as error:  # one failed cell must not take the others along
        return _Outcome("failed", experiment.reason_of(error))
    return _Outcome("made" if any(made) else "found")


@contextlib.contextmanager
def _ending_when_silent(seconds: float | None) -> Iterator[Callable[[], None]]:
    """Within the block, the process ends once what is given has not been called for so long; None: never.

    A thread counts the time, as one keeps the lease alive: where that one beats and the run hangs, this one
    counts. It counts its own steps, so a process that was suspended does not wake up too late.
    """
    n_steps, over, steps = 20, threading.Event(), 0

    def live() -> None:
        nonlocal steps
        steps = 0

    def count() -> None:
        nonlocal steps
        while not over.wait(seconds / n_steps):
            steps += 1
            if steps > n_steps:
                os._exit(SILENT)

    if seconds is not None:
        threading.Thread(target=count, daemon=True).start()
    try:
        yield live
    finally:
        over.set()


def set_aside(out: Path, error: store.DamagedError) -> _Outcome:
    """Move what is damaged away, under its lease, so that it is made anew."""
    try:
        with leases.take(out, error.name):
            store.set_damaged_aside(out, error)
    except leases.HeldError:
        return _Outcome("held", name=error.name)
    return _Outcome("damaged", error.reason, error.name)
