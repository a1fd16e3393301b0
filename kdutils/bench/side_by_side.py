"""Programs side by side: in processes of their own, in rounds, so that a disturbed moment hits all of them.

A contender that is not installed, cannot do the work, fails or runs out of memory is a row with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import pandas as pd

from kdutils.bench import kd_steps
from kdutils.bench.kd_steps import COMPILED, CONTENDERS, PLAIN
from kdutils.bench.workloads import Case
from kdutils.io.environment import REPOSITORY

COLUMNS = [
    *("case", "contender", "seconds_per_step", "tokens_per_second", "peak_gb_above_start", "loss", "repeats"),
]
ROUNDS = 2  # visits of each contender
SAME_LOSS = 1e-4  # nats a token, absolute
LIMIT_SECONDS = 900  # of a visit
BY_DEFAULT = [name for name in CONTENDERS if name != COMPILED]  # compiling takes minutes; it can be named
Progress = Callable[[str], None]


def compare(
    case: Case,
    *,
    names: Sequence[str] = BY_DEFAULT,
    repeats: int,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What each contender took for the case, a row each in their order.

    Raises:
        ValueError: for an unknown contender, or fewer repeats than rounds.
    """
    return visit([case], names, repeats=repeats, n_threads=n_threads, progress=progress)


def visit(
    cases: Sequence[Case],
    names: Sequence[str],
    *,
    repeats: int,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """As `compare`, for several cases that a contender does one after another in each of its processes.

    The rounds go to and fro through the contenders, so that none always follows the same one.
    """
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise ValueError(f"unknown contender {unknown[0]!r}; there are {list(CONTENDERS)}")
    if repeats < ROUNDS:
        raise ValueError(f"repeats={repeats}: give at least {ROUNDS}, one a round")
    n_threads = n_threads or os.cpu_count() or 1
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with Server(n_threads) as server:
        for number in range(ROUNDS):
            steps = repeats // ROUNDS + (number < repeats % ROUNDS)
            for name in names if number % 2 == 0 else reversed(names):
                if any("cannot" in visit for case in cases for visit in found.get((case.name, name), [])):
                    continue  # it will not do better
                if progress:
                    what = ", ".join(case.name for case in cases)
                    progress(f"{what}: {name}, round {number + 1} of {ROUNDS}")
                for case, answer in zip(cases, _answers(server, cases, name, steps), strict=True):
                    found.setdefault((case.name, name), []).append(answer)
    return [_row(case, name, found[case.name, name]) for case in cases for name in names]


class Server:
    """The process that all visits are forked from (kd_steps.serve), started when the first is asked for."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):  # what a dead one was not told
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def ask(self, arguments: Sequence[str], *, limit_seconds: float) -> Ended:
        """What a visit printed, and how it ended.

        Raises:
            RuntimeError: if the server is gone.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-P", "-m", kd_steps.__name__],
                env=os.environ | self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        request = {"arguments": list(arguments), "limit_seconds": limit_seconds}
        with contextlib.suppress(BrokenPipeError):  # it has died since the last visit, and answers nothing
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.startswith('{"code"'):
                return Ended(printed, **json.loads(line))
            printed.append(line)
        raise RuntimeError("the process that measures programs side by side has died; run again")

    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *_paths()])}
        own |= {"OMP_NUM_THREADS": str(self.n_threads), "TOKENIZERS_PARALLELISM": "false"}
        return own | {"HF_HUB_OFFLINE": "1"}


class Ended(NamedTuple):
    """A visit that is over."""

    printed: list[str]
    code: int  # below 0: the signal that ended it
    said: str  # its last line on standard error


def _answers(server: Server, cases: Sequence[Case], name: str, steps: int) -> list[dict[str, Any]]:
    """What a process of its own says of each case; one it did not come to has the reason why."""
    hindrances = [kd_steps.hindrance(case, name) for case in cases]
    if all(hindrances):
        return [{"case": case.name, "cannot": why} for case, why in zip(cases, hindrances, strict=True)]
    listed, limit = json.dumps([case.to_json() for case in cases]), LIMIT_SECONDS * len(cases)
    ended = server.ask([listed, name, str(steps), str(server.n_threads)], limit_seconds=limit)
    answers = [json.loads(line) for line in ended.printed if line.startswith('{"case"')]
    reason = _reason(ended, limit)
    return answers + [{"case": case.name, "cannot": reason} for case in cases[len(answers) :]]


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _reason(ended: Ended, limit_seconds: float) -> str:
    if ended.code == -signal.SIGALRM:
        return f"took longer than {limit_seconds:.0f} s"
    if ended.code == -signal.SIGKILL:
        return "killed by the system: out of memory"
    if ended.code < 0:
        return f"killed by {signal.Signals(-ended.code).name}"
    return f"failed: {ended.said[:200]}" if ended.said else f"failed with exit code {ended.code}"


def _row(case: Case, name: str, visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One contender's row: medians over the steps of all visits; the largest of their peaks."""
    reason = next((visit["cannot"] for visit in visits if "cannot" in visit), "")
    row: dict[str, Any] = {"case": case.name, "contender": name, "reason": reason, "repeats": 0}
    if reason:
        return row
    seconds = [each for visit in visits for each in visit["seconds"]]
    median = statistics.median(seconds)
    used = [each for visit in visits for each in visit["cpu_seconds"]]
    sizes = {key: visits[0][key] for key in ("tokens", "padded_tokens", "length", "scored")}
    return (
        row
        | sizes
        | {
            "seconds_per_step": median,
            "seconds": seconds,
            "cores_busy": sum(used) / sum(seconds),
            "tokens_per_second": sizes["tokens"] / median,
            "peak_gb_above_start": max(visit["peak_gb"] - visit["start_gb"] for visit in visits),
            "start_gb": max(visit["start_gb"] for visit in visits),
            "loss": visits[0]["losses"][0],
            "loss_after_update": visits[0]["losses"][1],
            "memory_by": visits[0]["memory_by"],
            "repeats": len(seconds),
        }
    )


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows beside each other: how many times faster than the first that ran, and whether losses agree.

    `same_loss` says whether the losses before and after the first update are within SAME_LOSS of those of
    the plain loop (of the first contender there is, without one); it is None for one that did not run.
    """
    frame = pd.DataFrame(rows)
    for column in (*COLUMNS, "loss_after_update", "reason"):
        if column not in frame:
            frame[column] = None
    frame["same_loss"] = None
    for _, part in frame.groupby("case", sort=False):
        ran = part[part["repeats"] > 0]
        if ran.empty:
            continue
        judge = ran[ran["contender"] == PLAIN] if (ran["contender"] == PLAIN).any() else ran
        for column in ("loss", "loss_after_update"):
            apart = (ran[column] - judge[column].iloc[0]).abs().astype(float)
            frame.loc[ran.index, f"{column}_apart"] = apart
        apart = frame.loc[ran.index, ["loss_apart", "loss_after_update_apart"]].max(axis=1)
        frame.loc[ran.index, "same_loss"] = (apart <= SAME_LOSS).astype(object)
        base = ran.iloc[0]
        frame.loc[ran.index, "times_faster"] = base["seconds_per_step"] / ran["seconds_per_step"]
        frame.loc[ran.index, "of_its_memory"] = ran["peak_gb_above_start"] / base["peak_gb_above_start"]
    return frame


def published(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as performance.csv has them: COLUMNS."""
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
