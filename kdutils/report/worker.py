"""One notebook, executed in the process that calls `main`, which the executor makes for it alone.

What it leaves are partial files; whether they become a report is decided by the executor, because
papermill marks the cells of a killed kernel as completed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import nbformat
from nbformat import NotebookNode

from kdutils.io import disk
from kdutils.io.text_safety import scrub
from kdutils.report import kernels, render

KERNEL = "python3"
KERNEL_START_SECONDS = 300  # the default of 60 is short on a loaded machine


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


def main(pipe: object, task: Task, seed: kernels.Seed | None) -> NoReturn:
    """Execute the notebook and exit with 0 if all cells ran and the page was made, else 1 and an `.error`."""
    started = time.monotonic()
    try:
        _execute(task, seed)
        notebook = scrubbed(nbformat.read(task.partial(".ipynb"), as_version=4))
        disk.write_text(task.partial(".ipynb"), nbformat.writes(notebook))
        disk.write_text(task.partial(".html"), to_html(task, notebook, time.monotonic() - started))
    except Exception as error:  # whatever it is, the reader of the index shall see it
        disk.write_text(task.partial(".error"), one_line(error))
        sys.exit(1)
    finally:
        if seed is not None:
            seed.end()
    sys.exit(0)


def to_html(task: Task, notebook: NotebookNode, seconds: float, *, failed: bool = False) -> str:
    """The page of a notebook, alone in its navigation until the runner knows the others."""
    facts = {
        "Profile": task.profile,
        "Parameters": ", ".join(f"{key} = {value}" for key, value in task.changed.items()) or "defaults",
        "Commit": task.commit,
        "Finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Failed after" if failed else "Executed in": render.duration(seconds),
    }
    links = [render.Link(task.name, f"{task.name}.html")]
    return render.to_html(notebook, name=task.name, links=links, facts=facts, failed=failed)


def failed_copy(task: Task, error: str) -> NotebookNode:
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
    if name == "DeadKernelError":
        message = "the kernel was killed; the usual reason is that memory ran out"
    return scrub(" ".join(f"{name}: {message}".split()))[:500]


def _execute(task: Task, seed: kernels.Seed | None) -> None:
    """Have papermill run the notebook in a kernel that grows from the seed, or in one that it starts."""
    import papermill
    from traitlets.config import Config

    own = {} if seed is None else {"kernel_manager_class": kernels.manager_of(seed)}
    papermill.execute_notebook(
        _literal(task.source),
        _literal(task.partial(".ipynb")),
        task.parameters,
        kernel_name=KERNEL,
        language="python",
        progress_bar=False,
        start_timeout=KERNEL_START_SECONDS,
        autosave_cell_every=0,  # saved after each cell all the same
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        **own,
    )


def _literal(path: Path) -> str:
    """`path` as papermill takes it: braces would be filled in with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")
