"""What a run leaves behind, whatever its notebooks do."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import errands
import nbformat
import pandas as pd
import psutil
import pytest
from inline import InlinePool
from samples import SAMPLE, profile_of, write_notebook

from kdutils.data import sources
from kdutils.grid import fill
from kdutils.grid.profile import load_profile, profile_names
from kdutils.grid.progress import State
from kdutils.grid.worker import Outcome
from kdutils.io import environment
from kdutils.report import cli, kernels, ledger, notebook_api, notebook_parameters, render, runner
from kdutils.report.notebook_parameters import ParameterError
from kdutils.report.render import Result
from kdutils.report.runner import RunError

GOOD, TWIN, RAISES, KILLED, UNFINISHED, LATE, ABSENT = SAMPLE
FAILED = (RAISES, KILLED, UNFINISHED, LATE)


def results(folder: Path) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads((folder / "index.json").read_text())}


def report_text(folder: Path, name: str) -> str:
    return (folder / "reports" / name).read_text(encoding="utf-8")


def below(folder: Path) -> list[str]:
    """Processes that were started for anything in `folder`, or write to a file in it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        with contextlib.suppress(OSError):  # it has ended, or there is no /proc
            command += f" > {Path(f'/proc/{process.pid}/fd/1').readlink()}"
        if str(folder) in command and process.pid != os.getpid():
            found.append(command)
    return found


# --- what the sample run left --------------------------------------------------------------------


def test_only_what_succeeded_has_a_final_name(sample):
    names = {path.name for path in (sample / "reports").iterdir()}
    done = {f"{name}{suffix}" for name in (GOOD, TWIN) for suffix in (".html", ".ipynb")}
    failed = {f"{name}.failed{suffix}" for name in FAILED for suffix in (".html", ".ipynb")}
    assert names == done | failed


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        (GOOD, "done", ""),
        (TWIN, "done", ""),
        (RAISES, "failed", "KeyError: 'no <b>gain</b> for hf_(removed)'"),
        (
            *(KILLED, "failed"),
            "DeadKernelError: the kernel was killed (signal 9); the usual reason is that memory ran out",
        ),
        (UNFINISHED, "failed", "NotFinished: the last cell must call run.finish()"),
        (LATE, "failed", "ZeroDivisionError: division by zero"),
        (ABSENT, "not_run", ""),
    ],
)
def test_status_and_reason(sample, name, status, error):
    result = results(sample)[name]
    assert (result["status"], result["error"][: len(error)]) == (status, error)


def test_earlier_success_and_later_failures_leave_no_results(sample):
    """RAISES and UNFINISHED had files of an earlier run, LATE had published its own."""
    assert {path.name[:2] for path in (sample / "figures").iterdir()} == {"01", "02"}
    assert {path.name[:2] for path in (sample / "ledger").iterdir() if path.name[0] != "."} == {"01", "02"}
    assert not [path for path in (sample / ".partial").iterdir() if path.is_dir()]
    assert {row["section"] for row in ledger.claims(sample)} == {"01", "02"}


def test_notebooks_that_ran_at_once_share_the_ledgers(sample):
    rows = pd.read_csv(sample / "statistics.csv", dtype={"section": str})
    assert rows[["section", "task"]].values.tolist() == [["01", "aqua"], ["02", "aqua"], ["09", "shared"]]
    assert set(rows["statistic"]) == {0.1 + 0.2}
    assert len(ledger.claims(sample)) == 8


def test_override_reaches_the_notebook_and_is_shown(sample):
    assert results(sample)[GOOD]["changed"] == {"selection": "temperature_1"}
    assert set(pd.read_csv(sample / "statistics.csv")["selection"]) == {"temperature_1"}
    assert "selection = temperature_1" in report_text(sample, f"{GOOD}.html")


def test_kernel_is_this_python_whatever_is_installed_as_python3(sample):
    assert sys.executable in report_text(sample, f"{GOOD}.ipynb")


def test_sentinel_is_of_this_run(sample):
    tokens = {json.loads(ledger.sentinel(sample, name).read_text())["run_token"] for name in (GOOD, TWIN)}
    assert len(tokens) == 1
    assert None not in tokens


