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

from kdutils.report import kernels, notebook_parameters

pytestmark = pytest.mark.skipif(not kernels.FORKS, reason="nothing is forked on this system")


@pytest.fixture
def seed():
    seed = kernels.Seed()
    yield seed
    seed.end()


def test_seed_waits_in_a_session_of_its_own(seed):
    child = psutil.Process(seed.pid)
    assert child.ppid() == os.getpid()
    assert seed.poll() is None
    while os.getsid(seed.pid) != seed.pid:  # it makes one at its start
        time.sleep(0.01)


def test_what_never_became_a_kernel_is_gone_at_the_end(seed):
    seed.end()
    assert not psutil.pid_exists(seed.pid)
    seed.end()  # again, as a worker does that fails at once


def test_killed_seed_has_the_exit_code_of_its_signal(seed):
    seed.send_signal(signal.SIGKILL)
    assert seed.wait() == -signal.SIGKILL
    seed.become("no_file.json", {}, None)  # says nothing: `poll` does
    seed.send_signal(signal.SIGTERM)
    assert seed.poll() == -signal.SIGKILL


def test_seed_ends_with_the_process_that_forked_it(seed):
    seed._pipe.close()
    assert seed.wait() == 0


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
