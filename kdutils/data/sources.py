"""What runs are made of: items and models, found, read and named by the digests of their files.

Nothing here computes: without torch, so that what is finished is found quickly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from kdutils.data import benchmark, contamination, gguf_header
from kdutils.data.packaged_models import PACKAGED_MODELS
from kdutils.gold import with_scorable_answer
from kdutils.io import disk
from kdutils.items import SPLITS, DataError, Item, item_of, json_lines, short_enough
from kdutils.mini.family import MINI_MODELS, MODEL_FOLDER
from kdutils.mini.items import TASKS_OF, build_data, mini_digest
from kdutils.spec import MINI, EvalSpec, RunSpec

MINI_TEST_ITEMS = 200  # a task, if the evaluation does not say
LARGE_MODEL_BYTES = 90_000_000  # SmolLM2-135M in four bits is just above
MODEL_FILES = "KDUTILS_MODELS"  # environment variable: NAME=PATH,NAME=PATH
EXAMPLE_FILE = "Qwen/Qwen2.5-0.5B=/models/qwen2.5-0.5b.gguf"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_NEEDS_MERGING = (  # transformers would apply it when loading, and save it without the model
    "holds a whole model and an adapter (adapter_config.json), so which of the two is meant is not clear: "
    "for the model alone move the adapter's files away, for both merge first with "
    "PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)"
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/(?!\.)[\w.-]*[\w-]", re.ASCII)


class ModelError(ValueError):
    """A model that cannot be used. The message is one line and holds the remedy."""


@dataclass(frozen=True)
class Location:
    """Where a model is read from."""

    name: str  # as it was asked for
    source: str  # folder or hub id, what transformers calls pretrained_model_name_or_path
    gguf_file: str | None = None
    layers: tuple[int, ...] | None = None  # of the GGUF file's decoder, those that are kept; None: all


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
    of_data: dict[tuple[str, str], str] = {}
    of_model: dict[str | None, str] = {None: ""}
    for spec in specs:
        if (key := (spec.data, spec.domain)) not in of_data:
            of_data[key] = data_digest(spec)
        for name in (spec.student, spec.teacher):
            if name not in of_model:
                of_model[name] = files_digest(name)
        digests = of_data[key], of_model[spec.student], of_model[spec.teacher]
        yield _with_digests(spec, spec.devices, *digests)


@cache  # a driver asks for the same runs when it plans, reads and counts costs; each knows its id by then
def _with_digests(spec: RunSpec, devices: int, data: str, student: str, teacher: str) -> RunSpec:
    """Also by `devices`, which is told but makes no other run: specs that differ in it are equal."""
    return replace(spec, data_digest=data, student_digest=student, teacher_digest=teacher)


def locate(name: str | Location) -> Location:
    """Where the model of that name is read from (a Location is its own); nothing is loaded or downloaded.

    Raises:
        ModelError: if it is neither of the mini family, in an installed package, a file, a folder with a
            config nor a hub id, or a folder of a model and an adapter.
    """
    if isinstance(name, Location):
        return name
    if name in MINI_MODELS:
        return Location(name, str(MODEL_FOLDER / name))
    mapped = model_files().get(name, name)
    if mapped in PACKAGED_MODELS:
        return _in_package(name, mapped)
    try:
        path = Path(mapped).expanduser()
    except RuntimeError as error:
        raise ModelError(f"model {mapped!r}: {error}; give another folder or file") from None
    if mapped.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"GGUF file {mapped} is missing; give the path of a file that is there")
        _refuse_adapter(path.parent)
        return Location(name, str(path.resolve().parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{mapped} has no config.json; give a folder as save_pretrained writes it")
        _refuse_adapter(path)
        return Location(name, str(path.resolve()))
    if mapped.startswith((".", "/", "~")) or not HUB_ID.fullmatch(mapped):
        known = [*MINI_MODELS, *PACKAGED_MODELS]
        raise ModelError(
            f"unknown model {mapped!r}: give one of {known}, a hub id (owner/name), a folder or a .gguf file"
        )
    return Location(name, mapped)


def _refuse_adapter(folder: Path) -> None:
    if (folder / ADAPTER_CONFIG).exists():
        raise ModelError(f"{folder} {ADAPTER_NEEDS_MERGING}")


def _in_package(name: str, mapped: str) -> Location:
    model = PACKAGED_MODELS[mapped]
    path = model.path()
    if path is None:
        raise ModelError(f"model {mapped} is in package {model.package}, which is not there: {model.remedy}")
    return Location(name, str(path.parent.resolve()), path.name, model.layers)


def model_files() -> dict[str, str]:
    """What $KDUTILS_MODELS says: name of a model -> the folder, GGUF file or hub id that stands in for it.

    Raises:
        ModelError: for an entry that is not NAME=PATH.
    """
    return _as_mapping(filter(None, os.environ.get(MODEL_FILES, "").split(",")))


def use_model_files(entries: Sequence[str]) -> None:
    """Let these (NAME=PATH) stand in for models too, in this process and those it starts.

    Raises:
        ModelError: for an entry that is not NAME=PATH, or a path that is not there.
    """
    mapping = _as_mapping(entries)
    os.environ[MODEL_FILES] = ",".join(f"{name}={path}" for name, path in (model_files() | mapping).items())
    for name in mapping:
        locate(name)


def _as_mapping(entries: Iterable[str]) -> dict[str, str]:
    mapping = {}
    for entry in entries:
        name, separator, path = (part.strip() for part in entry.partition("="))
        if not (name and separator and path):
            raise ModelError(
                f"{entry!r} in {MODEL_FILES} or model_files is not NAME=PATH, such as {EXAMPLE_FILE}"
            )
        if name in MINI_MODELS:  # it would be read from the package all the same
            raise ModelError(f"{entry!r}: nothing stands in for a model of the mini family; use another name")
        mapping[name] = path
    return mapping


def hub_revision(name: str | Location) -> str:
    """The commit of a hub model's files in the local cache; "" if there are none, or for local models."""
    place = locate(name)
    if Path(place.source).is_dir():
        return ""
    config = hub_file(place.source, "config.json")
    return config.parent.name if config else ""


