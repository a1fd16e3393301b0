"""What a low-rank student of a real model loses, and what distillation gives back (profile `qwen-students`).

`python tests/realarm.py OUT` prints cross-entropy, nats a token, of held-out math items: of the student and
of its low-rank form, before and after their trainings in OUT (`./run_all.sh qwen-students --only 16`).
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdutils import encoding, models
from kdutils.builds import built
from kdutils.data import sources
from kdutils.grid import arms, plan
from kdutils.runs import held_out
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import folder_of
from kdutils.runs.students import load_trained

N_ITEMS, N_DRAWS = 200, 2_000


def losses(student, items):
    """Summed cross-entropy and number of tokens of each item, (items, 2)."""
    encoded = encoding.encode(items, student.tokenizer, max_tokens=10_000, protocol="careful")
    batch = encoding.collate(encoded, range(len(items)), pad_id=student.pad_id)
    n_tokens = batch.scored_BT.sum(1).numpy()
    return np.stack(
        [held_out.predictions(student, None, items, "alpaca")["nll"] * n_tokens, n_tokens], axis=1
    )


def mean_of(tables):
    sums = tables.sum(-2)
    return sums[..., 0] / sums[..., 1]


def interval(draws):
    return "[{:.3f}, {:.3f}]".format(*np.quantile(draws, (0.025, 0.975)))


def main(out: Path) -> None:
    asked = plan.plan("16", {"profile": "qwen-students", "out": str(out)})
    (study,) = [each for each in asked.profile.live.arm_studies if each.section == "16"]
    found = {}
    for run in arms.runs_of(study, asked.profile.live, out):
        spec = sources.resolved(run.spec)
        more = sources.resolved(replace(run.spec, validation_items=N_ITEMS))
        items = sources.load_items(more, "validation")
        inputs = Inputs.of(spec, None)
        before = built.build(models.load(inputs.student), spec, items=inputs.items.train)
        found[run.cell.arm, "before"] = losses(before, items)
        found[run.cell.arm, "after"] = losses(load_trained(spec, folder_of(out, spec.run_id)), items)
    rows = np.random.default_rng(0).integers(len(items), size=(N_DRAWS, len(items)))
    drawn = {key: mean_of(table[rows]) for key, table in found.items()}
    first = "narrow", "before"
    print(f"{len(items)} items, {int(found[first][:, 1].sum())} tokens; 95% intervals over items")
    for key, table in found.items():
        more = mean_of(table) - mean_of(found[first])
        print(*key, f"{mean_of(table):.3f} {interval(drawn[key])}, {more:+.3f}", end=" ")
        print(f"{interval(drawn[key] - drawn[first])} beside the student as it is", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
