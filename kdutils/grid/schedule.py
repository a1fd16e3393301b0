"""What a plan of runs comes to: one job a run, after which other, and how much work it is.

A distilled run waits for the SFT run of its teacher and for nothing else. Among those that are ready,
teachers come first, then the other SFT runs, then distilled ones, then base models, which nothing waits for;
the expensive first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdutils.data import sources
from kdutils.grid import cell_table
from kdutils.spec import LOGIT_METHODS, EvalSpec, PlannedRun, RunSpec

# Both measured on the mini family, one thread of a CPU.
OVERHEAD_PARAMETERS = 70_000  # a model costs as if it were larger by so much
DECODING = 5  # a token that is decoded costs as many forward passes
UNKNOWN_PARAMETERS = 1_000_000_000  # of a model whose name does not tell


@dataclass(frozen=True)
class Job:
    """A run that is to be there, with its evaluations."""

    spec: RunSpec
    evaluations: tuple[EvalSpec, ...]
    teacher: str | None  # id of the run that makes its teacher
    is_teacher: bool  # other runs wait for it
    cost: float  # relative, see `cost_of`

    @property
    def place(self) -> tuple[int, float]:
        """Sorts what is ready."""
        rank = 0 if self.is_teacher else {"sft": 1, "base": 3}.get(self.spec.method, 2)
        return rank, -self.cost

    @property
    def label(self) -> str:
        """The run in a few words, such as `fkl mini-qwen-105k <- mini-qwen-493k math s0`."""
        spec, parts = self.spec, [self.spec.method, _short(self.spec.student)]
        if spec.teacher:
            parts += ["<-", _short(spec.teacher), *["untuned"] * (not spec.teacher_tuned)]
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
        if own := spec.teacher_spec():
            teachers[spec.run_id] = own.run_id
            if run.beside_teacher or own.run_id not in specs:  # every run is made with an evaluation
                needed = [own, spec]  # evaluated like its students, which are compared with it
        for each in needed:
            if each.run_id not in specs or each.devices > specs[each.run_id].devices:
                specs[each.run_id] = each
            evaluations.setdefault(each.run_id, {})[run.evaluation] = None
    needed_by = set(teachers.values())
    return {
        run_id: Job(
            spec,
            tuple(evaluations[run_id]),
            teachers.get(run_id),
            run_id in needed_by,
            cost_of(spec, tuple(evaluations[run_id])),
        )
        for run_id, spec in specs.items()
    }


def cost_of(spec: RunSpec, evaluations: Iterable[EvalSpec]) -> float:
    """How much work a run is, in tokens x parameters; good for order and for a guess at the time left.

    A token costs its model's parameters once forward, twice backward, and `DECODING` times when decoded.
    Every student with `seqkd` is charged for the teacher's texts, although the first one writes them.
    """
    student = _parameters(spec.student)
    teacher = _parameters(spec.teacher) if spec.teacher else 0.0
    cost = sum(_decoded_tokens(evaluation) * DECODING * student for evaluation in evaluations)
    if spec.method == "base":
        return cost
    n_rows = spec.train_items * spec.epochs
    cost += n_rows * spec.max_tokens * 3 * student
    if spec.method in LOGIT_METHODS:
        cost += n_rows * spec.max_tokens * teacher
    if spec.method == "gkd":
        cost += n_rows * spec.on_policy_share * spec.max_new_tokens * DECODING * student
    if spec.method == "seqkd":
        cost += spec.train_items * spec.max_new_tokens * DECODING * teacher
    return cost


def _decoded_tokens(evaluation: EvalSpec) -> int:
    n_items = len(evaluation.tasks) * evaluation.items_per_task
    return n_items * evaluation.samples * evaluation.max_new_tokens


@cache
def _parameters(name: str) -> float:
    try:
        return cell_table.model_parameters(_short(name)) + OVERHEAD_PARAMETERS
    except ValueError:
        return UNKNOWN_PARAMETERS


def _short(name: str) -> str:
    return Path(name).name.removesuffix(".gguf")
