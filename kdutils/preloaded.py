"""What a notebook and the worker that executes it import, for the process from which both are forked.

Nothing here may start a thread or load torch: a fork copies one thread alone.
"""

# ruff: noqa: E402, F401
from __future__ import annotations

import sys

sys.modules["rfc3987_syntax"] = None  # as in __main__

import ipykernel.ipkernel
import ipykernel.kernelapp
import ipykernel.zmqshell
import matplotlib_inline.backend_inline
import nbclient
import nbconvert.exporters
import papermill
import pingouin
import pyarrow.parquet

from kdutils import (
    __main__,
    answersheet,
    arms,
    beside,
    calibration,
    calibrationfigures,
    capa,
    claims,
    declared,
    examples,
    figures,
    halves,
    itempairs,
    itemwise,
    ledger,
    likeness,
    live,
    optimism,
    paradox,
    performance,
    protocols,
    published,
    report,
    roofline,
    scoring,
    sensitivity,
    solutions,
    speedfigures,
    stats,
    strictfigures,
    studentgains,
    study,
    sweeps,
    weights,
    worker,
)
