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
    top_p: float = 1.0,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    batch_rows: int = BATCH_ROWS,
) -> list[Text]:
    """One text for each prompt, in their order; only EOS ends a text.

    Args:
        temperature: of the softmax over the tokenizer's vocabulary that tokens are sampled from; 0 is greedy.
        top_p: see `drawn`.
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
        def draw(logits_BV: Tensor, places: list[int], position: int) -> Tensor:
            logits_BV = logits_BV[:, : model.vocabulary_size].float()
            if temperature == 0:
                return logits_BV.argmax(-1)
            own = [keys[rows[place]] for place in places]
            return drawn(logits_BV, temperature, own, seed, position, top_p=top_p)

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
    """The likeliest token at each scored position of `encoding.encode`'s rows, given the true ones before."""

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
    flat = [option for own in options for option in own]
    row_of = torch.tensor([row for row, own in enumerate(options) for _ in own])
    step = Decoder(model, prompts, n_more=max(map(len, flat)))
    if not step.can_select:  # every option with its prompt again
        whole = [prompts[row] + option for row, option in zip(row_of.tolist(), flat, strict=True)]
        n_unscored = [len(prompts[row]) for row in row_of.tolist()]
        batch = encoding.batch_of([""] * len(flat), whole, n_unscored, pad_id=model.pad_id)
        scored_BT = batch.scored_BT.to(model.policy.device)
        hidden_NH, token_N = model.scoring_states(batch), batch.input_ids_BT.to(scored_BT.device)[scored_BT]
        return _summed_logprobs(model, hidden_NH, token_N, options)
    option_BT, real_BT = padded(flat, model.pad_id, model.policy.device, on_left=False)
    with model.policy.computing():
        states = [step.read_prompts()[row_of, -1:]]  # scores each option's first token
        if option_BT.shape[1] > 1:  # the last token scores nothing
            step.select(row_of.to(option_BT.device))
            states.append(step.read(option_BT[:, :-1], real_BT[:, :-1]))
    scored_BT = real_BT.bool()
    return _summed_logprobs(model, torch.cat(states, dim=1)[scored_BT], option_BT[scored_BT], options)


def _summed_logprobs(
    model: LoadedModel, hidden_NH: Tensor, token_N: Tensor, options: list[list[list[int]]]
) -> list[list[float]]:
    """The sum over each option's tokens, which stand one after the other, of their log-probabilities."""
    head = model.head.cut(model.vocabulary_size)
    with model.policy.computing():
        parts = zip(hidden_NH.split(LOGIT_ROWS), token_N.split(LOGIT_ROWS), strict=True)
        logprobs = [
            head.logits(part).float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            for part, tokens in parts
        ]
    lengths = [len(option) for own in options for option in own]
    sums = iter(float(part.double().sum()) for part in torch.cat(logprobs).cpu().split(lengths))
    return [[next(sums) for _ in own] for own in options]


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
        n = self.get_seq_length()
        self.buffers = tuple(buffer[indices] for buffer in self.buffers)
        self.keys, self.values = (buffer[:, :, :n] for buffer in self.buffers)


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
    """A batch of sequences that grow on the right, with their KV cache; prompts are padded on the left."""

    def __init__(self, model: LoadedModel, prompts: list[list[int]], n_more: int) -> None:
        self.decoder = model.causal.get_decoder()
        self.prompt_BT, real_BT = padded(prompts, model.pad_id, model.policy.device, on_left=True)
        self.prompt_is_real_BT, self.real_BT = real_BT, real_BT[:, :0]
        self.cache = DynamicCache(config=model.causal.config)
        n_positions = self.prompt_BT.shape[1] + n_more
        self.cache.layers = [  # those of other types are left as they are
            _Preallocated(n_positions) if type(layer) is DynamicLayer else layer
            for layer in self.cache.layers
        ]

    def read_prompts(self) -> Tensor:
        """Final hidden states (B, T, H) of the prompts."""
        return self.read(self.prompt_BT, self.prompt_is_real_BT)

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

    @property
    def can_select(self) -> bool:
        """Whether rows can be selected: not where layers keep another state than keys and values."""
        return all(hasattr(layer, "batch_select_indices") for layer in self.cache.layers)

    def select(self, rows: Tensor) -> None:
        """The batch of these rows, which may be repeated."""
        self.cache.batch_select_indices(rows)
        self.real_BT = self.real_BT[rows]


def _texts_of_batch(
    model: LoadedModel,
    prompts: list[list[int]],
    draw: Callable[[Tensor, list[int], int], Tensor],
    max_new_tokens: int,
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
    return [Text(written[row], ended[row]) for row in range(len(prompts))]


def decode(model: LoadedModel, texts: Sequence[Text]) -> list[str]:
    """The texts as strings, without special tokens."""
    return model.tokenizer.batch_decode([text.token_ids for text in texts], skip_special_tokens=True)
