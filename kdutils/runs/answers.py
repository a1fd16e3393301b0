"""A student's answers to the test items: texts that it writes or options that it ranks, one row each."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdutils import encoding, generation, training
from kdutils.data.evaluate import score
from kdutils.generation import Decoder, Text
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

REFERENCE_ROWS = 16  # that are read together: of similar length, so that little is padding
NO_LIMIT = 1_000_000  # tokens: what is evaluated is never cut
Rows = tuple[pd.DataFrame, dict[str, Any]]  # of an evaluation; seconds, of its group by its size, and items


def together(asked: Sequence[Inputs]) -> list[list[Inputs]]:
    """Evaluations in groups that the same passes through the model make."""
    groups: dict[EvalSpec, list[Inputs]] = {}
    for each in asked:
        groups.setdefault(each.evaluation.same_passes(), []).append(each)
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
    """One row a task x item x sample of each evaluation of a group, its items, and its part of the seconds.

    Columns are those of data.evaluate.score, or where options are ranked of data.options.rank.
    """
    started = time.monotonic()
    if evaluations[0].scoring == "generation":
        found = _generated(student, items, evaluations, spec.prompt)
    else:
        found = ranked(student, items, evaluations, spec.prompt)
    seconds = (time.monotonic() - started) / len(evaluations)
    facts = {"seconds": round(seconds, 3), "fingerprint": fingerprint(items)}
    return [(pd.DataFrame([{"run_id": spec.run_id} | row for row in rows]), facts) for rows in found]


def texts_and_likeliest(
    model: LoadedModel, prompts: Sequence[list[int]], references: Sequence[list[int]], **how: Any
) -> tuple[list[Text], list[list[int]]]:
    """A text for each prompt, and the likeliest token at each position of its reference, given those before.

    The references, such as the right responses, are read after the very prompts that the texts follow, some
    of similar length at a time.

    Args:
        how: more of `generation.generate`.

    Raises:
        ValueError: for an empty reference, or as `generate`.
    """
    if not all(references):
        raise ValueError("a reference has no tokens; there is no likeliest one")
    both = [(tuple(prompt), tuple(own)) for prompt, own in zip(prompts, references, strict=True)]
    found: dict[tuple, list[int]] = {}

    def read(step: Decoder, states_B1H: Tensor, rows: list[int]) -> None:
        places = {both[row]: place for place, row in enumerate(rows) if both[row] not in found}
        shortest_first = sorted(places, key=lambda one: len(one[1]))
        for start in range(0, len(shortest_first), REFERENCE_ROWS):
            part = shortest_first[start : start + REFERENCE_ROWS]
            own = torch.tensor([places[one] for one in part], device=states_B1H.device)
            n_more = len(part[-1][1])
            if step.can_select:
                after, states = step.copy_of(own, n_more), states_B1H[own]
            else:
                after = Decoder(model, [list(prompt) for prompt, _ in part], n_more)
                states = after.read_prompts()
            found.update(zip(part, _likeliest(model, after, states, [own for _, own in part]), strict=True))

    texts = generation.generate(model, prompts, when_read=read, **how)
    return texts, [found[one] for one in both]


def _likeliest(
    model: LoadedModel, step: Decoder, states_B1H: Tensor, references: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Of each reference, which follows what `step` has read and whose last states are given."""
    _, states_NH = step.read_after(states_B1H, references, model.pad_id)
    head = model.head.cut(model.vocabulary_size)
    parts = [head.logits(part).argmax(-1) for part in states_NH.split(generation.LOGIT_ROWS)]
    return [ids.tolist() for ids in torch.cat(parts).cpu().split(list(map(len, references)))]


def _generated(
    student: LoadedModel, items: Sequence[Item], evaluations: Sequence[EvalSpec], prompt: str
) -> list[list[dict[str, Any]]]:
    how = {"max_tokens": NO_LIMIT, "protocol": "careful", "prompt": prompt}
    encoded = encoding.encode(items, student.tokenizer, **how)
    of_item = [(ids[:n], ids[n:]) for ids, n in zip(encoded["input_ids"], encoded["n_unscored"], strict=True)]
    samples = [(each, sample) for each in evaluations for sample in range(each.samples)]
    wanted = [(*one, row) for one in samples for row in range(len(items))]
    texts, likeliest = texts_and_likeliest(
        student,
        [of_item[row][0] for _, _, row in wanted],
        [of_item[row][1] for _, _, row in wanted],
        max_new_tokens=evaluations[0].max_new_tokens,
        temperature=[each.temperature for each, _, _ in wanted],
        top_p=[each.top_p for each, _, _ in wanted],
        keys=[f"{items[row].id}/{sample}" for _, sample, row in wanted],
        seed=[each.seed for each, _, _ in wanted],
    )
    rows: dict[EvalSpec, list[dict[str, Any]]] = {each: [] for each in evaluations}
    strings = generation.decode(student, texts)
    for (each, sample, row), made, text, top1 in zip(wanted, texts, strings, likeliest, strict=True):
        how = {"n_tokens": len(made.token_ids), "ended": made.ended, "top1": top1}
        rotated = {"rotation": each.rotation} if each.rotation else {}
        rows[each].append(score(items[row], text, sample=sample, **how) | rotated)
    return list(rows.values())
