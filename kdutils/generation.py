"""Texts from a model: batched, left-padded, with the KV cache; greedy or sampled.

Sampling is keyed: which token is drawn depends on (seed, item, sample, position) and the model's logits,
and on nothing else, so that batching, order and the number of texts cannot change a text.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kdutils.compute import BATCH_ROWS
from kdutils.models import KNOWN, LoadedModel
from kdutils.noise import noise_keys, random_bits

LOGIT_ROWS = 256  # positions whose logits exist at one time
COMPACT_SHARE = 0.5  # finished rows leave the batch once no more than this share of it is left
Result = TypeVar("Result")


class Text(NamedTuple):
    """A generated text."""

    token_ids: list[int]  # without EOS
    ended: bool  # by EOS; otherwise cut at the limit


def generate(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float | Sequence[float] = 0.0,
    top_p: float | Sequence[float] = 1.0,
    keys: Sequence[str] | None = None,
    seed: int | Sequence[int] = 0,
    when_read: Callable[[Decoder, Tensor, list[int]], None] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[Text]:
    """One text for each prompt, in their order; only EOS ends a text.

    Texts of one prompt, such as a greedy one and samples, are cheaper together: a batch reads it once.

    Args:
        temperature: of the softmax over the tokenizer's vocabulary that tokens are sampled from; 0 is greedy.
            It, `top_p` and `seed` are one for all texts, or one for each.
        top_p: see `drawn`.
        keys: a name for each text (item and sample), on which its samples depend; needed for sampling.
        when_read: called for each batch once its prompts are read, with its decoder, the final hidden states
            (B, 1, H) at the prompts' last tokens, and which of `prompts` its rows are.
        batch_rows: texts that are generated together; prompts of similar length share a batch.

    Raises:
        ValueError: for an empty prompt, or sampling without keys.
    """
    if not all(prompts):
        raise ValueError("a prompt has no tokens; every text needs something to follow")
    given = [own if isinstance(own, Sequence) else [own] * len(prompts) for own in (temperature, top_p, seed)]
    ways = list(zip(*given, strict=True))  # how each text is decoded
    if any(given[0]) and (keys is None or len(keys) != len(prompts)):
        raise ValueError("sampling (temperature > 0) needs one key for each prompt")

    def texts_of(rows: list[int]) -> list[Text]:
        def draw(logits_BV: Tensor, places: list[int], position: int) -> Tensor:
            logits_BV = logits_BV[:, : model.vocabulary_size].float()
            token_B = logits_BV.argmax(-1)
            own = [rows[place] for place in places]
            for way in dict.fromkeys(ways[row] for row in own if ways[row][0] > 0):
                among = [place for place, row in enumerate(own) if ways[row] == way]
                names, chosen_B = [keys[own[place]] for place in among], token_B.new_tensor(among)
                temperature, top_p, seed = way
                token_B[chosen_B] = drawn(logits_BV[chosen_B], temperature, names, seed, position, top_p)
            return token_B

        def read(step: Decoder, states_B1H: Tensor) -> None:
            if when_read is not None:
                when_read(step, states_B1H, rows)

        return _texts_of_batch(model, [prompts[row] for row in rows], draw, max_new_tokens, read)

    keys_of_order = [(-len(prompt), prompt) for prompt in prompts]  # texts of one prompt side by side
    return model.without_gradients(lambda: in_batches(model, keys_of_order, batch_rows, texts_of))


def in_batches(
    model: LoadedModel,
    sort_keys: Sequence[Any],
    batch_rows: int,
    results_of: Callable[[list[int]], Sequence[Result]],
) -> list[Result]:
    """A result for each row, computed without dropout, in batches of rows whose sort keys are neighbours."""
    order = sorted(range(len(sort_keys)), key=sort_keys.__getitem__)
    found: dict[int, Result] = {}
    was_training = model.network.training
    model.network.eval()
    for first in range(0, len(order), batch_rows):
        rows = order[first : first + batch_rows]
        found |= dict(zip(rows, results_of(rows), strict=True))
    model.network.train(was_training)
    return [found[row] for row in range(len(order))]


class _Preallocated(DynamicLayer):
    """Keys and values (batch, key heads, position, head width) in buffers of their final length.

    DynamicLayer itself copies all of them at every token.
    """

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.n_positions = n_positions
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        start, new = self.get_seq_length(), (key_states, value_states)
        if self.buffers is None:
            self.lazy_initialization(key_states, value_states)
            self.buffers = tuple(x.new_empty((*x.shape[:2], self.n_positions, x.shape[3])) for x in new)
        stop = start + key_states.shape[2]
        for buffer, part in zip(self.buffers, new, strict=True):
            buffer[:, :, start:stop] = part
        self.keys, self.values = (buffer[:, :, :stop] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values, self.buffers = self.keys[indices], self.values[indices], None
        self.keys = self.values = keys[:, :, :0]
        self.update(keys, values)


def padded(rows: list[list[int]], pad_id: int, device: str, *, on_left: bool) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) of the rows, padded, and 1 where a token is real."""
    lengths_B1 = torch.tensor([len(row) for row in rows])[:, None]
    place_T = torch.arange(int(lengths_B1.max()))
    real_BT = place_T.flip(0) < lengths_B1 if on_left else place_T < lengths_B1
    ids_BT = torch.full(real_BT.shape, pad_id)
    ids_BT[real_BT] = torch.tensor([token for row in rows for token in row])
    return ids_BT.to(device), real_BT.long().to(device)


