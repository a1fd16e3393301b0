"""The items of runs: found, read and named by the digests of their files.

Nothing here computes: without torch, so that what is finished is found quickly.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from kdutils.constants import ALL_TASKS, MINI, STUDY
from kdutils.data import benchmark, contamination, options, study_files
from kdutils.data.item_files import check_response, present, read_items, short_enough
from kdutils.data.model_files import files_digest, locate
from kdutils.io import disk
from kdutils.items import SPLITS, DataError, Item
from kdutils.mini.items import TASKS_OF, build_data, mini_digest
from kdutils.spec import EvalSpec, RunSpec

MINI_TEST_ITEMS = 200  # a task, if the evaluation does not say


def resolved(spec: RunSpec) -> RunSpec:
    """The spec with the digests of its data and of local models: other files under the same names are
    another run.

    Raises:
        DataError, ModelError: if a file is missing.
    """
    return next(resolved_all([spec]))


def resolved_all(specs: Iterable[RunSpec]) -> Iterator[RunSpec]:
    """As `resolved`, for many: files that several share are looked at once.

    Raises:
        DataError, ModelError: if a file is missing.
    """
    of_data: dict[tuple[str, str, str], str] = {}
    of_model: dict[tuple[str | None, str, str], str] = {}
    for spec in specs:
        both = [spec, *[spec.start_spec] * bool(spec.first_domain)]
        keys = [(each.data, each.domain, each.study_file) for each in both]
        for key, each in zip(keys, both, strict=True):
            if key not in of_data:
                of_data[key] = data_digest(each)
        digests = list(dict.fromkeys(of_data[key] for key in keys))
        if len(digests) < len(keys):
            raise DataError(
                f"first_domain={spec.first_domain!r} has the items of {spec.domain!r}: data={spec.data!r} "
                f"has one set for all domains; use one of {[MINI, *benchmark.SOURCES, STUDY]}"
            )
        named = (spec.student, spec.student_source), (spec.teacher, spec.teacher_source)
        models = [(*one, spec.prompt) for one in named]
        for name, source, prompt in set(models) - set(of_model):
            of_model[name, source, prompt] = files_digest(locate(name, source), prompt) if name else ""
        yield _with_digests(spec, spec.apart, "+".join(digests), *(of_model[model] for model in models))


@cache  # a driver asks for the same runs when it plans, reads and counts costs; each knows its id by then
def _with_digests(spec: RunSpec, apart: tuple, data: str, student: str, teacher: str) -> RunSpec:
    """The spec with digests; cached also by the fields that equality leaves out."""
    return replace(spec, data_digest=data, student_digest=student, teacher_digest=teacher)


def data_digest(spec: RunSpec) -> str:
    """16 hexadecimal digits that name the items: of their files, or of what the mini world generates."""
    if spec.data == MINI:
        return mini_digest(spec.domain)
    if spec.data in benchmark.SOURCES:
        return benchmark.digest(spec.data, spec.domain)
    if spec.data == STUDY:
        return _own(spec).digests[0]
    return folder_digest(Path(spec.data))


def _own(spec: RunSpec) -> benchmark.Benchmark:
    return study_files.read(Path(spec.study_file)).benchmark(spec.domain)


def folder_digest(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a data folder's three files."""
    total = hashlib.sha256()
    for split in SPLITS:
        try:
            path = Path(folder).expanduser() / f"{split}.jsonl"
        except RuntimeError as error:
            raise DataError(f"data={str(folder)!r}: {error}; give another folder") from None
        total.update(bytes.fromhex(disk.sha256_once(present(path))))
    return total.hexdigest()[:16]


