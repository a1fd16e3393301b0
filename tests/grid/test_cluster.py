"""Ray as the engine: the same cells, a process for each task, and nothing lost when a part of it dies."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import errands
import psutil
import pytest
import tiny
from conftest import missing

from kdutils.grid import fill, ray_engine
from kdutils.grid.local_pool import Death
from kdutils.grid.ray_engine import Node, RayPool
from kdutils.report import cli

TWO = Node(2, 2)


@pytest.fixture
def ray(monkeypatch):
    """Ray is there, not imported yet as it would read no token, and its workers find the tests' modules."""
    if importlib.util.find_spec("ray") is None:
        missing("ray", f"Ray is not installed: pip install '{ray_engine.PINNED}'")
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root.parent)]))
    return monkeypatch


@pytest.fixture
def token(ray):
    """That of a cluster, whose nodes are on the loopback device, as those of Ray embedded in this process."""
    ray.setenv(ray_engine.MODE, "token")
    ray.setenv(ray_engine.TOKEN, ray_engine._own_token())
    ray.setenv(ray_engine.NO_CLUSTER, "0")


def test_without_ray_one_line_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["smoke", "--engine", "ray", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said == (
        "kdutils: error: --engine ray needs Ray, which is not installed: "
        f"{sys.executable} -m pip install '{ray_engine.PINNED}'\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_extra_pins_what_the_message_names():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'cluster = ["{ray_engine.PINNED}"]' in text


def test_a_cluster_without_a_token_is_refused(monkeypatch):
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: True)
    monkeypatch.delenv(ray_engine.MODE, raising=False)
    with pytest.raises(ray_engine.ClusterError, match="RAY_AUTH_MODE is not set: .* RAY_AUTH_MODE=token"):
        ray_engine.require("auto")
    ray_engine.require(None)
    monkeypatch.setenv(ray_engine.MODE, "token")
    ray_engine.require("auto")


def test_only_what_the_study_reads_is_told_to_nodes():
    told = ray_engine._told({"KDUTILS_DATA": "d", "HF_HOME": "h", "HF_TOKEN": "secret", "PATH": "p"})
    assert told == {"KDUTILS_DATA": "d", "HF_HOME": "h"}


def engine(heard=None, **options):
    on_message = lambda key, message: heard.append((key, message))  # noqa: E731
    return RayPool(
        errands.do, prepare=errands.prepare, on_message=on_message, setting=lambda share: share, **options
    )


def listening(process):
    family = [process, *process.children(recursive=True)]
    found = [each.net_connections("tcp") for each in family if each.is_running()]
    return {
        each.laddr.ip for connections in found for each in connections if each.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("preload", [None, "errands"])
def test_tasks_have_processes_of_their_own_and_one_lost_with_its_worker_is_done_again(ray, tmp_path, preload):
    heard, handler, variables = [], signal.getsignal(signal.SIGTERM), dict(os.environ)
    with engine(heard, node=TWO, preload=preload) as pool:
        assert (pool.n_workers, pool.n_idle) == (2, 2)
        assert listening(psutil.Process()) <= {"127.0.0.1", "::ffff:127.0.0.1"}
        pool.submit("told", ("tell", [1, 2]))
        pool.submit("gpu", ("see", "CUDA_VISIBLE_DEVICES"))
        assert pool.n_idle == 0
        first = errands.results(pool, 2)
        pool.submit("killed", ("kill", signal.SIGKILL))
        pool.submit("bereft", ("bereave", tmp_path / "once"))
        second = errands.results(pool, 2)
    assert heard == [("told", 1), ("told", 2)]
    assert first["gpu"] in ("0", "1")
    assert first["told"][0] == (1.0, 1.0)
    assert isinstance(second["killed"], Death)
    assert "signal 9" in second["killed"].reason
    assert second["bereft"][2] == tmp_path / "once"
    assert pool.n_tries == {"told": 1, "gpu": 1, "killed": 1, "bereft": 2}
    assert len({first["told"][1], second["bereft"][1]}) == 2
    assert signal.getsignal(signal.SIGTERM) is handler
    assert dict(os.environ) == variables


@pytest.mark.timeout(900)  # two nodes, each of a dozen processes, beside what else the machine does
def test_a_node_that_dies_loses_nothing_and_the_cells_are_those_of_the_pool(token, tmp_path):
    from ray.cluster_utils import Cluster

    planned, finished = tiny.plan(tmp_path), {}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1, num_gpus=1)
        doomed = nodes.add_node(num_cpus=1, num_gpus=1)

        def kill_one(state):
            done = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("runs/*/result.json")}
            finished.update({path: when for path, when in done.items() if path not in finished})
            if done and state.running and doomed in nodes.worker_nodes:
                nodes.remove_node(doomed, allow_graceful=False)

        state = fill.fill(planned, tmp_path / "ray", engine="ray", address=nodes.address, progress=kill_one)
    finally:
        nodes.shutdown()
    assert doomed not in nodes.worker_nodes
    assert (state.n_found + state.n_done, state.failures) == (5, {})
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # none was made twice
    assert list((tmp_path / "ray" / "leases").glob("*.json")) == []
    fill.fill(planned, tmp_path / "local", workers=2)
    assert fill.live_cells(planned, tmp_path / "ray").equals(fill.live_cells(planned, tmp_path / "local"))


def test_a_cluster_that_is_not_there_is_one_line(token):
    with (
        pytest.raises(ray_engine.ClusterError, match="no Ray at auto: .*; start it first"),
        engine(address="auto"),
    ):
        pass


IMPORTED_BEFORE = """
import ray, sys
sys.path[:0] = [{tests!r}]
import psutil, test_cluster
from kdutils.grid import ray_engine
try:
    with test_cluster.engine(node=test_cluster.TWO):
        print(test_cluster.listening(psutil.Process()) <= {{"127.0.0.1", "::ffff:127.0.0.1"}})
except ray_engine.ClusterError:
    print(True)
"""


def test_ray_that_was_imported_without_us_listens_to_nobody_else_either(ray):
    """Where it would, or knows no token, because it read its settings then, it is refused."""
    code = IMPORTED_BEFORE.format(tests=str(Path(__file__).parents[1]))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "True"
