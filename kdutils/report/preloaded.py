"""What a notebook and the worker that executes it import, for the process from which both are forked.

What libraries make at their first use is made here too: schemas, templates, tables of entities, fonts.
Nothing here may start a thread or load torch: a fork copies one thread alone.
"""

# ruff: noqa: E402, F401
from __future__ import annotations

import gc
import sys

sys.modules["rfc3987_syntax"] = None  # see kdutils.__main__

import io

import ipykernel.ipkernel
import ipykernel.kernelapp
import ipykernel.zmqshell
import matplotlib
import matplotlib_inline.backend_inline
import nbclient
import nbconvert.exporters
import nbformat
import papermill
import pingouin
import pyarrow.parquet
from matplotlib.figure import Figure

from kdutils.bench import performance, roofline, speed_figures
from kdutils.claims import answer_sheet, claims, declared, selection_optimism, sensitivity, student_gains
from kdutils.inference import calibration
from kdutils.report import (
    calibration_figures,
    claim_figures,
    cli,
    figures,
    ledger,
    live,
    notebook_api,
    render,
    section,
    show_agreement,
    show_beyond,
    show_fidelity,
    show_gains,
    show_study,
    show_sweeps,
    styles,
    worker,
)
from kdutils.results import (
    agreement_fidelity,
    answer_modes,
    authors_tables,
    authors_tests,
    capa,
    examples,
    gain_tables,
    half_accuracy,
    item_gains,
    model_provenance,
    paired_items,
    paradox,
    protocol_runs,
    protocols,
    released_comparison,
    solution_steps,
    sweeps,
)


def use() -> None:
    """Make and forget a page and a figure, with what every notebook has."""
    cells = [
        nbformat.v4.new_markdown_cell("# A heading\n\nA *word* & a [link](https://example.org)."),
        nbformat.v4.new_code_cell("x = 1", outputs=[nbformat.v4.new_output("stream", text="1")]),
    ]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    name = "00_page"
    render.to_html(nbformat.reads(text, as_version=4), name=name, links=[render.Link(name, None)], facts={})
    with matplotlib.rc_context():
        styles.set_theme()
        fig = Figure()  # not of pyplot, which where there is a screen would open it
        fig.subplots().set(title="a title", xlabel="x", ylabel="y")
        for kind in ("png", "svg"):
            fig.savefig(io.BytesIO(), format=kind)


use()
gc.freeze()  # what all processes share is not looked through by any
