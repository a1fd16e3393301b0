"""The engine on Ray Core: tasks on the nodes of a cluster, or on this machine alone.

Ray places tasks and finds out what has died. Each task starts a process of its own, so a crash in it, or the
memory that it leaves behind, cannot hurt Ray's. A task whose node or Ray process died is given again; one
that failed by itself is not.
"""

import contextlib
import functools
import importlib.util
import logging
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from kdutils.grid.local_pool import Death, Do, OnMessage, Pool
from kdutils.io.child_processes import forking

PINNED = "ray==2.60.0"
DIGITS = 4  # of a part of a GPU or core, as Ray counts them
TRIES = 3  # of a task whose node or Ray process died
LOOK_SECONDS = 1.0  # between two looks at the nodes; of a task at its process
REGISTER_SECONDS = 900  # that a worker of Ray may take to start; Ray's own minute is short
STORE_BYTES = 80 * 2**20  # of Ray's object store, which holds points of curves and reasons
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
# Named for the systems on which Ray is no cluster and keeps to the loopback device; with 0 it does on Linux.
# Without it Ray takes an address of 127.0.0.1 for the machine's own, and listens on all devices.
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOOPBACK = "127.0.0.1"
# Environment variables that change what a run reads. No secrets: a token of the hub is each node's own.
TOLD = ("KDUTILS_", "HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME")


# --- what a run may use -------------------------------------------------------------------------------------


class Node(NamedTuple):
    """What a machine has."""

    cpus: float
    gpus: float


class Share(NamedTuple):
    """What one run takes of the node that it is on."""

    cpus: float
    gpus: float

    @property
    def n_threads(self) -> int:
        """How many threads it may compute with."""
        return max(1, int(self.cpus))


