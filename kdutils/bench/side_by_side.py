"""Programs compared: in processes of their own, in rounds, so that a disturbed moment hits all of them.

A contender that is not installed, cannot do the work, fails or runs out of memory is a row with its reason.
"""

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from kdutils.bench import kd_steps
from kdutils.bench.kd_steps import COMPILED, CONTENDERS, PLAIN
from kdutils.bench.workloads import Case
from kdutils.io import child_processes
from kdutils.io.child_processes import Function, watch

ROUNDS = 2  # visits of each contender
SAME_LOSS = 1e-4  # nats a token, absolute
LIMIT_SECONDS = 900  # of a visit
BY_DEFAULT = [name for name in CONTENDERS if name != COMPILED]  # compiling takes minutes; it can be named


def measure(
    cases: Sequence[Case],
    names: Sequence[str] = BY_DEFAULT,
    *,
    repeats: int,
    n_threads: int | None = None,
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
            if any("cannot" in each for case in cases for each in found.get((case.name, name), [])):
                continue  # it failed in the round before
            print(f"{', '.join(case.name for case in cases)}: {name}, round {number + 1} of {ROUNDS}")
            for case, answer in zip(cases, visit(cases, name, steps, n_threads), strict=True):
                found.setdefault((case.name, name), []).append(answer)
    return [_row(case, name, found[case.name, name]) for case in cases for name in names]


def visit(cases: Sequence[Case], name: str, steps: int, n_threads: int) -> list[dict[str, Any]]:
    """kd_steps.measure of each case in one fresh process; after a failure, the reason for each case left."""
    hindrances = [kd_steps.hindrance(case, name) for case in cases]
    if all(hindrances):
        return [{"case": case.name, "cannot": why} for case, why in zip(cases, hindrances, strict=True)]
    env = {"OMP_NUM_THREADS": str(n_threads), "KDUTILS_COMPILE": CONTENDERS[name].compile_backend}
    limit = LIMIT_SECONDS * len(cases)
    arguments = (list(cases), name, steps, n_threads)
    answers, reason = in_child(kd_steps.visit, *arguments, env=env, timeout_seconds=limit)
    return answers + [{"case": case.name, "cannot": reason} for case in cases[len(answers) :]]


def in_child(
    function: Callable[..., Iterable[Any]],
    *arguments: Any,
    env: dict[str, str],
    timeout_seconds: float | None = None,
) -> tuple[list[Any], str]:
    """What a function gives in a process of its own, and why that process ended; "" if it ended well."""
    # Forked from a process that has imported torch and transformers: half a visit would be imports.
    common = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    context = child_processes.forking("kdutils.teacher", common)
    answers: list[Any] = []
    with Function(_serve, (function, *arguments), env=os.environ | common | env, context=context) as child:
        codes = watch([child], answers.append, timeout_seconds=timeout_seconds)
        return answers, "" if codes == [0] else child.reason()


def _serve(pipe: Any, function: Callable[..., Iterable[Any]], *arguments: Any) -> None:
    import torch

    torch.set_flush_denormal(True)
    for answer in function(*arguments):
        pipe.send(answer)


def _row(case: Case, name: str, visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One contender's row: medians over the steps of all visits; the largest of their peaks."""
    reason = next((each["cannot"] for each in visits if "cannot" in each), "")
    row = {"case": case.name, "contender": name, "reason": reason, "repeats": 0}
    if reason:
        return row
    seconds = [each for visit in visits for each in visit["seconds"]]
    median = statistics.median(seconds)
    first = visits[0]
    return row | {
        **{key: first[key] for key in ("tokens", "padded_tokens", "length", "scored", "memory_by")},
        "seconds_per_step": median,
        "seconds": seconds,
        "cores_busy": sum(sum(visit["cpu_seconds"]) for visit in visits) / sum(seconds),
        "tokens_per_second": first["tokens"] / median,
        "peak_gb_above_start": max(visit["peak_gb"] - visit["start_gb"] for visit in visits),
        "start_gb": max(visit["start_gb"] for visit in visits),
        "loss": first["losses"][0],
        "loss_after_update": first["losses"][1],
        "repeats": len(seconds),
    }


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows compared: how many times faster than the first that ran, and whether losses agree.

    `same_loss` says whether the losses before and after the first update are within SAME_LOSS of those of
    the plain loop (of the first contender there is, without one); it is None for one that did not run.
    """
    frame = pd.DataFrame(rows, columns=None if rows else ["case", "contender", "repeats"])
    frame["same_loss"] = None
    for _, part in frame[frame["repeats"] > 0].groupby("case", sort=False):
        base = part.iloc[0]
        judge = part[part["contender"] == PLAIN].iloc[0] if PLAIN in set(part["contender"]) else base
        of_loss = ["loss", "loss_after_update"]
        apart = (part[of_loss] - judge[of_loss]).abs().astype(float).add_suffix("_apart")
        frame.loc[part.index, apart.columns] = apart
        frame.loc[part.index, "same_loss"] = (apart.max(axis=1) <= SAME_LOSS).astype(object)
        frame.loc[part.index, "times_faster"] = base["seconds_per_step"] / part["seconds_per_step"]
        frame.loc[part.index, "of_its_memory"] = part["peak_gb_above_start"] / base["peak_gb_above_start"]
    return frame
