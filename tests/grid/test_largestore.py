"""Planning, looking and reading grow in proportion to the runs that there are."""

import contextlib
import sys
from functools import partial

import largestore
import pytest
from inline import InlinePool

from kdutils.data import model_files, sources
from kdutils.grid import scheduler
from kdutils.grid.jobs import ids_of, jobs_of
from kdutils.io import environment


class Opened:
    """Counts the files that are opened, by an audit hook, which stays for good."""

    def __init__(self):
        self.names = None
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if event == "open" and self.names is not None:
            self.names.append(str(arguments[0]))

    @contextlib.contextmanager
    def counted(self):
        self.names = []
        try:
            yield self.names
        finally:
            self.names = None


OPENED = Opened()


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    """Step -> how many files of the store it opens, for 20 runs and for 40."""
    found = {}
    for n_runs in (20, 40):
        out = tmp_path_factory.mktemp("store")
        largestore.build(largestore.planned(n_runs), out)
        for name, work in largestore.steps(n_runs, out):
            with OPENED.counted() as names:
                work()
            found.setdefault(name, []).append(sum(str(out) in each for each in names))
    return found


# Of a run: spec, result, curve, environment, and of its evaluation spec, result and items. Then both results,
# for cells and again for costs, and what is kept: of an SFT student one file, of a distilled one three.
@pytest.mark.parametrize(("step", "a_run"), [("plan", 0), ("resume", 7), ("read", 2 + 2 + 2), ("look", 2)])
def test_each_file_of_a_finished_run_is_read_once_a_step(reads, step, a_run):
    fewer, more = reads[step]
    assert more - fewer == 20 * a_run


def test_files_that_runs_share_are_looked_at_once(monkeypatch, tmp_path):
    """However many runs there are; at each run it took most of the time of planning."""
    looked, digest = [], model_files.files_digest
    monkeypatch.setattr(sources, "files_digest", lambda place, _: looked.append(place.name) or digest(place))
    plan = largestore.planned(20)
    assert len(jobs_of(plan)) == 21
    assert sorted(looked) == ["mini-qwen-1.5B", "mini-qwen-14B"]
    looked.clear()
    assert [cell.status for cell in largestore.dry_run.cells_of(plan, tmp_path)] == ["missing"] * 21
    assert len(looked) == 4  # of a run without a teacher, and of one with it


def test_a_grid_that_is_filled_looks_for_the_failure_of_each_run_once(monkeypatch, tmp_path):
    """Not of all that are left whenever one has ended."""
    monkeypatch.setenv(environment.RUN_TOKEN, "of this run")
    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    jobs = jobs_of(largestore.planned(20))
    grid = scheduler.Scheduler(jobs, tmp_path, lambda state: None)
    grid.check_store()

    def start(do, *, prepare, on_message):
        made = lambda task, send: scheduler.Outcome("made")  # noqa: E731
        return InlinePool(made, [0, 1], prepare=prepare, on_message=on_message)

    with OPENED.counted() as names:
        grid.run(start)
    assert grid.state().n_done == len(jobs)
    assert sum(each.endswith("failure.json") for each in names) == len(jobs)


def test_work_of_the_driver_grows_with_the_number_of_runs_and_not_with_its_square(monkeypatch, tmp_path):
    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    looks, is_ready = [], scheduler.Scheduler._is_ready
    monkeypatch.setattr(
        scheduler.Scheduler, "_is_ready", lambda grid, run_id: looks.append(run_id) or is_ready(grid, run_id)
    )
    made = partial(InlinePool, lambda task, send: scheduler.Outcome("made"), [0, 1])
    for n_runs in (10, 40):
        looks.clear()
        grid = scheduler.Scheduler(jobs_of(largestore.planned(n_runs)), tmp_path, lambda state: None)
        grid.run(lambda do, **how: made(**how))
        assert grid.state().n_done == n_runs + 1
        assert len(looks) <= 5 * n_runs


def test_the_part_of_a_plan_that_costs_least_is_made_first_and_named_before_the_rest(monkeypatch, tmp_path):
    """Seeds are the parts. The last has one run of two, so it costs least; one run of the first fails."""
    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    plan = largestore.planned(6)
    seeds = {"zero": plan[0:2], "one": plan[2:4], "two": plan[4:5]}
    parts, told, given = {name: ids_of(runs) for name, runs in seeds.items()}, [], []
    _, sft_of_first, *_ = sources.resolved_all(run.spec for run in plan)

    def make(task, send):
        given.append(task.spec)
        failed = task.spec == sft_of_first
        return scheduler.Outcome("failed", "no room") if failed else scheduler.Outcome("made")

    def ready(names):
        told.append((names, len(given)))

    grid = scheduler.Scheduler(jobs_of(plan), tmp_path, lambda state: None, parts=parts, ready=ready)
    grid.run(lambda do, **how: InlinePool(make, [0], **how))
    assert told[0] == ([], 0)
    names, after = zip(*told[1:], strict=True)
    assert names[0] == ["two"]
    assert sorted(names[1:]) == [["one"], ["zero"]]
    assert after == (2, 4, 6)  # the teacher and one run; in the end, the run of no part
    assert [spec.seed for spec in given if spec.teacher][0] == 2
    again = scheduler.Scheduler(jobs_of(plan), tmp_path, lambda state: None, parts=parts, ready=ready)
    for run_id in again._jobs:
        again._set(run_id, "found")
    told.clear()
    again.tell_ready()
    again.tell_ready()
    assert [sorted(names) for names, _ in told] == [["one", "two", "zero"]]


def test_a_run_that_was_set_aside_is_left_of_its_part_again(tmp_path):
    told, plan = [], largestore.planned(2)
    parts = {"both": ids_of(plan)}
    grid = scheduler.Scheduler(jobs_of(plan), tmp_path, lambda state: None, parts=parts, ready=told.append)
    first, *others = grid._jobs
    grid._set(first, "found")
    grid._set(first, "waiting")
    for run_id in others:
        grid._set(run_id, "found")
    grid.tell_ready()
    assert told == []
    grid._set(first, "made")
    grid.tell_ready()
    assert told == [["both"]]


@pytest.mark.parametrize("later", [("damaged", "", "teacher"), ("held", "", "lease"), ("waiting",)])
def test_a_run_fails_whose_teacher_failed_while_it_ran(tmp_path, later):
    """Two students run, one finds their teacher damaged, and it cannot be made again: all of it ends."""
    jobs = jobs_of(largestore.planned(3))
    teacher = next(run_id for run_id, job in jobs.items() if job.is_teacher)
    first, second = [run_id for run_id, job in jobs.items() if teacher in job.needs][:2]
    grid = scheduler.Scheduler(jobs, tmp_path, lambda state: None)
    grid._set(teacher, "found")
    for run_id in (first, second):
        grid._set(run_id, "running")
    grid._record(first, scheduler.Outcome("damaged", "zeros", teacher))
    grid._record(teacher, scheduler.Outcome("failed", "no room"))
    grid._record(second, scheduler.Outcome(*[teacher if each == "teacher" else each for each in later]))
    reason = f"its teacher {teacher} failed: no room"
    assert [grid.state().failures.get(each) for each in (first, second)] == [reason, reason]


def test_every_step_is_measured():
    took = largestore.measured(6)
    assert list(took) == ["plan", "resume", "read", "look", "plan, resume and read"]
    assert min(min(seconds) for seconds in took.values()) > 0
