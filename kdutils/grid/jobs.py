"""The jobs of a plan, one a run, and shards of them.

A run waits for the SFT run of its teacher, for that which it starts from, and for nothing else.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from kdutils.data import sources
from kdutils.grid import cost
from kdutils.grid.cell_table import short_name
from kdutils.grid.machines import DEFAULT, GPUS
from kdutils.grid.study import PlannedRun, with_needs
from kdutils.grid.worker import Point
from kdutils.spec import EvalSpec, RunSpec

IN_LABELS = ("adapter", "learning_rate", "student_build", "optimiser", "first_domain", "penalty")


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
        estimates = [cost.Estimate(job.spec, GPUS[DEFAULT]) for job in jobs.values()]
        for job, own in zip(jobs.values(), estimates, strict=True):
            job.cost = own.training().seconds + own.evaluations(job.evaluations).seconds
    return jobs


def ids_of(planned: Sequence[PlannedRun]) -> set[str]:
    """Of the runs of a part of a plan, and of those that they need."""
    resolved = sources.resolved_all(run.spec for run in planned)
    return {each.run_id for spec in resolved for _, each in with_needs(spec)}


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
        return dealt[self.index - 1 :: self.count]

    def jobs(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """The runs of this shard, and those that they need."""
        own = self.own(jobs)
        needed = {*own, *(needed for run_id in own for needed in jobs[run_id].needs)}
        return {run_id: job for run_id, job in jobs.items() if run_id in needed}
