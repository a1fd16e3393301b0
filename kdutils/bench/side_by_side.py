"""Programs compared: in processes of their own, in rounds, so that a disturbed moment hits all of them.

A contender that is not installed, cannot do the work, fails or runs out of memory is a row with its reason.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from kdutils.bench import kd_steps
from kdutils.bench.kd_steps import COMPILED, CONTENDERS, PLAIN
from kdutils.bench.workloads import Case
from kdutils.io import child_processes
from kdutils.io.child_processes import Function, watch

COLUMNS = [
    *("case", "contender", "seconds_per_step", "tokens_per_second", "peak_gb_above_start", "loss", "repeats"),
]
ROUNDS = 2  # visits of each contender
SAME_LOSS = 1e-4  # nats a token, absolute
LIMIT_SECONDS = 900  # of a visit
BY_DEFAULT = [name for name in CONTENDERS if name != COMPILED]  # compiling takes minutes; it can be named
Progress = Callable[[str], None]


def measure(
    cases: Sequence[Case],
    names: Sequence[str] = BY_DEFAULT,
    *,
    repeats: int,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """What each contender took for each case, a row each in their order.

    In each of ROUNDS a contender does all cases in a fresh process. Every second round goes through the
    contenders backwards, so that none always follows the same one.

    Args:
        repeats: timed steps of each, over all rounds.

    Raises:
        ValueError: for an unknown contender, or fewer repeats than rounds.
    """
    if unknown := sorted(set(names) - set(CONTENDERS)):
        raise ValueError(f"unknown contender {unknown[0]!r}; there are {list(CONTENDERS)}")
    if repeats < ROUNDS:
        raise ValueError(f"repeats={repeats}: give at least {ROUNDS}, one a round")
    n_threads = n_threads or os.cpu_count() or 1
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(ROUNDS):
        steps = repeats // ROUNDS + (number < repeats % ROUNDS)
        for name in names if number % 2 == 0 else reversed(names):
            if any("cannot" in visit for case in cases for visit in found.get((case.name, name), [])):
                continue  # it failed in the round before
            if progress:
                what = ", ".join(case.name for case in cases)
                progress(f"{what}: {name}, round {number + 1} of {ROUNDS}")
            for case, answer in zip(cases, visit(cases, name, steps, n_threads), strict=True):
                found.setdefault((case.name, name), []).append(answer)
    return [_row(case, name, found[case.name, name]) for case in cases for name in names]


def visit(cases: Sequence[Case], name: str, steps: int, n_threads: int) -> list[dict[str, Any]]:
    """kd_steps.measure of each case in one fresh process; after a failure, the reason for each case left."""
    hindrances = [kd_steps.hindrance(case, name) for case in cases]
    if all(hindrances):
        return [{"case": case.name, "cannot": why} for case, why in zip(cases, hindrances, strict=True)]
    # Forked from a process that has imported torch and transformers: half a visit would be imports.
    common = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = child_processes.forking("kdutils.teacher", common)
    env = os.environ | common | {"OMP_NUM_THREADS": str(n_threads)} | kd_steps.ENVIRONMENT[name]
    answers: list[dict[str, Any]] = []
    arguments = (list(cases), name, steps, n_threads)
    with Function(kd_steps.visit, arguments, env=env, context=context) as child:
        watch([child], answers.append, timeout_seconds=LIMIT_SECONDS * len(cases))
        reason = child.reason()
    return answers + [{"case": case.name, "cannot": reason} for case in cases[len(answers) :]]


def _row(case: Case, name: str, visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One contender's row: medians over the steps of all visits; the largest of their peaks."""
    reason = next((visit["cannot"] for visit in visits if "cannot" in visit), "")
    row = {"case": case.name, "contender": name, "reason": reason, "repeats": 0}
    if reason:
        return row
    seconds = [each for visit in visits for each in visit["seconds"]]
    median = statistics.median(seconds)
    used = [each for visit in visits for each in visit["cpu_seconds"]]
    sizes = {key: visits[0][key] for key in ("tokens", "padded_tokens", "length", "scored")}
    return row | {
        **sizes,
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


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows compared: how many times faster than the first that ran, and whether losses agree.

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
