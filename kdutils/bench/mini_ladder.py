"""The ladder of the mini family: base and SFT accuracy of every model on every task.

`python -m kdutils.bench.mini_ladder [--out DIR]`, 3 minutes on two cores. World and sizes were calibrated on
it and on nothing else: nothing here distils.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from kdutils.constants import DOMAIN_TASKS, TRAIN_DOMAINS
from kdutils.grid import fill
from kdutils.io import disk
from kdutils.mini.family import FAMILY, MINI_MODELS
from kdutils.spec import MINI, EvalSpec, PlannedRun, RunSpec

LADDER_FILE = Path(__file__).parents[1] / "mini" / "ladder.csv"
COLUMNS = ["domain", "student", "method", "task", "n", "accuracy", "accuracy_se"]  # of LADDER_FILE, percent


def planned(items_per_task: int) -> list[PlannedRun]:
    """The base and SFT runs of all ten models, seed 0."""
    return [
        PlannedRun(
            RunSpec(student=model, method=method, domain=domain, data=MINI),
            EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=items_per_task),
        )
        for domain in TRAIN_DOMAINS
        for method in ("base", "sft")
        for model in MINI_MODELS
    ]


def steps(table: pd.DataFrame) -> pd.Series:
    """Rise of the average SFT accuracy from a size to the next, in standard errors of the difference."""
    sft = table[(table["method"] == "sft") & (table["task"] == "average")].set_index(["domain", "student"])
    found = {}
    for domain in ("math", "commonsense"):
        for small, large in pairwise(FAMILY):
            if small.architecture == large.architecture:
                one, other = sft.loc[(domain, small.name)], sft.loc[(domain, large.name)]
                error = np.hypot(one["accuracy_se"], other["accuracy_se"])
                found[domain, large.name] = (other["accuracy"] - one["accuracy"]) / error
    return pd.Series(found)


def main() -> None:
    """Make the `planned` runs; write and print their accuracies.

    Raises:
        RuntimeError: if a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=disk.OUTPUTS, help="where the runs are kept")
    parser.add_argument("--csv", type=Path, default=LADDER_FILE, help="where the table goes")
    asked = parser.parse_args()
    runs = planned(200)
    state = fill.fill(runs, asked.out, progress=lambda state: print(state, flush=True))
    if state.failures:
        raise RuntimeError(str(state))
    table = fill.live_cells(runs, asked.out)[COLUMNS].round(2)
    disk.write_csv(asked.csv, table)
    print(table.to_string(index=False))
    found = steps(table)
    print(f"{(found > 1).sum()} of {len(found)} steps exceed the standard error of their difference")


if __name__ == "__main__":
    main()
