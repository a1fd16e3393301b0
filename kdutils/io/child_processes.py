"""Child processes that are watched: started, read, timed, and stopped together with their descendants.

A child runs a program (Program) or a function (Function), in a session of its own: Ctrl-C in a terminal
reaches the parent alone. It ends when its parent does (a program, if it calls `messages_to_parent`). Leaving
the `with` block of a child kills what is left of it and collects its exit code.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Self

import psutil

from kdutils.io import environment

POLL_SECONDS = 1.0  # between two looks for a child that died while a descendant keeps its pipe open
SPAWN = multiprocessing.get_context("spawn")  # a fresh interpreter
CLOSING_SECONDS = 0.1  # between two looks at one that has closed its pipe and still runs
TAIL_BYTES = 1 << 14  # of stderr that are searched for its last line
MESSAGE_CHARACTERS = 300  # of that line


class Child:
    """A process that was started here; see Program and Function."""

    pipe: Any  # what its messages arrive on, for multiprocessing.connection.wait
    stopped = ""  # why it was stopped from here

    def __init__(self, log: Path | None) -> None:
        self._own_log = None if log else tempfile.NamedTemporaryFile(prefix="kdutils-child-")  # noqa: SIM115
        self.log = log or Path(self._own_log.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(because="no longer needed")
        self.pipe.close()
        if self._own_log:
            self._own_log.close()

    def read(self) -> list[Any] | None:
        """Messages that have arrived; waits for some. None once the child has closed its end of the pipe."""
        raise NotImplementedError

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit code, minus the signal's number for a signal; None if it still runs after that time."""
        raise NotImplementedError

    def stop(self, *, because: str) -> None:
        """Kill the child and its descendants."""
        if self.wait(0.0) is None:
            self.stopped = because
            kill_tree(self.pid)
            self.wait()

    def reason(self) -> str:
        """Why it ended, as the predicate of a sentence."""
        return f"was stopped: {self.stopped}" if self.stopped else exit_reason(self.wait(), self.log)


class Program(Child):
    """Python with these arguments, which sends messages by `messages_to_parent`: JSON, one a line.

    It imports this kdutils, and its working folder is ours.

    Args:
        env: variables that differ from ours.
        log: file for what it writes to stderr; a temporary one by default.
    """

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        super().__init__(log)
        paths = [str(environment.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict(env or {})
        with self.log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-P", *arguments],
                env=variables,
                stdin=subprocess.PIPE,  # nothing is written: its end tells the child that its parent is gone
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                start_new_session=True,
            )
        self.pid, self.pipe, self._unread = self._process.pid, self._process.stdout, b""

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._process.stdin.close()

    def read(self) -> list[Any] | None:
        content = os.read(self.pipe.fileno(), 1 << 16)
        *lines, self._unread = (self._unread + content).split(b"\n")
        return [json.loads(line) for line in lines] if content else None

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None


class Function(Child):
    """`function(pipe, *arguments)` in a process of its own; `pipe` goes both ways.

    Args:
        function: of a module; it is imported there by name.
        env: the whole environment of the process; by default ours.
        context: how it is started, see `forking`; by default as a fresh interpreter.
    """

    def __init__(
        self,
        function: Callable[..., None],
        arguments: Sequence[Any] = (),
        *,
        env: Mapping[str, str] | None = None,
        context: BaseContext | None = None,
    ) -> None:
        super().__init__(None)
        self.pipe, theirs = multiprocessing.Pipe()
        variables = dict(os.environ if env is None else env)
        what = (theirs, str(self.log), variables, function, arguments)
        self.by_itself = False  # whether it is a fresh interpreter, since what it is forked from is gone
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:  # Ctrl-C waits, also in the new process until it has a session of its own
            self._process = (context or SPAWN).Process(target=_call, args=what)
            self._process.start()
        except (OSError, EOFError):
            self.by_itself, self._process = True, SPAWN.Process(target=_call, args=what)
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that our end closes when the process does
        self.pid = self._process.pid

    def send(self, message: Any) -> None:
        """Have the process receive a message; nothing if it has ended, which `read` shows."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def read(self) -> list[Any] | None:
        try:
            return [self.pipe.recv()]
        except (EOFError, OSError):
            return None

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        self._process.join(timeout_seconds)
        while timeout_seconds is None and self._process.exitcode is None:
            self._process.join()  # another thread that started a process has just asked for its exit code
        return self._process.exitcode


def watch(
    children: Sequence[Child],
    on_message: Callable[[Any], None],
    *,
    timeout_seconds: float | None = None,
    grace_seconds: float = 0.0,
) -> list[int]:
    """The exit codes of all children, which have ended; `on_message` gets each message as it arrives.

    Children are stopped if all together take longer than `timeout_seconds`, and `grace_seconds` after one of
    them failed. What `on_message` raises is raised, with the children still running.
    """
    ends, because = math.inf, ""
    if timeout_seconds is not None:
        ends, because = time.monotonic() + timeout_seconds, f"took longer than {timeout_seconds:g} s"
    running = list(children)
    while running:
        left = min(ends - time.monotonic(), POLL_SECONDS)
        ready = connection.wait([child.pipe for child in running], max(0.0, left))
        for child in list(running):
            messages = child.read() if child.pipe in ready else [] if child.wait(0.0) is None else None
            now = time.monotonic()
            for message in messages or []:
                on_message(message)
            if now >= ends:
                child.stop(because=because)
            elif messages is not None or child.wait(CLOSING_SECONDS) is None:
                continue
            running.remove(child)
            if child.wait() and now + grace_seconds < ends:
                ends, because = now + grace_seconds, "another process failed"
    return [child.wait() for child in children]


def exit_reason(code: int, log: Path) -> str:
    """Why a process ended with this exit code, as the predicate of a sentence, with the log's last line."""
    if code < 0:
        often = "; the usual reason is that memory ran out" * (code == -signal.SIGKILL)
        return f"was killed (signal {-code}){often}"
    lines = []
    if log.exists():
        with log.open("rb") as file:
            file.seek(-min(TAIL_BYTES, log.stat().st_size), os.SEEK_END)
            lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip()[:MESSAGE_CHARACTERS] if lines else "it wrote no message"
    return f"ended with code {code}; {last}"


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants, whatever their sessions; the caller waits for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        top.suspend()  # so that it starts no other child meanwhile
        for process in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def forking(preload: str, variables: Mapping[str, str]) -> BaseContext:
    """Processes forked from one that has imported the module `preload`; where that is unsafe, as programs.

    That one is started here, with these variables, and imports while we do other things. It runs nothing, so
    it has neither threads nor CUDA to hand on. There is one a process: called again, this gives that one.

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


# --- within a child ----------------------------------------------------------------------------------------


def messages_to_parent() -> Callable[[Any], None]:
    """A function that sends a message, something JSON can hold, to the parent of this Program.

    From here on the process ends with its parent, and what else it prints to stdout goes to stderr.
    """
    end_with(0)
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    return send


def end_with(parent: int) -> None:
    """Have this process, and the group that it leads, end once the file descriptor `parent` is closed."""

    def end() -> None:
        connection.wait([parent])
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _call(
    theirs: connection.Connection,
    log: str,
    env: Mapping[str, str],
    function: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    """What a Function does in its process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.stdout.flush()
    sys.stderr.flush()
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    end_with(multiprocessing.parent_process().sentinel)
    function(theirs, *arguments)
