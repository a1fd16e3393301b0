"""The execution of one notebook: papermill runs it in a kernel of its own, and its files are judged here.

A report is done if all cells ran, its page was made, and it left the sentinel of this very run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from traitlets.config import Config

from kdutils.grid import fill, local_pool
from kdutils.io import child_processes, disk
from kdutils.io.text_safety import scrub
from kdutils.report import ledger, notebook_api, notebook_parameters, render
from kdutils.report.index import Result
from kdutils.report.kernels import Kernel
from kdutils.report.render import duration

HANDOVER = "handover"  # in the scratch folder
KERNEL_START_SECONDS = 300  # the default of 60 is short on a loaded machine
NO_SENTINEL = "NotFinished: the last cell must call run.finish(), which is what says that all is whole"


def say(line: str) -> None:
    """Write one whole line of progress to stderr, also from several threads; without secrets."""
    sys.stderr.write(f"kdutils: {scrub(line)}\n")
    sys.stderr.flush()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One notebook to execute, and where it goes."""

    name: str
    source: Path
    reports: Path  # folder of the final files, and of the partial ones, so that a rename is enough
    profile: str
    parameters: dict[str, Any]  # what papermill sets
    changed: dict[str, Any]  # of them, those that differ from the defaults and that a reader cares for
    commit: str

    def report(self, suffix: str) -> Path:
        """`reports/NAME.ipynb` for ".ipynb"."""
        return self.reports / f"{self.name}{suffix}"

    def partial(self, suffix: str) -> Path:
        """`reports/.NAME.partial.ipynb` for ".ipynb"."""
        return self.reports / f".{self.name}.partial{suffix}"


class Executor:
    """Runs notebooks, each in a kernel of its own, until `stop` is called."""

    def __init__(self, scratch: Path, *, jobs: int, limit_seconds: float | None) -> None:
        self.stopped_by = 0  # number of the signal, 0 if there was none
        self._limit_seconds = limit_seconds
        self._token = os.environ[notebook_api.RUN_TOKEN]
        self._variables = _variables(scratch, jobs=jobs)
        self._context = _context(self._variables)
        self._kernels: dict[str, Kernel] = {}
        self._lock = threading.RLock()  # a second signal may come while `stop` answers the first

    def stop(self, signal_number: int) -> None:
        """End all kernels and start no other. Safe in a handler: the main thread locks nowhere else."""
        with self._lock:
            self.stopped_by = self.stopped_by or signal_number
            for kernel in self._kernels.values():
                child_processes.kill_tree(kernel.pid)

    def run(self, task: Task) -> Result:
        """Execute one notebook, then give its files their names, good or failed."""
        _remove_partials(task)
        with self._lock:
            if self.stopped_by:
                return Result(name=task.name, status="not_run")
            kernel = self._kernels[task.name] = Kernel(self._variables, self._context)
        if kernel.by_itself:
            say(f"{task.name} imports by itself, which takes longer")
        say(f"{task.name} started")
        started = time.monotonic()
        with kernel:
            error = self._outcome(task, kernel)
            with self._lock:
                del self._kernels[task.name]
        seconds = time.monotonic() - started
        if error:
            _conclude_failure(task, error, seconds)
            say(f"{task.name} FAILED after {duration(seconds)}: {error}")
        else:
            for suffix in (".html", ".ipynb"):
                task.partial(suffix).replace(task.report(suffix))
                task.report(f".failed{suffix}").unlink(missing_ok=True)
            say(f"{task.name} done in {duration(seconds)}")
        return Result(
            name=task.name,
            status="failed" if error else "done",
            seconds=round(seconds, 1),
            error=error,
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            changed=task.changed,
        )

    def _outcome(self, task: Task, kernel: Kernel) -> str:
        """One line saying what went wrong, empty if the notebook is done."""
        stop, started = {"because": "it reached the limit"}, time.monotonic()
        limit = threading.Timer(self._limit_seconds, kernel.stop, kwargs=stop)  # of None it never ends
        limit.daemon = True
        limit.start()
        try:
            _execute(task, kernel)
            limit.cancel()
            notebook = scrubbed(nbformat.read(task.partial(".ipynb"), as_version=4))
            disk.write_text(task.partial(".ipynb"), nbformat.writes(notebook))
            disk.write_text(task.partial(".html"), to_html(task, notebook, time.monotonic() - started))
        except Exception as error:  # whatever it is, the reader of the index shall see it
            if self.stopped_by:
                return "Interrupted: the run was stopped"
            if kernel.stopped:
                return f"TimeoutError: stopped after {self._limit_seconds:g} s, which is the limit"
            if isinstance(error, RuntimeError) and kernel.poll():  # of nbclient, about a kernel that died
                return scrub(f"DeadKernelError: the kernel {kernel.reason()}")
            return one_line(error)
        finally:
            limit.cancel()
        path = ledger.sentinel(task.reports.parent, task.name)
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return "" if written.get("run_token") == self._token else NO_SENTINEL


