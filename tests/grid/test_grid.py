"""The runs of a plan: made once, found again; failures are rows, damage is made good."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import tiny

from kdutils import training
from kdutils.data import sources
from kdutils.grid import cell_table, fill, scheduler
from kdutils.grid.jobs import Shard, jobs_of
from kdutils.grid.local_pool import Death
from kdutils.grid.study import PlannedRun
from kdutils.io import environment, leases
from kdutils.runs import experiment, store


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return tiny.plan(tmp_path_factory.mktemp("grid"))


def adds_up(state):
    return state.n_runs == (
        state.n_found + state.n_done + len(state.failures) + len(state.running) + state.n_left
    )


# --- what is made --------------------------------------------------------------------------------------


def test_real_workers_make_what_is_missing(plan, tmp_path):
    seen = []
    state = fill.fill(plan, tmp_path, workers=2, progress=seen.append)
    assert (state.n_runs, state.n_found, state.n_done, state.failures) == (5, 0, 5, {})
    assert all(adds_up(each) and each.n_left >= 0 for each in seen)
    assert {each.n_done for each in seen} == set(range(6))
    assert max(len(each.running) for each in seen) == 2
    assert "fkl tiny-20k <- tiny-40k math s0" in {label for each in seen for label in each.running}
    assert seen[0].seconds_left is None
    assert state.seconds_left == 0
    table = fill.live_cells(plan, tmp_path)
    assert set(table["method"]) == {"base", "sft", "fkl", "seqkd"}
    assert list(table.columns) == list(cell_table.SCHEMA)
    costs = fill.costs(plan, tmp_path)
    assert costs["status"].tolist() == ["done", "done", "done", "untrained"]
    assert costs["peak memory, GB"][:3].between(0.1, 2).all()


def test_what_is_there_is_found_and_the_rest_made(plan, tmp_path, inline, begun):
    fill.fill(plan, tmp_path, workers=1)
    table = fill.live_cells(plan, tmp_path)
    (lost,) = tiny.run_ids(plan, "fkl")
    (tmp_path / "runs" / lost / "result.json").unlink()
    assert len(fill.live_cells(plan, tmp_path)) < len(table)
    begun.clear()
    again = fill.fill(plan, tmp_path, workers=1)
    assert (again.n_found, again.n_done, begun) == (4, 1, [lost])
    assert fill.live_cells(plan, tmp_path).equals(table)


def test_teachers_are_made_first_then_sft_then_the_expensive_base_models_last(plan, tmp_path, inline, begun):
    fill.fill(plan, tmp_path, workers=1)
    assert begun == [tiny.teacher_id(plan), *tiny.run_ids(plan, "sft"), *tiny.run_ids(plan, "fkl"),
                     *tiny.run_ids(plan, "seqkd"), *tiny.run_ids(plan, "base")]  # fmt: skip


def test_a_distilled_run_waits_for_its_own_teacher_only(plan, tmp_path, inline):
    """With two workers, the student of a teacher that is there starts beside a base run."""
    other = replace(plan[2].spec, student=plan[0].spec.teacher, seed=5)
    fill.fill([plan[0]], tmp_path, workers=1)
    seen = []
    state = fill.fill([*plan, PlannedRun(other, tiny.EVALUATION)], tmp_path, workers=9, progress=seen.append)
    assert state.n_done == 4
    assert max(len(each.running) for each in seen) == 4


def test_a_plan_of_nothing_is_done(tmp_path):
    assert str(fill.fill([], tmp_path)) == "0 runs: 0 found, 0 made in 0 s"
    assert fill.live_cells([], tmp_path).empty
    assert fill.costs([], tmp_path).empty


def test_a_label_says_what_sets_a_run_apart(plan):
    job = next(iter(jobs_of([PlannedRun(plan[2].spec, tiny.EVALUATION)]).values()))
    assert job.label == "sft tiny-20k math s0"
    spec = replace(plan[0].spec, temperature=2.0, noise_sigma=0.5, teacher_tuned=False, seed=3)
    (job,) = jobs_of([PlannedRun(spec, tiny.EVALUATION)]).values()
    assert job.label == "fkl tiny-20k <- tiny-40k untuned T=2 noise=0.5 math s3"


def test_the_state_is_one_line():
    state = scheduler.State(120, 40, 12, ["a", "b"], seconds_left=540.0)
    assert str(state) == "120 runs: 40 found, 12 made, 2 running, 66 left, about 9 min"
    assert str(scheduler.State(3, 1)) == "3 runs: 1 found, 0 made, 2 left"
    over = scheduler.State(3, 1, 1, failures={"x": "Oops: no"}, set_aside={"y": "torn"}, seconds=5)
    assert str(over) == "3 runs: 1 found, 1 made, 1 failed in 5 s; y set aside: torn; x failed: Oops: no"


def test_a_plan_that_cannot_be_made_is_refused_before_anything_is_written(plan, tmp_path):
    nobody = replace(plan[0].spec, teacher="nobody")
    with pytest.raises(ValueError, match="unknown model 'nobody'"):
        fill.fill([*plan, PlannedRun(nobody, tiny.EVALUATION)], tmp_path / "out")
    long = replace(plan[0].spec, max_tokens=20)
    with pytest.raises(ValueError, match="more than max_tokens=20"):
        fill.fill([*plan, PlannedRun(long, tiny.EVALUATION)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(store.StoreError, match="out cannot be written"):
        fill.fill(plan, tmp_path / "out")


def test_a_store_of_another_layout_is_refused_before_any_work(plan, tmp_path, inline, begun):
    fill.fill(plan[3:], tmp_path, workers=1)
    path = tmp_path / "runs" / tiny.run_ids(plan, "base")[0] / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 99}))
    begun.clear()
    with pytest.raises(store.StoreError, match="is of layout 99, this is 1"):
        fill.fill(plan, tmp_path, workers=1)
    assert begun == []
    assert path.is_file()


# --- failures ------------------------------------------------------------------------------------------


def no_training_of(monkeypatch, name):
    train = training.train

    def failing(student, *arguments, **options):
        if student.name.endswith(name):
            raise FloatingPointError("something\nbroke")
        return train(student, *arguments, **options)

    monkeypatch.setattr(training, "train", failing)


def test_a_failed_run_is_recorded_and_tried_again(plan, tmp_path, inline, begun, monkeypatch):
    with monkeypatch.context() as patched:
        no_training_of(patched, "tiny-20k")
        state = fill.fill(plan, tmp_path, workers=1)
    assert (state.n_done, set(state.failures)) == (2, set(tiny.run_ids(plan, "fkl", "seqkd", "sft")))
    assert set(state.failures.values()) == {"FloatingPointError: something broke"}
    costs = fill.costs(plan, tmp_path)
    assert costs["status"].tolist() == ["failed"] * 3 + ["untrained"]
    assert costs["reason"][0] == "FloatingPointError: something broke"
    path = tmp_path / "runs" / tiny.run_ids(plan, "fkl")[0] / "failure.json"
    assert "in failing" in json.loads(path.read_text())["traceback"]
    begun.clear()
    again = fill.fill(plan, tmp_path, workers=1)
    assert (again.n_done, again.failures, len(begun)) == (3, {}, 3)
    assert not path.exists()


def test_in_one_run_of_the_runner_a_failure_is_not_repeated(plan, tmp_path, inline, begun, monkeypatch):
    monkeypatch.setenv(environment.RUN_TOKEN, "one")
    with monkeypatch.context() as patched:
        no_training_of(patched, "tiny-40k")
        first = fill.fill(plan, tmp_path, workers=1)
    students = tiny.run_ids(plan, "fkl", "seqkd")
    assert set(first.failures) == {tiny.teacher_id(plan), *students}
    said = f"its teacher {tiny.teacher_id(plan)} failed: FloatingPointError: something broke"
    assert first.failures[students[0]] == said
    assert fill.costs(plan, tmp_path)["reason"][0] == said
    begun.clear()
    second = fill.fill(plan, tmp_path, workers=1)
    assert (second.failures, begun) == (first.failures, [])
    monkeypatch.setenv(environment.RUN_TOKEN, "another")
    assert fill.fill(plan, tmp_path, workers=1).failures == {}


def test_a_killed_worker_fails_its_run_which_is_tried_again(plan, tmp_path, inline, monkeypatch):
    (victim,), make = tiny.run_ids(plan, "sft"), scheduler.make_run

    def killed(task, send):
        return Death("the worker was killed (signal 9)") if task.spec.run_id == victim else make(task, send)

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "make_run", killed)
        state = fill.fill(plan, tmp_path, workers=1)
    assert (state.n_done, state.failures) == (4, {victim: "the worker was killed (signal 9)"})
    assert store.folder_of(tmp_path, victim).failure()["reason"] == "the worker was killed (signal 9)"
    assert fill.fill(plan, tmp_path, workers=1).n_done == 1


def test_a_run_that_cannot_be_written_takes_no_other_along(plan, tmp_path, inline):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / tiny.run_ids(plan, "base")[0]).write_text("a file where a folder should be")
    state = fill.fill(plan, tmp_path, workers=2)
    assert (state.n_done, len(state.failures)) == (4, 1)
    assert "cannot be written" in str(state)


# --- several at once, and ends in the middle -----------------------------------------------------------


def test_what_another_process_makes_is_put_aside_and_found(plan, tmp_path, inline, begun, monkeypatch):
    """The lease of the first run is ours, as another's would be, until everything else is made."""
    (held,) = tiny.run_ids(plan, "sft")
    own = leases.take(tmp_path, held)
    spec = sources.resolved(plan[2].spec)

    def others_finish(state):
        if state.n_done == 4 and (tmp_path / "leases" / f"{held}.json").exists():
            own.path.unlink()
            experiment.make(spec, [tiny.EVALUATION], tmp_path)

    state = fill.fill(plan, tmp_path, workers=2, progress=others_finish)
    assert (state.n_found, state.n_done, begun.count(held)) == (1, 4, 1)