def share_of(nodes: Sequence[Node], *, workers: int | None, is_large: bool, n_devices: int = 1) -> Share:
    """A GPU with its part of the cores where nodes have GPUs; else a core, or a whole node for large models.

    Nodes without a GPU are left out where others have some. More `workers` than that divide it among them.
    A run on several devices has as many GPUs or cores, undivided.

    Raises:
        ValueError: if no node has anything, or not so many.
    """
    own = _usable(nodes)
    if not own:
        raise ValueError("the cluster has no node with a core to give; start one with `ray start --address`")
    has_gpus = own[0].gpus >= 1
    kind = "gpus" if has_gpus else "cpus"
    able = own if n_devices == 1 else [node for node in own if getattr(node, kind) >= n_devices]
    if not able:
        most = int(max(getattr(node, kind) for node in own))
        raise ValueError(
            f"devices={n_devices} is more than any node has ({most} {kind}); use devices={most} or fewer"
        )
    slots = [1 if is_large and not has_gpus else int(getattr(node, kind)) // n_devices or 1 for node in able]
    crowding = max(1, math.ceil((workers or 0) / sum(slots))) if n_devices == 1 else 1  # runs in one's place
    cpus = min(node.cpus / (n * crowding) for node, n in zip(able, slots, strict=True))
    cpus = float(int(cpus)) if cpus >= 1 else _cut(cpus)
    if not is_large:
        cpus = min(cpus, 1.0 if has_gpus else float(n_devices))
    return Share(cpus, _cut(n_devices / crowding) if has_gpus else 0.0)


def room_for(share: Share, nodes: Sequence[Node]) -> int:
    """How many such runs the nodes hold at a time."""
    return sum(
        int(min(node.cpus / share.cpus, node.gpus / share.gpus if share.gpus else math.inf) + 10**-DIGITS)
        for node in _usable(nodes)
    )


def _usable(nodes: Sequence[Node]) -> list[Node]:
    own = [node for node in nodes if node.cpus > 0]
    return [node for node in own if node.gpus >= 1] or own


def _cut(number: float) -> float:
    return math.floor(number * 10**DIGITS) / 10**DIGITS


# --- the engine ---------------------------------------------------------------------------------------------


class ClusterError(RuntimeError):
    """A cluster that cannot be used. The message is one line and holds the remedy."""


def require(address: str | None) -> None:
    """Nothing, if Ray is here and the cluster at `address`, if there is one, asks for a token.

    Raises:
        ClusterError: if not.
    """
    if importlib.util.find_spec("ray") is None:
        remedy = f"{sys.executable} -m pip install '{PINNED}'"
        raise ClusterError(f"--engine ray needs Ray, which is not installed: {remedy}")
    if address is not None and MODE not in os.environ:
        raise ClusterError(
            f"{MODE} is not set: whoever reaches a cluster without a token can run programs on it; start Ray "
            f"and this with {MODE}=token, after `ray get-auth-token --generate`"
        )


class RayPool:
    """A `kdutils.grid.local_pool.Engine` whose tasks are those of Ray.

    Args:
        setting: what `prepare` gets in a process that may use so much.
        workers: tasks at a time; by default as many as there is room for, see `share_of`.
        is_large: whether a task wants many cores.
        n_devices: GPUs that a task wants, or without GPUs cores, at least.
        address: of a cluster that is there, as ray.init takes it; None for Ray on this machine alone, which
            starts and ends here and listens on the loopback device only.
        node: what to take this machine for, without address; by default it is looked at.
        preload: module that takes long to import and that tasks need: each Ray process does it once, in a
            process that the processes of its tasks are forked from.
    """

    def __init__(
        self,
        do: Do,
        *,
        prepare: Callable[[Any], None],
        on_message: OnMessage,
        setting: Callable[[Share], Any],
        workers: int | None = None,
        is_large: bool = False,
        n_devices: int = 1,
        address: str | None = None,
        node: Node | None = None,
        preload: str | None = None,
    ) -> None:
        self._do, self._prepare, self._preload = do, prepare, preload
        self._on_message, self._setting, self._workers = on_message, setting, workers
        self._share_of = functools.partial(share_of, workers=workers, is_large=is_large, n_devices=n_devices)
        self._connection = _connection(address, node)
        self._submitted: dict[Any, tuple[Hashable, Any]] = {}  # Ray's stream of messages -> key and task
        self.n_tries: dict[Hashable, int] = {}  # of each task

    def __enter__(self) -> Self:
        self._ray = self._connection.__enter__()
        try:
            self._looked, self._nodes = time.monotonic(), self._alive()
            self._share = self._share_of(self._nodes)
        except ValueError as error:
            self._connection.__exit__(None, None, None)
            raise ClusterError(str(error)) from error
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}
        # A task that is tried again sends another number of messages, which Ray's own retries refuse.
        options |= {"num_returns": "streaming", "max_retries": 0}
        self._remote = self._ray.remote(**options)(in_own_process)
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.__exit__(*error)  # Ray ends the processes of a driver that leaves

    @property
    def n_workers(self) -> int:
        """How many tasks are done at a time; at least one, for which Ray may get a node."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked, self._nodes = time.monotonic(), self._alive()
        room = max(1, room_for(self._share, self._nodes))
        return min(room, self._workers or room)

    @property
    def n_idle(self) -> int:
        return max(0, self.n_workers - len(self._submitted))

    def submit(self, key: Hashable, task: Any) -> None:
        self.n_tries[key] = self.n_tries.get(key, 0) + 1
        own = self._do, self._prepare, self._setting(self._share)
        messages = self._remote.remote(*own, _told(os.environ), self._preload, task)
        self._submitted[messages] = (key, task)

    def results(self, timeout_seconds: float) -> list[tuple[Hashable, Any]]:
        if not self._submitted:
            time.sleep(timeout_seconds)
            return []
        self._ray.wait(list(self._submitted), timeout=timeout_seconds)
        ready, _ = self._ray.wait(list(self._submitted), num_returns=len(self._submitted), timeout=0)
        ended = []
        for messages in ready:
            key, task = self._submitted[messages]
            is_over, value = self._next(messages)
            if not is_over:
                self._on_message(key, value)
                continue
            del self._submitted[messages]
            if isinstance(value, _Lost) and self.n_tries[key] < TRIES:
                self.submit(key, task)
            else:
                ended.append((key, Death(value.reason) if isinstance(value, _Lost) else value))
        return ended

    def _next(self, messages: Any) -> tuple[bool, Any]:
        """Whether a task is over, and its result or a message."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(messages))
        except StopIteration:
            return True, _Lost("it ended without a result")
        except errors.RayTaskError as error:  # an error of our own, before or after the process of the task
            return True, Death(" ".join(str(error.cause).split())[:300])
        except errors.RayError as error:
            lines = str(error).strip().splitlines() or [""]
            reason = f"its node or Ray process died {TRIES} times, the last time of {type(error).__name__}"
            return True, _Lost(f"{reason}: {lines[0][:200]}")

    def _alive(self) -> list[Node]:
        found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in found]


