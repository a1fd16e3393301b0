"""Greedy texts by the continuous batching of transformers, a switch that is off until set.

KDUTILS_CONTINUOUS_BATCHING=1 makes `generate.generate` use it where it is greedy. A finished text makes room
for the next prompt at once, in a paged cache. It has been run on CPU alone, where it gains nothing; nobody
has measured it on CUDA yet. Weights that are otherwise computed under autocast are computed in float32 here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from kdutils.models import LoadedModel

PAGE_TOKENS = 256  # the default of transformers
CPU_TOKENS = 1 << 15  # room of the cache on a CPU; on CUDA transformers measures what is free


def is_wanted() -> bool:
    """Whether the switch is set.

    Raises:
        ValueError: if it is set to something else than 0 or 1.
    """
    wish = os.environ.get("KDUTILS_CONTINUOUS_BATCHING", "0")
    if wish not in ("0", "1"):
        raise ValueError(f"KDUTILS_CONTINUOUS_BATCHING={wish!r} is unknown: use 1 or 0")
    return wish == "1"


def greedy(model: LoadedModel, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with EOS, at most `max_new_tokens`.

    Raises:
        RuntimeError: if the library reports an error.
    """
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=model.pad_id,
        suppress_tokens=list(range(model.vocabulary_size, len(model.head_VH))) or None,  # padding rows
    )
    room = {}
    if model.policy.device == "cpu":
        longest = max(map(len, prompts)) + max_new_tokens
        pages = -(-longest // PAGE_TOKENS)
        room = {
            "num_blocks": max(2 * pages, CPU_TOKENS // PAGE_TOKENS),
            "max_batch_tokens": max(512, longest),
        }
    found = model.causal.generate_batch(
        inputs=list(prompts),
        generation_config=settings,
        continuous_batching_config=ContinuousBatchingConfig(
            drop_unsupported_processors=False, page_size=PAGE_TOKENS, **room
        ),
        warmup=False,
    )
    outputs = list(found.values())  # in the order of the prompts; what failed may be missing
    errors = [output.error for output in outputs if output.error] + ["texts are missing"] * (
        len(outputs) != len(prompts)
    )
    if errors:
        raise RuntimeError(f"continuous batching failed ({errors[0]}); unset KDUTILS_CONTINUOUS_BATCHING")
    return [list(output.generated_tokens) for output in outputs]
