"""Options ranked by the log-probability of what stands for them."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdutils import encoding, generation
from kdutils.data import options
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.spec import EvalSpec


def ranked(
    student: LoadedModel, items: Sequence[Item], evaluation: EvalSpec, prompt: str
) -> Iterator[dict[str, Any]]:
    """The rows of items.parquet of items whose options are ranked, by one of data.options.SCORINGS.

    A label is scored after what all labels begin with; the prompt without a question, for `cloze_pmi`, is
    that of an empty one.
    """
    scoring = evaluation.scoring
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer, prompt)
    texts = [list(options.options(item, scoring).values()) for item in items]
    ids = [student.tokenizer(own, add_special_tokens=False)["input_ids"] for own in texts]
    if scoring == "label":
        shared = [os.path.commonprefix(own) for own in ids]
        prompts = [head + more for head, more in zip(prompts, shared, strict=True)]
        ids = [[each[len(more) :] for each in own] for own, more in zip(ids, shared, strict=True)]
    found = [np.array(own) for own in generation.option_logprobs(student, prompts, ids)]
    if scoring == "cloze_per_character":
        found = [own / [len(text) for text in each] for own, each in zip(found, texts, strict=True)]
    if scoring == "cloze_pmi":
        bare = encoding.prompt_ids([""] * len(items), student.tokenizer, prompt)
        without = generation.option_logprobs(student, bare, ids)
        found = [own - other for own, other in zip(found, without, strict=True)]
    for item, own in zip(items, found, strict=True):
        yield options.rank(item, own.tolist(), scoring=scoring, rotation=evaluation.rotation)