@pytest.mark.parametrize("name", FAILED)
def test_failed_copy_says_so_at_the_top(sample, name):
    notebook = nbformat.reads(report_text(sample, f"{name}.failed.ipynb"), as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0].source
    assert first.startswith("**This notebook failed.**")
    assert results(sample)[name]["error"] in first
    assert "papermill-error-cell" not in report_text(sample, f"{name}.failed.ipynb")


def test_failed_copy_of_a_killed_kernel_keeps_what_ran(sample):
    notebook = nbformat.reads(report_text(sample, f"{KILLED}.failed.ipynb"), as_version=4)
    assert any(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )


def test_no_access_token_is_left_anywhere(sample):
    for path in sample.rglob("*"):
        if path.is_file():
            assert b"hf_aaaa" not in path.read_bytes(), path


def test_reports_hold_no_path_of_papermill(sample):
    metadata = nbformat.reads(report_text(sample, f"{GOOD}.ipynb"), as_version=4).metadata["papermill"]
    assert not {"input_path", "output_path"} & set(metadata)


# --- runs of their own ---------------------------------------------------------------------------


@pytest.fixture(params=["forked", "spawned"])
def scratch(request, monkeypatch) -> Iterator[Path]:
    """A place for temporary files that shows in what every worker and kernel was started for or writes to.

    Its path is short: a process that others are forked from has a socket there.
    """
    with tempfile.TemporaryDirectory(prefix="kd-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(environment, "FORKS", environment.FORKS and request.param == "forked")
        monkeypatch.setitem(
            multiprocessing.current_process()._config, "tempdir", folder
        )  # else it makes one that it removes late
        forkserver._forkserver._stop()
        yield Path(folder)
        with contextlib.suppress(FileNotFoundError):  # its socket, which goes with the folder
            forkserver._forkserver._stop()


@pytest.mark.notebook
def test_hanging_notebook_is_stopped_at_the_limit(tmp_path, scratch):
    write_notebook(tmp_path, GOOD, "import time; time.sleep(600)", "run.finish()")
    [result] = runner.run_profile(profile_of(GOOD), out=tmp_path / "out", notebooks=tmp_path, limit_seconds=4)
    assert result.error == "TimeoutError: stopped after 4 s, which is the limit"
    folder = tmp_path / "out" / "published"
    assert {path.name for path in (folder / "reports").iterdir()} == {
        f"{GOOD}.failed.html",
        f"{GOOD}.failed.ipynb",
    }
    assert below(scratch) == []


STOPPED_RUN = """\
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from samples import profile_of
from kdutils.io import environment
from kdutils.report import runner
environment.FORKS = {forks}
try:
    runner.run_profile(profile_of("01_effectiveness", "02_size_correlation"),
                       out=Path({out!r}), notebooks=Path({notebooks!r}), jobs=1)
except runner.Interrupted as interrupted:
    sys.exit(128 + interrupted.number)
"""


@pytest.mark.notebook
def test_stopped_run_ends_all_processes_and_writes_the_index(tmp_path, scratch):
    os.mkfifo(tmp_path / "in_the_cell")
    child = f'open("{tmp_path}/in_the_cell", "w").close(); import time; time.sleep(600)  # {scratch}'
    write_notebook(
        tmp_path, GOOD, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    )
    write_notebook(tmp_path, TWIN, "run.finish()")
    code = STOPPED_RUN.format(
        tests=str(Path(__file__).parents[1]),
        out=str(tmp_path / "out"),
        notebooks=str(tmp_path),
        forks=environment.FORKS,
    )
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores it\n"
    run = subprocess.Popen([sys.executable, "-c", heeding + code], stderr=subprocess.PIPE, text=True)
    (tmp_path / "in_the_cell").open().close()  # blocks until the child of the kernel has opened it too
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    folder = tmp_path / "out" / "published"
    found = results(folder)
    assert found[GOOD]["error"] == "Interrupted: the run was stopped"
    assert found[TWIN]["status"] == "not_run"
    assert {path.name for path in (folder / "reports").iterdir()} == {
        f"{GOOD}.failed.html",
        f"{GOOD}.failed.ipynb",
    }
    assert "Interrupted" in (folder / "index.html").read_text()
    assert below(scratch) == []


def heed(request, number):
    """Have a signal do what it usually does until the test ends, also under nohup; returns its handler."""
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, usual)))
    return usual


