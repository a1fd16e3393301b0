"""A student's answers to the test items: texts that it writes or options that it ranks, one row each."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from kdutils import encoding, generation, training
from kdutils.data.evaluate import score
from kdutils.io import memory
from kdutils.io.leases import Lease
from kdutils.items import Item, fingerprint
from kdutils.models import LoadedModel
from kdutils.runs import several_devices
from kdutils.runs.inputs import Inputs
from kdutils.runs.ranking import ranked
from kdutils.runs.store import RunFolder, Store
from kdutils.runs.students import load_trained
from kdutils.spec import EvalSpec, RunSpec

NO_LIMIT = 1_000_000  # tokens: what is evaluated is never cut
Rows = tuple[pd.DataFrame, dict[str, Any]]  # of an evaluation, and the seconds and items it took


def together(asked: Sequence[Inputs]) -> list[list[Inputs]]:
    """Evaluations in groups: those that ask for texts on the same prompts, and differ in decoding alone."""
    groups: dict[EvalSpec, list[Inputs]] = {}
    for each in asked:
        groups.setdefault(each.evaluation.greedy(), []).append(each)
    return list(groups.values())


def evaluate(
    student: LoadedModel | None, group: Sequence[Inputs], folder: RunFolder, lease: Lease, at: Store
) -> LoadedModel | None:
    """Store the rows of a run's evaluations of one group; the student, unless it may not fit one device."""
    memory.give_back_memory()  # of the training
    student, found = _rows(student, group, folder, at)
    lease.confirm()
    for each, (rows, facts) in zip(group, found, strict=True):
        folder.write_evaluation(each.evaluation, rows, facts)
    return student


def _rows(
    student: LoadedModel | None, group: Sequence[Inputs], folder: RunFolder, at: Store
) -> tuple[LoadedModel | None, list[Rows]]:
    """The student and its `rows_of`: by one device, which is faster, or where it lacks the room by all."""
    inputs, spec, evaluations = group[0], group[0].spec, [each.evaluation for each in group]
    try:
        student = student or load_trained(spec, folder, base=inputs.student, compute=at.compute)
        return student, rows_of(student, inputs.items.test, evaluations, spec)
    except (MemoryError, RuntimeError) as error:
        if spec.devices == 1 or not training.is_out_of_memory(error):
            raise
    gc.collect()  # what was loaded of the student
    memory.give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, [several_devices.evaluated(inputs, folder, at, each) for each in evaluations]


def rows_of(
    student: LoadedModel, items: Sequence[Item], evaluations: Sequence[EvalSpec], spec: RunSpec
) -> list[Rows]:
    """One row a task x item x sample of each evaluation of a group, and the seconds and items it took.

    Columns are those of data.evaluate.score, or where options are ranked of data.options.rank.
    """
    started = time.monotonic()
    if evaluations[0].scoring == "generation":
        found = _generated(student, items, evaluations, spec.prompt)
    else:
        found = [list(ranked(student, items, each, spec.prompt)) for each in evaluations]
    seconds = (time.monotonic() - started) / len(evaluations)
    facts = {"seconds": round(seconds, 3), "fingerprint": fingerprint(items)}
    return [(pd.DataFrame([{"run_id": spec.run_id} | row for row in rows]), facts) for rows in found]


def _generated(
    student: LoadedModel, items: Sequence[Item], evaluations: Sequence[EvalSpec], prompt: str
) -> list[list[dict[str, Any]]]:
    how = {"max_tokens": NO_LIMIT, "protocol": "careful", "prompt": prompt}
    encoded = encoding.encode(items, student.tokenizer, **how)
    of_item = [(ids[:n], ids[n:]) for ids, n in zip(encoded["input_ids"], encoded["n_unscored"], strict=True)]
    samples = [(each, sample) for each in evaluations for sample in range(each.samples)]
    wanted = [(*one, row) for one in samples for row in range(len(items))]
    texts = generation.generate(
        student,
        [of_item[row][0] for _, _, row in wanted],
        max_new_tokens=evaluations[0].max_new_tokens,
        temperature=[each.temperature for each, _, _ in wanted],
        top_p=[each.top_p for each, _, _ in wanted],
        keys=[f"{items[row].id}/{sample}" for _, sample, row in wanted],
        seed=[each.seed for each, _, _ in wanted],
        references=[of_item[row][1] for _, _, row in wanted],
    )
    rows: dict[EvalSpec, list[dict[str, Any]]] = {each: [] for each in evaluations}
    for (each, sample, row), made, text in zip(wanted, texts, generation.decode(student, texts), strict=True):
        how = {"n_tokens": len(made.token_ids), "ended": made.ended, "top1": made.likeliest}
        rotated = {"rotation": each.rotation} if each.rotation else {}
        rows[each].append(score(items[row], text, sample=sample, **how) | rotated)
    return list(rows.values())