def hub_file(hub_id: str, file_name: str) -> Path | None:
    """Where a file of a hub model lies in the local cache, in a folder named by its revision; None if not."""
    from huggingface_hub import try_to_load_from_cache  # not needed for models that are files

    found = try_to_load_from_cache(hub_id, file_name)
    return Path(found) if isinstance(found, str) else None


def describe(name: str) -> dict[str, Any]:
    """What the model of that name really is: name, source, file, quantisation, digest, parameters, note.

    `source` is a folder, a hub id at its revision, or the embedded family; `file` a GGUF file's name.
    `quantisation` is how the weights are stored, such as Q4_K_M or F32, and `parameters` how many numbers the
    files hold (tied weights count as often as they are stored); "" and None where the files are not here.
    `digest` is files_digest. `note` is what a GGUF file calls itself, which may be another model than was
    asked for.

    Raises:
        ModelError: as `locate`, and for a damaged file.
    """
    place = locate(name)
    facts = {"name": name, "source": place.source, "file": place.gguf_file or "", "quantisation": ""}
    facts |= {"digest": files_digest(name), "parameters": None, "note": ""}
    if place.gguf_file:
        facts |= _of_gguf(Path(place.source) / place.gguf_file)
        if place.layers is not None:
            facts["note"] += f", and of its layers only {len(place.layers)} are used"
        return facts
    folder = Path(place.source)
    if name in MINI_MODELS:
        facts["source"] = "embedded mini family"
    elif not folder.is_dir():
        config = hub_file(place.source, "config.json")
        folder = config.parent if config else None
        facts["source"] += f" at {folder.name[:12]}" if folder else ", not downloaded"
    return facts | _of_tensors(sorted(folder.glob("*.safetensors")) if folder else [])


def _of_gguf(path: Path) -> dict[str, Any]:
    from gguf.constants import LlamaFileType  # takes half a second, and most models are no GGUF files

    try:
        header = gguf_header.read(path)
        stored = LlamaFileType(header["general.file_type"]).name.removeprefix("MOSTLY_")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} does not say what it is ({error}); get it anew") from None
    named = header.get("general.name")
    note = f"the file calls itself {named}" if named else "the file has no name for itself"
    return {"quantisation": stored, "parameters": header["parameters"], "note": note}


def _of_tensors(paths: list[Path]) -> dict[str, Any]:
    """Kind and count of the numbers in safetensors files; nothing without files."""
    kinds, count = [], 0
    for path in paths:
        with path.open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        tensors = [entry for name, entry in head.items() if name != "__metadata__"]
        kinds += [entry["dtype"] for entry in tensors]
        count += sum(math.prod(entry["shape"]) for entry in tensors)
    return {"quantisation": ", ".join(dict.fromkeys(kinds)), "parameters": count} if paths else {}


def is_large(name: str | Location) -> bool:
    """Whether a model is worth a machine of its own and a cache of what it says: a hub's, or a large file."""
    place = locate(name)
    source = Path(place.source)
    if not source.is_dir():
        return True
    files = [source / place.gguf_file] if place.gguf_file else source.glob("*.safetensors")
    return sum(path.stat().st_size for path in files) > LARGE_MODEL_BYTES


def files_digest(name: str | Location) -> str:
    """16 hexadecimal digits of the SHA-256 of a local model's weights, configuration and tokenizer.

    "" for a hub id, whose files are not known before they are there.

    Raises:
        ModelError: as `locate`.
    """
    place = locate(name)
    source = Path(place.source)
    if not source.is_dir():
        return ""
    names = (
        [place.gguf_file]
        if place.gguf_file
        else sorted(path.name for path in source.iterdir() if path.suffix in (".safetensors", ".json"))
    )
    total = hashlib.sha256()
    for file_name in names:
        if file_name == "generation_config.json":  # never read
            continue
        total.update(file_name.encode() + bytes.fromhex(disk.sha256_once(source / file_name)))
    if place.layers is not None:
        total.update(f"layers {place.layers}".encode())
    return total.hexdigest()[:16]


