"""One run from items to scored, stored answers: `run(spec)`.

What is already in the store is not done again; the teacher of a run is a run of its own, made on demand and
shared by all its students. Whatever is made is made under a lease, so that no two processes make it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from kdutils import answers, encoding, evaluate, generation, models, store, teacher, texts, training
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.data.sources import default_evaluation, load_items, resolved
from kdutils.devices import launch
from kdutils.io import disk, environment, leases
from kdutils.io.leases import Lease
from kdutils.items import PROMPT, Item, fingerprint
from kdutils.models import LoadedModel
from kdutils.preflight import check
from kdutils.process_group import ALONE, World
from kdutils.spec import EvalSpec, RunSpec
from kdutils.store import RunFolder
from kdutils.teacher import CachedTeacher, Teacher

# On a CPU a batch goes through the model in passes of like length (train, Batch.passes).
LARGE_CPU_ROWS = 2  # as fast as more, and a third of the memory
PASS_SECONDS = 2.0e-3  # of a tiny model on one thread, whatever is in the pass: some 100 small operations
TOKEN_SECONDS, TOKEN_PARAMETER_SECONDS = 1.5e-6, 1.05e-10  # and of each token in it; measured at 36k to 493k
LOOK_AGAIN_SECONDS = 1.0  # while another process makes what we need
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """A finished run: what was asked, where it lies, what came out."""

    spec: RunSpec
    folder: RunFolder
    result: dict[str, Any]
    items: pd.DataFrame  # one row a task x item x sample, see evaluate.score
    teacher_items: pd.DataFrame | None  # the tuned teacher's, on the same items; None without one

    @property
    def accuracies(self) -> pd.DataFrame:
        """Accuracy by task, percent, with standard errors and the chance level."""
        return evaluate.accuracies(self.items)

    @property
    def agreement(self) -> pd.DataFrame | None:
        """Agreement with the tuned teacher by task (columns of evaluate.agreement), None without one."""
        if self.teacher_items is None:
            return None
        both = evaluate.paired(self.items, self.teacher_items)
        return pd.DataFrame(
            [{"task": task} | evaluate.agreement(part) for task, part in both.groupby("task", sort=False)]
        )


def run(
    spec: RunSpec,
    *,
    out: Path | str = disk.OUTPUTS,
    evaluation: EvalSpec | None = None,
    progress: Progress | None = None,
    compute: Compute | None = None,
) -> Run:
    """Train what `spec` asks for and evaluate it beside its teacher, unless the store has it already.

    A training that was interrupted goes on from its checkpoint. What another process is making is waited
    for. A loss that turns NaN ends a run as a recorded outcome (`status` "diverged"), whose student is
    evaluated as it is.

    Args:
        evaluation: by default greedy decoding on the test items of every task there is.
        progress: called with every entry of the training curve.
        compute: device, compilation and the like; by default as the environment says.

    Raises:
        ModelError, DataError, StoreError, ValueError: before any training, for what is wrong with the spec,
            the models, the items or the store.
        LostError: if this process was silent for so long that another has taken the run over.
    """
    out = Path(out).expanduser()
    spec = resolved(spec)
    evaluation = evaluation or default_evaluation(spec)
    compute = compute or Compute.from_environment()
    check(spec, evaluation, compute)
    make(spec, evaluation, out, progress=progress, compute=compute)
    folder, teacher_items = store.folder_of(out, spec.run_id), None
    if own := spec.teacher_spec():
        make(own, evaluation, out, progress=progress, compute=compute)
        teacher_items = store.folder_of(out, own.run_id).evaluation(evaluation)
    return Run(spec, folder, folder.result(), folder.evaluation(evaluation), teacher_items)


def make(
    spec: RunSpec,
    evaluation: EvalSpec | None,
    out: Path,
    *,
    progress: Progress | None = None,
    waits: bool = True,
    compute: Compute | None = None,
) -> bool:
    """Train and evaluate what is not there, for a spec that is resolved and checked; False if all was.

    Args:
        evaluation: None to train only.
        waits: for another process that is making what is needed.
        compute: as in `run`.

    Raises:
        HeldError: if another process is making it and we do not wait.
        DamagedError: for something in the store that is not what was written.
    """
    compute = compute or Compute.from_environment()
    folder = store.folder_of(out, spec.run_id)
    is_there = partial(folder.is_whole, evaluation)
    with _turn(out, spec.run_id, is_there, progress=progress, waits=waits) as own:
        if own is None:
            return False
        try:
            with environment.keeping_freed_memory():
                _make(spec, evaluation, folder, own, progress, waits, compute)
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


@contextlib.contextmanager
def _turn(
    out: Path, name: str, is_there: Callable[[], bool], *, progress: Progress | None, waits: bool
) -> Iterator[Lease | None]:
    """The lease on what is to be made, or None once it is there.

    Raises:
        HeldError: if another process holds it and we do not wait.
    """
    has_told = False
    while not is_there():
        try:
            own = leases.take(out, name)
        except leases.HeldError as error:
            if not waits:
                raise
            if progress and not has_told:
                progress({"warning": str(error)})
            has_told = True
            time.sleep(LOOK_AGAIN_SECONDS)
            continue
        except OSError as error:
            raise store.unwritable(out, error) from error
        with own:
            yield None if is_there() else own  # it may have been finished just before we took the lease
        return
    yield None


def _make(
    spec: RunSpec,
    evaluation: EvalSpec | None,
    folder: RunFolder,
    own: Lease,
    progress: Progress | None,
    waits: bool,
    compute: Compute,
) -> None:
    is_trained = folder.result() is not None
    if not is_trained:
        folder.begin(spec)
    folder.forget_failure()
    student = None if is_trained else _trained(spec, folder, own, progress, waits, compute)
    if evaluation is not None and not folder.has_evaluation(evaluation):
        environment.give_back_memory()  # of the training
        rows, facts = _item_rows(student, spec, folder, evaluation, compute)
        own.confirm()
        folder.write_evaluation(evaluation, rows, facts)


def _item_rows(
    student: LoadedModel | None,
    spec: RunSpec,
    folder: RunFolder,
    evaluation: EvalSpec,
    compute: Compute,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """As `answers.item_rows`: by one device, which is faster, or where it has not the room by all."""
    try:
        return answers.item_rows(student or load_trained(spec, folder, compute=compute), spec, evaluation)
    except (MemoryError, RuntimeError) as error:
        if spec.devices == 1 or not training.is_out_of_memory(error):
            raise
    gc.collect()  # what was loaded of the student
    environment.give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with _scratch(folder) as scratch:
        task = {"what": "evaluation", "evaluation": evaluation.to_dict()}
        facts = _together(task, spec, folder.path.parent.parent, scratch, compute)
        return pd.read_parquet(scratch / launch.ROWS), facts


def load_trained(
    spec: RunSpec, folder: RunFolder, *, compute: Compute | None = None, stays_in_memory: bool = False
) -> LoadedModel:
    """The student of a finished run, ready to compute; `stays_in_memory` as in models.load.

    Raises:
        DamagedError: if its weights are not what was written.
    """
    how = {"compute": compute or Compute.from_environment(), "stays_in_memory": stays_in_memory}
    if spec.method == "base":
        return models.load(spec.student, **how)
    folder.check_model()
    try:
        if spec.adapter == "full":
            return dataclasses.replace(models.load(str(folder.model), **how), name=spec.student)
        from peft import PeftModel

        base = models.load(spec.student, **how)
        network = PeftModel.from_pretrained(base.network, folder.model).eval()
        return dataclasses.replace(base, network=network)
    except (OSError, ValueError, SafetensorError) as error:  # of a folder without a record of its files
        raise store.DamagedError(folder.model, error, whole=folder.path, name=folder.path.name) from error


def teacher_model(
    spec: RunSpec,
    out: Path,
    progress: Progress | None = None,
    *,
    waits: bool = True,
    compute: Compute | None = None,
    stays_in_memory: bool = False,
) -> LoadedModel:
    """The teacher of a run: the untuned model, or the student of its SFT run, made if missing."""
    own, compute = spec.teacher_spec(), compute or Compute.from_environment()
    if own is None:
        return models.load(spec.teacher, compute=compute, stays_in_memory=stays_in_memory)
    make(own, None, out, progress=progress, waits=waits, compute=compute)
    folder = store.folder_of(out, own.run_id)
    return load_trained(own, folder, compute=compute, stays_in_memory=stays_in_memory)


def _trained(
    spec: RunSpec, folder: RunFolder, own: Lease, progress: Progress | None, waits: bool, compute: Compute
) -> LoadedModel | None:
    """Train, save, commit; the student, unless it may not fit one device."""
    if spec.method == "base":
        folder.finish({"status": "untrained"}, [])
        return models.load(spec.student, compute=compute) if spec.devices == 1 else None
    out = folder.path.parent.parent
    items, signal = load_items(spec, "train"), None
    if spec.method == "seqkd":
        items = teacher_texts(spec, items, out, progress, waits=waits, compute=compute)
    elif spec.devices > 1:  # its processes hold the teacher in parts
        _ready_teacher(spec, items, out, progress, waits, compute)
    elif spec.teacher is not None:
        signal = teacher_signal(spec, items, out, progress, waits=waits, compute=compute)

    def watched(entry: dict[str, Any]) -> None:
        own.check()
        if progress:
            progress(entry)

    if spec.devices > 1:
        student, outcome, peak_memory_gb = _trained_together(spec, folder, watched, compute)
    else:
        student = models.load(spec.student, trains_all=spec.adapter == "full", compute=compute)
        student = models.add_adapter(student, spec, seed=spec.seed)
        outcome = trained(
            student,
            items,
            spec,
            teacher=signal,
            checkpoint=folder.checkpoint,
            progress=watched,
            compute=passes(spec, student, compute),
        )
        peak_memory_gb = environment.peak_memory_gb()
    own.confirm()
    disk.write_model(folder.model, student.network, student.tokenizer)
    facts = asdict(outcome) | {
        "fingerprint": fingerprint(items),
        "learning_rate": models.learning_rate(spec),
        "peak_memory_gb": peak_memory_gb,
    }
    curve = facts.pop("curve")
    own.confirm()
    folder.finish(facts, [_finite(entry) for entry in curve])
    return student if spec.devices == 1 else None


def trained(
    student: LoadedModel,
    items: Sequence[Item],
    spec: RunSpec,
    *,
    teacher: Teacher | None,
    checkpoint: Path,
    progress: Progress | None,
    compute: Compute,
    world: World = ALONE,
) -> training.Outcome:
    """The outcome of `training.train` at the spec's learning rate and with its validation items."""
    return training.train(
        student,
        items,
        spec,
        rate=models.learning_rate(spec),
        teacher=teacher,
        validation=load_items(spec, "validation") if spec.validation_items else (),
        checkpoint=checkpoint,
        progress=progress,
        compute=compute,
        world=world,
    )


