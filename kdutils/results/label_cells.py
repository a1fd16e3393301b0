"""Cells and items of students that chose among labels instead of writing texts, with and without label prior.

So the claims are judged by the same rules on likelihoods as on texts. Of commonsense alone, all of whose
tasks have options. Items are as they are asked elsewhere (rotation 0); the prior that is taken out was
estimated over all orders of the options.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, COMMONSENSE
from kdutils.data import sources
from kdutils.grid import cell_table
from kdutils.grid.plan import Plan
from kdutils.grid.study import LABEL_WAYS
from kdutils.results import label_bias
from kdutils.results.item_gains import BESIDE, SCORED, Items, setting
from kdutils.results.label_bias import ITEM
from kdutils.spec import RunSpec

# decoding -> how rows are answered
WAYS = dict(zip(LABEL_WAYS, (lambda rows: rows, label_bias.without_prior), strict=True))
Answers = tuple[RunSpec, pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]


def _answers(plan: Plan, rows: pd.DataFrame, way: str) -> Iterator[Answers]:
    """Each run with its own answers, those of its SFT and those of its tuned teacher, by task and item."""
    specs = {spec.run_id: spec for spec in sources.resolved_all(run.spec for run in plan.asked)}
    answered = WAYS[way](rows[rows["domain"] == COMMONSENSE])
    asked = answered[answered["rotation"] == 0].groupby("run_id", sort=False)
    by_run = {name: own.set_index(ITEM) for name, own in asked}
    for name, own in by_run.items():
        teacher = specs[name].teacher_spec
        others = (specs[name].sft_spec, teacher) if teacher else ()
        yield specs[name], own, *([by_run.get(each.run_id) for each in others] or [None, None])


def cells(plan: Plan, rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of a plan's label rows (label_bias.of_labels), those of each of WAYS under its `decoding`.

    Agreement is with the student's own tuned teacher; there are no texts, so no fidelity.
    """
    found = []
    for way in WAYS:
        for spec, own, sft, teacher in _answers(plan, rows, way):
            right = own["correct"].groupby("task", sort=False)
            tasks = (100 * right.agg(accuracy="mean", accuracy_se="sem")).assign(n=right.size())
            error = np.sqrt((tasks["accuracy_se"] ** 2).sum()) / len(tasks)
            mean = {"accuracy": tasks["accuracy"].mean(), "accuracy_se": error, "n": len(own)}
            for name, student in (("agreement", own), ("agreement_sft", sft)):
                if student is not None and teacher is not None:
                    same = student["parsed"] == teacher["parsed"]
                    tasks[name] = 100 * same.groupby("task").mean()
            run = cell_table.run_columns(spec) | {"decoding": way}
            found += [run | record for record in tasks.reset_index().to_dict("records")]
            found.append(run | {"task": AVERAGE} | mean)
    return cell_table.cell_table(found)


def items(plan: Plan, rows: pd.DataFrame, way: str) -> Items:
    """The same answers as item_gains.read gives those in texts, without likeness of texts."""
    scored, beside = [], []
    for spec, own, sft, teacher in _answers(plan, rows, way):
        run = setting(spec) | {"seed": spec.seed}
        right = own["correct"].astype(float).to_frame("value")
        scored.append(right.reset_index().assign(**run))
        is_plain = teacher is not None and (spec.temperature, spec.noise_sigma) == (1.0, 0.0)
        for method, student in ((spec.method, own), ("sft", sft)) if is_plain and sft is not None else ():
            same = (student["parsed"] == teacher["parsed"]).astype(float).rename("value")
            beside.append(same.reset_index().assign(**run | {"method": method}))
    beside = pd.concat(beside or [pd.DataFrame(columns=BESIDE)]).reindex(columns=BESIDE)
    keys = [name for name in BESIDE if not name.startswith(("bleu", "value"))]
    scored = pd.concat(scored or [pd.DataFrame(columns=SCORED)])[SCORED]
    return Items(scored, beside.drop_duplicates(keys, ignore_index=True))
