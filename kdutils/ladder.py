"""The ladder of the mini family: base and SFT accuracy of every model on every task.

    python -m kdutils.ladder [--out DIR]

It is what world and sizes were calibrated on, and all they were calibrated on: nothing here distils.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from kdutils import grid, store
from kdutils.mini.family import pairs
from kdutils.runspec import MINI
from kdutils.spec import AVERAGE, TRAIN_DOMAINS, Live

LADDER_FILE = Path(__file__).parent / "mini" / "ladder.csv"
COLUMNS = ["domain", "student", "method", "task", "n", "accuracy", "accuracy_se"]


def plan(items_per_task: int = 200) -> Live:
    """The base and SFT runs of all ten models, seed 0."""
    return Live(
        data=MINI,
        pairs=tuple(pairs()),
        methods=(),
        domains=TRAIN_DOMAINS,
        temperatures=(1.0,),
        noise_sigmas=(0.0,),
        seeds=(0,),
        items_per_task=items_per_task,
        settings={},
    )


def measured(out: Path, live: Live) -> pd.DataFrame:
    """Accuracy with standard error, percent, by domain, model, method and task: COLUMNS.

    Raises:
        RuntimeError: if a run failed.
    """
    state = grid.fill(live, out, progress=lambda state: print(state, flush=True))
    if state.failures:
        raise RuntimeError(str(state))
    return grid.live_cells(live, out)[COLUMNS].round(2)


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
    parser.add_argument("--out", type=Path, default=store.OUTPUTS, help="where the runs are kept")
    parser.add_argument("--items", type=int, default=200, help="test items a task")
    parser.add_argument("--csv", type=Path, default=LADDER_FILE, help="where the table goes")
    asked = parser.parse_args()
    table = measured(asked.out, plan(asked.items))
    store.write_csv(asked.csv, table)
    wide = table.pivot_table(index=["domain", "student", "method"], columns="task", values="accuracy")
    print(wide.round(0).to_string(na_rep=""))


if __name__ == "__main__":
    main()