@pytest.mark.parametrize("number", runner.STOP_SIGNALS)
def test_signals_that_stop_a_run(request, number):
    received, before = [], heed(request, number)
    with runner._handling_signals(received.append):
        signal.raise_signal(number)
    assert received == [number]
    assert signal.getsignal(number) == before


@pytest.mark.notebook
def test_plain_papermill_refuses_a_misspelt_parameter(tmp_path):
    source = write_notebook(tmp_path, GOOD, "run.finish()")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3"]
    command += [str(source), str(tmp_path / "out.ipynb"), "-p", "selction", "temperature_1"]
    command += ["-p", "out", str(tmp_path / "out")]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(notebook_parameters.REPOSITORY)},
    )
    assert run.returncode == 1
    assert "unknown parameter 'selction' (did you mean 'selection'?)" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.notebook
def test_what_a_notebook_changes_is_not_there_for_the_next(tmp_path):
    """Both are forked from one process, so this is not a matter of course."""
    look = "import os, random, kdutils, numpy\nassert not hasattr(kdutils, 'changed')\nkdutils.changed = True"
    look += "\nassert 'CHANGED' not in os.environ\nos.environ['CHANGED'] = '1'\nnumpy.random.seed(0)"
    look += f"\nopen(r'{tmp_path}/pids', 'a').write(f'{{os.getpid()}}\\n')"
    for name in (GOOD, TWIN):
        write_notebook(tmp_path, name, look, "run.finish()")
    done = runner.run_profile(profile_of(GOOD, TWIN), out=tmp_path / "out", notebooks=tmp_path, jobs=1)
    assert [result.error for result in done] == ["", ""]
    pids = (tmp_path / "pids").read_text().split()
    assert len(set(pids)) == 2
    assert str(os.getpid()) not in pids


@pytest.mark.notebook
def test_without_the_process_to_fork_from_a_notebook_imports_by_itself(tmp_path, scratch, capsys):
    write_notebook(tmp_path, GOOD, "run.finish()")

    def without_socket(plans, ready):
        for socket in scratch.rglob("listener-*"):
            socket.unlink()

    [result] = runner.run_profile(
        profile_of(GOOD), out=tmp_path / "out", notebooks=tmp_path, train=without_socket
    )
    assert result.status == "done"
    assert ("imports by itself" in capsys.readouterr().err) is environment.FORKS


@pytest.mark.parametrize("forks", [True, False])
def test_kernel_that_dies_at_once_is_reported(tmp_path, monkeypatch, capsys, forks):
    write_notebook(tmp_path, GOOD, "run.finish()")
    monkeypatch.setattr(kernels, "serve", errands.die_at_once)
    monkeypatch.setattr(environment, "FORKS", forks and environment.FORKS)
    [result] = runner.run_profile(profile_of(GOOD), out=tmp_path / "out", notebooks=tmp_path)
    assert result.error == "DeadKernelError: the kernel ended with code 9; no luck"
    assert "FAILED" in capsys.readouterr().err
    failed = nbformat.read(tmp_path / "out/published/reports" / f"{GOOD}.failed.ipynb", as_version=4)
    assert failed.cells[1].source == f"# What does {GOOD} show?"


def test_index_keeps_what_earlier_runs_left(tmp_path, capsys):
    folder = notebook_api.writable_folder(tmp_path, "published")
    for page in (f"{GOOD}.html", f"{TWIN}.html", f"{RAISES}.failed.html"):
        (folder / "reports" / page).write_text(
            render.page("page.html.j2", title="", results=[], current=None)
        )
    before = [
        Result(name=GOOD, status="done"),
        Result(name=TWIN, status="done"),
        Result(name=KILLED, status="done"),
    ]
    runner.write_index(profile_of(*SAMPLE), folder, before)
    now = [Result(name=RAISES, status="failed", error="KeyError: x"), Result(name=TWIN, status="not_run")]
    runner.write_index(profile_of(*SAMPLE), folder, now)
    found = {name: result["status"] for name, result in results(folder).items()}
    assert found == dict.fromkeys(SAMPLE, "not_run") | {GOOD: "done", TWIN: "done", RAISES: "failed"}
    assert f"{RAISES}.failed.html" in report_text(folder, f"{GOOD}.html")

    (folder / "index.json").write_text("[{")
    runner.write_index(profile_of(*SAMPLE), folder, now)
    assert results(folder)[GOOD]["status"] == "not_run"
    assert "index.json is damaged" in capsys.readouterr().err


