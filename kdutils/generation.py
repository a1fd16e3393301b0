"""Texts from a model: batched, left-padded, with the KV cache; greedy or sampled.

Sampling is keyed: which token is drawn depends on (seed, item, sample, position) and the model's logits,
and on nothing else, so that batching, order and the number of texts cannot change a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import datasets
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kdutils import encoding
from kdutils.compute import BATCH_ROWS
from kdutils.models import LoadedModel
from kdutils.noise import noise_keys, random_bits

LOGIT_ROWS = 256  # positions whose logits exist at one time
AHEAD = 16  # positions that random numbers are drawn for at once
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
    temperature: float = 0.0,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    batch_rows: int = BATCH_ROWS,
) -> list[Text]:
    """One text for each prompt, in their order; only EOS ends a text.

    Args:
        temperature: of the softmax over the tokenizer's vocabulary that tokens are sampled from; 0 is greedy.
        keys: a name for each text (item and sample), on which its samples depend; needed for sampling.
        batch_rows: texts that are generated together; prompts of similar length share a batch.

    Raises:
        ValueError: for an empty prompt, or sampling without keys.
    """
    if any(not prompt for prompt in prompts):
        raise ValueError("a prompt has no tokens; every text needs something to follow")
    if temperature > 0 and (keys is None or len(keys) != len(prompts)):
        raise ValueError("sampling (temperature > 0) needs one key for each prompt")

    def texts_of(rows: list[int]) -> list[Text]:
        row_keys = None if temperature == 0 else [keys[row] for row in rows]
        draw = _Draw(temperature, row_keys, seed, model.vocabulary_size)
        return _texts_of_batch(model, [prompts[row] for row in rows], draw, max_new_tokens)

    lengths = [len(prompt) for prompt in prompts]
    return model.without_gradients(lambda: _by_length(model, lengths, batch_rows, texts_of))


def _by_length(
    model: LoadedModel,
    lengths: list[int],
    batch_rows: int,
    results_of: Callable[[list[int]], Sequence[Result]],
) -> list[Result]:
    """A result for each row, in their order, computed batch by batch, longest rows first, without dropout."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    found: dict[int, Result] = {}
    was_training = model.network.training
    model.network.eval()
    for first in range(0, len(order), batch_rows):
        rows = order[first : first + batch_rows]
        found |= dict(zip(rows, results_of(rows), strict=True))
    model.network.train(was_training)
    return [found[row] for row in range(len(lengths))]


@torch.no_grad()
def top1_tokens(
    model: LoadedModel, encoded: datasets.Dataset, *, batch_rows: int = BATCH_ROWS
) -> list[list[int]]:
    """The likeliest token at every scored position of each row, given the true tokens before it.

    Args:
        encoded: from `encoding.encode`.
    """

    def tokens_of(rows: list[int]) -> list[list[int]]:
        batch = encoding.collate(encoded, rows, pad_id=model.pad_id)
        hidden_NH = model.scoring_states(batch)
        head = model.head.cut(model.vocabulary_size)
        parts = [head.logits(part).argmax(-1) for part in hidden_NH.split(LOGIT_ROWS)]
        return [ids.tolist() for ids in torch.cat(parts).cpu().split(batch.scored_BT.sum(1).tolist())]

    return _by_length(model, [len(ids) for ids in encoded["input_ids"][:]], batch_rows, tokens_of)


@torch.no_grad()
def option_logprobs(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    options: Sequence[list[list[int]]],
    *,
    batch_rows: int = BATCH_ROWS,
) -> list[list[float]]:
    """Log-probability of each option's tokens after its prompt, nats: a list for each prompt.

    The softmax is over the tokenizer's vocabulary. EOS is not scored, as in lm-evaluation-harness. A prompt
    goes through the model once for all its options.

    Raises:
        ValueError: for a prompt or an option without tokens.
    """
    if any(not prompt for prompt in prompts) or any(not option for own in options for option in own):
        raise ValueError("a prompt or an option has no tokens; there is nothing to score")

    def logprobs_of(rows: list[int]) -> list[list[float]]:
        batch = [prompts[row] for row in rows], [options[row] for row in rows]
        return model.gathered(lambda: _options_of_batch(model, *batch))

    return _by_length(model, [len(prompt) for prompt in prompts], batch_rows, logprobs_of)


