"""The ladder of the mini family: base and SFT accuracy of every model on every task.

    python -m kdutils.bench.mini_ladder [--out DIR]

It is what world and sizes were calibrated on, and all they were calibrated on: nothing here distils.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdutils.constants import AVERAGE, TRAIN_DOMAINS
from kdutils.grid import fill, plan
from kdutils.grid.profile import Live
from kdutils.io import disk
from kdutils.mini.family import MINI_MODELS, pairs
from kdutils.spec import MINI, PlannedRun

LADDER_FILE = Path(__file__).parents[1] / "mini" / "ladder.csv"
COLUMNS = ["domain", "student", "method", "task", "n", "accuracy", "accuracy_se"]


def planned(items_per_task: int = 200) -> list[PlannedRun]:
    """The base and SFT runs of all ten models, seed 0."""
    live = Live(
        data=MINI,
        models=tuple(MINI_MODELS),
        needs=(),
        sft_seeds=(0,),
        items_per_task=items_per_task,
        settings={},
    )
    runs = [plan.baselines(live, pairs(), domain, sft_seeds=live.sft_seeds) for domain in TRAIN_DOMAINS]
    return [run for of_domain in runs for run in of_domain]


def measured(out: Path, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """Accuracy with standard error, percent, by domain, model, method and task: COLUMNS.

    Raises:
        RuntimeError: if a run failed.
    """
    state = fill.fill(runs, out, progress=lambda state: print(state, flush=True))
    if state.failures:
        raise RuntimeError(str(state))
    return fill.live_cells(runs, out)[COLUMNS].round(2)


def rungs(ladder: pd.DataFrame, family: str, domain: str) -> pd.DataFrame:
    """Average SFT accuracy of a family's models, smallest first: student, accuracy, accuracy_se, step.

    `step` is the rise over the model before, in standard errors of the difference.
    """
    chosen = (ladder["method"] == "sft") & (ladder["task"] == AVERAGE) & (ladder["domain"] == domain)
    table = ladder[chosen & ladder["student"].str.startswith(f"mini-{family}-")].reset_index(drop=True)
    table["size"] = table["student"].str.rsplit("-", n=1).str[-1].str.rstrip("k").astype(int)
    table = table.sort_values("size").reset_index(drop=True)
    error = (table["accuracy_se"] ** 2 + table["accuracy_se"].shift() ** 2) ** 0.5
    return table.assign(step=(table["accuracy"].diff() / error).round(1))[
        ["student", "accuracy", "accuracy_se", "step"]
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=disk.OUTPUTS, help="where the runs are kept")
    parser.add_argument("--items", type=int, default=200, help="test items a task")
    parser.add_argument("--csv", type=Path, default=LADDER_FILE, help="where the table goes")
    asked = parser.parse_args()
    table = measured(asked.out, planned(asked.items))
    disk.write_csv(asked.csv, table)
    wide = table.pivot_table(index=["domain", "student", "method"], columns="task", values="accuracy")
    print(wide.round(0).to_string(na_rep=""))


if __name__ == "__main__":
    main()
