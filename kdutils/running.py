"""One run from items to scored, stored answers: `run(spec)`.

What is already in the store is not done again; the teacher of a run is a run of its own, made on demand and
shared by all its students.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils import data, environment, evaluate, generate, models, runs, store, train
from kdutils.items import Item, fingerprint
from kdutils.models import LoadedModel
from kdutils.runs import RunFolder
from kdutils.runspec import EvalSpec, RunSpec
from kdutils.teacher import Teacher

NO_LIMIT = 1_000_000  # tokens: what is evaluated is never cut
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
    out: Path | str = store.OUTPUTS,
    evaluation: EvalSpec | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train what `spec` asks for and evaluate it beside its teacher, unless the store has it already.

    A training that was interrupted goes on from its checkpoint. A loss that turns NaN ends a run as a
    recorded outcome (`status` "diverged"), whose student is evaluated as it is.

    Args:
        evaluation: by default greedy decoding on the test items of every task there is.
        progress: called with every entry of the training curve.

    Raises:
        ModelError, DataError, StoreError, ValueError: before any training, for what is wrong with the spec,
            the models, the items or the store.
    """
    out = Path(out).expanduser()
    spec = resolved(spec)
    evaluation = evaluation or default_evaluation(spec)
    check(spec, evaluation)
    folder = runs.folder_of(out, spec.run_id)
    result, rows = folder.result(), folder.evaluation(evaluation)
    if result is None or rows is None:
        folder.begin(spec)
    student: LoadedModel | None = None
    if result is None:
        student = _trained(spec, folder, out, progress)
        result = folder.result()
    if rows is None:
        student = student or load_trained(spec, folder)
        rows = evaluated(student, spec, evaluation, folder)
    return Run(spec, folder, result, rows, _teacher_items(spec, evaluation, out, progress))


def _teacher_items(
    spec: RunSpec, evaluation: EvalSpec, out: Path, progress: Progress | None
) -> pd.DataFrame | None:
    """Item rows of the tuned teacher, made if missing."""
    own = spec.teacher_spec()
    if own is None:
        return None
    folder = runs.folder_of(out, own.run_id)
    rows = folder.evaluation(evaluation)
    if rows is None:
        rows = evaluated(teacher_model(spec, out, progress), own, evaluation, folder)
    return rows


def resolved(spec: RunSpec) -> RunSpec:
    """The spec with the digests of its data and of local models: other files under the same names are
    another run.

    Raises:
        DataError, ModelError: if a file is missing.
    """
    return replace(
        spec,
        data_digest=data.data_digest(spec),
        student_digest=models.files_digest(spec.student),
        teacher_digest=models.files_digest(spec.teacher) if spec.teacher else "",
    )


def default_evaluation(spec: RunSpec) -> EvalSpec:
    """Greedy decoding on the test items of every task that the data have, in the order of their file."""
    tasks = dict.fromkeys(item.task for item in data.load_items(spec, "test"))
    return EvalSpec(tasks=tuple(tasks))


def check(spec: RunSpec, evaluation: EvalSpec) -> None:
    """Everything that can be wrong, found before anything is trained.

    Raises:
        ModelError, DataError: as `run`.
    """
    for name in filter(None, (spec.student, spec.teacher)):
        models.locate(name)
    models.check_pair(spec)
    test_items(spec, evaluation)
    if spec.method == "base":
        return
    for split in ("train", "validation"):
        data.load_items(spec, split)
    tokenizer = models.load_tokenizer(spec.student)
    data.encode(data.load_items(spec, "train"), tokenizer, max_tokens=spec.max_tokens, protocol=spec.protocol)


def test_items(spec: RunSpec, evaluation: EvalSpec) -> list[Item]:
    """The items of an evaluation, `items_per_task` of each of its tasks.

    Raises:
        DataError: if a task has none.
    """
    chosen = []
    pool = data.load_items(spec, evaluation.split, per_task=evaluation.items_per_task)
    for task in evaluation.tasks:
        of_task = [item for item in pool if item.task == task][: evaluation.items_per_task]
        if not of_task:
            there = sorted({item.task for item in pool})
            raise data.DataError(f"no {evaluation.split} items of task {task!r}; there are items of {there}")
        chosen += of_task
    return chosen


def load_trained(spec: RunSpec, folder: RunFolder) -> LoadedModel:
    """The student of a finished run, ready to compute."""
    if spec.method == "base":
        return models.load(spec.student)
    if spec.adapter == "full":
        trained = models.load(str(folder.model))
        return dataclasses.replace(trained, name=spec.student)
    from peft import PeftModel

    base = models.load(spec.student)
    network = PeftModel.from_pretrained(base.network, folder.model).eval()
    return dataclasses.replace(base, network=network)


