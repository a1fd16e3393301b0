"""Options ranked by the log-probability of what stands for them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdutils import encoding, generation
from kdutils.compute import BATCH_ROWS
from kdutils.data import options
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.spec import EvalSpec


def ranked(
    student: LoadedModel, items: Sequence[Item], evaluations: Sequence[EvalSpec], prompt: str
) -> list[list[dict[str, Any]]]:
    """The rows of items.parquet, one an item, of each evaluation of a group that ranks their options.

    How is one of data.options.SCORINGS. A label is scored after what all labels begin with, the last token of
    each apart; the prompt without a question, for `cloze_pmi`, is that of an empty one.
    """
    scoring = evaluations[0].scoring
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer, prompt)
    texts = [list(options.options(item, scoring).values()) for item in items]
    ids = [student.tokenizer(own, add_special_tokens=False)["input_ids"] for own in texts]
    if scoring == "label":
        shared = [os.path.commonprefix([each[:-1] for each in own]) for own in ids]
        prompts = [head + more for head, more in zip(prompts, shared, strict=True)]
        ids = [[each[len(more) :] for each in own] for own, more in zip(ids, shared, strict=True)]
    found = [np.array(own) for own in option_logprobs(student, prompts, ids)]
    scores = {each.scoring: found for each in evaluations}
    if "cloze_per_character" in scores:
        by_length = [own / [len(text) for text in each] for own, each in zip(found, texts, strict=True)]
        scores["cloze_per_character"] = by_length
    if "cloze_pmi" in scores:
        bare = encoding.prompt_ids([""] * len(items), student.tokenizer, prompt)
        without = option_logprobs(student, bare, ids)
        scores["cloze_pmi"] = [own - other for own, other in zip(found, without, strict=True)]
    return [
        [
            options.rank(item, own.tolist(), scoring=each.scoring, rotation=each.rotation)
            for item, own in zip(items, scores[each.scoring], strict=True)
        ]
        for each in evaluations
    ]


@torch.no_grad()
def option_logprobs(
    model: LoadedModel, prompts: Sequence[list[int]], options: Sequence[list[list[int]]]
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

    return generation.in_batches(model, [-len(prompt) for prompt in prompts], BATCH_ROWS, logprobs_of)


def _options_of_batch(
    model: LoadedModel, prompts: list[list[int]], options: list[list[list[int]]]
) -> list[list[float]]:
    flat = [option for own in options for option in own]
    row_of = torch.tensor([row for row, own in enumerate(options) for _ in own])
    step = generation.Decoder(model, prompts, n_more=max(map(len, flat)))
    if step.can_select:
        with model.policy.computing():
            states_B1H = step.read_prompts()
            row_of = row_of.to(states_B1H.device)
            step.select(row_of)
            token_N, hidden_NH = step.read_after(states_B1H[row_of], flat, model.pad_id)
    else:  # every option with its prompt again
        whole = [prompts[row] + option for row, option in zip(row_of.tolist(), flat, strict=True)]
        n_unscored = [len(prompts[row]) for row in row_of.tolist()]
        batch = encoding.batch_of([""] * len(flat), whole, n_unscored, pad_id=model.pad_id)
        scored_BT = batch.scored_BT.to(model.policy.device)
        hidden_NH, token_N = model.scoring_states(batch), batch.input_ids_BT.to(scored_BT.device)[scored_BT]
    head = model.head.cut(model.vocabulary_size)
    with model.policy.computing():
        parts = zip(hidden_NH.split(generation.LOGIT_ROWS), token_N.split(generation.LOGIT_ROWS), strict=True)
        logprobs = [
            head.logits(part).float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            for part, tokens in parts
        ]
    of_options = torch.cat(logprobs).cpu().split(list(map(len, flat)))  # an option's tokens stand together
    sums = iter(float(part.double().sum()) for part in of_options)
    return [[next(sums) for _ in own] for own in options]
