"""Starts and watches the processes (ranks) that work on one run together.

Each gets RANK and WORLD_SIZE as from torchrun, which is not used because it opens a port to the network and
passes on neither a training curve nor the reason of a failure. When one rank fails all are stopped, and its
reason is that of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from kdutils.compute import DEFAULT, Compute
from kdutils.io import disk
from kdutils.spec import RunSpec

PROGRAM = ("-m", "kdutils.devices.worker")
GRACE_SECONDS = 3.0  # for the other ranks to report why they end, after one has failed
TASK, OUTCOME, RENDEZVOUS = "task.json", "outcome.json", "rendezvous"
WEIGHTS, ROWS = "weights.safetensors", "rows.parquet"  # results of rank 0
MEMORY = "memory"  # kind of a failure
Progress = Callable[[dict[str, Any]], None]


class RankError(RuntimeError):
    """A process of a run on several devices ended without result; the message says why."""


class DevicesError(ValueError):
    """Devices that this machine lacks or cannot use. The message is one line and holds the remedy."""


def check_devices(spec: RunSpec, compute: Compute = DEFAULT) -> None:
    """Check that this machine can train on as many devices as a run asks for.

    On a machine without GPUs, devices are processes, of which two may share a core.

    Raises:
        DevicesError: if it cannot.
    """
    if spec.devices == 1:
        return
    import torch

    if not torch.distributed.is_available():
        raise DevicesError(f"devices={spec.devices}: this torch has no torch.distributed; use devices=1")
    if compute.compile_backend:
        raise DevicesError(
            f"devices={spec.devices} with compile_backend={compute.compile_backend!r} (KDUTILS_COMPILE): a "
            "compiled decoder cannot be divided; unset it, or use devices=1"
        )
    if torch.cuda.is_available():
        n, what = torch.cuda.device_count(), "GPUs of this machine"
    else:
        n, what = max(2, os.cpu_count() or 1), "processes that this machine, which has no GPU, has cores for"
    if spec.devices > n:
        raise DevicesError(
            f"devices={spec.devices} is more than the {n} {what}; "
            f"use devices={n} or fewer, or another machine"
        )


def run(
    task: dict[str, Any],
    *,
    n_ranks: int,
    scratch: Path,
    progress: Progress,
    n_threads: int,
    program: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The outcome of a task for `kdutils.devices.worker`, from rank 0 once all ranks are done.

    Args:
        scratch: a folder for results such as WEIGHTS; emptied first.
        progress: called with every entry of the training curve; an exception in it stops all ranks.
        n_threads: of all ranks together.
        program: arguments of Python that each rank runs; by default PROGRAM.

    Raises:
        MemoryError: if memory ran out in one of them.
        RankError: for anything else that ended one of them.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kdutils-ranks-") as meeting:  # NFS may lack what FileStore needs
        whole = {RENDEZVOUS: str(Path(meeting) / RENDEZVOUS), "n_threads": max(1, n_threads // n_ranks)}
        disk.write_json(scratch / TASK, task | whole)
        with _started(program or PROGRAM, scratch, n_ranks, whole["n_threads"]) as processes:
            _watch(processes, progress)
            codes = [process.poll() or 0 for process in processes]  # 0: still waits for a rank that failed
    if not (scratch / OUTCOME).is_file():  # written last: a failure after it does no harm
        _raise_reason(scratch, codes)
    return json.loads((scratch / OUTCOME).read_text(encoding="utf-8"))


@contextlib.contextmanager
def _started(
    program: Sequence[str], scratch: Path, n_ranks: int, n_threads: int
) -> Iterator[list[subprocess.Popen]]:
    """All ranks; none is left running after the block. They talk over the loopback interface alone."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    path = [str(disk.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": str(n_threads), "TOKENIZERS_PARALLELISM": "false"}
    own |= {"PYTHONPATH": os.pathsep.join(path), "WORLD_SIZE": str(n_ranks)}
    own |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    processes: list[subprocess.Popen] = []
    try:
        for rank in range(n_ranks):
            command = [sys.executable, "-W", "ignore", "-P", *program, str(scratch)]
            variables = os.environ | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with _log(scratch, rank).open("wb") as log:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
                processes.append(subprocess.Popen(command, env=variables, bufsize=0, **pipes))
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _watch(processes: list[subprocess.Popen], progress: Progress) -> None:
    """Pass on the lines that ranks print, until all have ended or GRACE_SECONDS after one has failed."""
    unread = dict.fromkeys(processes, b"")
    deadline = None
    while unread and (deadline is None or time.monotonic() < deadline):
        by_pipe = {process.stdout: process for process in unread}
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        for pipe in connection.wait(list(by_pipe), left):
            process, printed = by_pipe[pipe], os.read(pipe.fileno(), 1 << 16)
            *lines, unread[process] = (unread[process] + printed).split(b"\n")
            for line in lines:
                progress(json.loads(line))
            if not printed:  # the pipe is closed, so the rank is ending
                del unread[process]
                if process.wait() and deadline is None:
                    deadline = time.monotonic() + GRACE_SECONDS


def _raise_reason(scratch: Path, codes: list[int]) -> None:
    """Raise the reason of the rank that failed first: the others only lost their connection to it."""
    for rank, code in enumerate(codes):
        if code < 0:
            often = "; the usual reason is that memory ran out" * (code == -signal.SIGKILL)
            raise RankError(f"rank {rank} of {len(codes)} was killed (signal {-code}){often}")
    files = [scratch / f"error-{rank}.json" for rank in range(len(codes))]
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    if not reports:
        rank = next((rank for rank, code in enumerate(codes) if code), 0)
        lines = _log(scratch, rank).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else "it printed nothing"
        raise RankError(f"rank {rank} of {len(codes)} ended with code {codes[rank]}; {last}")
    first = min(reports, key=lambda report: report["at"])
    if first["kind"] == MEMORY:
        raise MemoryError(first["reason"])
    raise RankError(f"rank {first['rank']} of {len(codes)}: {first['reason']}")


def report_failure(scratch: Path, rank: int, *, kind: str, reason: str) -> None:
    """Write down why a rank fails, for `run`; called by the rank."""
    at = time.monotonic()  # one clock for all processes of a machine
    disk.write_json(scratch / f"error-{rank}.json", {"rank": rank, "kind": kind, "reason": reason, "at": at})


def _log(scratch: Path, rank: int) -> Path:
    return scratch / f"rank-{rank}.log"