def teacher_model(spec: RunSpec, out: Path, progress: Progress | None = None) -> LoadedModel:
    """The teacher of a run: the untuned model, or the student of its SFT run, made if missing."""
    own = spec.teacher_spec()
    if own is None:
        return models.load(spec.teacher)
    folder = runs.folder_of(out, own.run_id)
    if folder.result() is None:
        folder.begin(own)
        return _trained(own, folder, out, progress)
    return load_trained(own, folder)


def _trained(spec: RunSpec, folder: RunFolder, out: Path, progress: Progress | None) -> LoadedModel:
    """Train, save, commit."""
    if spec.method == "base":
        folder.finish({"status": "untrained"}, [])
        return models.load(spec.student)
    items, teacher = data.load_items(spec, "train"), None
    if spec.method == "seqkd":
        items = teacher_texts(spec, items, out, progress)
    elif spec.teacher is not None:
        teacher = Teacher(teacher_model(spec, out, progress), spec.noise_sigma, spec.seed)
        teacher.model.network.requires_grad_(False)
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    student = models.add_adapter(student, spec, seed=spec.seed)
    outcome = train.train(
        student,
        items,
        spec,
        rate=models.learning_rate(spec),
        teacher=teacher,
        validation=data.load_items(spec, "validation") if spec.validation_items else (),
        checkpoint=folder.checkpoint,
        progress=progress,
    )
    store.write_model(folder.model, student.network, student.tokenizer)
    facts = asdict(outcome) | {
        "fingerprint": fingerprint(items),
        "learning_rate": models.learning_rate(spec),
        "peak_memory_gb": environment.peak_memory_gb(),
    }
    curve = facts.pop("curve")
    folder.finish(facts, [_finite(entry) for entry in curve])
    return student


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a loss that is none is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


def teacher_texts(
    spec: RunSpec, items: Sequence[Item], out: Path, progress: Progress | None = None
) -> list[Item]:
    """The items with responses that the teacher wrote greedily, generated once and kept under `out`/texts.

    What is kept depends on the teacher and the questions alone, so every student of a teacher shares it.
    Source: Kim & Rush 2016 (arXiv:1606.07947), with greedy decoding for their beam search.
    """
    own = spec.teacher_spec()
    key = {
        "teacher": own.run_id if own else spec.teacher,
        "items": fingerprint(items),
        "max_new_tokens": spec.max_new_tokens,
    }
    path = (
        Path(out)
        / "texts"
        / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.jsonl"
    )
    if not path.is_file():
        teacher = teacher_model(spec, out, progress)
        prompts = data.prompt_ids([item.question for item in items], teacher.tokenizer)
        texts = generate.generate(teacher, prompts, max_new_tokens=spec.max_new_tokens)
        written = generate.decode(teacher, texts)
        lines = [
            json.dumps({"id": item.id, "response": text, "ended": made.ended}, ensure_ascii=False)
            for item, text, made in zip(items, written, texts, strict=True)
        ]
        store.write_text(path, "\n".join(lines) + "\n")
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if [record["id"] for record in kept] != [item.id for item in items]:
        raise runs.StoreError(f"{path} is damaged; delete it and run again")
    return [
        replace(item, response=record["response"], rationale="", ended=record["ended"])
        for item, record in zip(items, kept, strict=True)
    ]


def evaluated(student: LoadedModel, spec: RunSpec, evaluation: EvalSpec, folder: RunFolder) -> pd.DataFrame:
    """Generate, score and keep one evaluation of a student; its item rows."""
    started = time.monotonic()
    items = test_items(spec, evaluation)
    prompts = data.prompt_ids([item.question for item in items], student.tokenizer)
    wanted = [(row, sample) for sample in range(evaluation.samples) for row in range(len(items))]
    texts = generate.generate(
        student,
        [prompts[row] for row, _ in wanted],
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperature,
        keys=[f"{items[row].id}/{sample}" for row, sample in wanted],
        seed=evaluation.seed,
    )
    written = generate.decode(student, texts)
    top1 = generate.top1_tokens(
        student, data.encode(items, student.tokenizer, max_tokens=NO_LIMIT, protocol="careful")
    )
    rows = pd.DataFrame(
        [
            {"run_id": spec.run_id}
            | evaluate.score(
                items[row],
                text,
                n_tokens=len(made.token_ids),
                ended=made.ended,
                sample=sample,
                top1=top1[row],
            )
            for (row, sample), text, made in zip(wanted, written, texts, strict=True)
        ]
    )
    facts = {"seconds": round(time.monotonic() - started, 3), "fingerprint": fingerprint(items)}
    folder.write_evaluation(evaluation, rows, facts)
    return folder.evaluation(evaluation)  # as everybody after us reads it
