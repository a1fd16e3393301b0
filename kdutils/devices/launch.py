"""Starts and watches the processes of one run on several devices.

Each is a program with RANK and WORLD_SIZE in its environment, as torchrun sets them. Torchrun itself is not
used: it opens a port to other machines, and forwards neither a training curve nor the reason of a failure.
When one process fails, all are stopped, and its reason is that of the run.
"""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdutils.compute import DEFAULT, Compute
from kdutils.io import disk
from kdutils.io.child_processes import Program, exit_reason, watch
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
    import torch

    if (compute.device or "cpu").startswith("cuda") and not torch.cuda.is_available():
        raise DevicesError(f"device={compute.device!r}: torch sees no GPU here; leave it out for the CPU")
    if spec.devices == 1:
        return
    known = {"adapter": ("full", "lora"), "optimiser": ("adamw",), "student_build": ("",), "penalty": ("",)}
    for name, values in known.items():
        if (value := getattr(spec, name)) not in values:
            raise DevicesError(
                f"devices={spec.devices}: {name}={value!r} needs whole matrices, and FSDP divides them; "
                f"use devices=1, or {name}={values[-1]!r}"
            )
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
        env = {"OMP_NUM_THREADS": str(whole["n_threads"]), "TOKENIZERS_PARALLELISM": "false"}
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
        env |= {"WORLD_SIZE": str(n_ranks)}
        env |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}  # no port to the network
        with contextlib.ExitStack() as stack:
            children = []
            for rank in range(n_ranks):
                own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                child = Program([*(program or PROGRAM), str(scratch)], env=own, log=_log(scratch, rank))
                children.append(stack.enter_context(child))
            codes = watch(children, progress, grace_seconds=GRACE_SECONDS)
            # Stopped from here are those that waited for one that failed.
            codes = [0 if child.stopped else code for child, code in zip(children, codes, strict=True)]
    if not (scratch / OUTCOME).is_file():  # it comes last: what goes wrong later spoils nothing
        _raise_reason(scratch, codes)
    return json.loads((scratch / OUTCOME).read_text(encoding="utf-8"))


def _raise_reason(scratch: Path, codes: list[int]) -> None:
    """Raise what ended the first of them: the others only lost their connection to it."""

    def ended(rank: int) -> RankError:
        reason = exit_reason(codes[rank], _log(scratch, rank))
        return RankError(f"rank {rank} of {len(codes)} {reason}")

    if killed := [rank for rank, code in enumerate(codes) if code < 0]:
        raise ended(killed[0])
    files = [scratch / f"error-{rank}.json" for rank in range(len(codes))]
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    if not reports:
        raise ended(next((rank for rank, code in enumerate(codes) if code), 0))
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
