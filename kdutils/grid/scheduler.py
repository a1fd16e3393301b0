"""The scheduler of the runs of a plan: which are there, which are next, how each ended.

The driver schedules and the workers make (kdutils.grid.worker).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kdutils.grid.local_pool import Death, Engine, StartEngine
from kdutils.grid.schedule import Job
from kdutils.grid.worker import SILENT, TICK_SECONDS, Outcome, Point, Task, make_run, prepare, set_aside
from kdutils.io import environment, leases
from kdutils.runs import store
from kdutils.spec import PlannedRun

PATIENCE = 2  # how often one thing is set aside before what needs it counts as failed

Progress = Callable[["State"], None]


@dataclass(frozen=True)
class State:
    """How far the runs of a plan are; every run is found, done, failed, running or left."""

    n_runs: int
    n_found: int = 0  # were there before, or were made by another process meanwhile
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


@dataclass
class _Entry:
    """Where a job stands."""

    job: Job
    status: str = "waiting"  # | running | found | made | failed
    started: float = 0.0  # when it was submitted, on the monotonic clock
    curve: list[Point] = field(default_factory=list)
    lease: str | None = None  # that another process holds and this job needs
    was_silent: bool = False  # once ended since it showed no progress

    @property
    def is_there(self) -> bool:
        return self.status in ("found", "made")


class Scheduler:
    """One call of `fill`: the status of every job, and what is submitted next.

    Args:
        silence_seconds: a run that shows no progress for so long is ended, submitted once more, and then
            fails.
    """

    def __init__(
        self, jobs: dict[str, Job], out: Path, progress: Progress, *, silence_seconds: float | None = None
    ) -> None:
        self._entries = {run_id: _Entry(job) for run_id, job in jobs.items()}
        self._out, self._progress, self._silence_seconds = out, progress, silence_seconds
        self._failures: dict[str, str] = {}
        self._set_aside: dict[str, list[str]] = {}  # id of what was damaged -> reason, each time
        self._n_workers = 1
        self._started = time.monotonic()
        self._cost_made = self._seconds_made = 0.0  # cost and worker seconds of what was made

    def check_store(self) -> None:
        """Find what is there, refuse what cannot be made, and set aside what is damaged."""
        damaged = []
        for run_id, entry in self._entries.items():
            folder = store.folder_of(self._out, run_id)
            try:
                if all(folder.is_whole(evaluation) for evaluation in entry.job.evaluations):
                    entry.status = "found"
            except store.DamagedError as error:
                damaged.append((run_id, error))
        if self.has_work:
            from kdutils.runs import inputs  # loads torch, which is not needed where all is there

            missing = [self._entries[run_id].job for run_id in self._with("waiting")]
            inputs.check_all(PlannedRun(job.spec, each) for job in missing for each in job.evaluations)
            _refuse_unwritable(self._out)
        for run_id, error in damaged:
            self._record(run_id, set_aside(self._out, error))

    @property
    def has_work(self) -> bool:
        """Whether a run is to be made."""
        return bool(self._with("waiting"))

    def run(self, start: StartEngine) -> None:
        """Make what is missing, on the engine that `start` makes."""
        with start(make_run, prepare=prepare, on_message=self._on_message) as engine:
            self._n_workers = engine.n_workers
            self._report()
            while self.has_work or self._with("running"):
                self._submit_ready(engine)
                waits = self._with("running") or any(entry.lease for entry in self._entries.values())
                for run_id, outcome in engine.results(TICK_SECONDS if waits else 0):
                    self._record(run_id, outcome)
                    self._report()
                self._report()

    def _submit_ready(self, engine: Engine) -> None:
        """Submit as much of what is ready as there are idle workers."""
        for entry in self._entries.values():
            if entry.lease and leases.is_free(self._out, entry.lease):
                entry.lease = None
        ready = [run_id for run_id in self._with("waiting") if self._is_ready(self._entries[run_id])]
        for run_id in sorted(ready, key=lambda run_id: self._entries[run_id].job.place):
            if not engine.n_idle:  # of the others no file is read before their turn
                return
            entry = self._entries[run_id]
            if reason := self._known_failure(run_id):
                self._fail(run_id, reason)
            else:
                task = Task(entry.job.spec, entry.job.evaluations, self._out, self._silence_seconds)
                engine.submit(run_id, task)
                entry.status, entry.started, entry.curve = "running", time.monotonic(), []
            self._report()

    def _is_ready(self, entry: _Entry) -> bool:
        teacher = entry.job.teacher
        return not entry.lease and (teacher is None or self._entries[teacher].is_there)

    def _on_message(self, run_id: str, point: Point) -> None:
        self._entries[run_id].curve.append(point)

    def _known_failure(self, run_id: str) -> str | None:
        """Why a run failed earlier in this run of the runner; it would fail again."""
        token = os.environ.get(environment.RUN_TOKEN)
        record = store.folder_of(self._out, run_id).failure() if token else None
        return record["reason"] if record and record["run_token"] == token else None

    def _record(self, run_id: str, outcome: Outcome | Death) -> None:
        """Take down how a run ended."""
        entry = self._entries[run_id]
        if isinstance(outcome, Death):
            outcome = self._of_death(run_id, outcome)
        entry.status = outcome.kind if outcome.kind in ("found", "made") else "waiting"
        if outcome.kind == "made":
            self._cost_made += entry.job.cost
            self._seconds_made += time.monotonic() - entry.started
        elif outcome.kind == "failed":
            self._fail(run_id, outcome.reason)
        elif outcome.kind == "held":
            entry.lease = outcome.name
        elif outcome.kind == "damaged":
            self._requeue(run_id, outcome)

    def _of_death(self, run_id: str, death: Death) -> Outcome:
        """A failure; a run that was silent for the first time is tried again."""
        entry, reason = self._entries[run_id], death.reason
        if death.code == SILENT:
            if not entry.was_silent:
                entry.was_silent = True
                return Outcome("waiting")
            reason = (
                f"it showed no progress for {_duration(self._silence_seconds)}, twice; give it longer with "
                "--silence, or find out with workers=1 and py-spy where it hangs"
            )
        with contextlib.suppress(OSError):  # a folder that cannot be written; the reason is kept here
            store.folder_of(self._out, run_id).record_failure(reason)
        return Outcome("failed", reason)

    def _requeue(self, run_id: str, outcome: Outcome) -> None:
        """What is damaged, the run or something that it needs, was set aside; it is made again."""
        times = self._set_aside.setdefault(outcome.name, [])
        times.append(outcome.reason)
        damaged = self._entries.get(outcome.name)
        if damaged and damaged.is_there:
            damaged.status = "waiting"
        if len(times) > PATIENCE:
            reason = f"{outcome.name} was set aside {PATIENCE} times and is damaged again: {outcome.reason}"
            self._fail(run_id, reason)

    def _fail(self, run_id: str, reason: str) -> None:
        """Record a failure; the students of a teacher fail with it."""
        self._entries[run_id].status = "failed"
        self._failures[run_id] = reason
        for student in self._with("waiting"):
            if self._entries[student].job.teacher == run_id:
                self._fail(student, f"its teacher {run_id} failed: {reason}")

    def state(self) -> State:
        """A snapshot."""
        running = [self._entries[run_id] for run_id in self._with("running")]
        return State(
            n_runs=len(self._entries),
            n_found=len(self._with("found")),
            n_done=len(self._with("made")),
            running=[entry.job.label for entry in running],
            curves={entry.job.label: list(entry.curve) for entry in running},
            failures=dict(self._failures),
            set_aside={name: reasons[-1] for name, reasons in self._set_aside.items()},
            seconds=time.monotonic() - self._started,
            seconds_left=self._seconds_left(),
        )

    def _report(self) -> None:
        self._progress(self.state())

    def _with(self, status: str) -> list[str]:
        return [run_id for run_id, entry in self._entries.items() if entry.status == status]

    def _seconds_left(self) -> float | None:
        """From the speed at which costs were worked off so far, on all workers."""
        if self._cost_made == 0:
            return None
        speed = self._cost_made / self._seconds_made
        cost = sum(self._entries[run_id].job.cost for run_id in self._with("waiting"))
        for entry in map(self._entries.get, self._with("running")):
            done = speed * (time.monotonic() - entry.started)
            cost += max(entry.job.cost - done, 0.0)
        return cost / speed / self._n_workers


def _refuse_unwritable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise store.unwritable(out, error) from error
