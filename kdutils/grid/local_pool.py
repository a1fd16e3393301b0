"""What an engine is, and the one of this machine: worker processes, of which any may be killed.

The executors of the standard library fail every task when one worker dies; here its own task does, and a
new worker takes its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any, Protocol, Self

from kdutils.io import environment

NOTEBOOKS = "kdutils.report.preloaded"  # imported in the process that workers of notebooks are forked from
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


class StartEngine(Protocol):
    """Makes an engine whose tasks are done by `do(task, send)`, a function of a module."""

    def __call__(self, do: Do, *, prepare: Callable[[Any], None], on_message: OnMessage) -> Engine: ...


class Pool:
    """The engine of one machine: a worker for each of `settings`, started when it gets its first task.

    A worker calls `prepare(setting)` once and `do(task, send)` for every task; both are functions of a
    module. A worker takes no notice of Ctrl-C, which reaches the driver, and ends when the driver does.

    Args:
        context: how workers are started; by default each as a program of its own. See `forking`.
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
        self._workers = [_Worker(do, prepare, setting, context) for setting in settings]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with _without_interrupts():
            for worker in self._workers:
                worker.stop(at_once=kind is not None)
            for worker in self._workers:
                worker.join()

    @property
    def n_workers(self) -> int:
        """How many tasks are done at a time."""
        return len(self._workers)

    @property
    def n_idle(self) -> int:
        """How many tasks could be submitted now."""
        return sum(worker.key is None for worker in self._workers)

    def submit(self, key: Hashable, task: Any) -> None:
        """Have a task done; its result will come under that key. There must be an idle worker."""
        next(worker for worker in self._workers if worker.key is None).submit(key, task)

    def results(self, timeout_seconds: float) -> list[tuple[Hashable, Any]]:
        """Key and result of what has ended; waits for something to happen, but not longer than that."""
        busy = {worker.connection: worker for worker in self._workers if worker.key is not None}
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

    def __init__(self, do, prepare, setting, context) -> None:
        self._work, self._context = (do, prepare, setting), context
        self._process: multiprocessing.process.BaseProcess | None = None
        self.connection: connection.Connection | None = None
        self.key: Hashable | None = None

    def submit(self, key: Hashable, task: Any) -> None:
        if self._process is None or not self._process.is_alive():  # it may have been killed while idle
            self._start()
        self.key = key
        with contextlib.suppress(BrokenPipeError):  # it died just now: `receive` will find that
            self.connection.send(task)

    def _start(self) -> None:
        self.join()
        context = self._context or multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with _without_interrupts():  # which the new process inherits
            try:
                self._process = self._started(context, theirs)
            except (OSError, EOFError):  # what it is forked from was killed
                self._process = self._started(multiprocessing.get_context("spawn"), theirs)
        theirs.close()  # so that ours ends when the worker does

    def _started(self, context: BaseContext, theirs: connection.Connection):
        process = context.Process(target=_serve, args=(theirs, *self._work), daemon=True)
        process.start()
        return process

    def receive(self) -> tuple[bool, Any]:
        """Whether the task is over, and its result or a message of the worker."""
        try:
            is_over, value = self.connection.recv()
        except (EOFError, OSError):
            code = self.join()
            is_over, value = True, Death(_reason(code), code)
        if is_over:
            self.key = None
        return is_over, value

    def stop(self, *, at_once: bool) -> None:
        """Have the worker end: at once, or else when it is idle, cleaning up."""
        if self._process is not None:
            self.connection.close()
            if at_once:
                self._process.terminate()

    def join(self) -> int | None:
        """Wait for the process to end, or kill it; its exit code, None if there was no process."""
        if self._process is None:
            return None
        self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self.connection.close()
        self._process = None
        return code


def forking(preload: str, variables: Mapping[str, str]) -> BaseContext:
    """Processes forked from one that has imported the module `preload`; where that is unsafe, as programs.

    That one is started here, with these environment variables, and imports while we do other things; its
    libraries make no threads for computing, which a fork would lose. It runs nothing, so it never has CUDA to
    hand on. There is one a process, and it ends with that: called again, this gives what is there.

    Raises:
        OSError: if it cannot be started, as its socket in the folder of temporary files has too long a path.
    """
    if not environment.FORKS:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    before = dict(os.environ)
    os.environ.update({**variables, "OMP_NUM_THREADS": "1"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the worker was killed (signal 9); the usual reason is that memory ran out: use fewer workers"
    if code < 0:
        return f"the worker was killed (signal {-code})"
    return f"the worker ended with code {code}; see its output"


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(theirs: connection.Connection, do, prepare, setting) -> None:
    """A worker, from its start to the end of the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_driver, daemon=True).start()
    prepare(setting)
    while True:
        try:
            task = theirs.recv()
        except EOFError:
            return
        theirs.send((True, do(task, lambda message: theirs.send((False, message)))))


def end_with_driver() -> None:
    """Wait for the process that started this one to end, and end then too; for a thread of its own."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
