"""A kernel that grows from a fork, and what is loaded before."""

import ast
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kdutils.io import environment
from kdutils.report import kernels, notebook_parameters


@pytest.fixture
def kernel():
    with kernels.Kernel(os.environ, None) as kernel:
        yield kernel


def test_kernel_waits_in_a_session_of_its_own(kernel):
    assert kernel.poll() is None
    while os.getsid(kernel.pid) != kernel.pid:  # it makes one at its start
        time.sleep(0.01)


def test_what_never_became_a_kernel_is_gone_at_the_end():
    with kernels.Kernel(os.environ, None) as kernel:
        pass
    assert not psutil.pid_exists(kernel.pid)


def test_killed_kernel_has_the_exit_code_of_its_signal(kernel):
    kernel.send_signal(signal.SIGKILL)
    assert kernel.wait() == -signal.SIGKILL
    kernel.send("no_file.json")  # says nothing: `poll` does
    kernel.send_signal(signal.SIGTERM)
    assert kernel.poll() == -signal.SIGKILL


@pytest.mark.skipif(not environment.FORKS, reason="nothing is forked on this system")
def test_what_notebooks_import_is_loaded_before_they_are_forked(tmp_path):
    sources = []
    for path in sorted(notebook_parameters.NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    trees = [node for source in sources for node in ast.walk(ast.parse(source))]
    wanted = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
    for node in trees:
        if isinstance(node, ast.ImportFrom):
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "kdutils"}
            wanted |= {node.module}
    broken = {"cells": [{"cell_type": "code", "source": "%magic\nimport sched"}], "nbformat": 4}
    (tmp_path / "magic.ipynb").write_text(json.dumps(broken))
    (tmp_path / "torn.ipynb").write_text(json.dumps(broken)[:9])
    code = (
        "import pathlib, sys, threading; from kdutils.report import preloaded;"
        "assert preloaded.imported_by(pathlib.Path(sys.argv[1])) == set();"
        "print(threading.active_count(), *sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    n_threads, *loaded = run.stdout.split()
    assert {"kdutils.report", "kdutils.bench"} <= wanted <= set(loaded)
    assert n_threads == "1"
    assert "torch" not in loaded
