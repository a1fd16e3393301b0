"""The jobs of a plan, one a run: which there are, which are next, how each ended; shards of them.

A run waits for the SFT run of its teacher, for that which it starts from, and for nothing else. Among those
that are ready, teachers come first, then the other SFT runs, then distilled ones, then base models, which
nothing waits for; the expensive first. The driver schedules and the workers make (kdutils.grid.worker).
"""

import contextlib
import heapq
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kdutils.data import sources
from kdutils.grid import cost
from kdutils.grid.cell_table import short_name
from kdutils.grid.local_pool import Death, Engine, StartEngine
from kdutils.grid.machines import DEFAULT, GPUS
from kdutils.grid.progress import Progress, State, duration
from kdutils.grid.study import PlannedRun, with_needs
from kdutils.grid.worker import SILENT, TICK_SECONDS, Outcome, Point, Task, make_run, prepare, set_aside
from kdutils.io import environment, leases
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

IN_LABELS = ("adapter", "learning_rate", "student_build", "optimiser", "first_domain", "penalty")
PATIENCE = 2  # how often one thing is set aside before what needs it counts as failed


@dataclass
class Job:
    """A run that is to be there with its evaluations, and where it stands."""

    spec: RunSpec
    evaluations: tuple[EvalSpec, ...] = ()
    needs: dict[str, str] = field(default_factory=dict)  # ids of runs it waits for -> what they are to it
    is_teacher: bool = False  # of another run
    cost: float = 1.0  # seconds on machines.DEFAULT; only ratios are used, for order and for the time left
    status: str = "waiting"  # | running | found | made | failed
    started: float = 0.0  # when it was submitted, on the monotonic clock
    curve: list[Point] = field(default_factory=list)
    was_silent: bool = False  # once ended since it showed no progress

    @property
    def is_there(self) -> bool:
        return self.status in ("found", "made")

    @property
    def place(self) -> tuple[int, float]:
        """Sorts what is ready."""
        rank = 0 if self.is_teacher else {"sft": 1, "base": 3}.get(self.spec.method, 2)
        return rank, -self.cost

    @property
    def label(self) -> str:
        """The run in a few words, such as `fkl mini-qwen-1.5B <- mini-qwen-14B math s0`."""
        spec, parts = self.spec, [self.spec.named_method, short_name(self.spec.student)]
        if spec.teacher:
            parts += ["<-", short_name(spec.teacher), *["untuned"] * (not spec.teacher_tuned)]
        parts += ["prompt in loss"] * bool(spec.prompt_in_loss)
        parts += ["mean by sequence"] * bool(spec.mean_by_sequence)
        parts += [f"KD weight {spec.kd_weight:g}"] * (spec.kd_weight != 1)
        parts += [f"frozen {spec.frozen}"] * bool(spec.frozen) + ["after SFT"] * (spec.student_start == "sft")
        parts += [f"{name} {value}" for name, value in spec.changes().items() if name in IN_LABELS]
        parts += [f"T={spec.temperature:g}"] * (spec.temperature != 1)
        parts += [f"noise={spec.noise_sigma:g}"] * (spec.noise_sigma != 0)
        return " ".join([*parts, spec.domain, f"s{spec.seed}"])


def jobs_of(planned: Iterable[PlannedRun]) -> dict[str, Job]:
    """run_id -> job of every run that is planned and of every run that these need, in their order.

    Raises:
        DataError, ModelError: if a file is missing, whose digest is part of a run's id.
    """
    planned, jobs = list(planned), {}
    for run, spec in zip(planned, sources.resolved_all(run.spec for run in planned), strict=True):
        for role, each in with_needs(spec):
            if each.run_id in jobs and (role == "start" or role == "teacher" and not run.beside_teacher):
                continue  # every run is made with an evaluation, a teacher with those of its students
            job = jobs.setdefault(each.run_id, Job(each))
            if each.devices > job.spec.devices:
                job.spec = each
            if run.evaluation not in job.evaluations:
                job.evaluations += (run.evaluation,)
    for job in list(jobs.values()):
        job.needs = {each.run_id: role for role, each in job.spec.needs.items()}
        if own := job.spec.teacher_spec:
            jobs[own.run_id].is_teacher = True
    with contextlib.suppress(ValueError):  # the shape of a model is not known: equal costs
        own = {run_id: cost.Estimate(job.spec, GPUS[DEFAULT]) for run_id, job in jobs.items()}
        for run_id, job in jobs.items():
            parts = own[run_id].training(), *map(own[run_id].evaluation, job.evaluations)
            job.cost = sum(part.seconds for part in parts)
    return jobs


@dataclass(frozen=True)
class Shard:
    """A part of a plan for one of many callers: shard 2/8 is the second of eight, counted from 1.

    Which shard a run is in depends on the plan alone, so callers may begin at different times. A teacher that
    two of them need is made by the one that takes its lease, and the other waits.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            last = max(1, self.count)
            raise ValueError(f"shard {self} is not there; give one from 1/{last} to {last}/{last}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that `text` names, such as 2/8.

        Raises:
            ValueError: if it is none.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise ValueError(f"shard {text!r} is not I/N; give for example 2/8, the second of eight")
        return cls(int(match[1]), int(match[2]))

    def own(self, jobs: Mapping[str, Job]) -> list[str]:
        """Ids of the runs that are this shard's alone: dealt in turn, the most expensive first."""
        dealt = sorted(jobs, key=lambda run_id: (*jobs[run_id].place, run_id))
        mine = set(dealt[self.index - 1 :: self.count])
        return [run_id for run_id in jobs if run_id in mine]

    def jobs(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """The runs of this shard, and those that they need."""
        own = self.own(jobs)
        needed = {*own, *(needed for run_id in own for needed in jobs[run_id].needs)}
        return {run_id: job for run_id, job in jobs.items() if run_id in needed}


class Scheduler:
    """One call of `fill`: the status of every job, and what is submitted next.

    A run that shows no progress for `silence_seconds` is ended, submitted once more, and then fails.
    """

    def __init__(
        self, jobs: dict[str, Job], out: Path, progress: Progress, *, silence_seconds: float | None = None
    ) -> None:
        self._jobs, self._out, self._progress, self._silence_seconds = jobs, out, progress, silence_seconds
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
            for run_id in self._with["waiting"]:
                self._queue(run_id)
            self._progress(self.state())
            while self.has_work or self._with["running"]:
                self._submit_ready(engine)
                waits = self._with["running"] or self._held
                for run_id, outcome in engine.results(TICK_SECONDS if waits else 0):
                    self._record(run_id, outcome)
                    self._progress(self.state())
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
