"""Studies of arms: ways of training a student that are compared, each at its own best learning rate.

An arm is some fields of a run. It is trained in two rounds. First it is tried at each of its rates, for every
method and pair of its crossing, on the middle one of the numbers of training items and with the first seed.
Then, at the rate with the lowest validation loss, it is trained on every number of items with every seed. An
arm whose best rate is the lowest or the highest of its list is void for that method and pair, since a better
one may lie beyond: it is not trained further. An arm with one rate, or with none and so the models' own, has
no first round.
Teachers are trained on the most items (or `teacher_items`), in full or by LoRA, however their students are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from kdutils.constants import KD_METHODS, TRAIN_DOMAINS
from kdutils.data import sources
from kdutils.data.study_files import checked_dataclass
from kdutils.grid.study import OWN_SECTIONS, PlannedRun
from kdutils.io.text_safety import shown
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

N_RATES = 5
HALF_DECADE = math.sqrt(10)
SEVERAL = Field(min_length=1)


@checked_dataclass
class Crossing:
    """Arms, methods and pairs that are trained each with each."""

    arms: Annotated[tuple[str, ...], SEVERAL]
    methods: Annotated[tuple[Literal["sft", *KD_METHODS], ...], SEVERAL]
    pairs: Annotated[tuple[tuple[str, str], ...], SEVERAL]  # (teacher, student)


@checked_dataclass
class ArmStudy:
    """What is trained. Every training reads as many sequences, however few items these are of.

    A field that an arm names has the last word, so that one of other epochs reads another number.
    """

    name: str
    section: Literal[*OWN_SECTIONS]  # whose notebook shows it
    domain: Literal[*TRAIN_DOMAINS]
    sequences: Annotated[int, Field(gt=0)]  # so the epochs of a run are sequences / train_items
    train_items: Annotated[tuple[int, ...], SEVERAL]
    seeds: Annotated[tuple[int, ...], SEVERAL]
    arms: dict[str, dict[str, Any]]  # name -> fields of its runs; `learning_rate` may be a list
    crossings: Annotated[tuple[Crossing, ...], SEVERAL]
    settings: dict[str, Any] = field(default_factory=dict)  # more fields of all runs
    teacher_items: int | None = None  # None: the most of train_items
    teacher_epochs: int | None = None  # None: as many sequences as its students
    teacher_adapter: Literal["full", "lora"] = "full"
    ranks: bool = False  # options are ranked, too

    def __post_init__(self) -> None:
        """Refuse rates that are no such grid, epochs that are not whole, and arms that are not there."""
        for name, own in self.arms.items():
            rates = _rates(own)
            steps = [high / low for low, high in zip(rates, rates[1:], strict=False)]
            is_grid = len(steps) == N_RATES - 1 and all(abs(step / HALF_DECADE - 1) < 0.1 for step in steps)
            if isinstance(own.get("learning_rate"), list) and not is_grid:
                raise ValueError(
                    f"arm {name!r} has learning_rate={shown(list(rates))}: give {N_RATES}, each half a "
                    "decade above the one before it, so that all arms have as many trials, or one number"
                )
        of_teacher = ("teacher_items", "teacher_epochs", "teacher_adapter")
        for place, own in {"settings": self.settings, **self.arms}.items():
            if given := [name for name in of_teacher if name in own]:
                told = f"{place} has {given[0]}={shown(own[given[0]])}, but all arms have one teacher"
                raise ValueError(f"{told}: give it beside `arms`")
        if odd := [n for n in self.train_items if self.sequences % n]:
            raise ValueError(
                f"sequences={self.sequences} are no whole epochs of {odd[0]} train_items; change either"
            )
        for crossing in self.crossings:
            if unknown := sorted(set(crossing.arms) - set(self.arms)):
                raise ValueError(f"crossings name the arm {unknown[0]!r}, which is none of {list(self.arms)}")

    @property
    def tuned_on(self) -> int:
        """The number of training items on which rates are chosen."""
        return sorted(self.train_items)[len(self.train_items) // 2]


def _rates(arm: dict[str, Any]) -> list[float]:
    """Those that are tried."""
    rate = arm.get("learning_rate")
    return rate if isinstance(rate, list) else []


def _named_once(studies: tuple[ArmStudy, ...]) -> tuple[ArmStudy, ...]:
    names = [each.name for each in studies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two studies of arms have the name {twice[0]!r}; rename one")
    return studies


ArmStudies = Annotated[tuple[ArmStudy, ...], AfterValidator(_named_once)]


class Cell(NamedTuple):
    """An arm of one student under one method: what has a learning rate of its own."""

    teacher: str  # also of the SFT student beside it, which does not see it
    student: str
    method: str
    arm: str


class Run(NamedTuple):
    """A run of the study with its place in it."""

    cell: Cell
    spec: RunSpec
    teacher: RunSpec  # the run of the cell's teacher
    is_trial: bool  # of a learning rate
    is_final: bool  # at the chosen rate; a trial may be both


def cells_of(study: ArmStudy) -> list[Cell]:
    """All cells, each once."""
    made = (
        Cell(*pair, method, arm)
        for each in study.crossings
        for pair, method, arm in product(each.pairs, each.methods, each.arms)
    )
    return list(dict.fromkeys(made))


def trials(study: ArmStudy, cell: Cell, settings: dict[str, Any]) -> list[RunSpec]:
    """The runs that choose a cell's learning rate, by rising rate; none without rates.

    `settings` as of Live.settings_of.
    """
    rates = _rates(study.arms[cell.arm])
    return [_spec(study, cell, settings, rate, study.tuned_on, study.seeds[0]) for rate in rates]


def _spec(
    study: ArmStudy, cell: Cell, settings: dict[str, Any], rate: float | None, n_items: int, seed: int
) -> RunSpec:
    own = {"train_items": n_items, "seed": seed, "epochs": study.sequences // n_items}
    arm = study.arms[cell.arm]
    own |= {name: arm[name] for name in arm if name != "learning_rate" or not isinstance(arm[name], list)}
    own |= {} if rate is None else {"learning_rate": rate}
    own = settings | study.settings | own
    if cell.method != "sft":
        most = study.teacher_items or max(study.train_items)
        own |= {"teacher": cell.teacher, "teacher_items": None if own["train_items"] == most else most}
    spec = RunSpec(**own | {"student": cell.student, "method": cell.method, "domain": study.domain})
    if (usual := spec.teacher_spec) is None:
        return spec
    if study.teacher_adapter != usual.adapter:
        spec = replace(spec, teacher_adapter=study.teacher_adapter)
    if study.teacher_epochs not in (None, usual.epochs):
        spec = replace(spec, teacher_epochs=study.teacher_epochs)
    return spec


def best_loss(out: Path, spec: RunSpec) -> float:
    """The validation loss of the epoch that a run keeps, nats a token: the lowest, or the last.

    Infinite if it diverged; NaN if it is not finished or has no validation items.
    """
    spec = sources.resolved(spec)
    folder = store.folder_of(out, spec.run_id)
    result = folder.result()
    if result is None:
        return math.nan
    curve = (entry.get("validation_loss") for entry in folder.curve())
    losses = [loss for loss in curve if loss is not None]
    kept = min(losses, default=math.nan) if spec.select_best else [math.nan, *losses][-1]
    return math.inf if result["status"] == "diverged" else kept


def chosen(losses: list[float]) -> int | None:
    """Which of the losses is the lowest; None if one is NaN, so not known, or all are infinite."""
    if any(map(math.isnan, losses)) or min(losses) == math.inf:
        return None
    return losses.index(min(losses))


def is_on_edge(place: int, n_rates: int) -> bool:
    """Whether it is the first or the last of so many."""
    return place in (0, n_rates - 1)


def _choices(
    study: ArmStudy, live: Any, out: Path
) -> Iterator[tuple[Cell, dict[str, Any], list[RunSpec], int | None]]:
    """Every cell with its settings, its trials and which of these is the best; None: not known yet."""
    for cell in cells_of(study):
        settings = live.settings_of(domain=study.domain, protocol="careful", method=cell.method)
        tried = trials(study, cell, settings)
        yield cell, settings, tried, chosen([best_loss(out, spec) for spec in tried]) if tried else None


def runs_of(study: ArmStudy, live: Any, out: Path) -> Iterator[Run]:
    """All trials of a study, then the runs of every cell whose rate is chosen and not on the edge.

    `live` is what its profile trains (grid.profile.Live).
    """
    later, of_fkl = [], live.settings_of(domain=study.domain, protocol="careful", method="fkl")
    for cell, settings, tried, place in _choices(study, live, out):
        is_good = not tried or (place is not None and not is_on_edge(place, len(tried)))
        taught = _spec(study, cell._replace(method="fkl"), of_fkl, None, study.tuned_on, study.seeds[0])
        for at, spec in enumerate(tried):
            yield Run(cell, spec, taught.teacher_spec, True, is_good and at == place)
        rate = tried[place].learning_rate if tried and is_good else None
        for n_items, seed in product(study.train_items, study.seeds) if is_good else ():
            spec = _spec(study, cell, settings, rate, n_items, seed)
            if not tried or spec != tried[place]:
                later.append(Run(cell, spec, taught.teacher_spec, False, True))
    yield from later


def not_planned(live: Any, out: Path) -> int:
    """How many runs follow at most once all learning rates that are not chosen yet are."""
    n_runs = 0
    for study in live.arm_studies:
        n_open = sum(place is None for _, _, tried, place in _choices(study, live, out) if tried)
        n_runs += n_open * (len(study.train_items) * len(study.seeds) - 1)  # a trial is one of them
    return n_runs


def planned(
    section: str, live: Any, evaluation_of: Callable[[str], EvalSpec], out: Path
) -> Iterator[PlannedRun]:
    """The runs (`runs_of`) of a profile's studies of a section, evaluated as its other students.

    One that has a first domain, its student before, and its teacher there are evaluated on that, too.
    """
    for study in live.arm_studies:
        for run in runs_of(study, live, out) if study.section == section else ():
            spec, usual = run.spec, evaluation_of(run.spec.domain)
            yield PlannedRun(spec, usual)
            if study.ranks and run.is_final:
                yield PlannedRun(spec, usual.ranking())
            if spec.first_domain:
                first = evaluation_of(spec.first_domain)
                asked = (spec, spec.start_spec, first_teacher(run))
                yield from (PlannedRun(each, first, beside_teacher=False) for each in asked)


def first_teacher(run: Run) -> RunSpec:
    """The run of the cell's teacher on the domain that came first."""
    return replace(run.teacher, domain=run.spec.first_domain)