def _context(variables: Mapping[str, str]) -> BaseContext | None:
    """How kernels are made, see `child_processes.forking`; None: each as a fresh interpreter."""
    try:
        return child_processes.forking(local_pool.NOTEBOOKS, variables)
    except OSError as error:
        say(f"every notebook imports by itself, which takes longer ({error} in {tempfile.gettempdir()})")
        return None


def _variables(scratch: Path, *, jobs: int) -> dict[str, str]:
    """The environment of the kernels: nothing of the user's Jupyter or IPython."""
    path = [str(notebook_parameters.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYTHONPATH": os.pathsep.join(path),
        fill.HANDOVER: str(scratch / HANDOVER),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
    }


def _execute(task: Task, kernel: Kernel) -> None:
    """Have papermill run the notebook in that kernel."""
    import papermill  # not needed by --help and --list, and slow

    papermill.execute_notebook(
        _literal(task.source),
        _literal(task.partial(".ipynb")),
        task.parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        start_timeout=KERNEL_START_SECONDS,
        autosave_cell_every=0,  # saved after each cell all the same
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        kernel_manager_class=kernel.manager(),
    )


def _literal(path: Path) -> str:
    """`path` as papermill takes it: braces would be filled in with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def scrubbed(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without access tokens and without the paths that papermill notes."""
    papermill = notebook.metadata.get("papermill", {})
    for key in ("input_path", "output_path"):
        papermill.pop(key, None)
    return nbformat.reads(scrub(nbformat.writes(notebook)), as_version=4)


def one_line(error: Exception) -> str:
    """Class and message of what went wrong in a notebook, at most 500 characters."""
    name, message = type(error).__name__, str(error)
    if name == "PapermillExecutionError":
        name, message = error.ename, error.evalue
    return scrub(" ".join(f"{name}: {message}".split()))[:500]


def to_html(task: Task, notebook: NotebookNode, seconds: float, *, failed: bool = False) -> str:
    """The page of a notebook, alone in its navigation until the runner knows the others."""
    facts = {
        "Profile": task.profile,
        "Parameters": ", ".join(f"{key} = {value}" for key, value in task.changed.items()) or "defaults",
        "Commit": task.commit,
        "Finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Failed after" if failed else "Executed in": duration(seconds),
    }
    links = [render.Link(task.name, f"{task.name}.html")]
    return render.to_html(notebook, name=task.name, links=links, facts=facts, failed=failed)


def _conclude_failure(task: Task, error: str, seconds: float) -> None:
    """Keep the failed copy; take away all that could be taken for a result of this run."""
    folder = task.reports.parent
    for suffix in (".html", ".ipynb"):
        task.report(suffix).unlink(missing_ok=True)
    with ledger.locked(folder):
        for sentence in ledger.remove_parts(folder, task.name):
            say(sentence)
        notebook_api.remove_figures(folder, task.name)
    shutil.rmtree(folder / ".partial" / task.name, ignore_errors=True)
    notebook = _failed_copy(task, error)
    disk.write_text(task.report(".failed.ipynb"), nbformat.writes(notebook))
    disk.write_text(task.report(".failed.html"), to_html(task, notebook, seconds, failed=True))
    _remove_partials(task)


def _failed_copy(task: Task, error: str) -> NotebookNode:
    """The notebook as far as it was executed, or its source if nothing readable was saved, under a banner."""
    try:
        notebook = scrubbed(nbformat.read(task.partial(".ipynb"), as_version=4))
    except (OSError, ValueError):  # killed before or while it was written
        notebook = nbformat.read(task.source, as_version=4)
    # papermill's own banner is there only for some of the failures.
    own = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    # Indented, the error is a code block: its text is neither Markdown nor HTML.
    banner = nbformat.v4.new_markdown_cell(
        f"**This notebook failed.** Its numbers are not results.\n\n    {error}"
    )
    banner.metadata["tags"] = ["failure"]
    notebook.cells = [banner, *own]
    return notebook


def _remove_partials(task: Task) -> None:
    for suffix in (".ipynb", ".html"):
        task.partial(suffix).unlink(missing_ok=True)