DAMAGE = {
    "reports/01_effectiveness.html": b"<p>\xff</p>",
    "index.json": b'[{"name": ',
    "claims.json": b'[{"id": "S1", ',
    "figures/01_gain.json": b'{"notebook": ',
}


@pytest.mark.faults
@pytest.mark.parametrize("name", DAMAGE)
def test_index_is_written_beside_a_damaged_file(tmp_path, capsys, name, fault):
    folder = notebook_api.writable_folder(tmp_path, "published")
    for page in (GOOD, TWIN):
        (folder / f"reports/{page}.html").write_text(
            render.page("page.html.j2", title="", results=[], current=None)
        )
    (folder / name).write_bytes(DAMAGE[name])
    fault(f"{name.partition('/')[0]} of the index")
    done = [Result(name=GOOD, status="done"), Result(name=TWIN, status="done")]
    runner.write_index(profile_of(GOOD, TWIN), folder, done)
    assert {each["status"] for each in results(folder).values()} == {"done"}
    assert f'href="{TWIN}.html"' in report_text(folder, f"{TWIN}.html")
    said = capsys.readouterr().err
    assert ("damaged" in said) is (name != "claims.json")  # which is made anew, of no parts here
    if not name.startswith("index"):
        runner.write_index(profile_of(GOOD, TWIN), folder, done)
        assert {each["status"] for each in results(folder).values()} == {"done"}


# --- in which order, and when --------------------------------------------------------------------


class Recorder:
    """In the place of the executor: every notebook is done at once."""

    started: list[str]

    def __init__(self, scratch, *, jobs, limit_seconds):
        self.stopped_by = 0

    def stop(self, number):
        pytest.fail("nobody asked for it")

    def run(self, task):
        self.started.append(task.name)
        return Result(name=task.name, status="done", seconds=1.0)


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(runner, "Executor", Recorder)
    monkeypatch.setattr(Recorder, "started", [], raising=False)
    return Recorder


def run_mini(tmp_path: Path, train) -> list[Result]:
    mini = load_profile("mini")
    return runner.run_profile(mini, out=tmp_path, only=["01", "06", "08"], jobs=1, train=train)


def test_nothing_starts_where_runs_are_refused(tmp_path, recorder, monkeypatch, capsys):
    """Not even 10, which needs none."""

    def refuse(*runs):
        raise sources.DataError("no such items")

    monkeypatch.setattr("kdutils.runs.inputs.check", refuse)
    assert cli.main(["mini", "--only", "06,10", "--out", str(tmp_path)]) == 2
    assert "no such items" in capsys.readouterr().err
    assert recorder.started == []


def test_notebooks_start_when_the_grid_has_made_their_runs(tmp_path, recorder, monkeypatch):
    """Runs without training, by the real grid: of 06, of 07, and of 10 none."""
    made = []

    def make(task, send):
        made.append(task)
        deadline = time.monotonic() + 60
        while len(made) == 60 and "06_noise" not in recorder.started and time.monotonic() < deadline:
            time.sleep(0.05)
        return Outcome("made")

    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    monkeypatch.setattr(fill, "Pool", lambda do, settings, **how: InlinePool(make, [0], **how))
    before = time.monotonic()
    assert cli.main(["mini", "--only", "06,07,10", "--out", str(tmp_path), "--jobs", "1"]) == 0
    assert time.monotonic() - before < 60  # it did start while runs of 07 were left
    assert len(made) == 64
    assert recorder.started == ["10_calibration", "06_noise", "07_temperature"]


def test_a_section_whose_notebook_trains_more_waits_for_all_others(tmp_path, recorder, monkeypatch):
    """Of arms: after the trials of the learning rate come the runs at the best."""
    told = []
    monkeypatch.setattr("kdutils.runs.inputs.check", lambda *runs: None)
    monkeypatch.setattr(fill, "fill", lambda planned, out, **how: told.append(how["parts"]) or State(0))
    assert cli.main(["adaptation", "--out", str(tmp_path)]) == 0
    assert told == [{}]
    assert recorder.started == ["15_adaptation"]