def _trained_together(
    spec: RunSpec, folder: RunFolder, watched: Progress, compute: Compute
) -> tuple[LoadedModel, training.Outcome, float]:
    """The student trained on several devices, whole and in main memory; outcome; GB of the largest process.

    A pass that does not fit one of them begins all anew, with half the rows, from the last checkpoint.
    """
    rows = compute.micro_batch_rows
    task = {"what": "training", "checkpoint": str(folder.checkpoint)}
    with _scratch(folder) as scratch:
        while True:
            try:
                own = dataclasses.replace(compute, micro_batch_rows=rows)
                told = _together(task, spec, folder.path.parent.parent, scratch, own, watched)
                break
            except MemoryError as error:
                if rows == 1:
                    raise MemoryError(training.no_room(spec, error)) from error
                rows = math.ceil((rows or math.ceil(spec.batch_size / spec.devices)) / 2)
        student = models.load(
            spec.student, trains_all=spec.adapter == "full", compute=compute, stays_in_memory=True
        )
        student = models.add_adapter(student, spec, seed=spec.seed)
        weights = load_file(scratch / launch.WEIGHTS)
        with torch.no_grad():
            for name, w in student.network.named_parameters():
                if w.requires_grad:
                    w.copy_(weights[name])
    return student, training.Outcome(**told["outcome"]), told["peak_memory_gb"]


