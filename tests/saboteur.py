"""Workers of tests that meet a fault at a chosen place of a run's life; a module, since workers import it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kdutils import training
from kdutils.compute import Compute
from kdutils.grid import cell_table, worker
from kdutils.io import disk, leases
from kdutils.runs import answers, store


class Fault(NamedTuple):
    """What happens where; once, since `marker` is a file that says that it has."""

    place: str  # of PLACES
    act: str  # of ACTS
    marker: Path
    log: Path  # what workers commit and which steps they train, a line each
    method: str = ""  # of the run that it befalls, where the place knows; "": whichever comes first


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    """For good, while the other threads go on, as the one that keeps the lease alive."""
    threading.Event().wait()


def run_out_of_memory() -> None:
    """Torch's own allocator finds no room, as the kernel's limit on this process has it."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + (64 << 20), limits[1]))
        torch.empty(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ACTS = {
    "SIGKILL": kill,
    "SIGSTOP": stand_still,
    "hang": hang,
    "hang again": hang,
    "out of memory": run_out_of_memory,
    "disk full": fill_the_disk,
}


def writes(name: str, folder: str) -> Callable[..., bool]:
    """Whether a file of that name is written in a folder that is called so, or about so."""
    return lambda path, *rest: Path(path).name.endswith(name) and folder in str(Path(path).parent.name)


def always(*arguments: Any, **options: Any) -> bool:
    return True


PLACES: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "before the claim": (leases, "take", always),
    "after the claim": (store.RunFolder, "begin", always),
    "amid the training": (training._Training, "_step", lambda loop, step: step == 1),
    "amid a checkpoint": (disk, "write_json", lambda path, value: value.get("done_steps") == 2),
    "between two checkpoints": (shutil, "rmtree", lambda path, **how: "checkpoint.aside" in str(path)),
    "before the weights": (disk, "write_model", always),
    "after the weights": (store.RunFolder, "finish", always),
    "between curve and result": (disk, "write_json", lambda path, value: path.parent.parent.name == "runs"
                                 and path.name == "result.json"),
    "before the evaluation": (answers, "rows_of", always),
    "before the items": (store.RunFolder, "write_evaluation", always),
    "between items and result of the evaluation": (disk, "write_json", writes("result.json", ".partial")),
    "before the cells are kept": (cell_table, "keep", always),
    "amid the states": (disk, "write_json", writes("index.json", ".partial")),
    "amid the texts": (disk, "write_bytes", writes(".jsonl", "texts")),
    "in a forward pass": (training._Training, "_loss", always),
}  # fmt: skip


def prepare(fault: Fault, setting: worker.Setting) -> None:
    """In the place of worker.prepare."""
    worker.prepare(setting)
    Compute.from_environment = lambda: Compute(checkpoint_seconds=0.0)  # after every step
    for owner, name, kind in (
        (store.RunFolder, "finish", "trained"),
        (store.RunFolder, "write_evaluation", "evaluated"),
        (training._Training, "_step", "step"),
    ):
        _note(fault.log, owner, name, kind)
    _sabotage(fault)


def _note(log: Path, owner: Any, name: str, kind: str) -> None:
    original = getattr(owner, name)

    def noted(self, *arguments):
        found = original(self, *arguments)
        whose = self.path.name if kind != "step" else f"{self.spec.run_id} {arguments[0]}"
        with log.open("a") as file:
            file.write(f"{kind} {whose}\n")
        return found

    setattr(owner, name, noted)


def _sabotage(fault: Fault) -> None:
    owner, name, is_here = PLACES[fault.place]
    original = getattr(owner, name)

    def sabotaged(*arguments, **options):
        if is_here(*arguments, **options) and _befalls(fault, arguments[0]):
            ACTS[fault.act]()
        return original(*arguments, **options)

    setattr(owner, name, sabotaged)


def _befalls(fault: Fault, owner: Any) -> bool:
    """Whether it is the turn of this run; some faults last, the others happen once."""
    if fault.method and owner.spec.method != fault.method:
        return False
    has_happened = fault.marker.exists()
    fault.marker.touch()
    return fault.act in ("out of memory", "hang again") or not has_happened