def load_items(spec: RunSpec, split: str, *, per_task: int | None = None) -> list[Item]:
    """The items of a split that a run uses: the first ones of its file, in their order.

    Benchmark items have no such files; benchmark.Benchmark says which are taken.

    Args:
        per_task: of the mini world, which has as many as are asked for; a file holds what it holds.

    Raises:
        DataError: if the split is unknown or has too few items.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; there are {list(SPLITS)}")
    wanted = {"train": spec.train_items, "validation": spec.validation_items}.get(split)
    if spec.data == MINI:
        if spec.max_item_characters is not None:
            raise DataError("max_item_characters concerns items of files, not data='mini'; leave it out")
        return _mini_items(spec.domain, split, spec.wrong_rationale_share, wanted, per_task)
    limit = spec.max_item_characters
    if spec.data in (STUDY, *benchmark.SOURCES):
        found = _own(spec) if spec.data == STUDY else benchmark.read(spec.data, spec.domain)
        if wanted is None:
            return list(found.test)
        sizes = {"train_items": spec.train_items, "validation_items": spec.validation_items}
        return found.split(**sizes, max_item_characters=limit)[split]
    items = read_items(Path(spec.data).expanduser() / f"{split}.jsonl")
    if wanted is None:
        return items
    kept = short_enough(items, limit)
    if wanted > len(kept):
        remedy = "ask for fewer" if limit is None else f"ask for fewer or raise max_item_characters={limit}"
        raise DataError(f"{split}_items={wanted}, but {spec.data}/{split}.jsonl holds {len(kept)}; {remedy}")
    for item in kept[:wanted]:
        check_response(item, where=f"{spec.data}/{split}.jsonl")
    return kept[:wanted]


@dataclass(frozen=True)
class Splits:
    """The items of a run and of its evaluation, each read at first use and kept."""

    spec: RunSpec
    evaluation: EvalSpec | None

    @property
    def key(self) -> tuple:
        """What decides which items these are."""
        spec = self.spec
        how_many = (spec.train_items, spec.validation_items, spec.max_item_characters)
        first = (spec.first_domain, spec.replay_share) if spec.replay_share else ()
        return (spec.data, spec.study_file, spec.domain, spec.wrong_rationale_share, *how_many, *first)

    @cached_property
    def train(self) -> Sequence[Item]:
        """What is trained on: of its domain, and for replay of the first domain."""
        items = load_items(self.spec, "train")
        if n_replayed := round(self.spec.replay_share * len(items)):
            first = _elsewhere(self.spec, self.spec.first_domain)
            items = items + load_items(replace(first, train_items=n_replayed), "train")
            counts = Counter(item.id for item in items)  # a teacher's states and noise are found by id
            if twice := [name for name, n in counts.items() if n > 1]:
                told = f"replay_share={self.spec.replay_share:g} trains on two items with the id {twice[0]!r}"
                raise DataError(f"{told}: give those of {first.domain!r} other ids")
        return items

    @cached_property
    def validation(self) -> Sequence[Item]:
        """What the validation loss is of; empty if the spec asks for none."""
        return load_items(self.spec, "validation")

    @cached_property
    def test(self) -> Sequence[Item]:
        """What is evaluated, task after task; empty without an evaluation."""
        return test_items(self.spec, self.evaluation) if self.evaluation else ()


@cache
def _mini_items(
    domain: str, split: str, share: float, wanted: int | None, per_task: int | None
) -> list[Item]:
    """Items of the mini world, one of each task in turn; test items task after task."""
    n_tasks = len(TASKS_OF[domain])
    per_task = per_task or (MINI_TEST_ITEMS if wanted is None else math.ceil(wanted / n_tasks))
    try:
        items = build_data(split=split, n_per_task=per_task, domain=domain, wrong_rationale_share=share)
    except ValueError as error:
        raise DataError(f"data='mini': {error}") from None
    if wanted is None:
        return items
    in_turn = [items[task * per_task + i] for i in range(per_task) for task in range(n_tasks)]
    return in_turn[:wanted]


def test_items(spec: RunSpec, evaluation: EvalSpec) -> list[Item]:
    """The items of an evaluation, `items_per_task` of each of its tasks, which may be of another domain.

    A rotation leaves out those of them that no other order suits (options.is_rotatable). Test items of files
    say how their question occurs in what may be trained on; the mini world's never do.

    Raises:
        DataError: if a task has none.
    """
    chosen, pools = [], {}
    for task in evaluation.tasks:
        domain = _domain_of(task, spec)
        if domain not in pools:
            pools[domain] = _pool(spec if domain == spec.domain else _elsewhere(spec, domain), evaluation)
        pool = pools[domain]
        of_task = [item for item in pool if item.task == task][: evaluation.items_per_task]
        if not of_task:
            there = sorted({item.task for item in pool})
            raise DataError(f"no {evaluation.split} items of task {task!r}; there are items of {there}")
        if evaluation.rotation:
            rotatable = filter(options.is_rotatable, of_task)
            of_task = [options.rotated(item, evaluation.rotation) for item in rotatable]
        if evaluation.scoring != "generation":
            for item in of_task:
                options.options(item, evaluation.scoring)  # raises if they cannot be read
        chosen += of_task
    return chosen


def _domain_of(task: str, spec: RunSpec) -> str:
    """Whose items a task's are among; the run's own domain where the data have no other."""
    if spec.data == STUDY:
        study = study_files.read(Path(spec.study_file))
        domains = (name for name in (spec.domain, *study.domains) if task in study.keys_of(name))
        return next(domains, spec.domain)
    return (spec.data in (MINI, *benchmark.SOURCES) and ALL_TASKS[task].domain) or spec.domain


def _elsewhere(spec: RunSpec, domain: str) -> RunSpec:
    """A run whose items are those that this one would have on another domain."""
    names = ("student", "data", "study_file", "train_items", "validation_items", "max_item_characters")
    return RunSpec(method="sft", domain=domain, **{name: getattr(spec, name) for name in names})


def _pool(spec: RunSpec, evaluation: EvalSpec) -> Sequence[Item]:
    """The items of a domain's tasks that an evaluation takes its own from."""
    if spec.data == MINI or evaluation.split != "test":
        return load_items(spec, evaluation.split, per_task=evaluation.items_per_task)
    if spec.data in (STUDY, *benchmark.SOURCES):
        return benchmark.flagged(_own(spec) if spec.data == STUDY else benchmark.read(spec.data, spec.domain))
    trained_on = read_items(Path(spec.data).expanduser() / "train.jsonl")
    return contamination.flagged(load_items(spec, "test"), trained_on)


def default_evaluation(spec: RunSpec) -> EvalSpec:
    """Greedy decoding, up to 96 tokens, of every test item of the data, of the mini world 100 a task.

    Tasks are in the order of their file.
    """
    counts = Counter(item.task for item in load_items(spec, "test"))
    all_items = {} if spec.data == MINI else {"items_per_task": max(counts.values(), default=1)}
    return EvalSpec(tasks=tuple(counts), **all_items)


def with_items_digest(spec: RunSpec, evaluation: EvalSpec) -> EvalSpec:
    """The evaluation with the digest of those items that `data_digest` of a resolved spec does not name."""
    if evaluation.items_digest:
        return evaluation
    domains = {_domain_of(task, spec) for task in evaluation.tasks}
    if spec.data == STUDY:  # data_digest is of what is trained on
        digests = [_own(_elsewhere(spec, domain)).digests[1] for domain in sorted(domains)]
    else:
        digests = [data_digest(_elsewhere(spec, domain)) for domain in sorted(domains - {spec.domain})]
    return replace(evaluation, items_digest="+".join(digests))
