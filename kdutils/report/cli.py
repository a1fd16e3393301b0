"""The command line: `python -m kdutils [PROFILE] [-p NAME VALUE]... [--only 02,06] [--out DIR]`."""

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdutils.constants import MINI
from kdutils.data import model_files, sources
from kdutils.devices import launch
from kdutils.grid import arms, dry_run, fill, machines, plan, ray_engine
from kdutils.grid.jobs import Shard
from kdutils.grid.profile import NEW_STUDY, Profile, check_name, load_profile, profile_names
from kdutils.grid.scheduler import Ready
from kdutils.grid.study import PlannedRun
from kdutils.io import disk
from kdutils.io.text_safety import scrub
from kdutils.mini.family import MINI_MODELS
from kdutils.report import notebook_parameters, runner
from kdutils.report.executor import say
from kdutils.report.render import Result
from kdutils.report.runner import RELEASED
from kdutils.results import authors_tables
from kdutils.runs import store

SAY_EVERY_SECONDS = 10.0
REFUSALS = (  # of what trains, before any work
    *(model_files.ModelError, sources.DataError, store.StoreError),
    *(ray_engine.ClusterError, launch.DevicesError),
)


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
    except KeyboardInterrupt:  # while models are trained
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kdutils", description="Execute the notebooks of a profile.", allow_abbrev=False)
    profiles, gpus = ", ".join(profile_names()), ", ".join([*machines.GPUS, machines.HERE])
    override = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    study = "write a study file with comments to begin with; runs nothing"
    silence = "end a run that shows no progress for so long, try it once more, then let it fail; longer than "
    silence += "an evaluation in all its decodings takes (default: never)"
    shard = "train only the I-th of N parts of the missing runs; no notebooks"
    engine = "what trains: processes of this machine, or Ray (default: local)"
    add = parser.add_argument
    add("profile", nargs="?", default="mini", help=f"a study file, or one of {profiles} (default: mini)")
    add("--new", type=Path, metavar="FILE", help=study)
    add("-p", dest="overrides", help="set a parameter in every notebook that declares it", **override)
    add("--only", default="", metavar="02,06", help="numbers or names of notebooks")
    add("--out", type=Path, default=disk.OUTPUTS, metavar="DIR", help="default: outputs")
    add("--jobs", type=int, metavar="N", help="notebooks at a time (default: all cores)")
    add("--workers", type=int, metavar="N", help="runs trained at a time (default: one a GPU, or one a core)")
    add("--engine", choices=fill.ENGINES, default="local", help=engine)
    add("--address", help="with --engine ray: of a cluster, or auto (default: this machine)")
    add("--shard", metavar="I/N", help=shard)
    add("--silence", type=float, metavar="SECONDS", help=silence)
    add("--limit", type=float, metavar="SECONDS", help="stop a notebook that takes longer")
    add("--dry-run", action="store_true", help="print what is to be trained and what it costs; train nothing")
    add("--gpu", metavar="NAME", help=f"of the dry run: {gpus} (default: {machines.DEFAULT})")
    add("--list", action="store_true", help="print the notebooks and their parameters")
    return parser