def test_a_notebook_starts_once_its_runs_are_there_and_the_index_says_that_others_wait(tmp_path, recorder):
    def index_once_it_says(words):
        index, deadline = tmp_path / "mini" / "index.html", time.monotonic() + 60
        while time.monotonic() < deadline and not (index.exists() and words in index.read_text()):
            time.sleep(0.05)
        return index.read_text()

    def train(plans, ready):
        assert [plan.section for plan in plans] == ["01", "08"]
        ready([])
        assert "2 notebooks are not there yet" in index_once_it_says("This run goes on")
        assert recorder.started == ["10_calibration"]  # which needs no runs
        ready(["01"])
        assert "This run goes on. 1 notebook is not" in index_once_it_says("1 notebook is not")
        assert recorder.started == ["10_calibration", "01_effectiveness"]

    results = runner.run_profile(
        load_profile("mini"), out=tmp_path, only=["01", "08", "10"], jobs=1, train=train
    )
    assert recorder.started == ["10_calibration", "01_effectiveness", "08_claims"]
    assert [result.status for result in results] == ["done"] * 3
    assert "This run goes on" not in (tmp_path / "mini" / "index.html").read_text()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, runner.Interrupted),
        (signal.SIGHUP, runner.Interrupted),
    ],
)
def test_a_signal_ends_the_training_and_what_has_started(
    tmp_path, recorder, monkeypatch, request, number, error
):
    usual, stopped = heed(request, number), []
    monkeypatch.setattr(recorder, "stop", lambda self, number: stopped.append(number))

    def train(plans, ready):
        ready(["01"])
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(error):
        run_mini(tmp_path, train)
    assert stopped == [signal.SIGINT]
    assert recorder.started == ["01_effectiveness"]
    assert "This run goes on" not in (tmp_path / "mini" / "index.html").read_text()
    assert signal.getsignal(number) is usual


def test_a_training_under_nohup_outlives_its_terminal(tmp_path, recorder, request):
    request.addfinalizer(partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN)))
    results = run_mini(tmp_path, lambda plans, ready: os.kill(os.getpid(), signal.SIGHUP))
    assert [result.status for result in results] == ["done"] * 3


def test_an_index_that_cannot_be_written_meanwhile_is_written_in_the_end(
    tmp_path, recorder, monkeypatch, capsys
):
    write, failures = runner.write_index, [OSError("a figure is being written")]

    def once(*arguments, **named):
        if failures:
            raise failures.pop()
        return write(*arguments, **named)

    monkeypatch.setattr(runner, "write_index", once)

    def train(plans, ready):
        ready(["01"])
        deadline = time.monotonic() + 60
        while failures and time.monotonic() < deadline:
            time.sleep(0.05)

    run_mini(tmp_path, train)
    assert "the index is not up to date (OSError: a figure is being written)" in capsys.readouterr().err
    assert "This run goes on" not in (tmp_path / "mini" / "index.html").read_text()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["mini"], ["published", "mini"]),
        (["mini", "--only", "01"], ["mini"]),
        (["mini", "-p", "seeds", "1"], ["mini"]),
        (["smoke"], ["smoke"]),  # without the notebooks of the released results
        (["qwen-small"], ["qwen-small"]),  # whose models may be missing
        (["published"], ["published"]),
    ],
)
def test_the_released_results_are_shown_before_a_long_training(
    tmp_path, monkeypatch, capsys, asked, expected
):
    ran = []

    def run(profile, **how):
        ran.append(profile.name)
        return [Result(name=GOOD, status="failed", error="KeyError")] if profile.name == "published" else []

    monkeypatch.setattr(runner, "run_profile", run)
    assert cli.main([*asked, "--out", str(tmp_path)]) == int("published" in expected)
    assert ran == expected
    (tmp_path / "published").mkdir()
    names = load_profile("published").notebooks
    for n_done in (len(names) - 1, len(names)):  # not shown again once all are done
        entries = [{"name": name, "status": "done"} for name in names[:n_done]]
        (tmp_path / "published" / "index.json").write_text(json.dumps(entries))
        ran.clear()
        cli.main([*asked, "--out", str(tmp_path)])
        assert ran == (expected if n_done < len(names) else expected[-1:])


