"""Leases: which process makes what, so that no two make the same thing.

    leases/<name>.json   who holds it: host, process and a random token; touched every few seconds
    leases/.lock         locked for the moment in which a lease is taken, confirmed or given back

A lease is stale, and free to take, once its process has ended or nobody has touched it for a minute. The
minute is measured by the clock of the file system, since two machines may disagree about the time. That
clock may be set meanwhile, so whoever would take a lease over from a process that may be alive first waits
for a beat of its heart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from kdutils.io import disk

FOLDER = "leases"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
SAME_START_SECONDS = 2.0  # of a process, where its start is computed from the clock, which may have been set


class HeldError(RuntimeError):
    """Another process is making it. `name` is that of the lease."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is being made by another process; wait for it or end that process")
        self.name = name


class LostError(RuntimeError):
    """Another process has taken the lease over, because this one seemed to have stopped."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was taken over by another process, which found this one silent; look there")
        self.name = name


class Lease:
    """The right to make one thing; kept alive within `with` and given back after it."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(OSError), _locked(self.path.parent):  # what cannot be removed goes stale
            if self._is_ours():
                self.path.unlink()

    def check(self) -> None:
        """Nothing, if the lease is still ours.

        Raises:
            LostError: if it is not.
        """
        if not self._is_ours():
            raise LostError(self.path.stem)

    def confirm(self) -> None:
        """As `check`, and nobody can take it over for a minute from now: what a commit needs."""
        with _locked(self.path.parent):
            self.check()
            os.utime(self.path)

    def _is_ours(self) -> bool:
        return _holder(self.path).get("token") == self._token

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file system that is away for a moment; the next beat tells
                if not self._is_ours():
                    return
                os.utime(self.path)


def take(out: Path, name: str) -> Lease:
    """The lease of that name under `out`, for a `with` statement.

    Raises:
        HeldError: if another process, or another thread of this one, holds it.
        OSError: if `out` cannot be written.
    """
    path = Path(out) / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_free(out, name) and _has_beating_heart(path):
        raise HeldError(name)
    token = uuid.uuid4().hex
    with _locked(path.parent):
        if not is_free(out, name):
            raise HeldError(name)
        disk.remove_partials(path.parent)
        disk.write_json(path, _this_process() | {"token": token})  # in one step: it always says who
    return Lease(path, token)


def is_free(out: Path, name: str) -> bool:
    """True if nobody holds that lease, or it looks stale; `take` makes sure."""
    path = Path(out) / FOLDER / f"{name}.json"
    try:
        touched = path.stat().st_mtime
    except OSError:
        return True
    if _is_dead(_holder(path)):
        return True
    return abs(_now(path.parent) - touched) > STALE_SECONDS  # from the future, where the clock was set back


def _has_beating_heart(path: Path) -> bool:
    """Whether a lease that looks stale is touched while we watch: then it was the clock that jumped."""
    ends, before = time.monotonic() + 2 * BEAT_SECONDS, _touched(path)
    while before is not None and not _is_dead(_holder(path)):
        if _touched(path) != before:
            return True
        if time.monotonic() > ends:
            return False
        time.sleep(BEAT_SECONDS / 20)
    return False


def _touched(path: Path) -> int | None:
    """When a lease was touched, nanoseconds by the clock of its file system; None if it is gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return None


def _holder(path: Path) -> dict[str, Any]:
    """What a lease says; nothing if it is gone, or its writer was killed at it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _this_process() -> dict[str, Any]:
    number = os.getpid()
    return {
        "host": _host(),
        "pid": number,
        "started": psutil.Process().create_time(),
        "ticks": _ticks(number),
    }


def _ticks(number: int) -> int | None:
    """When a process started, by a clock that nobody can set: ticks since Linux booted; None elsewhere."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        after_name = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return int(after_name.split()[19])
    return None


def _host() -> str:
    """This machine as far as process numbers mean the same: containers may share a name, but not these."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # not on macOS
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lease has ended; False where that cannot be seen from here."""
    if holder.get("host") != _host():
        return False
    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        if holder.get("ticks") is not None:
            return _ticks(process.pid) != holder["ticks"]
        return abs(process.create_time() - holder["started"]) >= SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError):  # a damaged lease, which goes stale
        return False


def _now(folder: Path) -> float:
    """The time by the clock that the leases in that folder are touched by."""
    with tempfile.NamedTemporaryFile(prefix=".clock-", dir=folder) as file:
        os.utime(file.name)
        return os.fstat(file.fileno()).st_mtime


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
