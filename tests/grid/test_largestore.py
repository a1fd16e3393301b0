"""Planning, looking and reading grow in proportion to the runs that there are."""

import contextlib
import sys
from functools import partial

import largestore
import pytest
from inline import InlinePool

from kdutils.data import model_files, sources
from kdutils.grid import scheduler
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
    assert len(scheduler.jobs_of(plan)) == 21
    assert sorted(looked) == ["mini-qwen-1.5B", "mini-qwen-14B"]
    looked.clear()
    assert [cell.status for cell in largestore.dry_run.cells_of(plan, tmp_path)] == ["missing"] * 21
    assert len(looked) == 4  # of a run without a teacher, and of one with it


def test_a_grid_that_is_filled_looks_for_the_failure_of_each_run_once(monkeypatch, tmp_path):
    """Not of all that are left whenever one has ended."""
    monkeypatch.setenv(environment.RUN_TOKEN, "of this run")
    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    jobs = scheduler.jobs_of(largestore.planned(20))
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
        grid = scheduler.Scheduler(
            scheduler.jobs_of(largestore.planned(n_runs)), tmp_path, lambda state: None
        )
        grid.run(lambda do, **how: made(**how))
        assert grid.state().n_done == n_runs + 1
        assert len(looks) <= 5 * n_runs


@pytest.mark.parametrize("later", [("damaged", "", "teacher"), ("held", "", "lease"), ("waiting",)])
def test_a_run_fails_whose_teacher_failed_while_it_ran(tmp_path, later):
    """Two students run, one finds their teacher damaged, and it cannot be made again: all of it ends."""
    jobs = scheduler.jobs_of(largestore.planned(3))
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
