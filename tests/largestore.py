"""A store of many finished runs, generated, and how long planning, looking and reading take on it.

`python tests/largestore.py 1000 3000 10000` prints a line for each number of runs.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from kdutils import environment, evaluate, grid, livecells, material, runs, schedule, store
from kdutils.filling import Filling
from kdutils.items import Item
from kdutils.runspec import EvalSpec, PlannedRun, RunSpec

EVALUATION = EvalSpec(tasks=("addsub", "svamp"), items_per_task=10)
CURVE = [{"step": step, "loss": 1.0 / step, "grad_norm": 1.0} for step in range(1, 142)]  # as long as mini's


def planned(n_runs: int) -> list[PlannedRun]:
    """So many runs: of each seed a distilled student and its SFT; their teacher is one more."""
    common = {"student": "mini-qwen-105k", "domain": "math"}
    fields = [{"method": "fkl", "teacher": "mini-qwen-493k"}, {"method": "sft"}]
    specs = [RunSpec(**common, **fields[i % 2], seed=i // 2) for i in range(n_runs)]
    return [PlannedRun(spec, EVALUATION) for spec in specs]


def build(plan: list[PlannedRun], out: Path) -> None:
    """Every run of the plan, finished; files that do not say whose they are are links to those of the first.

    Weights are left out: nobody reads them until something is trained.
    """
    jobs = schedule.jobs_of(plan)
    source = out / "source"
    store.write_text(source / "curve.jsonl", "".join(json.dumps(entry) + "\n" for entry in CURVE))
    store.write_json(source / "environment.json", environment.provenance())
    rows().to_parquet(source / "items.parquet", index=False)
    digests = {path.name: store.sha256(path) for path in source.iterdir()}
    whole = {name: digests[name] for name in runs.DIGESTED}
    outcome = {"layout": runs.LAYOUT, "status": "trained", "steps": 141, "seconds": 9.5, "sha256": whole}
    scored = {"layout": runs.LAYOUT, "n_rows": 20, "seconds": 1.5, "fingerprint": "0"}
    scored |= {"sha256": {"items.parquet": digests["items.parquet"]}}
    results = [json.dumps(store.sealed(each)) for each in (outcome, scored)]
    for run_id, job in jobs.items():
        folder = out / "runs" / run_id
        inner = folder / "eval" / EVALUATION.eval_id
        inner.mkdir(parents=True)
        for name in runs.DIGESTED:
            os.link(source / name, folder / name)
        os.link(source / "items.parquet", inner / "items.parquet")
        (folder / "spec.json").write_text(json.dumps(job.spec.to_dict()))
        (inner / "spec.json").write_text(json.dumps(EVALUATION.to_dict()))
        (folder / "result.json").write_text(results[0])
        (inner / "result.json").write_text(results[1])
    known: dict[str, list] = {}

    def once(compute):
        """As it is, but computed for the first run alone: all have the same rows."""

        @functools.wraps(compute)
        def computed(*frames):
            if compute.__name__ not in known:
                known[compute.__name__] = compute(*frames)
            return known[compute.__name__]

        return computed

    real = livecells._accuracies, livecells._likeness
    livecells._accuracies, livecells._likeness = map(once, real)
    fsync, os.fsync = os.fsync, lambda number: None
    try:
        for job in jobs.values():
            livecells.keep(out, EVALUATION, job.spec)
    finally:
        (livecells._accuracies, livecells._likeness), os.fsync = real, fsync


def rows() -> pd.DataFrame:
    """Ten scored texts of each task."""
    found = []
    for task in EVALUATION.tasks:
        for number in range(10):
            item = Item(id=f"{task}-{number}", task=task, question="?", answer=str(number))
            text = f"There are {number} and {number % 3} of them. The answer is {number - number % 3}."
            found.append(evaluate.score(item, text, n_tokens=12, ended=True, top1=[1, 2, 3]))
    return pd.DataFrame(found)


def seconds(plan: list[PlannedRun], out: Path) -> dict[str, float]:
    """What planning, looking at what is there, and reading all cells take, wall seconds."""
    took = {}

    def timed(name, work):
        started = time.perf_counter()
        found = work()
        took[name] = time.perf_counter() - started
        return found

    material.resolved(plan[0].spec)  # the digests of the models, once a process
    jobs = timed("plan", lambda: schedule.jobs_of(plan))
    filling = Filling(jobs, out, lambda state: None)
    timed("resume", filling.look)
    assert filling.state().n_found == len(jobs) and not filling.is_wanting
    table = timed("read", lambda: grid.live_cells(plan, out))
    assert len(table) == 3 * len(plan)
    return took | {"all": sum(took.values())}


def main(counts: list[int]) -> None:
    for n_runs in counts:
        with tempfile.TemporaryDirectory() as folder:
            plan = planned(n_runs)
            build(plan, Path(folder))
            took = seconds(plan, Path(folder))
        print(n_runs, *(f"{name} {value:.2f} s" for name, value in took.items()), flush=True)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1_000, 3_000, 10_000])