def driver(plan, out, *, workers, pool="kdutils.grid.local_pool.Pool", shard="1/1"):
    """A process that fills a folder and prints its state, and which runs it began to train."""
    module, _, name = pool.rpartition(".")
    code = (
        "import json, sys; from pathlib import Path\n"
        "from kdutils.grid import fill; from kdutils.runs import store\n"
        f"from {module} import {name}; fill.Pool = {name}; begun, begin = [], store.RunFolder.begin;"
        "store.RunFolder.begin = lambda self, *own: begun.append(self.path.name) or begin(self, *own);"
        f"from kdutils.grid.jobs import Shard; shard = Shard.parse({shard!r});"
        "from kdutils.grid.study import PlannedRun; from kdutils.spec import EvalSpec, RunSpec;"
        "asked = json.loads(sys.argv[1]);"
        "plan = [PlannedRun(RunSpec.from_dict(s), EvalSpec.from_dict(e)) for s, e in asked];"
        "state = fill.fill(plan, Path(sys.argv[2]), workers=int(sys.argv[3]), shard=shard);"
        "print(json.dumps([state.n_found, state.n_done, state.failures, begun]))"
    )
    asked = json.dumps([[run.spec.to_dict(), run.evaluation.to_dict()] for run in plan])
    command = [sys.executable, "-c", code, asked, str(out), str(workers)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables)