def _options_of_batch(
    model: LoadedModel, prompts: list[list[int]], options: list[list[list[int]]]
) -> list[list[float]]:
    device, decoder = model.policy.device, model.causal.get_decoder()
    prompt_BT, real_BT = _padded_left(prompts, model.pad_id, device)
    cache = _cache(model, prompt_BT.shape[1] + max(len(option) for own in options for option in own))
    position_BT = (real_BT.cumsum(1) - 1).clamp(min=0)
    row_of = torch.tensor([row for row, own in enumerate(options) for _ in own], device=device)
    flat = [option for own in options for option in own]
    option_BT = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(option) for option in flat], batch_first=True, padding_value=model.pad_id
    ).to(device)
    lengths_B = torch.tensor([len(option) for option in flat], device=device)
    scored_BT = torch.arange(option_BT.shape[1], device=device) < lengths_B[:, None]
    with model.policy.computing():
        hidden_BTH = decoder(
            input_ids=prompt_BT,
            attention_mask=real_BT,
            position_ids=position_BT,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        states = [hidden_BTH[row_of, -1:]]  # scores each option's first token
        if option_BT.shape[1] > 1:  # the last token scores nothing
            cache.batch_select_indices(row_of)
            steps = torch.arange(1, option_BT.shape[1], device=device)
            after = decoder(
                input_ids=option_BT[:, :-1],
                attention_mask=torch.cat([real_BT[row_of], scored_BT[:, :-1].long()], dim=1),
                position_ids=position_BT[row_of, -1:] + steps,
                past_key_values=cache,
                use_cache=True,
            )
            states.append(after.last_hidden_state)
        hidden_NH = torch.cat(states, dim=1)[scored_BT]
        head = model.head.cut(model.vocabulary_size)
        parts = zip(hidden_NH.split(LOGIT_ROWS), option_BT[scored_BT].split(LOGIT_ROWS), strict=True)
        logprobs = [
            head.logits(part).float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            for part, tokens in parts
        ]
    sums = [float(part.double().sum()) for part in torch.cat(logprobs).cpu().split(lengths_B.tolist())]
    by_option = iter(sums)
    return [[next(by_option) for _ in own] for own in options]


class _Preallocated(DynamicLayer):
    """Keys and values of one layer (batch, key heads, position, head width) in buffers of their final length.

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
        n = self.get_seq_length()
        self.buffers = tuple(buffer[indices] for buffer in self.buffers)
        self.keys, self.values = (buffer[:, :, :n] for buffer in self.buffers)


def _cache(model: LoadedModel, n_positions: int) -> DynamicCache:
    """An empty cache for sequences of up to `n_positions`; layers of other types are left as they are."""
    cache = DynamicCache(config=model.causal.config)
    cache.layers = [_Preallocated(n_positions) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


def _padded_left(prompts: list[list[int]], pad_id: int, device: str) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, and 1 where a token is real."""
    width = max(map(len, prompts))
    ids = [[pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


class _Draw:
    """The next token of each row from its logits."""

    def __init__(self, temperature: float, keys: list[str] | None, seed: int, vocabulary_size: int) -> None:
        self.temperature, self.keys, self.seed, self.size = temperature, keys, seed, vocabulary_size
        self.rows: list[int] = []  # of `uniform_BP`
        self.uniform_BP = torch.empty(0)  # for AHEAD positions

    def __call__(self, logits_BV: Tensor, rows: list[int], position: int) -> Tensor:
        """Tokens (B,) of `rows` at a position. Call it with positions 0, 1, ...; rows may only drop out."""
        logits_BV = logits_BV[:, : self.size].float()
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        uniform_B1 = self._uniform(rows, position, logits_BV.device)
        sums_BV = (logits_BV / self.temperature).softmax(-1).double().cumsum_(-1)
        return torch.searchsorted(sums_BV, uniform_B1 * sums_BV[:, -1:], right=True)[:, 0]

    def _uniform(self, rows: list[int], position: int, device: torch.device) -> Tensor:
        """Uniform draws in (0, 1), float64 (B, 1), from keys of item and position."""
        place = position % AHEAD
        if place == 0:
            upcoming = range(position, position + AHEAD)
            items = [self.keys[row] for row in rows for _ in upcoming]
            keys_N = noise_keys(self.seed, items, [*upcoming] * len(rows))
            bits_BP = random_bits(keys_N.to(device), 1).view(len(rows), AHEAD)
            self.uniform_BP = ((bits_BP >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)
        elif len(rows) < len(self.rows):
            self.uniform_BP = self.uniform_BP[[self.rows.index(row) for row in rows]]
        self.rows = rows
        return self.uniform_BP[:, place : place + 1]


class _Decoder:
    """A batch of texts that grow by one token at a time, with their KV cache."""

    def __init__(self, model: LoadedModel, prompts: list[list[int]], max_new_tokens: int) -> None:
        self.model = model
        self.ids_BT, self.real_BT = _padded_left(prompts, model.pad_id, model.policy.device)
        self.position_BT = (self.real_BT.cumsum(1) - 1).clamp(min=0)
        self.cache = _cache(model, self.ids_BT.shape[1] + max_new_tokens)

    def read(self) -> Tensor:
        """Final hidden states (B, H) at the last token of each row."""
        hidden_BTH = self.model.causal.get_decoder()(
            input_ids=self.ids_BT,
            attention_mask=self.real_BT,
            position_ids=self.position_BT,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden_BTH[:, -1]

    def __call__(self, ids_B: Tensor) -> Tensor:
        """Final hidden states (B, H) at these tokens, the next of each row."""
        self.ids_BT, self.position_BT = ids_B[:, None], self.position_BT[:, -1:] + 1
        self.real_BT = torch.cat([self.real_BT, self.real_BT.new_ones(len(ids_B), 1)], dim=1)
        return self.read()

    def select(self, rows: Tensor) -> None:
        """Keep only these rows of the batch."""
        self.cache.batch_select_indices(rows)
        self.real_BT, self.position_BT = self.real_BT[rows], self.position_BT[rows]


def _texts_of_batch(
    model: LoadedModel, prompts: list[list[int]], draw: _Draw, max_new_tokens: int
) -> list[Text]:
    eos = model.tokenizer.eos_token_id
    step, head = _Decoder(model, prompts, max_new_tokens), model.head
    rows = list(range(len(prompts)))  # which text each row of the batch is
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    token_B = None
    for position in range(max_new_tokens):
        with model.policy.computing():
            states_BH = step.read() if token_B is None else step(token_B)
            logits_BV = head.logits(states_BH)
        token_B = draw(logits_BV, rows, position)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if token == eos:
                ended[row] = True
            elif not ended[row]:
                written[row].append(token)
        alive = [place for place, row in enumerate(rows) if not ended[row]]
        if not alive:
            break
        if len(alive) <= COMPACT_SHARE * len(rows):
            kept = torch.tensor(alive, device=token_B.device)
            step.select(kept)
            token_B, rows = token_B[kept], [rows[place] for place in alive]
    return [Text(written[row], ended[row]) for row in range(len(prompts))]


def decode(model: LoadedModel, texts: Sequence[Text]) -> list[str]:
    """The texts as strings, without special tokens."""
    return model.tokenizer.batch_decode([text.token_ids for text in texts], skip_special_tokens=True)
