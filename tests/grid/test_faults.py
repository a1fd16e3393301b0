"""What machines and disks do to a grid: afterwards nothing is lost, done twice or different."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import saboteur
import tiny
from inline import InlinePool

from kdutils.data import sources
from kdutils.grid import fill, local_pool, scheduler
from kdutils.grid.study import PlannedRun
from kdutils.io import child_processes, disk, leases
from kdutils.runs import experiment, store

pytestmark = pytest.mark.faults
EVALUATION = tiny.EVALUATION


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> list[PlannedRun]:
    return tiny.plan(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory) -> Path:
    """The store of an undisturbed grid."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "Pool", InlinePool)
        fill.fill(plan, out, workers=1)
    return out


@pytest.fixture
def out(plan, whole, tmp_path) -> Path:
    """A store in which two runs are finished: what must not be lost."""
    for run_id in tiny.run_ids(plan, "sft", "base"):
        shutil.copytree(whole / "runs" / run_id, tmp_path / "out" / "runs" / run_id)
    return tmp_path / "out"


@pytest.fixture
def forked(monkeypatch):
    """Real workers, forked from a process that has imported what they need: six seconds less for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdutils.runs.experiment", "saboteur"])
    monkeypatch.setattr(child_processes, "SPAWN", context)
    return monkeypatch


def filled(plan, out, fault: saboteur.Fault, monkeypatch, **how) -> scheduler.State:
    """The state of a grid whose one worker meets a fault."""

    def sabotaged(do, settings, *, prepare, on_message):
        return local_pool.Pool(do, settings, prepare=partial(saboteur.prepare, fault), on_message=on_message)

    with monkeypatch.context() as patch:
        patch.setattr(fill, "Pool", sabotaged)
        return fill.fill(plan, out, workers=1, **how)


def check_as_if_nothing_had_happened(plan, out, whole, log: Path) -> None:
    """Nothing lost, nothing done twice, nothing left half written, and every table as undisturbed."""
    said = Counter(line for line in log.read_text().splitlines() if not line.startswith("step"))
    assert set(said.values()) == {1}
    assert not {line.split()[1] for line in said} & set(tiny.run_ids(plan, "sft", "base"))
    for undisturbed in (whole / "runs").iterdir():
        found = store.folder_of(out, undisturbed.name)
        assert found.is_whole(EVALUATION)
        expected = store.RunFolder(undisturbed).evaluation(EVALUATION)
        pd.testing.assert_frame_equal(found.evaluation(EVALUATION), expected)
        weights = "model/model.safetensors"
        if (undisturbed / weights).exists():
            assert disk.sha256(found.path / weights) == disk.sha256(undisturbed / weights)
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))
    assert list(out.rglob("*.partial")) == []
    assert list((out / "leases").glob("*.json")) == []


KILLED_AT = [place for place in saboteur.PLACES if place != "in a forward pass"]


@pytest.mark.parametrize("place", KILLED_AT)
def test_a_worker_killed_anywhere_in_the_life_of_a_run(plan, whole, out, tmp_path, forked, fault, place):
    meets = saboteur.Fault(place, "SIGKILL", tmp_path / "marker", tmp_path / "log")
    (tmp_path / "log").touch()
    first = filled(plan, out, meets, forked)
    assert meets.marker.exists()
    fault(f"SIGKILL of a worker {place}")
    direct = [reason for reason in first.failures.values() if not reason.startswith("its teacher")]
    assert len(direct) == 1
    assert "the worker was killed (signal 9)" in direct[0]
    again = filled(plan, out, meets, forked)
    assert (again.n_found + again.n_done, again.failures, again.set_aside) == (5, {}, {})
    assert again.n_found == first.n_found + first.n_done + (place == "before the cells are kept")
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)
    if place == "amid the training":  # it went on from its checkpoint
        steps = [line for line in meets.log.read_text().splitlines() if line.startswith("step")]
        assert len(steps) == len(set(steps))


def test_a_run_that_lacks_memory_fails_with_advice_and_the_others_go_on(
    plan, whole, out, tmp_path, forked, fault
):
    (tmp_path / "log").touch()
    meets = saboteur.Fault("in a forward pass", "out of memory", tmp_path / "m", tmp_path / "log", "fkl")
    state = filled(plan, out, meets, forked)
    fault("out of memory in one run")
    assert set(state.failures) == set(tiny.run_ids(plan, "fkl"))
    assert "does not fit into memory" in str(state)
    assert "lower max_tokens, use adapter='lora', or a machine with more" in str(state)
    assert (state.n_found, state.n_done) == (2, 2)
    again = filled(plan, out, meets._replace(method="none"), forked)
    assert (again.n_done, again.failures) == (1, {})
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)


@pytest.mark.parametrize(
    "place", ["after the claim", "amid a checkpoint", "between curve and result", "before the items"]
)
def test_a_write_that_finds_the_disk_full(plan, whole, out, tmp_path, forked, fault, place):
    (tmp_path / "log").touch()
    meets = saboteur.Fault(place, "disk full", tmp_path / "m", tmp_path / "log")
    state = filled(plan, out, meets, forked)
    fault(f"disk full {place}")
    assert "No space left on device" in str(state)
    again = filled(plan, out, meets, forked)
    assert (again.n_found + again.n_done, again.failures) == (5, {})
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)


def test_a_worker_that_stands_still_loses_its_run_and_leaves_it_alone(
    plan, whole, out, tmp_path, forked, fault, monkeypatch
):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)
    (tmp_path / "log").touch()
    meets = saboteur.Fault("amid the training", "SIGSTOP", tmp_path / "m", tmp_path / "log")
    states = []
    driver = threading.Thread(target=lambda: states.append(filled(plan, out, meets, forked)))
    driver.start()
    teacher = tiny.teacher_id(plan)
    path = out / "leases" / f"{teacher}.json"
    while not meets.marker.exists():
        time.sleep(0.01)
    worker = leases._owner(path)["pid"]
    while Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    os.utime(path, (path.stat().st_mtime - 70,) * 2)
    fault("SIGSTOP of a worker for a minute")
    spec = sources.resolved(plan[0].spec).teacher_spec
    assert experiment.make(spec, [EVALUATION], out)
    os.kill(worker, signal.SIGCONT)
    driver.join(120)
    (state,) = states
    assert (state.n_found, state.n_done, state.failures) == (3, 2, {})
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)


SILENCE_SECONDS = 10  # of runs that take one


def test_a_worker_that_hangs_while_its_heart_beats_is_replaced(
    plan, whole, out, tmp_path, forked, fault, monkeypatch
):
    """Its lease never goes stale. The run goes on from its checkpoint, at no step twice."""
    (tmp_path / "log").touch()
    meets = saboteur.Fault("amid the training", "hang", tmp_path / "m", tmp_path / "log")
    state = filled(plan, out, meets, forked, silence_seconds=SILENCE_SECONDS)
    assert meets.marker.exists()
    fault("a worker that hangs")
    assert (state.n_found, state.n_done, state.failures, state.set_aside) == (2, 3, {}, {})
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)
    steps = [line for line in meets.log.read_text().splitlines() if line.startswith("step")]
    assert len(steps) == len(set(steps))


def test_a_run_that_hangs_again_fails_with_advice_and_the_others_go_on(
    plan, whole, out, tmp_path, forked, fault
):
    (tmp_path / "log").touch()
    meets = saboteur.Fault("in a forward pass", "hang again", tmp_path / "m", tmp_path / "log", "fkl")
    state = filled(plan, out, meets, forked, silence_seconds=SILENCE_SECONDS)
    fault("a run that hangs again and again")
    assert set(state.failures) == set(tiny.run_ids(plan, "fkl"))
    assert "it showed no progress for 10 s, twice; give it longer with --silence" in str(state)
    assert (state.n_found, state.n_done) == (2, 2)
    again = filled(plan, out, meets._replace(act="hang"), forked, silence_seconds=SILENCE_SECONDS)
    assert (again.n_done, again.failures) == (1, {})
    check_as_if_nothing_had_happened(plan, out, whole, meets.log)


# --- real file systems ---------------------------------------------------------------------------------


@pytest.fixture
def mount(tmp_path):
    """A small file system in memory, mounted with options; remounted when called again."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options: str) -> Path:
        is_there = folder.is_mount()
        command = ["mount", "-o", f"{'remount,' * is_there}{options}"]
        command += [str(folder)] if is_there else ["-t", "tmpfs", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("nothing can be mounted here: that takes root")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(plan, whole, mount, inline, begun, fault):
    """Runs that find room are made; the others say why not, and are made once there is room."""
    out = mount("size=900k")
    first = fill.fill(plan, out, workers=1)
    fault("a file system that fills up")
    assert first.n_done >= 1
    assert len(first.failures) >= 1
    assert "make room" in str(first) or "No space left on device" in str(first)
    done = {path.name for path in (out / "runs").iterdir() if store.RunFolder(path).is_whole(EVALUATION)}
    assert len(done) == first.n_done
    mount("size=3g")
    begun.clear()
    again = fill.fill(plan, out, workers=1)
    assert (again.n_found, again.n_found + again.n_done, again.failures) == (len(done), 5, {})
    assert not set(begun) & done
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


def test_a_store_that_can_only_be_read(plan, whole, mount, inline, begun, fault):
    out = mount("size=3g")
    shutil.copytree(whole, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("cache"))
    (lost,) = tiny.run_ids(plan, "fkl")
    others = [run for run in plan if run.spec.method != "fkl"]
    shutil.rmtree(out / "runs" / lost)
    mount("ro")
    fault("a read-only store")
    state = fill.fill(others, out, workers=1)
    assert (state.n_found, state.failures, begun) == (4, {}, [])
    assert fill.live_cells(others, out).equals(fill.live_cells(others, whole))
    with pytest.raises(store.StoreError, match="cannot be written .*; choose another out"):
        fill.fill(plan, out, workers=1)
    assert begun == []