@pytest.mark.faults
def test_two_fills_of_one_folder_make_each_run_once(plan, tmp_path, fault):
    both = [driver(plan, tmp_path, workers=1, pool="inline.InlinePool") for _ in range(2)]
    fault("two drivers on one store")
    states = [json.loads(each.communicate(timeout=240)[0]) for each in both]
    assert [found + made for found, made, *_ in states] == [5, 5]
    assert sum(made for _, made, *_ in states) == 5
    assert [failures for _, _, failures, _ in states] == [{}, {}]
    assert list((tmp_path / "leases").glob("*.json")) == []


def test_two_shards_side_by_side_do_nothing_twice_and_leave_nothing(plan, tmp_path, inline, begun):
    """And a whole call after them finds all done, with the tables of one that was alone."""
    out, jobs = tmp_path / "shards", jobs_of(plan)
    both = [driver(plan, out, workers=1, pool="inline.InlinePool", shard=shard) for shard in ("1/2", "2/2")]
    states = [json.loads(each.communicate(timeout=480)[0]) for each in both]
    of_both = [len(Shard(index, 2).jobs(jobs)) for index in (1, 2)]
    assert [found + made for found, made, *_ in states] == of_both
    assert sum(made for _, made, *_ in states) == len(jobs)
    assert [failures for _, _, failures, _ in states] == [{}, {}]
    assert sorted(states[0][3] + states[1][3]) == sorted(jobs)
    whole = fill.fill(plan, out, workers=1)
    assert (whole.n_found, whole.n_done, whole.set_aside, begun) == (len(jobs), 0, {}, [])
    assert list((out / "leases").glob("*.json")) == []
    fill.fill(plan, tmp_path / "alone", workers=1)
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, tmp_path / "alone"))


@pytest.mark.faults
def test_a_driver_killed_in_the_middle_changes_no_cell(plan, tmp_path, inline, fault):
    process = driver(plan, tmp_path / "cut", workers=1)
    while not list((tmp_path / "cut").glob("runs/*/eval/*/result.json")):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    fault("SIGKILL of the driver")
    process.communicate(timeout=60)
    assert psutil.wait_procs(family, timeout=60)[1] == []
    rest = fill.fill(plan, tmp_path / "cut", workers=1)
    assert rest.n_found >= 1
    assert (rest.n_found + rest.n_done, rest.failures, rest.set_aside) == (5, {}, {})
    fill.fill(plan, tmp_path / "whole", workers=1)
    assert fill.live_cells(plan, tmp_path / "cut").equals(fill.live_cells(plan, tmp_path / "whole"))