def _together(
    task: dict[str, Any],
    spec: RunSpec,
    out: Path,
    scratch: Path,
    compute: Compute,
    progress: Progress = lambda entry: None,
) -> dict[str, Any]:
    """What the processes of a run say when they have done a task (kdutils.devices.worker)."""
    task = task | {"spec": spec.to_dict(), "out": str(out), "compute": asdict(compute)}
    n_threads = torch.get_num_threads()
    return launch.run(task, n_ranks=spec.devices, scratch=scratch, progress=progress, n_threads=n_threads)


@contextlib.contextmanager
def _scratch(folder: RunFolder) -> Iterator[Path]:
    """For what processes leave each other; of one that was killed, it goes when the run is begun anew."""
    with tempfile.TemporaryDirectory(prefix=".ranks.", suffix=".partial", dir=folder.path) as name:
        yield Path(name) / "scratch"


def passes(spec: RunSpec, student: LoadedModel, compute: Compute) -> Compute:
    """How batches are cut on a CPU where `compute` leaves it open; elsewhere in as few passes as fit."""
    if student.policy.device != "cpu":
        return compute
    if sources.is_large(spec.student):
        rows = compute.micro_batch_rows or min(LARGE_CPU_ROWS, spec.batch_size)
        return dataclasses.replace(compute, micro_batch_rows=rows)
    if compute.pass_tokens is not None:
        return compute
    token_seconds = TOKEN_SECONDS + TOKEN_PARAMETER_SECONDS * student.network.num_parameters()
    return dataclasses.replace(compute, pass_tokens=round(PASS_SECONDS / token_seconds))


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a loss that is none is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


