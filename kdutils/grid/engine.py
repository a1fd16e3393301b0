"""What an engine is: something that does tasks for a driver, and of which any part may die at any time.

The driver decides what is done and when; an engine knows tasks and keys, and nothing of runs. What is
finished is known by the store alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, Self

Tell = Callable[[Any], None]
Do = Callable[[Any, Tell], Any]
Hear = Callable[[Hashable, Any], None]


@dataclass(frozen=True)
class Death:
    """The result of a task whose process died at it."""

    reason: str  # one line
    code: int | None = None  # its exit code, minus the number of a signal; None if it is not known


class Engine(Protocol):
    """Does tasks within a `with` statement, each in a process that has called `prepare` once before.

    It is made by a `Start`. What a task tells comes to `hear(key, message)` in the driver, while that waits
    for results.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None:
        """End what is running."""

    @property
    def n_workers(self) -> int:
        """How many tasks are done at a time."""

    @property
    def n_idle(self) -> int:
        """How many tasks could be given now."""

    def give(self, key: Hashable, task: Any) -> None:
        """Have a task done; its result, which may be a Death, will come under that key."""

    def results(self, timeout_seconds: float) -> list[tuple[Hashable, Any]]:
        """Key and result of what has ended; waits for something to happen, but not longer than that."""


class Start(Protocol):
    """Makes an engine whose tasks are done by `do(task, tell)`, a function of a module."""

    def __call__(self, do: Do, *, prepare: Callable[[Any], None], hear: Hear) -> Engine: ...
