"""Items as token ids, which of the tokens are scored, and batches of them."""

from __future__ import annotations

import array
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kdutils.data.chat_templates import chat_text
from kdutils.data.sources import DataError
from kdutils.items import Item, alpaca

CACHED_TOKENS = 4_000_000  # at most, four bytes each
_cached_tokens: dict[tuple, list[array.array]] = {}


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right. Row b is item `ids[b]`."""

    ids: list[str]
    input_ids_BT: Tensor
    attention_BT: Tensor  # 1 where a token is real
    scored_BT: Tensor  # True where token t is scored (by the position before it)

    def passes(self, *, max_rows: int, pass_tokens: int | None = None) -> list[Batch]:
        """The same rows sorted by length, longest first, cut into passes through a model (micro-batches).

        Rows of similar length share a pass, so that little of it is padding. Of all cuts the one with the
        lowest cost: tokens, padding included, plus `pass_tokens` for every pass (None: as few passes as can
        be).
        """
        length_B = self.attention_BT.sum(1)
        order = length_B.argsort(descending=True, stable=True)
        lengths, ids = length_B[order].tolist(), [self.ids[row] for row in order.tolist()]
        tensors = [tensor[order] for tensor in (self.input_ids_BT, self.attention_BT, self.scored_BT)]
        return [
            Batch(ids[start:stop], *(tensor[start:stop, : lengths[start]] for tensor in tensors))
            for start, stop in cuts(lengths, max_rows, pass_tokens)
        ]


def cuts(lengths: Sequence[int], max_rows: int, pass_tokens: int | None) -> list[tuple[int, int]]:
    """Start and stop of each pass of `Batch.passes`, for lengths in falling order."""
    if pass_tokens is None and len(lengths) <= max_rows:
        return [(0, len(lengths))]
    pass_tokens = 1 << 40 if pass_tokens is None else pass_tokens  # more than any padding costs
    least, starts = [0], [0]  # for the first n rows: least cost, and where its last pass starts
    for stop in range(1, len(lengths) + 1):
        best, best_start = math.inf, 0
        for start in range(max(0, stop - max_rows), stop):  # a plain loop is the fastest here
            cost = least[start] + (stop - start) * lengths[start]
            if cost < best:
                best, best_start = cost, start
        least.append(best + pass_tokens)
        starts.append(best_start)
    found, stop = [], len(lengths)
    while stop:
        found.append((starts[stop], stop))
        stop = starts[stop]
    return found[::-1]


def encode(
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    protocol: str,
    prompt_in_loss: bool | None = None,
    prompt: str = "alpaca",
) -> datasets.Dataset:
    """Items as token ids: columns id, input_ids, n_unscored (leading tokens that are never scored).

    Prompt and response are tokenised separately, so that their border does not depend on the text, and EOS
    closes every response. Protocol `careful` scores response and EOS; `paper` scores every token but the
    first, which has no position before it, and cuts items that are too long as the authors do.

    Args:
        prompt_in_loss: whether tokens of the prompt are scored; None: as the protocol says.
        prompt: as in `prompt_ids`.

    Raises:
        DataError: under `careful`, for an item longer than `max_tokens`: without its EOS it would teach the
            student not to stop.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(f"tokenizer {tokenizer.name_or_path} has no EOS token, so a student could not stop")
    heads = prompt_ids([item.question for item in items], tokenizer, prompt)
    bodies = token_ids([item.response for item in items], tokenizer)
    ids = [
        head + body + [tokenizer.eos_token_id] * item.ended
        for item, head, body in zip(items, heads, bodies, strict=True)
    ]
    scores_prompt = protocol == "paper" if prompt_in_loss is None else prompt_in_loss
    if protocol == "careful":
        for item, of_item in zip(items, ids, strict=True):
            if len(of_item) > max_tokens and item.ended:
                raise DataError(
                    f"item {item.id!r} has {len(of_item)} tokens, more than max_tokens={max_tokens}; "
                    "raise it or drop it"
                )
    return datasets.Dataset.from_dict(
        {
            "id": [item.id for item in items],
            "input_ids": [of_item[:max_tokens] for of_item in ids],
            "n_unscored": [1 if scores_prompt else min(len(head), max_tokens) for head in heads],
        }
    )


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] if the tokenizer begins every text with it, else []."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def prompt_ids(
    questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt: str = "alpaca"
) -> list[list[int]]:
    """Token ids of the prompts, as `encode` writes them before a response.

    Args:
        prompt: `alpaca`, items.PROMPT after BOS if the tokenizer begins texts with it; or `chat`, the
            question as the user's message in the tokenizer's chat template, up to where the answer begins.
    """
    if prompt == "chat":
        texts = [chat_text(tokenizer, question, add_generation_prompt=True) for question in questions]
        return token_ids(texts, tokenizer)
    start = start_ids(tokenizer)
    return [start + ids for ids in token_ids([alpaca(question) for question in questions], tokenizer)]


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of the texts without special tokens; a new list at every call.

    All runs of a worker use the same texts, so token ids are cached in this process, by the digests of the
    texts and of the tokenizer's files (data.tokenizers); not for a tokenizer without `files_digest`.
    """
    files = getattr(tokenizer, "files_digest", "")
    if not files or not texts:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    key = (files, type(tokenizer).__name__, len(tokenizer), digest.hexdigest())
    if key not in _cached_tokens:
        ids_by_text = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        _cached_tokens[key] = [array.array("i", ids) for ids in ids_by_text]
        n_tokens = {key: sum(map(len, ids_by_text)) for key, ids_by_text in _cached_tokens.items()}
        while len(_cached_tokens) > 1 and sum(n_tokens[key] for key in _cached_tokens) > CACHED_TOKENS:
            del _cached_tokens[next(iter(_cached_tokens))]  # the oldest
    return [ids.tolist() for ids in _cached_tokens[key]]


def collate(encoded: datasets.Dataset, rows: Sequence[int], *, pad_id: int) -> Batch:
    """Rows of `encode` as a batch padded on the right. `pad_id` may equal EOS: masks come from lengths."""
    table = encoded.with_format("arrow")[list(rows)].combine_chunks()
    token_ids, n_unscored = table["input_ids"].chunk(0), table["n_unscored"].to_numpy()
    lengths, flat_N = token_ids.value_lengths().to_numpy(), token_ids.flatten().to_numpy()
    return _padded(table["id"].to_pylist(), flat_N, lengths, n_unscored, pad_id)


def batch_of(
    ids: list[str], token_ids: Sequence[list[int]], n_unscored: Sequence[int], *, pad_id: int
) -> Batch:
    """Sequences of tokens as a batch padded on the right."""
    lengths = np.array([len(row) for row in token_ids])
    flat_N = np.fromiter(itertools.chain.from_iterable(token_ids), np.int64, count=lengths.sum())
    return _padded(ids, flat_N, lengths, np.asarray(n_unscored), pad_id)


def _padded(
    ids: list[str], flat_N: np.ndarray, lengths_B: np.ndarray, n_unscored_B: np.ndarray, pad_id: int
) -> Batch:
    """A batch of sequences that are concatenated in `flat_N` (numpy: faster than torch for small batches)."""
    place_T = np.arange(lengths_B.max())
    attention_BT = place_T < lengths_B[:, None]
    input_ids_BT = np.full(attention_BT.shape, pad_id)
    input_ids_BT[attention_BT] = flat_N
    scored_BT = attention_BT & (place_T >= n_unscored_B[:, None])
    scored_BT[:, 0] = False
    tensors = (torch.from_numpy(x) for x in (input_ids_BT, attention_BT.astype(np.int64), scored_BT))
    return Batch(ids, *tensors)
