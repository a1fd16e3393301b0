"""Items tokenised and batched, and what of them is trained on.

Nothing here draws random numbers but `epoch_order`, from a generator that is passed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdutils.items import Item, prompt
from kdutils.material import DataError


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

    def longest_first(self) -> Batch:
        """The same rows by length, so that rows of like length go through a model together."""
        order = self.attention_BT.sum(1).argsort(descending=True, stable=True)
        tensors = (tensor[order] for tensor in (self.input_ids_BT, self.attention_BT, self.scored_BT))
        return Batch([self.ids[row] for row in order.tolist()], *tensors)


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

    def of(records: dict[str, list]) -> dict[str, list]:
        heads, bodies = (
            tokenizer(records[part], add_special_tokens=False)["input_ids"] for part in ("prompt", "response")
        )
        ids = [
            start + head + body + [tokenizer.eos_token_id] * ended
            for head, body, ended in zip(heads, bodies, records["ended"], strict=True)
        ]
        return {
            "input_ids": [each[:max_tokens] for each in ids],
            "n_unscored": [1 if protocol == "paper" else len(start) + len(head) for head in heads],
            "n": [len(each) for each in ids],
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
        "batched": True,
        "remove_columns": table.column_names[1:],
        "load_from_cache_file": False,
        "keep_in_memory": True,
        "new_fingerprint": "encoded",  # else it is made of the pickled tokenizer: seconds for that of Qwen2.5
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
    records = encoded[list(rows)]  # at once: a column of a selection is read row by row
    sequences = [torch.tensor(ids) for ids in records["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in sequences])
    input_ids_BT = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad_id)
    place_T = torch.arange(input_ids_BT.shape[1])
    attention_BT = place_T < lengths[:, None]
    scored_BT = attention_BT & (place_T >= torch.tensor(records["n_unscored"])[:, None])
    scored_BT[:, 0] = False
    return Batch(records["id"], input_ids_BT, attention_BT.long(), scored_BT)


def epoch_order(n_items: int, generator: torch.Generator) -> list[int]:
    """A permutation of the items, drawn from the generator."""
    return torch.randperm(n_items, generator=generator).tolist()
