"""What notebooks import, for the process that their kernels are forked from.

What libraries make at their first use is made here too: fonts, and which files each table of the analysis
depends on. Nothing here may start a thread or load torch: a fork copies one thread alone.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import io
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from kdutils.io import cache
from kdutils.report import notebook_parameters, styles

LIBRARIES = (
    *("ipykernel.ipkernel", "ipykernel.kernelapp", "ipykernel.zmqshell", "matplotlib_inline.backend_inline"),
    *("pingouin", "pyarrow.parquet", "kdutils.report.kernels"),
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


for name in [*LIBRARIES, *sorted(imported_by(notebook_parameters.NOTEBOOKS))]:
    with contextlib.suppress(ImportError):  # no module but a name in one; else its notebook fails alone
        importlib.import_module(name)
        if name.startswith("kdutils."):
            cache.code_files(name)  # reads what it imports, once for all notebooks
with matplotlib.rc_context():
    styles.set_theme()
    figure = Figure()  # not of pyplot, which where there is a screen would open it
    figure.subplots().set(title="a title", xlabel="x", ylabel="y")
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)
gc.freeze()  # what all processes share is not looked through by any
