"""The notebooks of a profile, each executed in a kernel of its own, then the index."""

import contextlib
import fcntl
import json
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from kdutils.grid import plan as study_plan
from kdutils.grid import study
from kdutils.grid.profile import Profile, load_profile
from kdutils.io import disk, environment
from kdutils.report import ledger, notebook_api, notebook_parameters
from kdutils.report.executor import Executor, Task, say
from kdutils.report.index import LIVE_KINDS, index_html
from kdutils.report.render import Result, duration, relink

LONGEST_LIMIT_SECONDS = 2_000_000  # the system takes no longer wait: 2**31 milliseconds
Train = Callable[[list[study_plan.Plan], Callable[[Sequence[str]], None]], Any]
RELEASED = "published"  # the profile of the released results
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunError(ValueError):
    """A run that cannot start. The message is one line and holds the remedy."""


class Interrupted(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was stopped by a signal; index and failed copies are written."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_profile(
    profile: Profile,
    *,
    out: Path,
    only: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    limit_seconds: float | None = None,
    data: Sequence[Path] = (),
    train: Train | None = None,
    notebooks: Path = notebook_parameters.NOTEBOOKS,
) -> list[Result]:
    """What became of each notebook asked for; reports, ledgers and index are in `out`/profile.

    Args:
        only: numbers or names of notebooks; empty for all of the profile.
        overrides: parameters by name, for every notebook that declares them.
        jobs: notebooks at a time, by default as many as there are cores.
        data: files that notebooks read, which the index lists with their checksums.
        train: called with what the notebooks need, and with a function that it tells which sections have
            their runs, perhaps none at first. These notebooks start at once, with those that need no runs;
            the index is written again after each. All others start when it returns, those that took longest
            the last time first, and last those of study.ALONE.

    Raises:
        RunError, ParameterError: before any kernel starts, for whatever is wrong with the arguments.
        Interrupted: after SIGINT or SIGTERM.
    """
    if jobs is not None and jobs < 1:
        raise RunError(f"jobs={jobs} must be at least 1")
    if limit_seconds is not None and not 0 < limit_seconds <= LONGEST_LIMIT_SECONDS:
        most = f"{LONGEST_LIMIT_SECONDS:,}"
        raise RunError(f"limit={limit_seconds:g} must be a number of seconds above 0 and at most {most}")
    tasks = plan(profile, out=out, only=only, overrides=overrides or {}, notebooks=notebooks)
    folder = tasks[0].reports.parent
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    with _alone_in(folder), tempfile.TemporaryDirectory(prefix="kdutils-") as scratch:
        needed = needs(tasks)
        executor = Executor(Path(scratch), jobs=jobs, limit_seconds=limit_seconds)
        drawn = notebook_api.figure_digests(folder)
        started = time.monotonic()
        with _Notebooks(profile, tasks, executor, jobs, data) as running:
            if train:
                with _handling_signals(_interrupt):
                    train(needed, running.start)
            with _handling_signals(executor.stop):
                running.finish()
            page = running.index()
        results = [running.found[task.name] for task in tasks]
    n_done = sum(result.status == "done" for result in results)
    say(f"{n_done} of {len(results)} notebooks done in {duration(time.monotonic() - started)}: {page}")
    say(notebook_api.figure_changes(drawn, notebook_api.figure_digests(folder)))
    if executor.stopped_by:
        raise Interrupted(executor.stopped_by)
    return results