def test_released_results_that_another_run_is_writing_are_left_to_it(tmp_path, monkeypatch, capsys):
    def run(profile, **how):
        if profile.name == "published":
            raise RunError("another run is writing")
        return []

    monkeypatch.setattr(runner, "run_profile", run)
    assert cli.main(["mini", "--out", str(tmp_path)]) == 0
    assert "not now: another run is writing" in capsys.readouterr().err


def test_what_measures_time_runs_alone(tmp_path, recorder, monkeypatch):
    ended, seen = [], []
    plain = recorder.run

    def run(self, task):
        seen.append((task.name, sorted(ended)))
        time.sleep(0.2 * (task.name == "01_effectiveness"))
        result = plain(self, task)
        ended.append(task.name)
        return result

    monkeypatch.setattr(recorder, "run", run)
    notebooks = ("01_effectiveness", "06_noise", "09_performance", "10_calibration")
    profile = replace(load_profile("mini"), notebooks=notebooks)
    results = runner.run_profile(profile, out=tmp_path, jobs=4, train=lambda plans, ready: plans)
    assert seen[-1] == ("09_performance", ["01_effectiveness", "06_noise", "10_calibration"])
    assert len(results) == 4


def test_what_took_longest_the_last_time_starts_first(tmp_path, recorder):
    folder = notebook_api.writable_folder(tmp_path, "mini")
    seconds = {"01_effectiveness": 2.0, "06_noise": 1.0, "08_claims": 3.0}
    entries = [{"name": name, "status": "done", "seconds": value} for name, value in seconds.items()]
    (folder / "index.json").write_text(json.dumps(entries))
    for name in seconds:
        (folder / "reports" / f"{name}.html").write_text(
            render.page("page.html.j2", title="", results=[], current=None)
        )
    results = run_mini(tmp_path, lambda plans, ready: plans)
    assert recorder.started == ["08_claims", "01_effectiveness", "06_noise"]
    assert [result.name for result in results] == list(seconds)


def test_how_soon_a_notebook_failed_is_not_how_long_it_takes(tmp_path, recorder):
    """06 took half a second, and 08 failed after a whole one."""
    folder = notebook_api.writable_folder(tmp_path, "mini")
    entries = [{"name": "08_claims", "status": "failed", "seconds": 1.0, "error": "KeyError"}]
    entries.append({"name": "06_noise", "status": "done", "seconds": 0.5})
    (folder / "index.json").write_text(json.dumps(entries))
    run_mini(tmp_path, lambda plans, ready: None)
    assert recorder.started == ["06_noise", "01_effectiveness", "08_claims"]


# --- what is refused before a kernel starts ------------------------------------------------------


@pytest.fixture
def notebooks(tmp_path) -> Path:
    write_notebook(tmp_path, GOOD, "run.finish()")
    write_notebook(
        tmp_path,
        TWIN,
        "run.finish()",
        parameters='profile: str = "published"\nout: str = "o"\nseed: int = 0\n',
    )
    return tmp_path


def refusal(notebooks: Path, **asked) -> str:
    """The message of a run that must not start."""
    asked = {"out": notebooks / "out", "notebooks": notebooks, "train": pytest.fail} | asked
    with pytest.raises((RunError, ParameterError)) as caught:
        runner.run_profile(profile_of(GOOD, TWIN), **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_notebook_is_refused(notebooks):
    message = refusal(notebooks, only=["01", "42"])
    assert message == f"no notebook '42' in profile published; there are {GOOD}, {TWIN}, choose from those"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"selction": "x"}, "did you mean 'selection'?"),
        ({"selection": "x"}, "choose from best_on_test, temperature_1"),
        ({"seed": "x"}, "seed='x' is not int"),
        ({"x=0;import os": "1"}, "not a Python identifier"),
        ({"profile": "published"}, "PROFILE is the first argument"),
        ({"out": "elsewhere"}, "--out the folder"),
    ],
)
def test_wrong_override_is_refused(notebooks, overrides, complaint):
    assert complaint in refusal(notebooks, overrides=overrides)


def test_override_that_only_an_unselected_notebook_declares_is_refused(notebooks):
    assert "unknown parameter 'seed'" in refusal(notebooks, only=["01"], overrides={"seed": "1"})


@pytest.mark.parametrize("asked", [{"jobs": 0}, {"limit_seconds": 0}, {"limit_seconds": float("nan")}])
def test_senseless_numbers_are_refused(notebooks, asked):
    assert "must be" in refusal(notebooks, **asked)