def drawn(
    logits_BV: Tensor, temperature: float, keys: Sequence[str], seed: int, position: int, top_p: float = 1.0
) -> Tensor:
    """The next tokens (B,), sampled from their logits at a temperature above 0.

    With `top_p` from the fewest tokens whose probability at that temperature reaches it, at least the
    likeliest (nucleus sampling, Holtzman et al. 2020). Row b's random number is a function of (seed, keys[b],
    position) alone, and the token is where the cumulated probability, in the order of the vocabulary,
    reaches it.
    """
    keys_B = noise_keys(seed, keys, [position] * len(keys)).to(logits_BV.device)
    bits_B1 = random_bits(keys_B, 1)
    uniform_B1 = ((bits_B1 >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)  # in (0, 1)
    shares_BV = (logits_BV / temperature).softmax(-1).double()
    if top_p < 1:
        sorted_BV, order_BV = shares_BV.sort(descending=True, stable=True)
        is_left_out_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p  # those before it reach top_p
        shares_BV.masked_fill_(torch.zeros_like(is_left_out_BV).scatter(1, order_BV, is_left_out_BV), 0)
    sums_BV = shares_BV.cumsum_(-1)
    return torch.searchsorted(sums_BV, uniform_B1 * sums_BV[:, -1:], right=True)[:, 0]


class Decoder:
    """A batch of sequences that grow on the right, with their KV cache; prompts are padded on the left.

    What is equal is read once: prompts, and what all of them begin with, which stands before the padding.
    """

    def __init__(self, model: LoadedModel, prompts: list[list[int]], n_more: int) -> None:
        self.decoder, device = model.causal.get_decoder(), model.policy.device
        self.cache = DynamicCache(config=model.causal.config)
        is_known = model.causal.config.model_type in KNOWN  # others may count positions by place
        is_known &= not getattr(self.decoder, "keeps_states", False)  # of all tokens before, padding too
        is_plain = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        unique = list(map(list, dict.fromkeys(map(tuple, prompts)))) if self.can_select else prompts
        ends = min(unique)[:-1], max(unique)[:-1]  # what these two begin with, all do
        n = len(os.path.commonprefix(ends)) if is_known and is_plain and len(unique) > 1 else 0
        self.shared_1T = torch.tensor([unique[0][:n]], dtype=torch.long, device=device)
        rest = [prompt[n:] for prompt in unique]
        self.prompt_BT, self.prompt_is_real_BT = padded(rest, model.pad_id, device, on_left=True)
        self.real_BT = self.prompt_is_real_BT[:, :0]
        place = {tuple(prompt): row for row, prompt in enumerate(unique)}
        rows = [place[tuple(prompt)] for prompt in prompts]
        self.row_of_B = torch.tensor(rows, device=device) if len(unique) < len(rows) else None
        n_positions = n + self.prompt_BT.shape[1] + n_more
        self.cache.layers = [  # those of other types are left as they are
            _Preallocated(n_positions) if type(layer) is DynamicLayer else layer
            for layer in self.cache.layers
        ]

    def read_prompts(self) -> Tensor:
        """Final hidden states (B, 1, H) at the prompts' last tokens."""
        if self.shared_1T.numel():
            self.real_BT = self.real_BT[:1]
            self.read(self.shared_1T, torch.ones_like(self.shared_1T))
            self.select(torch.zeros_like(self.prompt_BT[:, 0]))
        states_B1H = self.read(self.prompt_BT, self.prompt_is_real_BT)[:, -1:]
        if self.row_of_B is not None:
            self.select(self.row_of_B)
            states_B1H = states_B1H[self.row_of_B]
        return states_B1H

    def read(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Final hidden states (B, T, H) at these tokens, the next of each row."""
        self.real_BT = torch.cat([self.real_BT, real_BT], dim=1)
        return self.decoder(
            input_ids=ids_BT,
            attention_mask=self.real_BT,
            position_ids=(self.real_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state

    def read_after(
        self, states_B1H: Tensor, rows: Sequence[Sequence[int]], pad_id: int
    ) -> tuple[Tensor, Tensor]:
        """Read further tokens, a list for each row; their ids (N,) and the final states (N, H) before each.

        `states_B1H` are those before the first token of each row.
        """
        ids_BT, real_BT = padded(rows, pad_id, states_B1H.device, on_left=False)
        states = [states_B1H]
        if ids_BT.shape[1] > 1:  # the last token predicts nothing
            states.append(self.read(ids_BT[:, :-1], real_BT[:, :-1]))
        return ids_BT[real_BT.bool()], torch.cat(states, dim=1)[real_BT.bool()]

    @property
    def can_select(self) -> bool:
        """Whether rows can be selected: not where layers keep another state than keys and values."""
        return all(hasattr(layer, "batch_select_indices") for layer in self.cache.layers)

    def copy_of(self, rows: Tensor, n_more: int) -> Decoder:
        """Another decoder, of these rows and with room for so many tokens, which leaves this one as it is."""
        other, other.cache = copy.copy(self), copy.copy(self.cache)
        other.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in other.cache.layers:
            if isinstance(layer, _Preallocated):
                layer.n_positions = layer.get_seq_length() + n_more
        other.select(rows)
        return other

    def select(self, rows: Tensor) -> None:
        """The batch of these rows, which may be repeated."""
        self.cache.batch_select_indices(rows)
        self.real_BT = self.real_BT[rows]


def _texts_of_batch(
    model: LoadedModel,
    prompts: list[list[int]],
    draw: Callable[[Tensor, list[int], int], Tensor],
    max_new_tokens: int,
    read: Callable[[Decoder, Tensor], None],
) -> list[Text]:
    eos = model.tokenizer.eos_token_id
    step, head = Decoder(model, prompts, max_new_tokens), model.head
    rows = list(range(len(prompts)))  # which text each row of the batch is
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    token_B = None
    for position in range(max_new_tokens):
        with model.policy.computing():
            if token_B is None:
                states_BTH = step.read_prompts()
                read(step, states_BTH)
            else:
                states_BTH = step.read(token_B[:, None], step.real_BT.new_ones(len(rows), 1))
            logits_BV = head.logits(states_BTH[:, -1])
        token_B = draw(logits_BV, rows, position)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if token == eos:
                ended[row] = True
            elif not ended[row]:
                written[row].append(token)
        alive = [place for place, row in enumerate(rows) if not ended[row]]
        if not alive:
            break
        if step.can_select and len(alive) <= COMPACT_SHARE * len(rows):
            kept = torch.tensor(alive, device=token_B.device)
            step.select(kept)
            token_B, rows = token_B[kept], [rows[place] for place in alive]
    return [Text(*own) for own in zip(written, ended, strict=True)]


def decode(model: LoadedModel, texts: Sequence[Text]) -> list[str]:
    """The texts as strings, without special tokens."""
    return model.tokenizer.batch_decode([text.token_ids for text in texts], skip_special_tokens=True)