class _Lost(NamedTuple):
    """What becomes of a task that had no chance to end."""

    reason: str


@contextlib.contextmanager
def _connection(address: str | None, node: Node | None) -> Iterator[Any]:
    """The module `ray`, connected to a cluster, or to one that is made for us and ends with us.

    Raises:
        ClusterError: if it cannot be reached.
    """
    require(address)
    before = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # a task without GPU keeps what it finds
    # Ray steps back for other programs by 15; here the runs are what the machine is for.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - the name that Ray gives it
    # On a busy machine a worker may start so slowly that Ray gives it up, and ray.init waits for it for ever.
    os.environ.setdefault("RAY_worker_register_timeout_seconds", str(REGISTER_SECONDS))
    how = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ |= {MODE: "token", TOKEN: _own_token(), NO_CLUSTER: "0"}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        how |= {"num_cpus": cores} if node is None else {"num_cpus": node.cpus, "num_gpus": node.gpus}
        how |= {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_node_ip_address": LOOPBACK}
    import ray  # it reads the variables when it is imported

    try:
        try:
            ray.init(address or "local", **how)
        except Exception as error:  # Ray raises bare ones too, for a node that is slow to start
            reason = " ".join(str(error).split())[:200]
            remedy = "start it first" if address else "try again when less is running, or use --engine local"
            raise ClusterError(f"no Ray at {address or 'this machine'}: {reason}; {remedy}") from error
        if address is None and {node["NodeManagerAddress"] for node in ray.nodes()} != {LOOPBACK}:
            raise ClusterError(
                "Ray would listen to other machines, as this process had it imported before; start another"
            )
        yield ray
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        with contextlib.suppress(ValueError):  # not in the main thread, where Ray leaves the handler alone
            signal.signal(signal.SIGTERM, handler)


@functools.cache  # Ray reads it once a process
def _own_token() -> str:
    return secrets.token_hex(32)


def _told(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(TOLD)}


# --- on a node ---------------------------------------------------------------------------------------------


def in_own_process(
    do: Do,
    prepare: Callable[[Any], None],
    setting: Any,
    variables: Mapping[str, str],
    preload: str | None,
    task: Any,
) -> Iterator[tuple[bool, Any]]:
    """Whether the task is over, and its result or a message, from a process that is started for it.

    A process that dies is a result, as in the local pool: its memory may have run out.
    """
    messages: list[Any] = []
    own = dict(os.environ) | dict(variables)  # with the GPUs that Ray shows this task
    ready, context = functools.partial(_prepared, prepare, own), None
    if preload is not None:
        with contextlib.suppress(OSError):  # then the process is started as a program
            context = forking(preload, own)
    how = {"prepare": ready, "on_message": lambda key, message: messages.append(message), "context": context}
    with Pool(do, [setting], **how) as pool:
        pool.submit(0, task)
        ended = []
        while not ended:
            ended = pool.results(LOOK_SECONDS)
            yield from ((False, message) for message in messages)
            messages.clear()
        yield True, ended[0][1]


def _prepared(prepare: Callable[[Any], None], variables: Mapping[str, str], setting: Any) -> None:
    os.environ.clear()
    os.environ.update(variables)
    prepare(setting)
