"""A store of many finished runs, generated, and what planning, looking and reading take on it.

`python tests/largestore.py 1000 3000 10000` prints a row for each number of runs, from a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.data import evaluate, sources
from kdutils.grid import cell_table, dry_run, fill
from kdutils.grid.jobs import Job, jobs_of
from kdutils.grid.scheduler import Scheduler
from kdutils.grid.study import PlannedRun
from kdutils.io import disk, environment
from kdutils.items import Item
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("addsub", "svamp"), items_per_task=10)
CURVE = [{"step": step, "loss": 1.0 / step, "grad_norm": 1.0} for step in range(1, 142)]  # as long as mini's


def planned(n_runs: int) -> list[PlannedRun]:
    """So many runs: of each seed a distilled student and its SFT; their teacher is one more."""
    common = {"student": "mini-qwen-1.5B", "domain": "math"}
    fields = [{"method": "fkl", "teacher": "mini-qwen-14B"}, {"method": "sft"}]
    specs = [RunSpec(**common, **fields[i % 2], seed=i // 2) for i in range(n_runs)]
    return [PlannedRun(spec, EVALUATION) for spec in specs]


def build(plan: list[PlannedRun], out: Path) -> None:
    """Every run of the plan, finished; files that do not say whose they are are links to those of the first.

    Weights are left out: nobody reads them until something is trained.
    """
    jobs = jobs_of(plan)
    source = out / "source"
    disk.write_text(source / "curve.jsonl", "".join(json.dumps(entry) + "\n" for entry in CURVE))
    disk.write_json(source / "environment.json", environment.provenance())
    rows().to_parquet(source / "items.parquet", index=False)
    digests = {path.name: disk.sha256(path) for path in source.iterdir()}
    whole = {name: digests[name] for name in store.DIGESTED}
    outcome = {"layout": store.LAYOUT, "status": "trained", "steps": 141, "seconds": 9.5, "sha256": whole}
    scored = {"layout": store.LAYOUT, "n_rows": 20, "seconds": 1.5, "fingerprint": "0"}
    scored |= {"sha256": {"items.parquet": digests["items.parquet"]}}
    results = [json.dumps(disk.sealed(each)) for each in (outcome, scored)]
    for run_id, job in jobs.items():
        folder = out / "runs" / run_id
        inner = folder / "eval" / EVALUATION.eval_id
        inner.mkdir(parents=True)
        for name in store.DIGESTED:
            os.link(source / name, folder / name)
        os.link(source / "items.parquet", inner / "items.parquet")
        (folder / "spec.json").write_text(json.dumps(job.spec.to_dict()))
        (inner / "spec.json").write_text(json.dumps(EVALUATION.to_dict()))
        (folder / "result.json").write_text(results[0])
        (inner / "result.json").write_text(results[1])
    with _all_alike(rows()):
        for job in jobs.values():
            cell_table.keep(out, EVALUATION, job.spec)


@contextlib.contextmanager
def _all_alike(table: pd.DataFrame) -> Iterator[None]:
    """What is kept of item rows is computed for the first run alone, as all have the same, and not synced."""
    known: dict[str, list] = {}

    def once(compute):
        @functools.wraps(compute)
        def computed(*frames):
            if compute.__name__ not in known:
                known[compute.__name__] = compute(*frames)
            return known[compute.__name__]

        return computed

    own = cell_table._accuracies, cell_table._likeness, cell_table.Scored.rows, os.fsync
    cell_table._accuracies, cell_table._likeness = map(once, own[:2])
    cell_table.Scored.rows, os.fsync = lambda scored: table, lambda number: None
    try:
        yield
    finally:
        cell_table._accuracies, cell_table._likeness, cell_table.Scored.rows, os.fsync = own


def rows() -> pd.DataFrame:
    """Ten scored texts of each task."""
    found = []
    for task in EVALUATION.tasks:
        for number in range(10):
            item = Item(id=f"{task}-{number}", task=task, question="?", answer=str(number))
            text = f"There are {number} and {number % 3} of them. The answer is {number - number % 3}."
            found.append(evaluate.score(item, text, n_tokens=12, ended=True, top1=[1, 2, 3]))
    return pd.DataFrame(found)


def steps(n_runs: int, out: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What the driver of a finished grid does, by name; each is to be done before the next is asked for.

    `plan`: the runs and their ids; `resume`: is everything there and whole; `read`: cells and costs;
    `look`: what a dry run says of each cell beside them.
    """
    plan = planned(n_runs)  # anew: whose ids are not known yet
    sources.resolved(plan[0].spec)  # the digests of the models, once a process
    jobs: dict[str, Job] = {}
    yield "plan", lambda: jobs.update(jobs_of(planned(n_runs)))
    grid = Scheduler(jobs, out, lambda state: None)
    yield "resume", grid.check_store
    assert grid.state().n_found == len(jobs) and not grid.has_work
    tables: list[pd.DataFrame] = []
    yield "read", lambda: tables.extend([fill.live_cells(plan, out), fill.costs(plan, out)])
    assert [len(table) for table in tables] == [3 * n_runs, n_runs]
    looked: list[dry_run.Cell] = []
    yield "look", lambda: looked.extend(dry_run.cells_of(plan, out))
    assert [cell.status for cell in looked] == ["done"] * len(jobs)


def measured(n_runs: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each step on a store of so many runs, and of the first three together."""
    took = {}
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        build(planned(n_runs), Path(folder))
        sources._with_digests.cache_clear()
        for name, work in steps(n_runs, Path(folder)):
            before = time.process_time(), time.perf_counter()
            work()
            took[name] = time.process_time() - before[0], time.perf_counter() - before[1]
    cpu, wall = (sum(took[name][i] for name in ("plan", "resume", "read")) for i in (0, 1))
    return took | {"plan, resume and read": (cpu, wall)}


def main(counts: list[int]) -> None:
    """Print the table: CPU seconds, and wall seconds in parentheses."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for n_runs, took in zip(counts, pool.map(measured, counts), strict=True):
            cells = (f"{name} {cpu:.2f} s ({wall:.2f})" for name, (cpu, wall) in took.items())
            print(f"{n_runs:6} runs:", *cells, sep="  ", flush=True)


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1_000, 3_000, 10_000])
