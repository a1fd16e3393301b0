"""Workers that may be killed, and that end with their driver."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import errands
import psutil
import pytest

from kdutils.grid import fill
from kdutils.grid.local_pool import Death, Pool
from kdutils.io import environment
from kdutils.io.child_processes import forking


@pytest.fixture
def pool():
    with Pool(errands.do, ["a", "b"], prepare=errands.prepare) as pool:
        yield pool


def test_a_worker_is_prepared_once_and_does_many_tasks(pool):
    assert pool.n_idle == 2
    pool.submit("x", ("echo", 1))
    pool.submit("y", ("echo", 2))
    assert pool.n_idle == 0
    first = errands.results(pool, 2)
    assert {key: value[::2] for key, value in first.items()} == {"x": ("a", 1), "y": ("b", 2)}
    pool.submit("z", ("echo", 3))
    assert errands.results(pool, 1)["z"][:2] == first["x"][:2]
    assert pool.results(0) == []


def test_what_a_worker_tells_is_heard_before_its_result():
    heard = []
    with Pool(
        errands.do,
        ["a"],
        prepare=errands.prepare,
        on_message=lambda key, message: heard.append((key, message)),
    ) as pool:
        pool.submit("x", ("tell", [1, 2]))
        assert pool.n_idle == 0
        assert errands.results(pool, 1)["x"][2] == [1, 2]
    assert heard == [("x", 1), ("x", 2)]


def test_tasks_that_keep_what_they_find_are_done_in_workers_but_for_those_that_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(fill.os, "cpu_count", lambda: 2)
    kept = [tmp_path / str(i) for i in range(6)]
    fill.in_workers(errands.do, [("raise", 0), *[("keep", path) for path in kept], ("exit", 3)])
    assert os.getpid() not in {int(path.read_text()) for path in kept}
    fill.in_workers(errands.do, [])


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (("kill", signal.SIGKILL), "signal 9); the usual reason is that memory ran out: use fewer workers"),
        (("kill", signal.SIGSEGV), "the worker was killed (signal 11)"),
        (("exit", 3), "the worker ended with code 3"),
        (("raise", 0), "the worker ended with code 1"),
    ],
)
def test_a_worker_that_dies_fails_its_own_task_and_is_replaced(pool, task, reason):
    pool.submit("bad", task)
    pool.submit("good", ("echo", 2))
    found = errands.results(pool, 2)
    assert isinstance(found["bad"], Death)
    assert reason in found["bad"].reason
    assert found["good"][2] == 2
    pool.submit("next", ("echo", 3))
    assert errands.results(pool, 1)["next"][::2] == ("a", 3)


def test_a_worker_killed_while_idle_is_replaced(pool):
    pool.submit("x", ("echo", 1))
    _, number, _ = errands.results(pool, 1)["x"]
    os.kill(number, signal.SIGKILL)
    pool.submit("y", ("echo", 2))
    assert isinstance(errands.results(pool, 1)["y"], tuple | Death)  # it may have died under our hands
    pool.submit("z", ("echo", 3))
    assert errands.results(pool, 1)["z"][::2] == ("a", 3)


def test_a_worker_takes_no_notice_of_an_interrupt(pool):
    pool.submit("x", ("interrupt", 1))
    assert errands.results(pool, 1)["x"][2] == 1


def test_an_error_in_the_driver_ends_the_workers(tmp_path):
    with pytest.raises(ZeroDivisionError), Pool(errands.do, [0], prepare=errands.prepare) as pool:
        pool.submit("x", ("hang", tmp_path / "number"))
        (worker,) = workers_in(tmp_path, 1)
        raise ZeroDivisionError
    assert not worker.is_running()


def workers_in(folder, n):
    """The processes that have written their numbers there, once they are n."""
    while len(numbers := [text for path in Path(folder).iterdir() if (text := path.read_text())]) < n:
        time.sleep(0.01)
    return [psutil.Process(int(number)) for number in numbers]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path, number):
    driver = subprocess.Popen(
        [sys.executable, errands.__file__, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = workers_in(tmp_path, 2)
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)  # as a terminal does
    else:
        driver.send_signal(number)
    said, errors = driver.communicate(timeout=60)
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    if number == signal.SIGINT:
        assert said == "interrupted\n"
        assert errors.count("KeyboardInterrupt") == 1  # the driver's own


@pytest.fixture
def server():
    """No process to fork from yet, and none afterwards; others of this process have another module."""
    forkserver._forkserver._stop()
    yield
    with contextlib.suppress(FileNotFoundError):  # its socket
        forkserver._forkserver._stop()


@pytest.mark.skipif(not environment.FORKS, reason="processes are not forked here")
def test_forked_workers_are_processes_of_their_own_that_have_imported(server):
    context = forking("kdutils.runs.experiment", os.environ)
    origins = []
    for setting in ("a", "b"):
        with Pool(errands.do, [setting], prepare=errands.prepare, context=context) as pool:
            pool.submit("x", ("origin", None))
            origins.append(errands.results(pool, 1)["x"])
            pool.submit("y", ("echo", 1))
            assert errands.results(pool, 1)["y"][::2] == (setting, 1)
            pool.submit("z", ("kill", signal.SIGKILL))
            assert "signal 9" in errands.results(pool, 1)["z"].reason
    (first, parent, threads, imported), (second, *others) = origins
    assert first != second
    assert others[0] == parent != os.getpid()
    assert threads <= {"python", "python3", "jemalloc_bg_thd"}  # the last is pyarrow's, which minds forks
    assert {"torch", "kdutils.runs.experiment"} <= imported


@pytest.mark.skipif(not environment.FORKS, reason="processes are not forked here")
def test_a_worker_is_started_all_the_same_when_what_it_is_forked_from_is_gone(server):
    context = forking("errands", os.environ)
    with Pool(errands.do, ["a"], prepare=errands.prepare, context=context) as pool:
        Path(forkserver._forkserver._forkserver_address).unlink()
        pool.submit("x", ("echo", 1))
        assert errands.results(pool, 1)["x"][::2] == ("a", 1)


def test_what_makes_runs_touches_no_gpu_when_it_is_imported():
    """A process whose parent has is lost to CUDA."""
    code = """
import torch
touched = lambda *arguments, **options: touched_names.append(1)
touched_names = []
for name in ("is_available", "device_count", "current_device", "init", "_lazy_init", "is_bf16_supported"):
    setattr(torch.cuda, name, touched)
import kdutils.runs.experiment
assert not touched_names
"""
    subprocess.run([sys.executable, "-c", code], check=True)