def _run(asked: argparse.Namespace, notebooks: Path) -> int:
    try:
        if asked.new is not None:
            _write_study(asked.new)
            return 0
        profile = load_profile(asked.profile)
    except ValueError as error:
        raise runner.RunError(str(error)) from error
    only = [name.strip() for name in asked.only.split(",") if name.strip()]
    if asked.list:
        _print_parameters([notebooks / f"{name}.ipynb" for name in runner.selected(profile, only)])
        return 0
    training = _Training(asked, _checked_shard(asked, profile))
    names = [name for name, _ in asked.overrides]
    if twice := [name for name in names if names.count(name) > 1]:
        raise runner.RunError(f"parameter {twice[0]!r} is given twice; give it once")
    out, overrides = asked.out.absolute(), dict(asked.overrides)
    if asked.dry_run or training.shard:
        tasks = runner.plan(profile, out=out, only=only, overrides=overrides, notebooks=notebooks)
        plans = runner.needs(tasks)
        if asked.dry_run:
            return _dry_run(profile, plans, asked.gpu or machines.DEFAULT)
        training(plans)  # the notebooks are for a call without --shard, once all parts are made
        return 1 if training.failures else 0
    how = {"out": out, "notebooks": notebooks, "jobs": asked.jobs, "limit_seconds": asked.limit}
    shown = _show_released(how) if _shows_released_first(profile, asked) else []
    found = runner.run_profile(
        profile,
        only=only,
        overrides=overrides,
        data=[authors_tables.TABLE] if "published" in profile.sources else [],
        train=training if profile.live else None,
        **how,
    )
    ran = [*((RELEASED, result) for result in shown), *((profile.name, result) for result in found)]
    failed = [(folder, result) for folder, result in ran if result.status == "failed"]
    for folder, result in failed:
        copy = asked.out / folder / "reports" / f"{result.name}.failed.ipynb"
        print(f"kdutils: {result.name} failed ({result.error}); see {copy}", file=sys.stderr)
    return 1 if failed or training.failures else 0


def _shows_released_first(profile: Profile, asked: argparse.Namespace) -> bool:
    """Whether the pages of the released results are made before a long training: once, if all is asked for.

    Only where models and questions are the package's own, so that nothing is found to be missing after that.
    """
    live = profile.live
    if asked.only or asked.overrides or live is None or "published" not in profile.sources:
        return False
    is_own = live.data == MINI and not live.study_file and {*live.models} <= {*MINI_MODELS}
    has_all = {*load_profile(RELEASED).notebooks} <= {*profile.notebooks}
    return is_own and has_all and not runner.released_is_there(asked.out)


def _show_released(how: Mapping[str, Any]) -> list[Result]:
    """Run the profile of the released results, unless another run does."""
    say("first the released results, which need no training")
    try:
        return runner.run_profile(load_profile(RELEASED), data=[authors_tables.TABLE], **how)
    except runner.RunError as error:
        say(f"not now: {error}")
        return []


