"""Which job of a plan is next, and how each ended.

Among the jobs that are ready, those of the part of the plan that costs least come first; within it teachers,
then the other SFT runs, then distilled ones, then base models, which nothing waits for; the expensive first.
The driver schedules and the workers make (kdutils.grid.worker).
"""

import contextlib
import heapq
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kdutils.grid.jobs import Job
from kdutils.grid.local_pool import Death, Engine, StartEngine
from kdutils.grid.progress import Progress, State, duration
from kdutils.grid.worker import SILENT, TICK_SECONDS, Outcome, Point, Task, make_run, prepare, set_aside
from kdutils.io import environment, leases
from kdutils.runs import store

Ready = Callable[[Sequence[str]], None]  # called with parts of a plan whose runs are there or have failed
PATIENCE = 2  # how often one thing is set aside before what needs it counts as failed


class Scheduler:
    """One call of `fill`: the status of every job, and what is submitted next.

    A run that shows no progress for `silence_seconds` is ended, submitted once more, and then fails.
    """

    def __init__(
        self,
        jobs: dict[str, Job],
        out: Path,
        progress: Progress,
        *,
        silence_seconds: float | None = None,
        parts: Mapping[str, set[str]] | None = None,
        ready: Ready | None = None,
    ) -> None:
        self._jobs, self._out, self._progress, self._silence_seconds = jobs, out, progress, silence_seconds
        self._parts = dict(parts or {})  # those that `_tell_of` was not told yet
        self._tell_of = ready or (lambda names: None)
        self._with: dict[str, dict[str, Job]] = defaultdict(dict)  # status -> its jobs
        self._dependents: dict[str, list[str]] = defaultdict(list)  # run_id -> runs that wait for it
        self._ready: list[tuple[tuple[float, ...], str]] = []  # heap of jobs by place; some are stale
        self._held: dict[str, str] = {}  # run_id -> lease of another process that it waits for
        self._cost_waiting = 0.0
        for run_id, job in jobs.items():
            for needed in job.needs:
                self._dependents[needed].append(run_id)
            self._with[job.status][run_id] = job
            self._cost_waiting += job.cost
        self._places = {run_id: (*job.place, index) for index, (run_id, job) in enumerate(jobs.items())}
        self._failures: dict[str, str] = {}
        self._set_aside: dict[str, list[str]] = {}  # id of what was damaged -> reason, each time
        self._n_workers = 1
        self._started = time.monotonic()
        self._cost_made = self._seconds_made = 0.0  # cost and worker seconds of what was made

    def check_store(self) -> None:
        """Find what is there, refuse what cannot be made, and set aside what is damaged."""
        damaged = []
        for run_id, job in self._jobs.items():
            folder = store.folder_of(self._out, run_id)
            try:
                if all(folder.is_whole(evaluation) for evaluation in job.evaluations):
                    self._set(run_id, "found")
            except store.DamagedError as error:
                damaged.append((run_id, error))
        if missing := self._with["waiting"]:
            from kdutils.runs import inputs  # loads torch, which is not needed where all is there

            asked = [(job.spec, each) for job in missing.values() for each in job.evaluations]
            inputs.check(*(inputs.Inputs.of(*each) for each in asked))
            try:
                self._out.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self._out).close()
            except OSError as error:
                raise store.unwritable(self._out, error) from error
        for run_id, error in damaged:
            self._record(run_id, set_aside(self._out, error))

    def tell_ready(self, *, at_first: bool = False) -> None:
        """Name the parts of which no run is left, each once; at first, there may be none."""
        left = self._with["waiting"], self._with["running"]
        names = [name for name, own in self._parts.items() if all(map(own.isdisjoint, left))]
        for name in names:
            del self._parts[name]
        if names or at_first:
            self._tell_of(names)

    def _order(self) -> None:
        """Put runs of the part with the least cost left in front."""

        def cost_left(name: str) -> float:
            return sum(self._jobs[run_id].cost for run_id in self._parts[name] & self._with["waiting"].keys())

        part_of: dict[str, int] = {}  # the first that a run belongs to
        for number, name in enumerate(sorted(self._parts, key=cost_left)):
            part_of |= {run_id: number for run_id in self._parts[name] if run_id not in part_of}
        last = len(self._parts)
        self._places = {run_id: (part_of.get(run_id, last), *at) for run_id, at in self._places.items()}
        self._ready.clear()  # what is there stands by its former place
        for run_id in self._with["waiting"]:
            self._queue(run_id)

    @property
    def has_work(self) -> bool:
        """Whether a run is to be made."""
        return bool(self._with["waiting"])

    def _set(self, run_id: str, status: str) -> None:
        """Every change of a status; what it makes ready is queued."""
        job = self._jobs[run_id]
        self._cost_waiting += job.cost * ((status == "waiting") - (job.status == "waiting"))
        del self._with[job.status][run_id]
        job.status, self._with[status][run_id] = status, job
        for each in (run_id, *(self._dependents[run_id] if job.is_there else ())):
            self._queue(each)

    def _queue(self, run_id: str) -> None:
        if self._is_ready(run_id):
            heapq.heappush(self._ready, (self._places[run_id], run_id))

    def _is_ready(self, run_id: str) -> bool:
        """Whether it waits, and for no other run or process."""
        job = self._jobs[run_id]
        return (
            job.status == "waiting"
            and run_id not in self._held
            and all(self._jobs[needed].is_there for needed in job.needs)
        )

    def run(self, start: StartEngine) -> None:
        """Make what is missing, on the engine that `start` makes."""

        def on_message(run_id: str, point: Point) -> None:
            self._jobs[run_id].curve.append(point)

        with start(make_run, prepare=prepare, on_message=on_message) as engine:
            self._n_workers = engine.n_workers
            self._order()
            self.tell_ready(at_first=True)
            self._progress(self.state())
            while self.has_work or self._with["running"]:
                self._submit_ready(engine)
                waits = self._with["running"] or self._held
                for run_id, outcome in engine.results(TICK_SECONDS if waits else 0):
                    self._record(run_id, outcome)
                    self._progress(self.state())
                self.tell_ready()
                self._progress(self.state())

    def _submit_ready(self, engine: Engine) -> None:
        """Submit as much of what is ready as there are idle workers."""
        for run_id in [each for each, lease in self._held.items() if leases.is_free(self._out, lease)]:
            del self._held[run_id]
            self._queue(run_id)
        while engine.n_idle and self._ready:  # of the others no file is read before their turn
            _, run_id = heapq.heappop(self._ready)
            if not self._is_ready(run_id):
                continue
            job = self._jobs[run_id]
            if reason := self._known_failure(run_id):
                self._fail(run_id, reason)
            else:
                engine.submit(run_id, Task(job.spec, job.evaluations, self._out, self._silence_seconds))
                job.started, job.curve = time.monotonic(), []
                self._set(run_id, "running")
            self._progress(self.state())

    def _known_failure(self, run_id: str) -> str | None:
        """Why a run failed earlier in this run of the runner; it would fail again."""
        token = os.environ.get(environment.RUN_TOKEN)
        record = store.folder_of(self._out, run_id).failure() if token else None
        return record["reason"] if record and record["run_token"] == token else None

    def _record(self, run_id: str, outcome: Outcome | Death) -> None:
        """Take down how a run ended."""
        job = self._jobs[run_id]
        if isinstance(outcome, Death):
            outcome = self._of_death(run_id, outcome)
        if outcome.kind == "held":
            self._held[run_id] = outcome.name
        self._set(run_id, outcome.kind if outcome.kind in ("found", "made") else "waiting")
        if outcome.kind == "made":
            self._cost_made += job.cost
            self._seconds_made += time.monotonic() - job.started
        elif outcome.kind == "failed":
            self._fail(run_id, outcome.reason)
        elif outcome.kind == "damaged":
            self._requeue(run_id, outcome)
        if job.status == "waiting" and (failed := [each for each in job.needs if each in self._failures]):
            self._fail(run_id, self._cause(run_id, failed[0]))  # which failed while this one ran

    def _of_death(self, run_id: str, death: Death) -> Outcome:
        """A failure; a run that was silent for the first time is tried again."""
        job, reason = self._jobs[run_id], death.reason
        if death.code == SILENT:
            if not job.was_silent:
                job.was_silent = True
                return Outcome("waiting")
            reason = (
                f"it showed no progress for {duration(self._silence_seconds)}, twice; give it longer with "
                "--silence, or find out with workers=1 and py-spy where it hangs"
            )
        with contextlib.suppress(OSError):  # a folder that cannot be written; the reason is kept here
            store.folder_of(self._out, run_id).record_failure(reason)
        return Outcome("failed", reason)

    def _requeue(self, run_id: str, outcome: Outcome) -> None:
        """What is damaged, the run or something that it needs, was set aside; it is made again."""
        times = self._set_aside.setdefault(outcome.name, [])
        times.append(outcome.reason)
        damaged = self._jobs.get(outcome.name)
        if damaged and damaged.is_there:
            self._set(outcome.name, "waiting")
        if len(times) > PATIENCE:
            reason = f"{outcome.name} was set aside {PATIENCE} times and is damaged again: {outcome.reason}"
            self._fail(run_id, reason)

    def _fail(self, run_id: str, reason: str) -> None:
        """Record a failure; the runs that need it fail with it."""
        self._set(run_id, "failed")
        self._failures[run_id] = reason
        for student in self._dependents[run_id]:
            if student in self._with["waiting"]:
                self._fail(student, self._cause(student, run_id))

    def _cause(self, run_id: str, needed: str) -> str:
        return f"its {self._jobs[run_id].needs[needed]} {needed} failed: {self._failures[needed]}"

    def state(self) -> State:
        """A snapshot."""
        running = self._with["running"].values()
        return State(
            n_runs=len(self._jobs),
            n_found=len(self._with["found"]),
            n_done=len(self._with["made"]),
            running=[job.label for job in running],
            curves={job.label: list(job.curve) for job in running},
            failures=dict(self._failures),
            set_aside={name: reasons[-1] for name, reasons in self._set_aside.items()},
            seconds=time.monotonic() - self._started,
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        """From the speed at which costs were worked off so far, on all workers."""
        if self._cost_made == 0:
            return None
        speed = self._cost_made / self._seconds_made
        left = max(self._cost_waiting, 0.0)  # its sums are rounded
        for job in self._with["running"].values():
            left += max(job.cost - speed * (time.monotonic() - job.started), 0.0)
        return left / speed / self._n_workers
