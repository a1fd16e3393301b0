"""Items read, tokenised and batched, and what of them is trained on.

Nothing here draws random numbers but `epoch_order`, from a generator that is passed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdutils import store
from kdutils.items import SPLITS, Item, prompt
from kdutils.mini.items import TASKS_OF, build_data, mini_digest
from kdutils.runspec import MINI, RunSpec
from kdutils.spec import ALL_TASKS

MINI_TEST_ITEMS = 200  # a task, if the evaluation does not say


class DataError(ValueError):
    """Items that cannot be used. The message is one line and names file, line and remedy."""


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right. Row b is item `ids[b]`."""

    ids: list[str]
    input_ids_BT: Tensor
    attention_BT: Tensor  # 1 where a token is real
    scored_BT: Tensor  # True where token t is scored (by the position before it)

    def slice(self, rows: slice) -> Batch:
        """Some rows, cut to their own length."""
        length = int(self.attention_BT[rows].sum(1).max())
        cut = (tensor[rows, :length] for tensor in (self.input_ids_BT, self.attention_BT, self.scored_BT))
        return Batch(self.ids[rows], *cut)


def read_items(path: Path) -> list[Item]:
    """Items of a JSON-lines file (keys id, task, question, answer; optional response, rationale).

    Where there is no `response`, it is the rationale for math and "the correct answer is ANSWER" otherwise.

    Raises:
        DataError: names the line that is not JSON, lacks a key, is empty or repeats an id.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing; a data folder holds train.jsonl, validation.jsonl and test.jsonl"
        )
    items: dict[str, Item] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        item = _item(line, where=f"{path}, line {number}")
        if item.id in items:
            raise DataError(f"{path}, line {number}: id {item.id!r} stands there twice; make ids unique")
        items[item.id] = item
    if not items:
        raise DataError(f"{path} holds no items; give at least one")
    return list(items.values())


def _item(line: str, *, where: str) -> Item:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); one object a line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a JSON object; one object a line")
    known = {entry.name for entry in fields(Item)}
    values = {key: value for key, value in record.items() if key in known - {"ended"}}
    for key in ("id", "task", "question", "answer"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise DataError(f"{where}: {key} is missing or not text; every item needs it")
    if values["task"] not in ALL_TASKS:
        raise DataError(f"{where}: unknown task {values['task']!r}; there are {list(ALL_TASKS)}")
    if wrong := [key for key, value in values.items() if not isinstance(value, str)]:
        raise DataError(f"{where}: {wrong[0]} is not text; write it as a string")
    item = Item(**values)
    return item if item.response else Item(**values | {"response": default_response(item)})


def default_response(item: Item) -> str:
    """What LLM-Adapters trains on: the rationale, or "the correct answer is ANSWER"."""
    return item.rationale or f"the correct answer is {item.answer}"


def load_items(spec: RunSpec, split: str, *, per_task: int | None = None) -> list[Item]:
    """The items of a split that a run uses: the first ones of its file, in their order.

    Args:
        per_task: of the mini world, which has as many as are asked for; a file holds what it holds.

    Raises:
        DataError: if the split is unknown or has too few items.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; there are {list(SPLITS)}")
    wanted = {"train": spec.train_items, "validation": spec.validation_items}.get(split)
    if spec.data == MINI:
        return _mini_items(spec.domain, split, spec.wrong_rationale_share, wanted, per_task)
    items = read_items(Path(spec.data).expanduser() / f"{split}.jsonl")
    if wanted is not None and wanted > len(items):
        raise DataError(
            f"{split}_items={wanted}, but {spec.data}/{split}.jsonl holds {len(items)}; ask for fewer"
        )
    return items[:wanted]


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


def data_digest(spec: RunSpec) -> str:
    """16 hexadecimal digits that name the items: of a folder's files, or of what the mini world generates."""
    if spec.data == MINI:
        return mini_digest(spec.domain)
    return folder_digest(Path(spec.data))


def folder_digest(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 of a data folder's three files."""
    total = hashlib.sha256()
    for split in SPLITS:
        path = Path(folder).expanduser() / f"{split}.jsonl"
        if not path.is_file():
            raise DataError(
                f"{path} is missing; a data folder holds train.jsonl, validation.jsonl, test.jsonl"
            )
        total.update(bytes.fromhex(store.sha256_once(path)))
    return total.hexdigest()[:16]


def encode(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, protocol: str
) -> datasets.Dataset:
    """Items as token ids: columns id, input_ids, n_unscored (leading tokens that are never scored).

    Prompt and response are tokenised apart, so that where the response begins does not depend on the
    text, and EOS closes every response. Protocol `careful` scores response and EOS; `paper` scores every
    token but the first, which has no position before it, and cuts what is too long as the authors do.

    Raises:
        DataError: under `careful`, for an item longer than `max_tokens`: a response without its end
            would teach never to stop.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(f"tokenizer {tokenizer.name_or_path} has no EOS token, so a student could not stop")
    start = [] if tokenizer.bos_token_id is None or not _adds_bos(tokenizer) else [tokenizer.bos_token_id]

    def of(record: dict) -> dict:
        head = start + tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
        body = tokenizer(record["response"], add_special_tokens=False)["input_ids"]
        ids = head + body + [tokenizer.eos_token_id] * record["ended"]
        return {
            "input_ids": ids[:max_tokens],
            "n_unscored": 1 if protocol == "paper" else len(head),
            "n": len(ids),
        }

    table = datasets.Dataset.from_dict(
        {
            "id": [item.id for item in items],
            "prompt": [prompt(item.question) for item in items],
            "response": [item.response for item in items],
            "ended": [item.ended for item in items],
        }
    )
    options = {
        "remove_columns": table.column_names[1:],
        "load_from_cache_file": False,
        "keep_in_memory": True,
    }
    with _without_progress_bar():
        encoded = table.map(of, **options)
    if protocol == "careful":
        for item, n in zip(items, encoded["n"], strict=True):
            if n > max_tokens and item.ended:
                raise DataError(
                    f"item {item.id!r} has {n} tokens, more than max_tokens={max_tokens}; raise it or drop it"
                )
    return encoded.remove_columns("n")


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Tokenising takes no time worth a bar; the switch of `datasets` is global, so it is put back."""
    was_enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_progress_bars()


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def prompt_ids(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the prompts, as `encode` writes them before a response."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and _adds_bos(tokenizer) else []
    texts = [prompt(question) for question in questions]
    return [start + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def collate(encoded: datasets.Dataset, rows: Sequence[int], *, pad_id: int) -> Batch:
    """The rows as a batch padded on the right. `pad_id` may equal EOS: masks come from lengths alone."""
    records = encoded.select(rows)
    sequences = [torch.tensor(ids) for ids in records["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in sequences])
    input_ids_BT = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad_id)
    place_T = torch.arange(input_ids_BT.shape[1])
    attention_BT = place_T < lengths[:, None]
    scored_BT = attention_BT & (place_T >= torch.tensor(records["n_unscored"])[:, None])
    scored_BT[:, 0] = False
    return Batch(list(records["id"]), input_ids_BT, attention_BT.long(), scored_BT)


def epoch_order(n_items: int, generator: torch.Generator) -> list[int]:
    """A permutation of the items, drawn from the generator."""
    return torch.randperm(n_items, generator=generator).tolist()
