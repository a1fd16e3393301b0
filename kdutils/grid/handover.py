"""What the driver of a run knows already, for the notebooks it starts: cells, costs and state of each plan.

A report can so say what this run has made, and no notebook looks through the store again. It lies in the
scratch folder of one ./run_all.sh, so it cannot be stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdutils.grid.cell_table import SCHEMA
from kdutils.grid.plan import Plan
from kdutils.io import disk

FOLDER = "KDUTILS_HANDOVER"  # environment variable: where it lies


@dataclass(frozen=True)
class Handover:
    """The live part of a plan."""

    cells: pd.DataFrame  # cells.SCHEMA
    costs: pd.DataFrame  # as grid.costs gives them
    state: str  # what became of the runs, in a line


def write(folder: Path, plan: Plan, handed: Handover) -> None:
    """Leave it for the notebook of that plan; what lies there is left alone.

    Notebooks may have the same plan, and the first of them reads while the others' are handed over.
    """
    if (folder / _digest(plan)).is_dir():
        return
    with disk.folder_in_one_step(folder / _digest(plan)) as partial:
        handed.cells.to_parquet(partial / "cells.parquet", index=False)
        handed.costs.to_parquet(partial / "costs.parquet", index=False)
        (partial / "state.txt").write_text(handed.state, encoding="utf-8")


def read(plan: Plan) -> Handover | None:
    """What the driver left for that plan; None if no driver did."""
    folder = Path(os.environ.get(FOLDER, os.devnull)) / _digest(plan)
    if not folder.is_dir():
        return None
    return Handover(
        cells=pd.read_parquet(folder / "cells.parquet").astype(SCHEMA),
        costs=pd.read_parquet(folder / "costs.parquet"),
        state=(folder / "state.txt").read_text(encoding="utf-8"),
    )


def _digest(plan: Plan) -> str:
    asked = [[run.spec.to_dict(), run.evaluation.to_dict()] for run in plan.runs]
    return hashlib.sha256(json.dumps([str(plan.out), asked], sort_keys=True).encode()).hexdigest()[:16]
