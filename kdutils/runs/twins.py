"""How two students of one pruned model lie to each other: see builds.connectivity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdutils.builds import connectivity
from kdutils.data import sources
from kdutils.runs import store
from kdutils.runs.students import load_trained
from kdutils.spec import EvalSpec, RunSpec

ITEMS = 20  # a task: a line has eleven passes over them


def joined(out: Path, one: RunSpec, other: RunSpec, evaluation: EvalSpec) -> dict[str, float]:
    """`barrier` between two students (connectivity.barrier) and their `cka`.

    On the gold responses of the first ITEMS items of each task of an evaluation. Both runs are resolved,
    finished and of one mask.
    """
    students = [load_trained(spec, store.folder_of(out, spec.run_id)) for spec in (one, other)]
    some = replace(evaluation, items_per_task=min(ITEMS, evaluation.items_per_task))
    items = sources.test_items(one, some)
    hidden = [(student, connectivity.scores(student, items, one).hidden_NH) for student in students]
    features = [connectivity.logit_features(*each) for each in hidden]
    barrier = connectivity.barrier(connectivity.line(*students, items, one))
    return {"barrier": barrier, "cka": connectivity.linear_cka(*features)}
