"""One run from items to scored, stored answers: `run(spec)`.

What is already in the store is not done again; the teacher of a run, and the SFT that it may start from, are
runs of their own, made on demand and shared. Whatever is made is made under a lease, so that no two processes
make it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils import models, training
from kdutils.adapters import facts, side_network, trainable
from kdutils.compute import Compute
from kdutils.data import model_files
from kdutils.data.sources import default_evaluation, resolved, with_items_digest
from kdutils.devices import launch
from kdutils.io import disk, leases, memory
from kdutils.io.leases import Lease
from kdutils.items import fingerprint
from kdutils.models import LoadedModel
from kdutils.runs import answers, comparison, model_card, several_devices, store
from kdutils.runs.inputs import Inputs, check
from kdutils.runs.store import Progress, RunFolder, Store
from kdutils.runs.students import effective_rank, student_to_train
from kdutils.runs.teacher_outputs import keeps_states, made_states, teacher_signal, training_items
from kdutils.runs.trackers import Tracking
from kdutils.spec import EvalSpec, RunSpec

# Of a CPU, see encoding.Batch.passes.
LARGE_CPU_ROWS = 2  # sequences in a pass of a large model: as fast as more, and a third of the memory
PASS_SECONDS = 2.0e-3  # of a tiny model on one thread, whatever is in the pass: some 100 small operations
TOKEN_SECONDS, TOKEN_PARAMETER_SECONDS = 1.5e-6, 1.05e-10  # and of each token in it; at 0.04M to 0.5M


@dataclass(frozen=True)
class Run:
    """A finished run: what was asked, where it lies, what came out."""

    spec: RunSpec
    folder: RunFolder
    result: dict[str, Any]
    items: pd.DataFrame  # one row a task x item x sample, see data.evaluate.score
    teacher_items: pd.DataFrame | None  # the tuned teacher's, on the same items; None without one

    @property
    def accuracies(self) -> pd.DataFrame:
        """Accuracy by task, percent, with standard errors and the chance level."""
        return comparison.accuracies(self.items)

    @property
    def agreement(self) -> pd.DataFrame | None:
        """Agreement with the tuned teacher by task (columns of comparison.agreement), None without one."""
        if self.teacher_items is None:
            return None
        by_task = comparison.paired(self.items, self.teacher_items).groupby("task", sort=False)
        return pd.DataFrame([{"task": task} | comparison.agreement(part) for task, part in by_task])

    def export(self, to: Path | str) -> list[Path]:
        """Write every evaluation of the run for other programs (kdutils.runs.exports); returns the files."""
        from kdutils.runs import exports

        return exports.export(self.folder, Path(to))


def run(
    spec: RunSpec,
    *,
    out: Path | str = disk.OUTPUTS,
    evaluation: EvalSpec | None = None,
    progress: Progress | None = None,
    compute: Compute | None = None,
    trackers: Sequence[str] = (),
) -> Run:
    """Train what `spec` asks for and evaluate it beside its teacher, unless the store has it already.

    A training that was interrupted goes on from its checkpoint. What another process is making is waited
    for. A loss that turns NaN ends a run as a recorded outcome (`status` "diverged"), whose student is
    evaluated as it is.

    Args:
        evaluation: by default greedy decoding, up to 96 tokens, of all test items (mini: 100 a task).
        progress: called with every entry of the training curve.
        compute: device, compilation and the like; by default as the environment says.
        trackers: names of trackers.TRACKERS that show the curves and accuracies of run and teacher.

    Raises:
        ModelError, DataError, StoreError, ValueError: before any training, for what is wrong with the spec,
            the models, the items, the store or the trackers.
        TypeError: for an argument that is none of what it must be.
        LostError: if this process was silent for so long that another has taken the run over.
    """
    for name, value, kind in (("spec", spec, RunSpec), ("evaluation", evaluation, EvalSpec)):
        if not isinstance(value, kind) and (value is not None or kind is RunSpec):
            raise TypeError(f"{name} is {type(value).__name__}: make one by {kind.__name__}(...)")
    if not isinstance(compute, Compute | None):
        raise TypeError(f"compute is {type(compute).__name__}: give a kdutils.compute.Compute(...)")
    if not (progress is None or callable(progress)):
        raise TypeError(f"progress={progress!r} cannot be called: give a function of one entry of the curve")
    out = Path(out).expanduser()
    with Tracking(trackers, out, progress) as tracking:
        at = Store(out, tracking.progress, compute=compute or Compute.from_environment())
        launch.check_devices(spec, at.compute)
        spec = resolved(spec)
        inputs = Inputs.of(spec, with_items_digest(spec, evaluation or default_evaluation(spec)))
        check(inputs)
        _make([inputs], at)
        teacher_items = None
        if teacher := spec.teacher_spec:
            _make([inputs.of_run(teacher, inputs.evaluation)], at)
            teacher_items = at.folder(teacher.run_id).evaluation(inputs.evaluation)
            tracking.conclude(teacher, teacher_items)
        folder = at.folder(spec.run_id)
        items = folder.evaluation(inputs.evaluation)
        tracking.conclude(spec, items)
    return Run(spec, folder, folder.result(), items, teacher_items)


def make(
    spec: RunSpec,
    evaluations: Sequence[EvalSpec],
    out: Path,
    *,
    progress: Progress | None = None,
    waits: bool = True,
    evaluated: Callable[[], None] = lambda: None,
) -> bool:
    """Train and evaluate what is not there, for a spec that is resolved and checked; False if all was.

    Args:
        evaluations: none to train only. The student is loaded once for all.
        waits: for another process that is making what is needed.
        evaluated: called after each evaluation, or those that are made together.

    Raises:
        HeldError: if another process is making it and we do not wait.
        DamagedError: for something in the store that is not what was written.
    """
    at = Store(out, progress, waits, Compute.from_environment())
    return _make([Inputs.of(spec, each) for each in dict.fromkeys(evaluations) or (None,)], at, evaluated)


def _make(asked: Sequence[Inputs], at: Store, evaluated: Callable[[], None] = lambda: None) -> bool:
    """As `make`, for the inputs of one run with each of its evaluations."""
    inputs = asked[0]
    folder = at.folder(inputs.spec.run_id)
    with at.lease(inputs.spec.run_id, lambda: all(folder.is_whole(x.evaluation) for x in asked)) as lease:
        if lease is None:
            return False
        try:
            with memory.keeping_freed_memory():
                is_trained = folder.result() is not None
                if not is_trained:
                    folder.begin(inputs.spec.to_dict(), {"cpu_bfloat16": at.compute.uses_bfloat16("cpu")})
                folder.forget_failure()
                student = None if is_trained else _train(inputs, folder, lease, at)
                missing = [x for x in asked if x.evaluation and not folder.has_evaluation(x.evaluation)]
                for group in answers.together(missing):
                    student = answers.evaluate(student, group, folder, lease, at)
                    evaluated()
                model_card.write(inputs, folder)
        except (leases.HeldError, leases.LostError, store.DamagedError):
            raise  # these say nothing about the run
        except Exception as error:
            with contextlib.suppress(OSError):  # a folder that cannot be written is why it failed
                folder.record_failure(reason_of(error), error)
            raise
    return True


def reason_of(error: Exception) -> str:
    """Why a run failed, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _train(inputs: Inputs, folder: RunFolder, lease: Lease, at: Store) -> LoadedModel | None:
    """Train, save, commit; the student, unless it may not fit one device."""
    spec = inputs.spec
    if spec.method == "base":
        folder.finish({"status": "untrained"}, [])
        if spec.devices > 1:
            return None
        return models.load(inputs.student, tokenizer=inputs.tokenizer, compute=at.compute)
    for needed in spec.needs.values():
        _make([inputs.of_run(needed)], at)
    items = training_items(inputs, at)

    def watched(entry: dict[str, Any]) -> None:
        lease.check()
        if at.progress:
            at.progress(entry | {"run_id": spec.run_id})

    if spec.devices > 1:
        for needed in spec.needs.values():  # damage is found here, where it can be set aside
            at.folder(needed.run_id).check_model()
        if spec.recipe.divergence and keeps_states(spec, at.compute):
            made_states(inputs, at).open()
        student, outcome, held = several_devices.trained(inputs, folder, at, watched)
    else:
        with memory.peak_memory(at.compute.device) as held:
            teacher = teacher_signal(inputs, at) if spec.recipe.divergence else None
            student = student_to_train(inputs, at)
            outcome = training.train(
                student,
                items,
                spec,
                rate=spec.peak_rate,
                teacher=teacher,
                validation=inputs.items.validation,
                checkpoint=folder.checkpoint,
                progress=watched,
                compute=passes(student, inputs, at.compute),
            )
    told = asdict(outcome) | facts.of_training(student, outcome.steps)
    student = side_network.detached(student) if spec.detached else student
    adapted = getattr(student.network, "peft_config", None)
    if adapted and (hub_id := model_card.hub_id(spec.student)):
        adapted["default"].base_model_name_or_path = hub_id  # not where it was read from here
    lease.confirm()
    student.causal.config.eos_token_id = student.tokenizer.eos_token_id  # where others' `generate` ends
    disk.write_model(folder.model, trainable.stored(student), student.tokenizer)
    told |= {
        "fingerprint": fingerprint(items),
        "learning_rate": spec.peak_rate,
        "peak_memory_gb": round(held["peak_gb"], 3),
        **facts.of_storage(student, folder.model),
        "effective_rank": effective_rank(student, inputs, folder, at),
    }
    curve = told.pop("curve")
    lease.confirm()
    folder.finish(told, [_without_nan(entry) for entry in curve])
    is_rounded = spec.adapter == "full" and student.policy.autocast is not None  # when it is stored
    return None if is_rounded or spec.devices > 1 else trainable.for_inference(student)


def passes(student: LoadedModel, inputs: Inputs, compute: Compute) -> Compute:
    """How batches are cut on a CPU where `compute` leaves it open; elsewhere in as few passes as fit."""
    if student.policy.device != "cpu":
        return compute
    if model_files.is_large(inputs.student):
        rows = compute.micro_batch_rows or min(LARGE_CPU_ROWS, inputs.spec.batch_size)
        return replace(compute, micro_batch_rows=rows)
    if compute.pass_tokens is not None:
        return compute
    token_seconds = TOKEN_SECONDS + TOKEN_PARAMETER_SECONDS * student.network.num_parameters()
    return replace(compute, pass_tokens=round(PASS_SECONDS / token_seconds))


def _without_nan(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with null for numbers that JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }
