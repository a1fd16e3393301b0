"""How a student predicts held-out gold responses, token by token, and how far that is from its teacher."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from kdutils import encoding
from kdutils.compute import BATCH_ROWS
from kdutils.constants import DOMAIN_TASKS, DOMAINS
from kdutils.data import sources
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.runs import comparison, store
from kdutils.runs.answers import NO_LIMIT
from kdutils.runs.students import load_trained
from kdutils.spec import EvalSpec, RunSpec

ROWS = 256  # positions whose logits exist at one time
MEASURES = ("nll", "forward_kl", "reverse_kl", "same_top1")


def compared(out: Path, spec: RunSpec, teacher: RunSpec, evaluation: EvalSpec) -> pd.DataFrame:
    """What a student makes of the items of an evaluation, beside its teacher, and of the other domain's.

    A row an item: columns of `predictions`; right and same (its answer is the teacher's), 0 or 1; bleu
    (comparison.sentence_bleu of its text against the teacher's); is_other.
    Of the other domain it has nll alone. Both runs are resolved, finished and evaluated so.
    """
    other = next(domain for domain in DOMAINS if domain != spec.domain)
    there = replace(evaluation, tasks=DOMAIN_TASKS[other])
    student = _loaded(out, spec)
    texts = [store.folder_of(out, each.run_id).evaluation(evaluation) for each in (spec, teacher)]
    own = predictions(student, _teacher(out, teacher), sources.test_items(spec, evaluation), spec.prompt)
    both = comparison.paired(*texts)
    both["right"], both["same"] = both["correct"].astype(float), comparison.same_answer(both).astype(float)
    both["bleu"] = comparison.sentence_bleu(both)
    own = own.merge(both[["task", "item_id", "right", "same", "bleu"]], validate="one_to_one")
    far = predictions(student, None, sources.test_items(spec, there), spec.prompt)
    return pd.concat([own.assign(is_other=False), far.assign(is_other=True)], ignore_index=True)


def _loaded(out: Path, spec: RunSpec) -> LoadedModel:
    return load_trained(spec, store.folder_of(out, spec.run_id))


_teacher = lru_cache(maxsize=1)(_loaded)  # one has many students


@torch.no_grad()
def predictions(
    student: LoadedModel, teacher: LoadedModel | None, items: Sequence[Item], prompt: str
) -> pd.DataFrame:
    """A row an item: task, item_id and MEASURES, means over the tokens of its gold response.

    nll: -log of the student's probability of the token; forward_kl: KL(teacher || student); reverse_kl:
    KL(student || teacher), nats; same_top1: 1 where both find one token likeliest. NaN without a teacher.
    """
    how = {"max_tokens": NO_LIMIT, "protocol": "careful", "prompt": prompt}
    encoded, values = encoding.encode(items, student.tokenizer, **how), []
    models = [student, *[teacher] * (teacher is not None)]
    heads = [model.head.cut(student.vocabulary_size) for model in models]
    for start in range(0, len(items), BATCH_ROWS):
        rows = range(start, min(start + BATCH_ROWS, len(items)))
        batch = encoding.collate(encoded, rows, pad_id=student.pad_id)
        targets_N = batch.input_ids_BT[batch.scored_BT].to(student.policy.device)
        states = [model.scoring_states(batch) for model in models]
        of_tokens = []
        for first in range(0, len(targets_N), ROWS):
            some = slice(first, first + ROWS)
            logits = [head.logits(own_NH[some]) for head, own_NH in zip(heads, states, strict=True)]
            of_tokens.append(_values(targets_N[some], logits))
        lengths = batch.scored_BT.sum(1).tolist()
        values += [own.mean(0).tolist() for own in torch.cat(of_tokens).split(lengths)]
    named = {"task": [item.task for item in items], "item_id": [item.id for item in items]}
    return pd.DataFrame(named).join(pd.DataFrame(values, columns=MEASURES))


def _values(targets_N: Tensor, logits: list[Tensor]) -> Tensor:
    """MEASURES (N, 4) of each position; `logits` of the student, and of the teacher if there is one."""
    log_student, *rest = (own.float().log_softmax(-1) for own in logits)
    nll_N = -log_student.gather(1, targets_N[:, None])[:, 0]
    if not rest:
        return torch.stack([nll_N, *[torch.full_like(nll_N, torch.nan)] * 3], dim=1)
    gap = rest[0] - log_student
    kls = [(rest[0].exp() * gap).sum(1), -(log_student.exp() * gap).sum(1)]
    return torch.stack([nll_N, *kls, (log_student.argmax(1) == rest[0].argmax(1)).float()], dim=1)
