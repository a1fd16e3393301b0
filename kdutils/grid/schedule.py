"""The jobs of a plan: one a run, which other it depends on, how much work it is; shards of them.

A distilled run waits for the SFT run of its teacher and for nothing else. Among those that are ready,
teachers come first, then the other SFT runs, then distilled ones, then base models, which nothing waits for;
the expensive first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from kdutils.data import model_files, sources
from kdutils.grid import cost
from kdutils.grid.cell_table import short_name
from kdutils.grid.machines import DEFAULT, GPUS
from kdutils.spec import EvalSpec, PlannedRun, RunSpec


@dataclass(frozen=True)
class Job:
    """A run that is to be there, with its evaluations."""

    spec: RunSpec
    evaluations: tuple[EvalSpec, ...]
    teacher: str | None  # id of the run that makes its teacher
    is_teacher: bool  # other runs wait for it
    cost: float  # seconds on machines.DEFAULT; only ratios are used, for order and for the time left

    @property
    def place(self) -> tuple[int, float]:
        """Sorts what is ready."""
        rank = 0 if self.is_teacher else {"sft": 1, "base": 3}.get(self.spec.method, 2)
        return rank, -self.cost

    @property
    def label(self) -> str:
        """The run in a few words, such as `fkl mini-qwen-105k <- mini-qwen-493k math s0`."""
        spec, parts = self.spec, [self.spec.method, short_name(self.spec.student)]
        if spec.teacher:
            parts += ["<-", short_name(spec.teacher), *["untuned"] * (not spec.teacher_tuned)]
        parts += ["prompt in loss"] * bool(spec.prompt_in_loss)
        parts += ["mean by sequence"] * bool(spec.mean_by_sequence)
        parts += [f"T={spec.temperature:g}"] * (spec.temperature != 1)
        parts += [f"noise={spec.noise_sigma:g}"] * (spec.noise_sigma != 0)
        return " ".join([*parts, spec.domain, f"s{spec.seed}"])


def jobs_of(planned: Iterable[PlannedRun]) -> dict[str, Job]:
    """run_id -> job of every run that is planned and of every teacher that these need, in their order.

    Raises:
        DataError, ModelError: if a file is missing, whose digest is part of a run's id.
    """
    specs: dict[str, RunSpec] = {}
    evaluations: dict[str, dict[EvalSpec, None]] = {}  # as an ordered set
    teachers: dict[str, str] = {}  # of the run -> id of its teacher's
    planned = list(planned)
    for run, spec in zip(planned, sources.resolved_all(run.spec for run in planned), strict=True):
        needed = [spec]
        if own := spec.teacher_spec:
            teachers[spec.run_id] = own.run_id
            if run.beside_teacher or own.run_id not in specs:  # every run is made with an evaluation
                needed = [own, spec]  # evaluated like its students, which are compared with it
        for each in needed:
            if each.run_id not in specs or each.devices > specs[each.run_id].devices:
                specs[each.run_id] = each
            evaluations.setdefault(each.run_id, {})[run.evaluation] = None
    needed_by = set(teachers.values())
    asked = {run_id: tuple(evaluations[run_id]) for run_id in specs}
    try:
        prices = {run_id: cost.priced(specs[run_id], asked[run_id], GPUS[DEFAULT]) for run_id in specs}
        seconds = {run_id: (own.training + own.evaluation).seconds for run_id, own in prices.items()}
    except model_files.ModelError:  # the shape of a model is not known: all runs count alike
        seconds = dict.fromkeys(specs, 1.0)
    return {
        run_id: Job(spec, asked[run_id], teachers.get(run_id), run_id in needed_by, seconds[run_id])
        for run_id, spec in specs.items()
    }


@dataclass(frozen=True)
class Shard:
    """A part of a plan for one of many callers: shard 2/8 is the second of eight, counted from 1.

    Which shard a run is in depends on the plan alone and not on what is there, so callers may begin at
    different times. Together they make everything; a teacher that two of them need is made by the one that
    takes its lease, and the other waits.
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
        """Ids of the runs that are this shard's alone, in their order.

        Jobs are dealt in turn, the most expensive first, so that shards take about equally long.
        """
        dealt = sorted(jobs, key=lambda run_id: (*jobs[run_id].place, run_id))
        mine = set(dealt[self.index - 1 :: self.count])
        return [run_id for run_id in jobs if run_id in mine]

    def jobs(self, jobs: Mapping[str, Job]) -> dict[str, Job]:
        """The runs of this shard, and the teachers that they need."""
        own = self.own(jobs)
        needed = {*own, *(jobs[run_id].teacher for run_id in own)}
        return {run_id: job for run_id, job in jobs.items() if run_id in needed}