def data_digest(spec: RunSpec) -> str:
    """16 hexadecimal digits that name the items: of their files, or of what the mini world generates."""
    if spec.data == MINI:
        return mini_digest(spec.domain)
    if spec.data in benchmark.SOURCES:
        return benchmark.digest(spec.data, spec.domain)
    return folder_digest(Path(spec.data))


def folder_digest(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a data folder's three files."""
    total = hashlib.sha256()
    for split in SPLITS:
        try:
            path = Path(folder).expanduser() / f"{split}.jsonl"
        except RuntimeError as error:
            raise DataError(f"data={str(folder)!r}: {error}; give another folder") from None
        if not path.is_file():
            raise DataError(
                f"{path} is missing; a data folder holds train.jsonl, validation.jsonl, test.jsonl"
            )
        total.update(bytes.fromhex(disk.sha256_once(path)))
    return total.hexdigest()[:16]


def read_items(path: Path) -> list[Item]:
    """Items of a JSON-lines file (keys id, task, question, answer; optional response, rationale).

    Where there is no `response`, it is the rationale for math and "the correct answer is ANSWER" otherwise.

    Raises:
        DataError: names the line that is not JSON, lacks a key, is empty, repeats an id or has an answer
            that no response could match.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing; a data folder holds train.jsonl, validation.jsonl and test.jsonl"
        )
    items: dict[str, Item] = {}
    for where, record in json_lines(path):
        item = item_of(with_scorable_answer(record, where=where), where=where)
        if item.id in items:
            raise DataError(f"{where}: id {item.id!r} stands there twice; make ids unique")
        items[item.id] = item
    if not items:
        raise DataError(f"{path} holds no items; give at least one")
    return list(items.values())


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
    if spec.data in benchmark.SOURCES:
        return _benchmark_items(spec, split)
    items = read_items(Path(spec.data).expanduser() / f"{split}.jsonl")
    if wanted is None:
        return items
    kept, limit = short_enough(items, spec.max_item_characters), spec.max_item_characters
    if wanted > len(kept):
        remedy = "ask for fewer" if limit is None else f"ask for fewer or raise max_item_characters={limit}"
        raise DataError(f"{split}_items={wanted}, but {spec.data}/{split}.jsonl holds {len(kept)}; {remedy}")
    return kept[:wanted]


@dataclass(frozen=True)
class Splits:
    """The items of a run and of its evaluation, each read at first use and kept.

    Raises:
        DataError: on reading, as `load_items` and `test_items`.
    """

    spec: RunSpec
    evaluation: EvalSpec | None

    @property
    def key(self) -> tuple:
        """What decides which items these are."""
        spec = self.spec
        how_many = (spec.train_items, spec.validation_items, spec.max_item_characters)
        return (spec.data, spec.domain, spec.wrong_rationale_share, *how_many)

    @cached_property
    def train(self) -> Sequence[Item]:
        """What is trained on."""
        return load_items(self.spec, "train")

    @cached_property
    def validation(self) -> Sequence[Item]:
        """What the validation loss is of; empty if the spec asks for none."""
        return load_items(self.spec, "validation")

    @cached_property
    def test(self) -> Sequence[Item]:
        """What is evaluated, task after task; empty without an evaluation."""
        return test_items(self.spec, self.evaluation) if self.evaluation else ()


def _benchmark_items(spec: RunSpec, split: str) -> list[Item]:
    found = benchmark.read(spec.data, spec.domain)
    if split == "test":
        return list(found.test)
    parts = found.split(
        train_items=spec.train_items,
        validation_items=spec.validation_items,
        max_item_characters=spec.max_item_characters,
    )
    return parts[split]


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
    """The items of an evaluation, `items_per_task` of each of its tasks.

    Test items of files say how their question occurs in what may be trained on; the mini world's never do.

    Raises:
        DataError: if a task has none.
    """
    chosen = []
    if spec.data == MINI or evaluation.split != "test":
        pool = load_items(spec, evaluation.split, per_task=evaluation.items_per_task)
    elif spec.data in benchmark.SOURCES:
        pool = benchmark.flagged(spec.data, spec.domain)
    else:
        trained_on = read_items(Path(spec.data).expanduser() / "train.jsonl")
        pool = contamination.flagged(load_items(spec, "test"), trained_on)
    for task in evaluation.tasks:
        of_task = [item for item in pool if item.task == task][: evaluation.items_per_task]
        if not of_task:
            there = sorted({item.task for item in pool})
            raise DataError(f"no {evaluation.split} items of task {task!r}; there are items of {there}")
        chosen += of_task
    return chosen


def default_evaluation(spec: RunSpec) -> EvalSpec:
    """Greedy decoding on the test items of every task that the data have, in the order of their file."""
    tasks = dict.fromkeys(item.task for item in load_items(spec, "test"))
    return EvalSpec(tasks=tuple(tasks))