def _write_study(path: Path) -> None:
    """Write a study file that runs as it stands; a ValueError says why not, such as that one is there."""
    check_name(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(NEW_STUDY.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); give another path") from None
    print(f"written: {path}; run it with ./run_all.sh {path}")


def _checked_shard(asked: argparse.Namespace, profile: Profile) -> Shard | None:
    """The shard asked for, once the options are known to go together.

    Raises:
        RunError: for an option that cannot be, before any work.
    """
    options = [("--engine", asked.engine != "local"), ("--shard", asked.shard is not None)]
    given = [option for option, is_given in options if is_given]
    longest, problem = runner.LONGEST_LIMIT_SECONDS, ""
    if asked.workers is not None and asked.workers < 1:
        problem = f"workers={asked.workers} must be at least 1"
    elif asked.silence is not None and not 1 <= asked.silence <= longest:
        problem = f"silence={asked.silence:g} must be a number of seconds, 1 to {longest:,}"
    elif given and profile.live is None:
        problem = f"profile {profile.name!r} trains nothing; {given[0]} is for those that do"
    elif asked.address is not None and asked.engine != "ray":
        problem = f"--address {asked.address} is of a Ray cluster; add --engine ray"
    elif given and asked.dry_run:
        problem = "--dry-run trains nothing; leave out --shard and --engine"
    elif asked.dry_run and profile.live is None:
        problem = f"profile {profile.name!r} trains nothing; use --dry-run with one that does"
    elif asked.gpu is not None and not asked.dry_run:
        problem = f"--gpu {asked.gpu} is for --dry-run alone, use both; runs are made on what is here"
    if problem:
        raise runner.RunError(problem)
    try:
        if asked.engine == "ray":
            ray_engine.require(asked.address)
        return Shard.parse(asked.shard) if asked.shard is not None else None
    except (ValueError, ray_engine.ClusterError) as error:
        raise runner.RunError(str(error)) from error


def _dry_run(profile: Profile, plans: Sequence[plan.Plan], gpu: str) -> int:
    """Print plan and costs, and leave them in plan.csv."""
    planned = _planned(plans)
    if not planned:
        raise runner.RunError("nothing live is asked for; name a student and a teacher of the profile")
    out = plans[0].out
    try:
        machine = machines.machine_of(gpu)
        table = dry_run.costs(dry_run.cells_of(planned, out), machine)
    except (ValueError, store.StoreError) as error:
        raise runner.RunError(str(error)) from error
    print(f"profile {profile.name}: {dry_run.report(table, machine)}")
    path = disk.write_csv(out / profile.name / "plan.csv", table[list(dry_run.COLUMNS)])
    print(f"one row for each run and protocol: {path}")
    if profile.live.arm_studies and (later := arms.not_planned(profile.live, out)):
        print(f"not in it: up to {later} runs that follow once their learning rates are chosen")
    if gpu == machines.DEFAULT:
        print(f"for another machine: --gpu NAME, see --help; --gpu '{machines.HERE}' measures this one")
    return 0


def _planned(plans: Sequence[plan.Plan]) -> list[PlannedRun]:
    """The runs that the plans lack, each once."""
    return list(dict.fromkeys(run for each in plans for run in each.to_make))


class _Training:
    """Makes the runs that the notebooks of a profile need, and prints the progress."""

    def __init__(self, asked: argparse.Namespace, shard: Shard | None) -> None:
        self.asked, self.shard, self.failures, self.said = asked, shard, {}, 0.0

    def __call__(self, plans: Sequence[plan.Plan], ready: Ready | None = None) -> None:
        """Make them, or those of our shard; `ready` is told the sections that have theirs."""
        planned = _planned(plans)
        if not planned:
            return
        out = plans[0].out
        try:
            if any(run.spec.data != MINI for run in planned):
                cells = dry_run.cells_of(planned, out)
                if any(cell.status != "done" for cell in cells):
                    machine = machines.this_machine()
                    for line in dry_run.brief(dry_run.costs(cells, machine), machine):
                        say(line)
            state = fill.fill(
                planned,
                out,
                workers=self.asked.workers,
                engine=self.asked.engine,
                address=self.asked.address,
                silence_seconds=self.asked.silence,
                progress=self.progress,
                shard=self.shard,
                parts=self._parts(plans) if ready else None,
                ready=ready,
            )
        except REFUSALS as error:
            said = plans[0].profile.refusal(error) if isinstance(error, sources.DataError) else error
            raise runner.RunError(str(said)) from error
        say(f"shard {self.shard}: {state}" if self.shard else str(state))
        self.failures = state.failures

    def _parts(self, plans: Sequence[plan.Plan]) -> dict[str, tuple[PlannedRun, ...]]:
        """Runs by section; without those of studies of arms, whose notebooks train what follows from them."""
        live = plans[0].profile.live
        of_arms = {study.section for study in live.arm_studies} if live else ()
        return {each.section: each.to_make for each in plans if each.section not in of_arms}

    def progress(self, state: fill.State) -> None:
        """Print the state at most every SAY_EVERY_SECONDS."""
        if time.monotonic() - self.said > SAY_EVERY_SECONDS:
            self.said = time.monotonic()
            say(str(state))


def _print_parameters(notebooks: Sequence[Path]) -> None:
    for notebook, declared in [(each, notebook_parameters.declared(each)) for each in notebooks]:
        print(notebook.stem)
        for parameter in declared.values():
            comment = f"  # {parameter.help}" if parameter.help else ""
            print(f"  {parameter.name}: {parameter.type} = {parameter.default!r}{comment}")
