"""What a run asks for, resolved and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from kdutils import data, models
from kdutils.items import Item
from kdutils.runspec import EvalSpec, PlannedRun, RunSpec


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
        ModelError, DataError: naming what is wrong and the remedy.
    """
    check_all([PlannedRun(spec, evaluation)])


def check_all(planned: Iterable[PlannedRun]) -> None:
    """As `check`, for many runs: what several share is checked once.

    Raises:
        ModelError, DataError: as `check`.
    """
    planned = list(planned)
    for name in dict.fromkeys(name for run in planned for name in (run.spec.student, run.spec.teacher)):
        if name is not None:
            models.locate(name)
    pairs = {(run.spec.student, run.spec.teacher, run.spec.method != "seqkd"): run.spec for run in planned}
    for spec in pairs.values():
        models.check_pair(spec)
    for run in {(_items_key(run.spec), run.evaluation): run for run in planned}.values():
        test_items(run.spec, run.evaluation)
    trained = [run.spec for run in planned if run.spec.method != "base"]
    for spec in {_items_key(spec): spec for spec in trained}.values():
        data.load_items(spec, "validation")
    tokenizers = {name: models.load_tokenizer(name) for name in dict.fromkeys(s.student for s in trained)}
    alike = {name: _tokenizer_key(name, tokenizer) for name, tokenizer in tokenizers.items()}
    encoded = {(_items_key(s), alike[s.student], s.max_tokens, s.protocol): s for s in trained}
    for spec in encoded.values():
        items, tokenizer = data.load_items(spec, "train"), tokenizers[spec.student]
        data.encode(items, tokenizer, max_tokens=spec.max_tokens, protocol=spec.protocol)


def _tokenizer_key(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """Equal for tokenizers that give equal tokens, as those of one family do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # the few that are written in Python have none
    return backend.to_str() if backend else name, tokenizer.eos_token


def _items_key(spec: RunSpec) -> tuple:
    """What decides which items a run has."""
    return (spec.data, spec.domain, spec.wrong_rationale_share, spec.train_items, spec.validation_items)


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
