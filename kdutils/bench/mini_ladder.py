"""The ladder of the mini family: base and SFT accuracy of every model on every task.

    python -m kdutils.bench.mini_ladder [--out DIR]

It is what world and sizes were calibrated on, and all they were calibrated on: nothing here distils.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kdutils.constants import DOMAIN_TASKS, TRAIN_DOMAINS
from kdutils.grid import fill
from kdutils.io import disk
from kdutils.mini.family import MINI_MODELS
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


def main() -> None:
    """Make the `planned` runs; write and print their accuracies.

    Raises:
        RuntimeError: if a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=disk.OUTPUTS, help="where the runs are kept")
    parser.add_argument("--items", type=int, default=200, help="test items a task")
    parser.add_argument("--csv", type=Path, default=LADDER_FILE, help="where the table goes")
    asked = parser.parse_args()
    runs = planned(asked.items)
    state = fill.fill(runs, asked.out, progress=lambda state: print(state, flush=True))
    if state.failures:
        raise RuntimeError(str(state))
    table = fill.live_cells(runs, asked.out)[COLUMNS].round(2)
    disk.write_csv(asked.csv, table)
    wide = table.pivot_table(index=["domain", "student", "method"], columns="task", values="accuracy")
    print(wide.round(0).to_string(na_rep=""))


if __name__ == "__main__":
    main()
