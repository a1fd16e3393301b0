"""Evaluation by three ways of generating the same greedy texts: items a second of each.

`python -m kdutils.bench.decoding MODEL ITEMS REPEATS` prints one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from kdutils.io.environment import REPOSITORY

MODEL, MAX_NEW_TOKENS, ROWS = "mini-qwen-105k", 96, 64
AUTHORS = "as the authors: one text at a time, no KV cache"
PLAIN = "transformers generate, batches of 64"
OURS = "kdutils"
Texts = list[list[int]]


def compare(model: str = MODEL, *, n_items: int, repeats: int, n_threads: int = 1) -> list[dict[str, Any]]:
    """What each way took, measured in one process of its own, in turns, by default on one thread.

    Returns:
        contender, items, items_per_second (median), times_faster than the authors' way, same_texts (as
        theirs), tokens_per_second, repeats.

    Raises:
        RuntimeError: if the process fails.
    """
    command = [sys.executable, "-W", "ignore", "-P", "-m", __name__, model, str(n_items), str(repeats)]
    threads = {"OMP_NUM_THREADS": str(n_threads), "TOKENIZERS_PARALLELISM": "false"}
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    own = os.environ | threads | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"evaluation could not be measured ({lines[-1][:200]})")
    return json.loads(run.stdout.splitlines()[-1])


def measure(name: str, n_items: int, repeats: int) -> list[dict[str, Any]]:
    """As `compare`, in this process. The items are math questions of the mini world, equally many a task."""
    from kdutils import encoding, models
    from kdutils.constants import DOMAIN_TASKS
    from kdutils.data import sources
    from kdutils.spec import RunSpec

    model = models.load(name)
    spec = sources.resolved(RunSpec(student=name, method="base", domain="math"))
    per_task = -(-n_items // len(DOMAIN_TASKS["math"]))
    items = sources.load_items(spec, "test", per_task=per_task)[:n_items]
    prompts = encoding.prompt_ids([item.question for item in items], model.tokenizer)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    texts: dict[str, Texts] = {}
    for write in WAYS.values():
        write(model, prompts[:2])  # what is made once
    for _ in range(repeats):
        for way, write in WAYS.items():
            started = time.perf_counter()
            texts[way] = write(model, prompts)
            seconds[way].append(time.perf_counter() - started)
    taken = {way: statistics.median(own) for way, own in seconds.items()}
    return [
        {
            "contender": way,
            "items": len(items),
            "items_per_second": len(items) / taken[way],
            "times_faster": taken[AUTHORS] / taken[way],
            "same_texts": sum(a == b for a, b in zip(texts[way], texts[AUTHORS], strict=True)),
            "tokens_per_second": sum(map(len, texts[way])) / taken[way],
            "repeats": repeats,
        }
        for way in WAYS
    ]


def as_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of performance.csv: a step is the evaluation of all items."""
    return {
        "case": f"evaluation of {row['items']} items",
        "contender": row["contender"],
        "seconds_per_step": row["items"] / row["items_per_second"],
        "tokens_per_second": row["tokens_per_second"],
        "repeats": row["repeats"],
    }


def _authors(model: Any, prompts: Sequence[list[int]]) -> Texts:
    return [_generated(model, [prompt], use_cache=False)[0] for prompt in prompts]


def _plain(model: Any, prompts: Sequence[list[int]]) -> Texts:
    batches = (prompts[first : first + ROWS] for first in range(0, len(prompts), ROWS))
    return [text for batch in batches for text in _generated(model, batch, use_cache=True)]


def _ours(model: Any, prompts: Sequence[list[int]]) -> Texts:
    from kdutils.generation import generate

    return [text.token_ids for text in generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS)]


def _generated(model: Any, prompts: Sequence[list[int]], *, use_cache: bool) -> Texts:
    """By transformers' own generate; EOS and what stands after it cut off."""
    import torch
    from transformers import GenerationConfig

    width, eos = max(map(len, prompts)), model.tokenizer.eos_token_id
    ids = torch.tensor([[model.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=eos,
        pad_token_id=model.pad_id,
    )
    made = model.causal.generate(ids, attention_mask=real, generation_config=settings)[:, width:].tolist()
    return [text[: text.index(eos)] if eos in text else text for text in made]


WAYS: dict[str, Callable[[Any, Sequence[list[int]]], Texts]] = {AUTHORS: _authors, PLAIN: _plain, OURS: _ours}


if __name__ == "__main__":
    import torch

    torch.set_flush_denormal(True)
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
