"""What notebooks import, for the process that their kernels are forked from.

What libraries make at their first use is made here too: fonts, and which files each table of the analysis
depends on. Nothing here may start a thread or load torch: a fork copies one thread alone.
"""

import contextlib
import gc
import importlib
import io
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from kdutils.io import cache
from kdutils.report import notebook_parameters, plots

LIBRARIES = (
    *("ipykernel.ipkernel", "ipykernel.kernelapp", "ipykernel.zmqshell", "matplotlib_inline.backend_inline"),
    *("pingouin", "pyarrow.parquet", "kdutils.report.kernels"),
)


def imported_by(notebooks: Path) -> set[str]:
    """Full names of what the notebooks in a folder import, modules or not; of what cannot be read none."""
    names: set[str] = set()
    for path in notebooks.glob("*.ipynb"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SyntaxError):  # its run reports it
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            names.update(cache.imported("\n".join(code)))
    return names


for name in [*LIBRARIES, *sorted(imported_by(notebook_parameters.NOTEBOOKS))]:
    with contextlib.suppress(ImportError):  # no module but a name in one; else its notebook fails alone
        importlib.import_module(name)
        if name.startswith("kdutils."):
            cache.code_files(name)  # reads what it imports, once for all notebooks
with matplotlib.rc_context():
    plots.set_theme()
    figure = Figure()  # not of pyplot, which where there is a screen would open it
    figure.subplots().set(title="a title", xlabel="x", ylabel="y")
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)
gc.freeze()  # what all processes share is not looked through by any
