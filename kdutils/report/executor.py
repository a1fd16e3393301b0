"""The execution of one notebook in a kernel of its own, and its report.

A report has its final name only if all cells ran and left the sentinel of this very run. What failed keeps a
copy under another name, and nothing of an earlier success.
"""

import atexit
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kdutils.io import child_processes, disk
from kdutils.io.text_safety import scrub
from kdutils.report import ledger, notebook_api, notebook_parameters, render
from kdutils.report.kernels import Kernel, Manager
from kdutils.report.render import Result, duration

PRELOADED = "kdutils.report.preloaded"  # imported in the process that kernels are forked from
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
    reports: Path  # folder of its files
    profile: str
    parameters: dict[str, Any]  # what is set in it
    changed: dict[str, Any]  # of them, those that differ from the defaults and that a reader cares for
    commit: str

    def report(self, suffix: str) -> Path:
        """`reports/NAME.ipynb` for ".ipynb"."""
        return self.reports / f"{self.name}{suffix}"


class Executor:
    """Runs notebooks, each in a kernel of its own, until `stop` is called."""

    def __init__(self, scratch: Path, *, jobs: int, limit_seconds: float | None) -> None:
        self.stopped_by = 0  # number of the signal, 0 if there was none
        self._limit_seconds = limit_seconds
        self._token = os.environ[notebook_api.RUN_TOKEN]
        path = [str(notebook_parameters.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._variables = os.environ | {  # nothing of the user's Jupyter or IPython
            "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
            "IPYTHONDIR": str(scratch / "ipython"),
            "PYTHONPATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
        }
        self._context = None  # each kernel is a fresh interpreter
        try:
            self._context = child_processes.forking(PRELOADED, self._variables)
        except OSError as error:
            say(f"every notebook imports by itself, which takes longer ({error} in {tempfile.gettempdir()})")
        self._kernels: dict[str, Kernel] = {}
        self._lock = threading.RLock()  # a second signal may come while `stop` answers the first

    def stop(self, signal_number: int) -> None:
        """End all kernels and start no other. Safe in a handler: the main thread locks nowhere else."""
        with self._lock:
            self.stopped_by = self.stopped_by or signal_number
            for kernel in self._kernels.values():
                child_processes.kill_tree(kernel.pid)

    def run(self, task: Task) -> Result:
        """Execute one notebook, then write its report, good or failed."""
        with self._lock:
            if self.stopped_by:
                return Result(name=task.name, status="not_run")
            kernel = self._kernels[task.name] = Kernel(self._variables, self._context)
        if kernel.by_itself:
            say(f"{task.name} imports by itself, which takes longer")
        say(f"{task.name} started")
        started, notebook = time.monotonic(), _with_parameters(task)
        with kernel:
            error = self._execute(notebook, kernel)
            with self._lock:
                del self._kernels[task.name]
        path = ledger.sentinel(task.reports.parent, task.name)
        written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not error and written.get("run_token") != self._token:
            error = NO_SENTINEL
        seconds = time.monotonic() - started
        _write_report(task, notebook, seconds, error)
        took = duration(seconds)
        say(f"{task.name} FAILED after {took}: {error}" if error else f"{task.name} done in {took}")
        return Result(
            name=task.name,
            status="failed" if error else "done",
            seconds=round(seconds, 1),
            error=error,
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            changed=task.changed,
        )

    def _execute(self, notebook: NotebookNode, kernel: Kernel) -> str:
        """Run the cells, whose outputs go into `notebook`; one line saying what went wrong, or nothing."""
        client = NotebookClient(notebook, km=Manager(kernel), startup_timeout=KERNEL_START_SECONDS)
        because = {"because": "it reached the limit"}
        limit = threading.Timer(self._limit_seconds, kernel.stop, kwargs=because)  # None: never
        limit.daemon = True
        limit.start()
        try:
            client.execute(cleanup_kc=True)
        except Exception as error:  # whatever it is, the reader of the index shall see it
            if self.stopped_by:
                return "Interrupted: the run was stopped"
            if kernel.stopped:
                return f"TimeoutError: stopped after {self._limit_seconds:g} s, which is the limit"
            if isinstance(error, RuntimeError) and str(error).startswith("Kernel died"):
                return scrub(f"DeadKernelError: the kernel {kernel.reason()}")
            return one_line(error)
        finally:
            limit.cancel()
            atexit.unregister(client._cleanup_kernel)  # nbclient leaves it if the kernel did not start
        return ""


def _with_parameters(task: Task) -> NotebookNode:
    """The notebook without outputs, and with a cell that sets the parameters of the task."""
    notebook = load_notebook_node(str(task.source))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return parameterize_notebook(notebook, task.parameters, kernel_name="python3", language="python")


def one_line(error: Exception) -> str:
    """Class and message of what went wrong in a notebook, at most 500 characters."""
    name, message = type(error).__name__, str(error)
    if isinstance(error, CellExecutionError):
        name, message = error.ename, error.evalue
    return scrub(" ".join(f"{name}: {message}".split()))[:500]


def scrubbed(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without access tokens."""
    return nbformat.reads(scrub(nbformat.writes(notebook)), as_version=4)


def _write_report(task: Task, notebook: NotebookNode, seconds: float, error: str) -> None:
    """The notebook and its page; of a failed one nothing stays that could be taken for a result."""
    notebook, folder = scrubbed(notebook), task.reports.parent
    old, new = (".failed", "") if not error else ("", ".failed")
    if error:
        with ledger.locked(folder):
            for sentence in ledger.remove_parts(folder, task.name):
                say(sentence)
            notebook_api.remove_figures(folder, task.name)
        # Indented, the error is a code block: its text is neither Markdown nor HTML.
        text = f"**This notebook failed.** Its numbers are not results.\n\n    {error}"
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text, metadata={"tags": ["failure"]}))
    facts = {
        "Profile": task.profile,
        "Parameters": ", ".join(f"{key} = {value}" for key, value in task.changed.items()) or "defaults",
        "Commit": task.commit,
        "Finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Failed after" if error else "Executed in": duration(seconds),
    }
    alone = [Result(name=task.name, status="done")]  # until the runner knows the others
    page = render.to_html(notebook, name=task.name, results=alone, facts=facts, failed=bool(error))
    for suffix in (".html", ".ipynb"):
        task.report(f"{old}{suffix}").unlink(missing_ok=True)
    disk.write_text(task.report(f"{new}.html"), page)
    disk.write_text(task.report(f"{new}.ipynb"), nbformat.writes(notebook))