class _Notebooks:
    """The notebooks of a run, started as their runs get ready; an error ends those that are executed."""

    def __init__(
        self, profile: Profile, tasks: Sequence[Task], executor: Executor, jobs: int, data: Sequence[Path]
    ) -> None:
        self.profile, self.folder, self.data = profile, tasks[0].reports.parent, data
        self.executor, self.pool = executor, ThreadPoolExecutor(jobs)
        self.found: dict[str, Result] = {}
        self._left = {task.name: task for task in _longest_first(tasks, self.folder)}
        self._n_tasks = len(tasks)
        self._started: list[Future] = []
        self._indexes, self._lock = True, threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with _handling_signals(self.executor.stop):
            if kind is not None and len(self._left) < self._n_tasks:
                self.executor.stop(signal.SIGINT)
            self.pool.shutdown()
            if kind is not None and self.found:
                self.index()

    def start(self, sections: Sequence[str]) -> None:
        """Start those of these sections, and those that need no runs."""
        waiting = {name for section, name in study.PLANNED.items() if section not in sections}
        self._start([name for name in self._left if name not in waiting and name not in study.ALONE])

    def _start(self, names: Iterable[str]) -> None:
        self._started += [self.pool.submit(self._execute, self._left.pop(name)) for name in names]

    def _execute(self, task: Task) -> None:
        result = self.executor.run(task)
        with self._lock:
            self.found[task.name] = result
            if not self._indexes:
                return
            try:
                self.index(n_left=self._n_tasks - len(self.found))
            except Exception as error:  # another notebook may be writing; the last index is whole
                say(f"the index is not up to date ({type(error).__name__}: {error})")

    def finish(self) -> None:
        """Execute all that are left."""
        with self._lock:
            self._indexes = False  # once all are there
        self._start([name for name in self._left if name not in study.ALONE])
        wait(self._started)
        for name in list(self._left):
            self._start([name])
            wait(self._started)
        for each in self._started:
            each.result()  # raises what it raised

    def index(self, *, n_left: int = 0) -> Path:
        """Write the index of those that were executed by now."""
        return write_index(self.profile, self.folder, list(self.found.values()), self.data, n_left=n_left)


def plan(
    profile: Profile, *, out: Path, only: Sequence[str], overrides: Mapping[str, Any], notebooks: Path
) -> list[Task]:
    """The tasks of a run, in the order of the profile; raises what `run_profile` does."""
    names = selected(profile, only)
    declared = {name: notebook_parameters.declared(notebooks / f"{name}.ipynb") for name in names}
    for name, own in declared.items():
        if not {"profile", "out"} <= set(own):
            raise RunError(f"{name} must declare `profile: str` and `out: str` in its parameters cell")
    for name in ("out", "profile"):
        if name in overrides:
            raise RunError(f"{name} cannot be given with -p; PROFILE is the first argument, --out the folder")
    notebook_parameters.check_names({key: own[key] for own in declared.values() for key in own}, overrides)
    given = {
        name: notebook_parameters.check(own, {key: value for key, value in overrides.items() if key in own})
        for name, own in declared.items()
    }
    folder = notebook_api.writable_folder(out, profile.name)
    root = folder.parent  # written short where possible: reports are shared
    short = root.relative_to(disk.REPOSITORY) if root.is_relative_to(disk.REPOSITORY) else root
    git = environment.git_state()
    commit = f"{git['commit'][:10]}{' with changes' * bool(git['dirty'])}" if git["commit"] else "unknown"
    return [
        Task(
            name=name,
            source=notebooks / f"{name}.ipynb",
            reports=folder / "reports",
            profile=profile.name,
            parameters=given[name] | {"profile": profile.file or profile.name, "out": str(short)},
            changed={key: value for key, value in given[name].items() if value != own[key].default},
            commit=commit,
        )
        for name, own in declared.items()
    ]


def needs(tasks: Iterable[Task]) -> list[study_plan.Plan]:
    """What each notebook of the study needs, for its parameters, if the profile has that."""
    sections = {name: number for number, name in study.PLANNED.items()}
    known = [task for task in tasks if task.name in sections]
    try:
        return [study_plan.plan(sections[task.name], task.parameters) for task in known]
    except (ValueError, TypeError) as error:
        raise RunError(str(error)) from error


