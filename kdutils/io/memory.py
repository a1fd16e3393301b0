"""Memory of this process: the most that it holds, and giving back what it freed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
_blocks: list[object] = []  # of keeping_freed_memory that are open
SHORT_SHARE, LOOK_SECONDS = 0.2, 0.5  # of all memory: with less left, freed memory is given back
CGROUPS = Path("/sys/fs/cgroup")  # where Linux keeps the limits of containers
SAMPLE_SECONDS = 0.002  # between two looks at the memory, where the system keeps no peak of its own


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[bool]:
    """Within the block, glibc keeps freed memory for this process; False with another C library.

    By default glibc returns large blocks to the system at once, and every tensor of some megabytes is paged
    in again: on a virtual machine a step of a model of 0.5 billion parameters took five times as long. Kept
    memory becomes fragmented (full fine-tuning of that model grew to 23 GB in 61 steps), so what is free is
    returned while the machine, or the container, has little left, and at the end of the block. Blocks may be
    within each other, as that of a teacher is within its student's: memory is kept until the outermost ends.
    """
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt is None:
        yield False
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)
    _blocks.append(mallopt)
    ends = threading.Event()
    try:
        if len(_blocks) == 1:
            threading.Thread(target=_give_back_if_short, args=(ends,), daemon=True).start()
        yield True
    finally:
        ends.set()
        _blocks.pop()
        if not _blocks:
            mallopt(M_MMAP_MAX, 65_536)
            mallopt(M_MMAP_THRESHOLD, 32 << 20)
            mallopt(M_TRIM_THRESHOLD, 64 << 20)
            mallopt(M_TOP_PAD, 128 << 10)
        give_back_memory()


def _give_back_if_short(ends: threading.Event) -> None:
    while not ends.wait(LOOK_SECONDS):
        if share_left() < SHORT_SHARE:
            give_back_memory()


def share_left() -> float:
    """How much is left of the memory of this machine, or of this process's container, whichever is less."""
    now, groups = psutil.virtual_memory(), [CGROUPS, CGROUPS / "memory"]
    with contextlib.suppress(OSError):  # another system than Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            groups += [CGROUPS / kind / path.lstrip("/")] if kind in ("", "memory") else []
    return min([now.available / now.total, *map(_share_left_of, groups)])


def _share_left_of(group: Path) -> float:
    """Of the limit of a control group of Linux, of either version; 1 without one."""
    is_second = (group / "memory.max").is_file()
    names = ("max", "current") if is_second else ("limit_in_bytes", "usage_in_bytes")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in names)
        entries = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is no such group, or its limit is "max"
        return 1.0
    prefix = "" if is_second else "total_"
    files = sum(int(entries[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))  # can be dropped
    return 1 - (used - files) / limit


def give_back_memory() -> None:
    """Return this process's free memory to the system; nothing with another C library than glibc."""
    if (trim := getattr(_c_library(), "malloc_trim", None)) is not None:
        trim(0)


def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


@contextlib.contextmanager
def peak_memory(device: str | None = "cpu") -> Iterator[dict[str, Any]]:
    """The most memory that this process holds within the block, known after it, GB of 10^9 bytes.

    Keys: start_gb, peak_gb, and memory_by: VmHWM, the system's own peak, or samples, where it keeps none.
    With another `device` (None: as Compute.device) and a GPU it is what torch holds of that, memory_by torch.
    """
    if device != "cpu":
        import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found = {"memory_by": "torch", "start_gb": torch.cuda.memory_allocated() / 1e9}
        yield found
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted from here
        by, held_gb = "VmHWM", functools.partial(status_gb, "VmHWM")
        start_gb = held_gb()
    except OSError:
        by, held_gb = "samples", lambda: psutil.Process().memory_info().rss / 1e9
        start_gb = held_gb()
    ends, found = threading.Event(), {"memory_by": by, "start_gb": start_gb, "peak_gb": start_gb}

    def sample() -> None:
        while not ends.wait(SAMPLE_SECONDS):
            found["peak_gb"] = max(found["peak_gb"], held_gb())

    if by == "samples":
        threading.Thread(target=sample, daemon=True).start()
    yield found
    ends.set()
    found["peak_gb"] = max(found["peak_gb"], held_gb())


def status_gb(entry: str) -> float:
    """An entry of /proc/self/status, such as VmRSS, GB of 10^9 bytes.

    Raises:
        OSError: if there is no such entry, as on other systems than Linux.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError(f"/proc/self/status has no {entry}")
