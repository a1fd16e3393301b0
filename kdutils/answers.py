"""What a student answers: the item rows of an evaluation, generated and scored."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from kdutils import data, evaluate, generate
from kdutils.items import fingerprint
from kdutils.material import test_items
from kdutils.models import LoadedModel
from kdutils.runspec import EvalSpec, RunSpec

NO_LIMIT = 1_000_000  # tokens: what is evaluated is never cut


def item_rows(
    student: LoadedModel, spec: RunSpec, evaluation: EvalSpec
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row a task x item x sample (columns of evaluate.score), and the seconds and items it took."""
    started = time.monotonic()
    items = test_items(spec, evaluation)
    prompts = data.prompt_ids([item.question for item in items], student.tokenizer)
    wanted = [(row, sample) for sample in range(evaluation.samples) for row in range(len(items))]
    made = generate.generate(
        student,
        [prompts[row] for row, _ in wanted],
        max_new_tokens=evaluation.max_new_tokens,
        temperature=evaluation.temperature,
        keys=[f"{items[row].id}/{sample}" for row, sample in wanted],
        seed=evaluation.seed,
    )
    written = generate.decode(student, made)
    top1 = generate.top1_tokens(
        student, data.encode(items, student.tokenizer, max_tokens=NO_LIMIT, protocol="careful")
    )
    rows = pd.DataFrame(
        [
            {"run_id": spec.run_id}
            | evaluate.score(
                items[row],
                text,
                n_tokens=len(output.token_ids),
                ended=output.ended,
                sample=sample,
                top1=top1[row],
            )
            for (row, sample), text, output in zip(wanted, written, made, strict=True)
        ]
    )
    facts = {"seconds": round(time.monotonic() - started, 3), "fingerprint": fingerprint(items)}
    return rows, facts
