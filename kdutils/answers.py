"""What a student answers: the item rows of an evaluation, generated and scored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pandas as pd

from kdutils import encoding, evaluate, generation
from kdutils.data.sources import test_items
from kdutils.items import Item, fingerprint
from kdutils.models import LoadedModel
from kdutils.spec import EvalSpec, RunSpec

NO_LIMIT = 1_000_000  # tokens: what is evaluated is never cut


def item_rows(
    student: LoadedModel, spec: RunSpec, evaluation: EvalSpec
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row a task x item x sample, and the seconds and items it took.

    Columns are those of evaluate.score, or where options are ranked of evaluate.rank.
    """
    started = time.monotonic()
    items = test_items(spec, evaluation)
    of_items = _ranked if evaluation.scoring == "likelihood" else _generated
    whose = {"run_id": spec.run_id}
    rows = pd.DataFrame([whose | row for row in of_items(student, items, evaluation)])
    facts = {"seconds": round(time.monotonic() - started, 3), "fingerprint": fingerprint(items)}
    return rows, facts


def _ranked(student: LoadedModel, items: list[Item], evaluation: EvalSpec) -> Iterator[dict[str, Any]]:
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer)
    texts = [list(evaluate.options(item).values()) for item in items]
    options = [student.tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts]
    for item, logprobs in zip(items, generation.option_logprobs(student, prompts, options), strict=True):
        yield evaluate.rank(item, logprobs)


def _generated(student: LoadedModel, items: list[Item], evaluation: EvalSpec) -> Iterator[dict[str, Any]]:
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer)
    wanted = [(row, sample) for sample in range(evaluation.samples) for row in range(len(items))]
    made = generation.generate(
        student,
        [prompts[row] for row, _ in wanted],
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperature,
        keys=[f"{items[row].id}/{sample}" for row, sample in wanted],
        seed=evaluation.seed,
    )
    written = generation.decode(student, made)
    top1 = generation.top1_tokens(
        student, encoding.encode(items, student.tokenizer, max_tokens=NO_LIMIT, protocol="careful")
    )
    for (row, sample), text, output in zip(wanted, written, made, strict=True):
        how = {"n_tokens": len(output.token_ids), "ended": output.ended, "sample": sample}
        yield evaluate.score(items[row], text, **how, top1=top1[row])
