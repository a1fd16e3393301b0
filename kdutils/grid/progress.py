"""How far the runs of a plan are, in numbers and in a line."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kdutils.grid.worker import Point


@dataclass(frozen=True)
class State:
    """How far the runs of a plan are; every run is found, done, failed, running or left."""

    n_runs: int
    n_found: int = 0  # were there before, or were made by another process meanwhile
    n_done: int = 0  # made this time
    running: list[str] = field(default_factory=list)  # short labels
    curves: dict[str, list[Point]] = field(default_factory=dict)  # label -> curve, of what is running
    failures: dict[str, str] = field(default_factory=dict)  # run_id -> reason
    set_aside: dict[str, str] = field(default_factory=dict)  # id of what was damaged -> reason
    seconds: float = 0.0  # since the start
    seconds_left: float | None = None  # an estimate; None before anything is made

    @property
    def n_left(self) -> int:
        """Neither found, made, failed nor running."""
        return self.n_runs - self.n_found - self.n_done - len(self.failures) - len(self.running)

    def __str__(self) -> str:
        parts = [f"{self.n_found} found", f"{self.n_done} made"]
        parts += [f"{len(self.failures)} failed"] * bool(self.failures)
        parts += [f"{len(self.running)} running"] * bool(self.running)
        parts += [f"{self.n_left} left"] * bool(self.n_left)
        if self.n_left or self.running:
            if self.seconds_left is not None:
                parts.append(f"about {duration(self.seconds_left)}")
            return f"{self.n_runs} runs: {', '.join(parts)}"
        asides = [f"{run_id} set aside: {reason}" for run_id, reason in self.set_aside.items()]
        failures = [f"{run_id} failed: {reason}" for run_id, reason in self.failures.items()]
        first = f"{self.n_runs} runs: {', '.join(parts)} in {duration(self.seconds)}"
        return "; ".join([first, *asides, *failures])


def duration(seconds: float) -> str:
    """In the unit that fits: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


Progress = Callable[[State], None]
