"""What the workers of tests do; a module, since workers import it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from kdutils.grid.local_pool import Pool

SETTING = None


def prepare(setting):
    global SETTING
    SETTING = setting


def results(pool, n):
    """Key -> result of the next `n` tasks, or a few more, that end."""
    found = {}
    while len(found) < n:
        found |= dict(pool.results(10))
    return found


def do(task, send):
    kind, value = task
    if kind == "tell":
        for message in value:
            send(message)
    if kind == "kill":
        os.kill(os.getpid(), value)
    if kind == "exit":
        os._exit(value)
    if kind == "raise":
        raise ZeroDivisionError
    if kind == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if kind == "see":
        return os.environ.get(value)
    if kind == "bereave" and not Path(value).exists():  # once
        Path(value).touch()
        os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)  # not what it was forked from
        time.sleep(600)
    if kind == "origin":  # whose child this is, with what threads, and what is imported
        threads = Path(f"/proc/{os.getppid()}/task").glob("*/comm")
        return os.getpid(), os.getppid(), {each.read_text().strip() for each in threads}, set(sys.modules)
    if kind == "keep":
        Path(value).write_text(str(os.getpid()))
    if kind == "hang":
        Path(value).write_text(str(os.getpid()))
        time.sleep(600)
    return (SETTING, os.getpid(), value)


def die_at_once(pipe):
    """In the place of kernels.serve."""
    os.write(2, b"no luck\n")
    os._exit(9)


def main(folder: str) -> None:
    """A driver whose two workers hang."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in whatever a script starts with `&`
    with Pool(do, ["a", "b"], prepare=prepare) as pool:
        for number in range(2):
            pool.submit(number, ("hang", f"{folder}/{number}"))
        try:
            while True:
                pool.results(600)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise


if __name__ == "__main__":
    main(sys.argv[1])
