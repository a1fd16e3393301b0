"""What a worker process of the grid does: makes one run of a plan after another, and says how each ended.

A worker never waits for a lease that another process holds; it returns `held`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdutils.grid import cell_table
from kdutils.io import leases
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

TICK_SECONDS = 1.0  # between two looks at what others make, and two reports at most
SILENT = 75  # exit code of a worker that has ended itself since its run showed no progress


class Point(NamedTuple):
    """A point of a training curve."""

    step: int
    n_steps: int
    loss: float  # nats a token


class Task(NamedTuple):
    spec: RunSpec
    evaluations: tuple[EvalSpec, ...]
    out: Path
    silence_seconds: float | None = None


class Outcome(NamedTuple):
    kind: str  # made | found | held | damaged | failed | waiting: to be tried again
    reason: str = ""
    name: str = ""  # held: of the lease; damaged: of what was set aside


class Setting(NamedTuple):
    """What a worker may use."""

    gpu: str | None  # its number; several, with commas, where runs are on several devices
    n_threads: int


def prepare(setting: Setting) -> None:
    """A worker: its threads, its own GPUs, denormal numbers as zero (some steps take many times as long)."""
    if setting.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setting.gpu
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars have no place in the driver's terminal
    torch.set_num_threads(setting.n_threads)
    torch.set_flush_denormal(True)


def make_run(task: Task, send: Callable[[Point], None]) -> Outcome:
    """Make a run, send points of its curve, and return its outcome. Interrupts are not caught."""
    from kdutils.runs import experiment  # loads torch

    sent = 0.0

    def progress(entry: dict[str, Any]) -> None:
        nonlocal sent
        live()
        if "loss" in entry and time.monotonic() - sent > TICK_SECONDS:
            sent = time.monotonic()
            send(Point(entry["step"], entry["n_steps"], entry["loss"]))

    try:
        with _ending_when_silent(task.silence_seconds) as live:
            how = {"progress": progress, "waits": False, "evaluated": live}
            is_made = experiment.make(task.spec, task.evaluations, task.out, **how)
            for evaluation in task.evaluations:
                live()
                if evaluation.scoring == "generation":
                    cell_table.keep(task.out, evaluation, task.spec)  # here, where there are many of us
    except (leases.HeldError, leases.LostError) as error:
        return Outcome("held", name=error.name)
    except store.DamagedError as error:
        return set_aside(task.out, error)
    except Exception as error:  # one failed cell must not take the others along
        return Outcome("failed", experiment.reason_of(error))
    return Outcome("made" if is_made else "found")


@contextlib.contextmanager
def _ending_when_silent(seconds: float | None) -> Iterator[Callable[[], None]]:
    """Within the block, the process ends once what is given has not been called for so long; None: never.

    A thread counts the time, as one keeps the lease alive: where that one beats and the run hangs, this one
    counts. It counts its own steps, so a process that was suspended does not wake up too late.
    """
    n_steps, over, steps = 20, threading.Event(), 0

    def live() -> None:
        nonlocal steps
        steps = 0

    def count() -> None:
        nonlocal steps
        while not over.wait(seconds / n_steps):
            steps += 1
            if steps > n_steps:
                os._exit(SILENT)

    if seconds is not None:
        threading.Thread(target=count, daemon=True).start()
    try:
        yield live
    finally:
        over.set()


def set_aside(out: Path, error: store.DamagedError) -> Outcome:
    """Move what is damaged away, under its lease, so that it is made again."""
    try:
        with leases.take(out, error.name):
            store.set_damaged_aside(out, error)
    except leases.HeldError:
        return Outcome("held", name=error.name)
    return Outcome("damaged", error.reason, error.name)
