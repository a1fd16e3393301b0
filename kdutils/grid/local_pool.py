"""What an engine is, and the one of this machine: worker processes, of which any may be killed.

The executors of the standard library fail every task when one worker dies; here its own task does, and a
new worker takes its place.
"""

import signal
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, Protocol, Self

from kdutils.io.child_processes import Function

STOP_SECONDS = 2.0  # between asking a worker to end and killing it
Send = Callable[[Any], None]
Do = Callable[[Any, Send], Any]
OnMessage = Callable[[Hashable, Any], None]


@dataclass(frozen=True)
class Death:
    """The result of a task whose process died while it worked on it."""

    reason: str  # one line
    code: int | None = None  # its exit code, minus the number of a signal; None if it is not known


class Engine(Protocol):
    """Does tasks within a `with` statement, each in a process that has called `prepare` once before.

    The driver decides what is done and when; an engine knows tasks and keys, and nothing of runs. Any of its
    processes may die at any time. What a task sends arrives at `on_message(key, message)` in the driver,
    while that waits for results.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None:
        """End what is running."""

    @property
    def n_workers(self) -> int:
        """How many tasks are done at a time."""

    @property
    def n_idle(self) -> int:
        """How many tasks could be submitted now."""

    def submit(self, key: Hashable, task: Any) -> None:
        """Have a task done; its result, which may be a Death, will come under that key."""

    def results(self, timeout_seconds: float) -> list[tuple[Hashable, Any]]:
        """Key and result of what has ended; waits for something to happen, but not longer than that."""


# Called with `do` (a function of a module), prepare= and on_message=, makes the engine whose tasks that does.
StartEngine = Callable[..., Engine]


class Pool:
    """The engine of one machine: a worker for each of `settings`, started when it gets its first task.

    A worker calls `prepare(setting)` once and `do(task, send)` for every task, functions of a module.

    Args:
        context: how workers are started, see child_processes.Function.
    """

    def __init__(
        self,
        do: Do,
        settings: Sequence[Any],
        *,
        prepare: Callable[[Any], None],
        on_message: OnMessage = lambda key, message: None,
        context: BaseContext | None = None,
    ) -> None:
        self._on_message = on_message
        starts = [partial(Function, _serve, (do, prepare, each), context=context) for each in settings]
        self._workers = [_Worker(start) for start in starts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for worker in self._workers:
            worker.end(at_once=kind is not None)

    @property
    def n_workers(self) -> int:
        return len(self._workers)

    @property
    def n_idle(self) -> int:
        return sum(worker.key is None for worker in self._workers)

    def submit(self, key: Hashable, task: Any) -> None:
        next(worker for worker in self._workers if worker.key is None).submit(key, task)

    def results(self, timeout_seconds: float) -> list[tuple[Hashable, Any]]:
        busy = {worker.child.pipe: worker for worker in self._workers if worker.key is not None}
        ended = []
        for each in connection.wait(list(busy), timeout_seconds):
            key = busy[each].key
            is_over, value = busy[each].receive()
            if is_over:
                ended.append((key, value))
            else:
                self._on_message(key, value)
        return ended


class _Worker:
    """A process and the task that it works on."""

    def __init__(self, start: Callable[[], Function]) -> None:
        self._start = start
        self.child: Function | None = None
        self.key: Hashable | None = None

    def submit(self, key: Hashable, task: Any) -> None:
        if self.child is None or self.child.wait(0.0) is not None:  # it may have been killed while idle
            self.end(at_once=True)
            self.child = self._start()
        self.key = key
        self.child.send(task)

    def receive(self) -> tuple[bool, Any]:
        """Whether the task is over, and its result or a message of the worker."""
        messages = self.child.read()
        is_over, value = (True, self._death()) if messages is None else messages[0]
        if is_over:
            self.key = None
        return is_over, value

    def _death(self) -> Death:
        if self.child.wait(STOP_SECONDS) is None:
            self.child.stop(because="it closed its pipe")
        code, reason = self.child.wait(), f"the worker {self.child.reason()}"
        self.end(at_once=True)
        return Death(reason + ": use fewer workers" * (code == -signal.SIGKILL), code)

    def end(self, *, at_once: bool) -> None:
        """End the worker: at once, or when it is idle and has cleaned up."""
        if self.child is None:
            return
        with self.child as child:
            if not at_once:
                child.pipe.close()
                child.wait(STOP_SECONDS)
        self.child = None


def _serve(pipe: connection.Connection, do: Do, prepare: Callable[[Any], None], setting: Any) -> None:
    """A worker, from its start until the driver closes the pipe."""
    prepare(setting)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send((True, do(task, lambda message: pipe.send((False, message)))))