def _longest_first(tasks: Sequence[Task], folder: Path) -> list[Task]:
    """By how long they took the last time, so that no core is idle at the end; else as they were."""
    earlier = [result for result in _earlier_results(folder) if result.status == "done"]  # failing is quick
    seconds = {result.name: result.seconds or 0.0 for result in earlier}
    return sorted(tasks, key=lambda task: -seconds.get(task.name, 0.0))


def selected(profile: Profile, only: Sequence[str]) -> list[str]:
    """The notebooks that `only` names or numbers, in the order of the profile; all if it is empty."""
    by_number = {notebook_api.number_of(name): name for name in profile.notebooks}
    wanted = {by_number.get(name, name) for name in only}
    unknown = sorted(wanted - set(profile.notebooks))
    if unknown:
        there = f"there are {', '.join(profile.notebooks)}, choose from those"
        raise RunError(f"no notebook {unknown[0]!r} in profile {profile.name}; {there}")
    return [name for name in profile.notebooks if name in wanted or not wanted]


def write_index(
    profile: Profile, folder: Path, results: Sequence[Result], data: Sequence[Path] = (), *, n_left: int = 0
) -> Path:
    """The index of everything in `folder`: these results, and for other notebooks those of earlier runs.

    The navigation of every page is brought up to date as well; files in `data` are listed with checksums.
    With `n_left` notebooks of this run to come it says so, and leaves alone the pages that they may write.
    """
    reports = folder / "reports"
    ran = [result for result in (*_earlier_results(folder), *results) if result.page]
    known = {result.name: result for result in ran if (reports / result.page).exists()}
    shown = [known.get(name, Result(name=name, status="not_run")) for name in profile.notebooks]
    over = {result.name for result in (results if n_left else shown)}
    for page, name in [(reports / each.page, each.name) for each in shown if each.page and each.name in over]:
        try:
            text = page.read_text(encoding="utf-8")
        except ValueError:
            say(f"{page} is damaged and stays as it is; run notebook {name} again")
        else:
            disk.write_text(page, relink(text, name=name, results=shown))
    with ledger.locked(folder):
        problems = ledger.rebuild(folder)
    drawn, damaged = notebook_api.published_figures(folder)
    for sentence in (*problems, *damaged) if not n_left else ():
        say(sentence)
    provenance = environment.provenance() | {"data": {path.name: disk.sha256(path) for path in data}}
    conclusions = {name: ledger.conclusions(folder, name) for name in profile.notebooks}
    others = {name: ledger.claims_of(name, folder) for name in LIVE_KINDS.values() if name != profile.name}
    said = {"conclusions": conclusions, "others": others, "n_left": n_left}
    said["has_released"] = n_left > 0 and released_is_there(folder.parent)
    html = index_html(profile, shown, ledger.claims(folder), drawn, provenance, **said)
    disk.write_json(folder / "index.json", [asdict(result) for result in shown])
    return disk.write_text(folder / "index.html", html)


def released_is_there(out: Path) -> bool:
    """Whether every notebook of the released results was executed."""
    done = {result.name for result in _earlier_results(out / RELEASED) if result.status == "done"}
    return {*load_profile(RELEASED).notebooks} <= done


def _earlier_results(folder: Path) -> list[Result]:
    """The results in the last index."""
    path = folder / "index.json"
    try:
        return [Result(**entries) for entries in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        say(f"{path} is damaged and is written again; notebooks that did not run now show as not run")
        return []


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Refuse to run while another run writes to `folder`; else name this one, for all that it starts."""
    with (folder / ".partial" / ".run").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another run is writing to {folder}; wait for it or choose another out") from None
        os.environ[environment.RUN_TOKEN] = uuid.uuid4().hex
        try:
            yield
        finally:
            del os.environ[environment.RUN_TOKEN]


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)


@contextlib.contextmanager
def _handling_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` on a signal that would end us, so that the index is still written.

    A signal that is ignored already, as nohup has it, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield
        return
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: stop(number)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
