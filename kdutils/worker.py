"""One notebook, executed in the process that calls `main`, which the executor starts for it alone.

What it leaves are partial files; whether they become a report is for the runner to say, because
papermill marks the cells of a killed kernel as completed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from kdutils import render, store

KERNEL = "python3"
KERNEL_START_SECONDS = 300  # the default of 60 is short on a loaded machine
TOKEN_OF_THE_HUB = re.compile(r"hf_[A-Za-z0-9]{20,}")  # a secret that must not be shared with a report


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

    def to_json(self) -> str:
        """One line, for `from_json`."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def from_json(line: str) -> Task:
        """The task that `to_json` wrote."""
        values = json.loads(line)
        return Task(**{**values, "source": Path(values["source"]), "reports": Path(values["reports"])})


def main() -> int:
    """Exit code for the task on stdin: 0 if all cells ran and the page was made, else 1 and an `.error`."""
    task = Task.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_runner, daemon=True).start()
    started = time.monotonic()
    try:
        _execute(task)
        notebook = scrubbed(nbformat.read(task.partial(".ipynb"), as_version=4))
        store.write_text(task.partial(".ipynb"), nbformat.writes(notebook))
        store.write_text(task.partial(".html"), to_html(task, notebook, time.monotonic() - started))
    except Exception as error:  # whatever it is, the reader of the index shall see it
        store.write_text(task.partial(".error"), one_line(error))
        return 1
    return 0


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


def scrub(text: str) -> str:
    """`text` without access tokens of the model hub."""
    return TOKEN_OF_THE_HUB.sub("hf_(removed)", text)


def one_line(error: Exception) -> str:
    """Class and message of what went wrong in a notebook, at most 500 characters."""
    name, message = type(error).__name__, str(error)
    if name == "PapermillExecutionError":
        name, message = error.ename, error.evalue
    if name == "DeadKernelError":
        message = "the kernel was killed; the usual reason is that memory ran out"
    return scrub(" ".join(f"{name}: {message}".split()))[:500]


def _execute(task: Task) -> None:
    import papermill
    from traitlets.config import Config

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
    )


def _literal(path: Path) -> str:
    """`path` as papermill takes it: braces would be filled in with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _end_with_runner() -> None:
    """Wait for the runner to close our stdin, which its death does too; the kernel follows us."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock would be in the way when we exit
    os._exit(1)
