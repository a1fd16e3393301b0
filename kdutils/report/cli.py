"""The command line: `python -m kdutils [PROFILE] [-p NAME VALUE]... [--only 02,06] [--out DIR]`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from kdutils.data import model_files, sources
from kdutils.devices import launch
from kdutils.grid import dry_run, fill, machines, plan, ray_engine
from kdutils.grid.profile import Profile, load_profile, profile_names
from kdutils.grid.scheduler import Shard
from kdutils.io import disk
from kdutils.io.text_safety import scrub
from kdutils.report import executor, notebook_parameters, runner
from kdutils.runs import store
from kdutils.spec import MINI, PlannedRun

SAY_EVERY_SECONDS = 10.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage: an error is one line."""
        raise runner.RunError(f"{message}; see --help")


def main(arguments: Sequence[str] | None = None, *, notebooks: Path = notebook_parameters.NOTEBOOKS) -> int:
    """Exit code: 0 all done, 1 a notebook failed, 2 nothing was run because of what was asked for."""
    try:
        return _run(_parser().parse_intermixed_args(arguments), notebooks)
    except (runner.RunError, notebook_parameters.ParameterError) as error:
        print(f"kdutils: error: {scrub(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except runner.Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:  # before the first notebook started
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kdutils", description="Execute the notebooks of a profile.", allow_abbrev=False)
    known = ", ".join(profile_names())
    parser.add_argument("profile", nargs="?", default="mini", help=f"one of {known} (default: mini)")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="overrides",
        help="set a parameter in every notebook that declares it",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="02,06", help="numbers or names of notebooks")
    parser.add_argument("--out", type=Path, default=disk.OUTPUTS, metavar="DIR", help="default: outputs")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time (default: all cores)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="runs trained at a time (default: one a GPU, or one a core)"
    )
    parser.add_argument(
        "--engine", choices=fill.ENGINES, default="local",
        help="what trains: processes of this machine, or Ray (default: local)",
    )  # fmt: skip
    parser.add_argument("--address", help="with --engine ray: of a cluster, or auto (default: this machine)")
    parser.add_argument(
        "--shard", metavar="I/N", help="train only the I-th of N parts of the missing runs; no notebooks"
    )
    parser.add_argument(
        "--silence", type=float, metavar="SECONDS",
        help="end a run that shows no progress for so long, try it once more, then let it fail; longer than "
        "an evaluation takes (default: never)",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="stop a notebook that takes longer")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what is to be trained and what it costs; train nothing"
    )
    known = ", ".join([*machines.GPUS, machines.HERE])
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"of the dry run: {known} (default: {machines.DEFAULT})"
    )
    parser.add_argument("--list", action="store_true", help="print the notebooks and their parameters")
    return parser


def _run(asked: argparse.Namespace, notebooks: Path) -> int:
    try:
        profile = load_profile(asked.profile)
    except ValueError as error:
        raise runner.RunError(str(error)) from error
    only = [name.strip() for name in asked.only.split(",") if name.strip()]
    if asked.list:
        _print_parameters([notebooks / f"{name}.ipynb" for name in runner.selected(profile, only)])
        return 0
    if asked.workers is not None and asked.workers < 1:
        raise runner.RunError(f"workers={asked.workers} must be at least 1")
    if asked.silence is not None and not 1 <= asked.silence <= runner.LONGEST_LIMIT_SECONDS:
        raise runner.RunError(
            f"silence={asked.silence:g} must be a number of seconds, 1 to {runner.LONGEST_LIMIT_SECONDS:,}"
        )
    training = _Training(asked, profile)
    if asked.dry_run:
        if training.shard or asked.engine != "local":
            raise runner.RunError("--dry-run trains nothing; leave out --shard and --engine")
        return _dry_run(asked, profile, only, notebooks)
    if asked.gpu is not None:
        raise runner.RunError(
            f"--gpu {asked.gpu} is for --dry-run alone, use both; runs are made on what is here"
        )
    if training.shard:  # the notebooks are for a call without --shard, once all parts are made
        training.make(_needs(asked, profile, only, notebooks))
        return 1 if training.failures else 0
    results = runner.run_profile(
        profile,
        out=asked.out.absolute(),
        only=only,
        overrides=_overrides(asked.overrides),
        jobs=asked.jobs,
        limit_seconds=asked.limit,
        notebooks=notebooks,
        prepare=[lambda: _released_tables(profile)] if "published" in profile.sources else [],
        train=training if profile.live else None,
    )
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        copy = asked.out / profile.name / "reports" / f"{result.name}.failed.ipynb"
        print(f"kdutils: {result.name} failed ({result.error}); see {copy}", file=sys.stderr)
    return 1 if failed or training.failures else 0


def _dry_run(asked: argparse.Namespace, profile: Profile, only: Sequence[str], notebooks: Path) -> int:
    """Print plan and costs, and leave them in plan.csv."""
    if profile.live is None:
        raise runner.RunError(f"profile {profile.name!r} trains nothing; use --dry-run with one that does")
    plans = _needs(asked, profile, only, notebooks)
    planned = dict.fromkeys(run for each in plans for run in each.to_make)
    if not planned:
        raise runner.RunError("nothing live is asked for; name a student and a teacher of the profile")
    try:
        machine = machines.machine_of(asked.gpu or machines.DEFAULT)
        table = dry_run.costs(dry_run.cells_of(planned, plans[0].out), machine)
    except (ValueError, store.StoreError) as error:
        raise runner.RunError(str(error)) from error
    print(f"profile {profile.name}: {dry_run.report(table, machine)}")
    path = disk.write_csv(asked.out.absolute() / profile.name / "plan.csv", table[list(dry_run.COLUMNS)])
    print(f"one row a cell: {path}")
    return 0