def test_notebook_must_declare_profile_and_out(notebooks):
    write_notebook(notebooks, TWIN, parameters="seed: int = 0\n")
    assert refusal(notebooks) == f"{TWIN} must declare `profile: str` and `out: str` in its parameters cell"


def test_missing_notebook_is_refused(notebooks):
    (notebooks / f"{TWIN}.ipynb").unlink()
    assert "cannot be read" in refusal(notebooks)


def test_folder_that_cannot_be_written_is_refused(notebooks):
    (notebooks / "file").touch()
    assert "cannot be written (Not a directory)" in refusal(notebooks, out=notebooks / "file" / "out")
    assert "cannot be written" in refusal(notebooks, out=Path("/proc/kdutils"))


def test_link_that_leads_out_is_refused(notebooks):
    (notebooks / "out" / "published").mkdir(parents=True)
    (notebooks / "out" / "published" / "reports").symlink_to(notebooks)
    assert "leads out of" in refusal(notebooks)


def test_second_run_in_the_same_folder_is_refused(notebooks):
    folder = notebook_api.writable_folder(notebooks / "out", "published")
    with runner._alone_in(folder):
        assert "another run is writing" in refusal(notebooks)


def test_parameters_of_a_task_are_what_the_notebook_declares(notebooks):
    planned = runner.plan(
        profile_of(GOOD, TWIN),
        out=notebooks / "out",
        only=[TWIN],
        overrides={"seed": "0"},
        notebooks=notebooks,
    )
    [task] = planned
    assert task.parameters == {"seed": 0, "profile": "published", "out": str(notebooks / "out")}
    assert task.changed == {}  # 0 is the default


def test_folder_inside_the_repository_is_written_short(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr(runner.disk, "REPOSITORY", tmp_path)
    [task] = runner.plan(profile_of(GOOD), out=tmp_path / "out", only=[], overrides={}, notebooks=notebooks)
    assert task.parameters["out"] == "out"


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no_such_profile"], "unknown profile 'no_such_profile'; choose one of ['"),
        (["published", "--only", "42"], "no notebook '42'"),
        (["published", "-p", "selection"], "expected 2 arguments"),
        (["-p", "a", "1", "-p", "a", "2", "published"], "'a' is given twice"),
        (["--jobs", "many"], "--jobs"),
        (["--onyl", "02"], "--onyl"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(arguments, complaint, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kdutils: error: ")
    assert said.err.count("\n") == 1
    assert complaint in said.err


@pytest.mark.notebook
def test_failed_notebook_is_exit_code_1_and_says_where_to_look(notebooks, capsys):
    write_notebook(notebooks, TWIN, "1 / 0")
    out = notebooks / "out"
    assert (
        cli.main(["published", "--only", "02", "--out", str(out), "--limit", "60"], notebooks=notebooks) == 1
    )
    said = capsys.readouterr().err
    assert f"{TWIN} failed (ZeroDivisionError: division by zero)" in said
    assert f"see {out}/published/reports/{TWIN}.failed.ipynb" in said
    assert "0 of 1 notebooks done in" in said
    assert f"{out}/published/index.html" in said


def test_list_shows_what_can_be_set(notebooks, capsys):
    assert cli.main(["published", "--list", "--only", "01"], notebooks=notebooks) == 0
    assert "  selection: str = 'best_on_test'  # how a temperature is chosen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stopped", "code"), [(KeyboardInterrupt(), 130), (runner.Interrupted(signal.SIGTERM), 143)]
)
def test_stopped_command_ends_with_the_code_of_its_signal(notebooks, monkeypatch, stopped, code):
    def stop(*arguments, **options):
        raise stopped

    monkeypatch.setattr(runner, "run_profile", stop)
    assert (
        cli.main(["published", "--only", "01", "--out", str(notebooks / "out")], notebooks=notebooks) == code
    )


def test_every_notebook_of_every_profile_is_known():
    assert {"mini", "mini-full", "published", "smoke"} <= set(profile_names())
    for name in profile_names():
        profile = load_profile(name)
        first = profile.notebooks[0]
        assert runner.selected(profile, [first.split("_")[0]]) == [first]
        assert runner.selected(profile, []) == list(profile.notebooks)