def teacher_signal(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None = None,
    *,
    waits: bool = True,
    compute: Compute | None = None,
    load: Callable[[], LoadedModel] | None = None,
) -> Teacher:
    """The teacher of a run as its students see it.

    It is asked about the training items once, for all its students (teacher.CachedTeacher), and its body is
    in memory only while one trains on its own samples; without `compute.keeps_teacher_states`, at every step.

    Args:
        load: loads its body; by default whole.
    """
    compute = compute or Compute.from_environment()
    load = load or partial(teacher_model, spec, out, progress, waits=waits, compute=compute)
    if not (compute.keeps_teacher_states and spec.reads_gold):
        model = load()
        model.network.requires_grad_(False)
        return Teacher(model, spec.noise_sigma, spec.seed)
    kept = _kept_states(spec, items, out, progress, waits, compute)
    device = models.policy_for(models.LARGE_PARAMETERS, compute=compute).device
    return CachedTeacher(spec.teacher, kept.open(), load, device, spec.noise_sigma, spec.seed)


def _kept_states(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None,
    waits: bool,
    compute: Compute,
) -> teacher.States:
    """The states of a run's teacher, made if missing, by as many processes as train the run."""
    kept = states_of(spec, items, out, progress, waits=waits, compute=compute)
    with _turn(out, kept.name, kept.are_there, progress=progress, waits=waits) as own:
        if own is None:
            return kept
        if spec.devices > 1:
            with _scratch(store.folder_of(out, spec.run_id)) as scratch:
                own.confirm()
                _together({"what": "states"}, spec, out, scratch, compute)
            return kept
        model = teacher_model(spec, out, progress, waits=waits, compute=compute)
        encoded = encoding.encode(items, model.tokenizer, **spec.encoding)
        own.confirm()
        kept.write(model, encoded)
        del model
        gc.collect()  # its weights, before the student's are loaded
        environment.give_back_memory()
    return kept


def _ready_teacher(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None,
    waits: bool,
    compute: Compute,
) -> None:
    """Make what the processes of a run will find of its teacher, if there is one.

    Raises:
        DamagedError: here, where somebody can set it aside, for what is not what was written.
    """
    if spec.teacher is None:
        return
    if own := spec.teacher_spec():
        make(own, None, out, progress=progress, waits=waits, compute=compute)
        store.folder_of(out, own.run_id).check_model()
    if compute.keeps_teacher_states and spec.reads_gold:
        _kept_states(spec, items, out, progress, waits, compute).open()


def states_of(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None = None,
    *,
    waits: bool = True,
    compute: Compute | None = None,
) -> teacher.States:
    """Where the states of a run's teacher on its items are, or will be; the teacher is made if missing."""
    return teacher.states_of(out, _states_key(spec, items, out, progress, waits, compute))


def _states_key(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None,
    waits: bool,
    compute: Compute | None = None,
) -> dict[str, Any]:
    """All that a teacher's states depend on: its weights, the items, how they become tokens."""
    if own := spec.teacher_spec():
        make(own, None, out, progress=progress, waits=waits, compute=compute)
        weights = store.folder_of(out, own.run_id).result()["sha256"]
        weights = {name: digest for name, digest in weights.items() if name.startswith("model/")}
    else:
        weights = spec.teacher_digest or sources.hub_revision(spec.teacher)
    return {
        "teacher": own.run_id if own else spec.teacher,
        "weights": weights,
        "items": fingerprint(items),
        "prompt": PROMPT,
        **spec.encoding,
    }


def teacher_texts(
    spec: RunSpec,
    items: Sequence[Item],
    out: Path,
    progress: Progress | None = None,
    *,
    waits: bool = True,
    compute: Compute | None = None,
) -> list[Item]:
    """The items with responses that the teacher wrote greedily, generated once and kept under `out`/texts.

    What is kept depends on the teacher and the questions alone, so every student of a teacher shares it.
    Source: Kim & Rush 2016 (arXiv:1606.07947), with greedy decoding for their beam search.
    """
    tuned = spec.teacher_spec()
    kept = texts.texts_of(
        out,
        {
            "teacher": tuned.run_id if tuned else spec.teacher,
            "items": fingerprint(items),
            "max_new_tokens": spec.max_new_tokens,
        },
    )
    with _turn(out, kept.name, kept.path.is_file, progress=progress, waits=waits) as own:
        if own is not None:
            model = teacher_model(spec, out, progress, waits=waits, compute=compute)
            prompts = encoding.prompt_ids([item.question for item in items], model.tokenizer)
            made = generation.generate(model, prompts, max_new_tokens=spec.max_new_tokens)
            own.confirm()
            kept.write(items, generation.decode(model, made), [text.ended for text in made])
    return kept.read(items)
