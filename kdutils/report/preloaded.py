"""What notebooks and the worker that executes one import, for the process from which both are forked.

What libraries make at their first use is made here too: schemas, templates, tables of entities, fonts, and
which files each table of the analysis depends on. Nothing here may start a thread or load torch: a fork
copies one thread alone.
"""

# ruff: noqa: E402
from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import io
import json
import sys
from pathlib import Path

sys.modules["rfc3987_syntax"] = None  # see kdutils.report.start

import matplotlib
import nbformat
from matplotlib.figure import Figure

from kdutils.io import cache
from kdutils.report import notebook_parameters, render, styles

LIBRARIES = (  # of the worker and the kernel
    *("ipykernel.ipkernel", "ipykernel.kernelapp", "ipykernel.zmqshell", "matplotlib_inline.backend_inline"),
    *("nbclient", "papermill", "pingouin", "pyarrow.parquet", "kdutils.report.cli", "kdutils.report.worker"),
)


def imported_by(notebooks: Path) -> set[str]:
    """Full names of what the code cells of the notebooks in a folder import, modules or not.

    A cell or notebook that cannot be read counts for nothing: its own execution reports it.
    """
    names: set[str] = set()
    for path in notebooks.glob("*.ipynb"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
                with contextlib.suppress(SyntaxError):  # of a magic
                    for node in ast.walk(ast.parse(source)):
                        if isinstance(node, ast.Import):
                            names |= {alias.name for alias in node.names}
                        elif isinstance(node, ast.ImportFrom):
                            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


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


for name in [*LIBRARIES, *sorted(imported_by(notebook_parameters.NOTEBOOKS))]:
    with contextlib.suppress(ImportError):  # no module but a name in one; else its notebook fails alone
        importlib.import_module(name)
        if name.startswith("kdutils."):
            cache.code_files(name)  # reads what it imports, once for all notebooks
use()
gc.freeze()  # what all processes share is not looked through by any