def _needs(
    asked: argparse.Namespace, profile: Profile, only: Sequence[str], notebooks: Path
) -> list[plan.Plan]:
    """What the notebooks asked for need."""
    overrides = _overrides(asked.overrides)
    return runner.needs(
        runner.plan(profile, out=asked.out.absolute(), only=only, overrides=overrides, notebooks=notebooks)
    )


class _Training:
    """Makes the runs that the notebooks of a profile need before they start, and prints the progress.

    Raises:
        RunError: for an engine or a shard that cannot be, before any work.
    """

    def __init__(self, asked: argparse.Namespace, profile: Profile) -> None:
        self.failures, self.said = {}, 0.0
        given = {"--engine": asked.engine != "local", "--shard": asked.shard is not None}
        if profile.live is None and any(given.values()):
            option = next(name for name, is_given in given.items() if is_given)
            raise runner.RunError(f"profile {profile.name!r} trains nothing; {option} is for those that do")
        if asked.address is not None and asked.engine != "ray":
            raise runner.RunError(f"--address {asked.address} is of a Ray cluster; add --engine ray")
        try:
            self.shard = Shard.parse(asked.shard) if asked.shard is not None else None
            if asked.engine == "ray":
                ray_engine.require(asked.address)
        except (ValueError, ray_engine.ClusterError) as error:
            raise runner.RunError(str(error)) from error
        self.ways = {"workers": asked.workers, "engine": asked.engine, "address": asked.address}
        self.ways |= {"silence_seconds": asked.silence}

    def __call__(self, plans: Sequence[plan.Plan], folder: Path) -> Iterable[plan.Plan]:
        """Make them; then each plan, once what its notebook would have to find out again lies in `folder`."""
        state = self.make(plans)
        return () if state is None else _handed_over(plans, folder, str(state))

    def make(self, plans: Sequence[plan.Plan]) -> fill.State | None:
        """Make them, or those of our shard; None if none is planned."""
        planned = list(dict.fromkeys(run for each in plans for run in each.to_make))
        if not planned:
            return None
        try:
            if any(run.spec.data != MINI for run in planned):
                self.say_cost(planned, plans[0].out)
            state = fill.fill(planned, plans[0].out, progress=self.progress, shard=self.shard, **self.ways)
        except (
            *(model_files.ModelError, sources.DataError, store.StoreError),
            *(ray_engine.ClusterError, launch.DevicesError),
        ) as error:
            raise runner.RunError(str(error)) from error
        executor.say(f"shard {self.shard}: {state}" if self.shard else str(state))
        self.failures = state.failures
        return state

    def say_cost(self, planned: Sequence[PlannedRun], out: Path) -> None:
        """What is to be made and what it costs on this machine; nothing if all is there."""
        cells = dry_run.cells_of(planned, out)
        if any(cell.status != "done" for cell in cells):
            machine = machines.this_machine()
            for line in dry_run.brief(dry_run.costs(cells, machine), machine):
                executor.say(line)

    def progress(self, state: fill.State) -> None:
        """Print the state at most every SAY_EVERY_SECONDS."""
        if time.monotonic() - self.said > SAY_EVERY_SECONDS:
            self.said = time.monotonic()
            executor.say(str(state))


def _handed_over(plans: Sequence[plan.Plan], folder: Path, state: str) -> Iterator[plan.Plan]:
    """Each plan, once its notebook has what the driver knows."""
    found: dict[Sequence[PlannedRun], fill.Handover] = {}  # several notebooks need the same runs
    for each in plans:
        if each.runs:
            if each.runs not in found:
                cells, costs = fill.live_cells(each.runs, each.out), fill.costs(each.runs, each.out)
                found[each.runs] = fill.Handover(cells, costs, state)
            fill.hand_over(folder, each, found[each.runs])
        yield each


def _overrides(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise runner.RunError(f"parameter {twice[0]!r} is given twice; give it once")
    return dict(pairs)


def _released_tables(profile: Profile) -> Path | None:
    """The folder of the authors' tables, fetched once for all notebooks.

    None, with a line of progress, if they cannot be had and the profile has results of its own to show.
    """
    from kdutils.results import authors_tables  # not needed by profiles without them

    try:
        return authors_tables.fetch()
    except authors_tables.ReleasedTablesError as error:
        if profile.live is None:
            raise runner.RunError(str(error)) from error
        executor.say(f"goes on without the released results: {error}")
        return None


def _print_parameters(notebooks: Sequence[Path]) -> None:
    for notebook, declared in [(each, notebook_parameters.declared(each)) for each in notebooks]:
        print(notebook.stem)
        for parameter in declared.values():
            comment = f"  # {parameter.help}" if parameter.help else ""
            print(f"  {parameter.name}: {parameter.type} = {parameter.default!r}{comment}")
