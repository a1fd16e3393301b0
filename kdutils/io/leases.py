"""Leases with a heartbeat: one process at a time owns a run, so that no two make the same one.

    leases/<name>.json   the owner: host, process and a random token; touched at every heartbeat
    leases/.lock         locked for the moment in which a lease is taken, confirmed or released

A lease has expired once its owner has ended, or after a minute without heartbeat. The minute is measured by
the clock of the file system, since two machines may disagree about the time. That clock may be set meanwhile,
so before a lease is taken from an owner that may be alive, a heartbeat is waited for.
"""

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
HEARTBEAT_SECONDS = 5.0
EXPIRES_SECONDS = 60.0
SAME_START_SECONDS = 2.0  # of a process, where its start is computed from the clock, which may have been set


class HeldError(RuntimeError):
    """Another process owns the lease `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is being made by another process; wait for it or end that process")
        self.name = name


class LostError(RuntimeError):
    """Another process has taken the lease, because it had expired: this one had no heartbeat."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was taken over by another process, which found this one silent; look there")
        self.name = name


class Lease:
    """A lease of this process; its heartbeat runs within the `with` block, which releases it at its end."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heartbeat.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._heartbeat.join()
        with contextlib.suppress(OSError), _locked(self.path.parent):  # what cannot be removed expires
            if self._is_own():
                self.path.unlink()

    def check(self) -> None:
        """Raise LostError if this process no longer owns the lease."""
        if not self._is_own():
            raise LostError(self.path.stem)

    def confirm(self) -> None:
        """`check`, and renew the lease for a minute: before a result is written."""
        with _locked(self.path.parent):
            self.check()
            os.utime(self.path)

    def _is_own(self) -> bool:
        return _owner(self.path).get("token") == self._token

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file system that is away for a moment
                if not self._is_own():
                    return
                os.utime(self.path)


def take(out: Path, name: str) -> Lease:
    """The lease of that name under `out`, for a `with` statement.

    Raises:
        HeldError: if another process, or another thread of this one, owns it.
        OSError: if `out` cannot be written.
    """
    path = Path(out) / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_free(out, name) and _has_heartbeat(path):
        raise HeldError(name)
    token, number, started = uuid.uuid4().hex, os.getpid(), psutil.Process().create_time()
    owner = {"host": _host(), "pid": number, "started": started, "ticks": _ticks(number), "token": token}
    with _locked(path.parent):
        if not is_free(out, name):
            raise HeldError(name)
        disk.remove_partials(path.parent)
        disk.write_json(path, owner)  # in one step: it always names its owner
    return Lease(path, token)


def is_free(out: Path, name: str) -> bool:
    """True if nobody owns that lease, or it looks expired; `take` makes sure."""
    path = Path(out) / FOLDER / f"{name}.json"
    touched = _touched(path)
    if touched is None or _has_ended(_owner(path)):
        return True
    age = _now(path.parent) - touched / 1e9  # negative where the clock was set back
    return abs(age) > EXPIRES_SECONDS


def _has_heartbeat(path: Path) -> bool:
    """Whether a lease that looks expired is touched while we watch: then the clock has jumped."""
    ends, before = time.monotonic() + 2 * HEARTBEAT_SECONDS, _touched(path)
    while before is not None and not _has_ended(_owner(path)):
        if _touched(path) != before:
            return True
        if time.monotonic() > ends:
            return False
        time.sleep(HEARTBEAT_SECONDS / 20)
    return False


def _touched(path: Path) -> int | None:
    """When a lease was touched, nanoseconds by the clock of its file system; None if it is gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return None


def _owner(path: Path) -> dict[str, Any]:
    """The owner that a lease names; empty if the file is gone or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ticks(number: int) -> int | None:
    """When a process started, in ticks since Linux booted, a clock that cannot be set; None elsewhere."""
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


def _has_ended(owner: dict[str, Any]) -> bool:
    """Whether the owner of a lease has ended; False where that cannot be seen from here."""
    if owner.get("host") != _host():
        return False
    try:
        process = psutil.Process(owner["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        if owner.get("ticks") is not None:
            return _ticks(process.pid) != owner["ticks"]
        return abs(process.create_time() - owner["started"]) >= SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError):  # a damaged lease, which expires
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
