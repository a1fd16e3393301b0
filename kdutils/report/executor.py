"""The processes of a run: one worker a notebook, and what becomes of its files.

Everything a notebook left is judged here: done needs an exit code of zero and the sentinel of this run.
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
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from pathlib import Path

import nbformat
from ipykernel.kernelspec import write_kernel_spec

from kdutils.grid import fill, local_pool
from kdutils.io import child_processes, disk
from kdutils.io.child_processes import Function
from kdutils.io.text_safety import scrub
from kdutils.report import kernels, ledger, notebook_api, notebook_parameters, worker
from kdutils.report.index import Result
from kdutils.report.render import duration
from kdutils.report.worker import Task

HANDOVER = "handover"  # in the scratch folder
PARTIAL_SUFFIXES = (".ipynb", ".html", ".error")
NO_SENTINEL = "NotFinished: the last cell must call run.finish(), which is what says that all is whole"


def say(line: str) -> None:
    """Write one whole line of progress to stderr, also from several threads; without secrets."""
    sys.stderr.write(f"kdutils: {scrub(line)}\n")
    sys.stderr.flush()


class Executor:
    """Runs notebooks, each in a process of its own, until `stop` is called."""

    def __init__(self, scratch: Path, *, jobs: int, limit_seconds: float | None) -> None:
        self.stopped_by = 0  # number of the signal, 0 if there was none
        self._scratch = scratch
        self._limit_seconds = limit_seconds
        self._token = os.environ[notebook_api.RUN_TOKEN]
        self._variables = _variables(scratch, jobs=jobs)
        self._context = _context(self._variables)
        self._processes: dict[str, Function] = {}
        self._lock = threading.RLock()  # a second signal may come while `stop` answers the first

    def stop(self, signal_number: int) -> None:
        """End all processes and start no other. Safe in a handler: the main thread locks nowhere else."""
        with self._lock:
            self.stopped_by = self.stopped_by or signal_number
            for process in self._processes.values():
                child_processes.kill_tree(process.pid)

    def run(self, task: Task) -> Result:
        """Execute one notebook, then give its files their names, good or failed."""
        for suffix in PARTIAL_SUFFIXES:
            task.partial(suffix).unlink(missing_ok=True)
        process = self._start(task)
        if process is None:
            return Result(name=task.name, status="not_run")
        say(f"{task.name} started")
        started = time.monotonic()
        with process:
            error = self._outcome(task, process)
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

    def _start(self, task: Task) -> Function | None:
        """The worker, or None if the run has been stopped."""
        with self._lock:
            if self.stopped_by:
                return None
            how = {"env": self._variables, "log": self._log(task), "context": self._context}
            process = Function(worker.main, [task], first=kernels.seed, **how)
            if process.by_itself:
                say(f"{task.name} imports by itself, which takes longer")
            self._processes[task.name] = process
            return process

    def _outcome(self, task: Task, process: Function) -> str:
        """One line saying what went wrong, empty if the notebook is done."""
        (code,) = child_processes.watch([process], say, timeout_seconds=self._limit_seconds)
        with self._lock:
            del self._processes[task.name]
        if code == 0:
            path = ledger.sentinel(task.reports.parent, task.name)
            written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return "" if written.get("run_token") == self._token else NO_SENTINEL
        if self.stopped_by:
            return "Interrupted: the run was stopped"
        if process.stopped:
            return f"TimeoutError: stopped after {self._limit_seconds:g} s, which is the limit"
        written = task.partial(".error")
        if written.exists():
            return written.read_text(encoding="utf-8")
        return scrub(f"WorkerError: the process {process.reason()}")

    def _log(self, task: Task) -> Path:
        return self._scratch / f"{task.name}.log"


def _context(variables: Mapping[str, str]) -> BaseContext | None:
    """How workers are made, see `child_processes.forking`; None: each as a fresh interpreter."""
    if not kernels.FORKS:
        return None
    try:
        return child_processes.forking(local_pool.NOTEBOOKS, variables)
    except OSError as error:
        say(f"every notebook imports by itself, which takes longer ({error} in {tempfile.gettempdir()})")
        return None


def _variables(scratch: Path, *, jobs: int) -> dict[str, str]:
    """The environment of the workers: this Python and nothing of the user's Jupyter or IPython."""
    # Found before any other python3 that is installed, and runs `sys.executable`.
    write_kernel_spec(scratch / "kernels" / worker.KERNEL)
    path = [str(notebook_parameters.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "JUPYTER_PATH": str(scratch),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYTHONPATH": os.pathsep.join(path),
        fill.HANDOVER: str(scratch / HANDOVER),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)),
    }


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
    notebook = worker.failed_copy(task, error)
    disk.write_text(task.report(".failed.ipynb"), nbformat.writes(notebook))
    disk.write_text(task.report(".failed.html"), worker.to_html(task, notebook, seconds, failed=True))
    for suffix in PARTIAL_SUFFIXES:
        task.partial(suffix).unlink(missing_ok=True)
