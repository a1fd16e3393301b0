"""Who makes what: one holder at a time, whose lease ends with it or with its silence."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from kdutils.io import leases

NAME = "a-run"
HOLD = (
    "import sys, time; from pathlib import Path; from kdutils.io import leases;"
    "own = leases.take(Path(sys.argv[1]), 'a-run'); print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / f"{NAME}.json"


@pytest.fixture(autouse=True)
def _quick_heart(monkeypatch):
    """Whoever takes over from a process that may be alive waits for its heart, two beats long."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.05)


def age(path, seconds):
    """Make a lease look untouched for so long, by the clock of its file system."""
    touched = path.stat().st_mtime - seconds
    os.utime(path, (touched, touched))


def test_a_lease_has_one_holder_and_ends_with_its_block(tmp_path, path):
    assert leases.is_free(tmp_path, NAME)
    with leases.take(tmp_path, NAME) as own:
        own.check()
        own.confirm()
        assert not leases.is_free(tmp_path, NAME)
        with pytest.raises(leases.HeldError, match="a-run is being made by another process"):
            leases.take(tmp_path, NAME)
        with leases.take(tmp_path, "another-run"):
            pass
    assert not path.exists()
    with leases.take(tmp_path, NAME):
        pass


def test_another_process_keeps_us_out_until_it_dies(tmp_path, holder):
    with pytest.raises(leases.HeldError):
        leases.take(tmp_path, NAME)
    holder.kill()
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:  # dead, although nobody has reaped it
        pass
    assert leases.is_free(tmp_path, NAME)
    with leases.take(tmp_path, NAME) as own:
        own.confirm()


def test_another_process_under_the_same_number_is_another(tmp_path, path, holder):
    record = json.loads(path.read_text())
    changed = {"ticks": record["ticks"] and record["ticks"] - 10_000, "started": record["started"] - 100}
    path.write_text(json.dumps(record | changed))
    assert leases.is_free(tmp_path, NAME)


@pytest.mark.faults
def test_a_holder_on_another_machine_is_gone_after_a_minute_of_silence(tmp_path, path, holder, fault):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "pid": 1}))
    assert not leases.is_free(tmp_path, NAME)
    age(path, leases.EXPIRES_SECONDS + 10)
    fault("a stale claim")
    assert leases.is_free(tmp_path, NAME)


def test_a_lease_that_says_nothing_is_free_after_a_minute(tmp_path, path):
    """It was damaged, or written in an earlier way by somebody who was killed at it."""
    path.parent.mkdir()
    path.touch()
    assert not leases.is_free(tmp_path, NAME)
    age(path, leases.EXPIRES_SECONDS + 10)
    with leases.take(tmp_path, NAME) as own:
        own.confirm()


def test_a_heart_beats_within_the_block_alone(tmp_path, path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    with leases.take(tmp_path, NAME):
        age(path, leases.EXPIRES_SECONDS + 10)
        while leases.is_free(tmp_path, NAME):  # until the next beat
            pass
    leases.take(tmp_path, NAME)
    age(path, leases.EXPIRES_SECONDS + 10)
    assert leases.is_free(tmp_path, NAME)


def test_who_was_silent_finds_the_lease_lost_and_leaves_it_alone(tmp_path, path):
    with leases.take(tmp_path, NAME) as first:
        first._stop.set()  # as if it were suspended: it beats no more
        first._heartbeat.join()
        age(path, leases.EXPIRES_SECONDS + 10)
        second = leases.take(tmp_path, NAME)
        for asks in (first.check, first.confirm):
            with pytest.raises(leases.LostError, match="a-run was taken over"):
                asks()
    assert path.is_file()
    second.confirm()


@pytest.mark.faults
def test_of_many_that_take_a_stale_lease_over_one_gets_it(tmp_path, path, fault):
    leases.take(tmp_path, NAME)
    age(path, leases.EXPIRES_SECONDS + 10)
    fault("a race for a stale claim")
    go = tmp_path / "go"
    code = (
        "import sys; from pathlib import Path; from kdutils.io import leases\n"
        "leases.HEARTBEAT_SECONDS = 0.05\n"
        "while not Path(sys.argv[2]).exists(): pass\n"
        "try: leases.take(Path(sys.argv[1]), 'a-run'); print('got it', flush=True); sys.stdin.read()\n"
        "except leases.HeldError: print('held', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(go)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    go.touch()
    said = [racer.stdout.readline().strip() for racer in racers]  # the winner lives until all have spoken
    for racer in racers:
        racer.communicate()
    assert sorted(said) == ["got it", "held", "held", "held"]


# --- clocks that are set, processes that stand still ---------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [3_600, -3_600])
def test_a_clock_that_jumps_takes_no_lease_from_who_is_at_work(tmp_path, path, monkeypatch, seconds, fault):
    """What a clock set by an hour looks like: to psutil, and in the times of files that are touched."""
    from psutil import _pslinux as linux

    now, booted = leases._now, linux.boot_time
    with leases.take(tmp_path, NAME) as own:
        monkeypatch.setattr(leases, "_now", lambda folder: now(folder) + seconds)
        monkeypatch.setattr(linux, "boot_time", lambda: booted() + seconds)
        fault(f"a clock that jumps {'forwards' if seconds > 0 else 'backwards'}")
        assert leases.is_free(tmp_path, NAME)  # by the look of it
        with pytest.raises(leases.HeldError):
            leases.take(tmp_path, NAME)
        own.confirm()


@pytest.mark.faults
def test_a_holder_that_seems_to_be_of_the_future_is_gone_if_its_heart_is_still(tmp_path, path, holder, fault):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "pid": 1}))
    age(path, -7_200)
    fault("a lease from the future")
    with leases.take(tmp_path, NAME) as own:
        own.confirm()


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_lease_goes_stale(tmp_path, path, damage, fault):
    with leases.take(tmp_path, NAME) as own:
        content = path.read_bytes()
        changed = content.replace(b'"pid"', b'"qid"').replace(b'"token"', b'"tokeo"')
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else changed)
        fault(f"lease {damage}")
        with pytest.raises(leases.HeldError):
            leases.take(tmp_path, NAME)
        with pytest.raises(leases.LostError):
            own.confirm()
        age(path, leases.EXPIRES_SECONDS + 10)
        with leases.take(tmp_path, NAME) as second:
            second.confirm()


@pytest.mark.faults
def test_a_holder_killed_while_it_claims_leaves_nothing_half_written(tmp_path, path, fault):
    code = (
        "import os, sys; from pathlib import Path; from kdutils.io import leases\n"
        "os.fsync = lambda number: os.kill(os.getpid(), 9)\n"
        "leases.take(Path(sys.argv[1]), 'a-run')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(list(path.parent.glob("*.partial"))) == 1
    fault("SIGKILL within the claim")
    with leases.take(tmp_path, NAME) as own:  # at once, not after a minute
        own.confirm()
    assert {each.name for each in path.parent.iterdir()} == {".lock"}
