"""The study of adapters: students adapted in several ways, each way at the best of its own learning rates.

It has two rounds. First every arm is tried at each of its rates, for every method and pair of its crossing,
on the middle one of the numbers of training items and with the first seed. Then, at the rate with the lowest
validation loss, it is trained on every number of items with every seed. An arm whose best rate is the lowest
or the highest of its list is void for that method and pair, since a better one may lie beyond: it is not
trained further. Teachers are trained in full on the most items, whatever their students are trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from kdutils.constants import KD_METHODS, TRAIN_DOMAINS
from kdutils.data import sources
from kdutils.grid.study import PlannedRun
from kdutils.io.text_safety import shown
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

N_RATES = 5
HALF_DECADE = math.sqrt(10)
SEVERAL = Field(min_length=1)
_checked = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


@_checked
class Crossing:
    """Arms, methods and pairs that are trained each with each."""

    arms: Annotated[tuple[str, ...], SEVERAL]
    methods: Annotated[tuple[Literal["sft", *KD_METHODS], ...], SEVERAL]
    pairs: Annotated[tuple[tuple[str, str], ...], SEVERAL]  # (teacher, student)


@_checked
class Adaptation:
    """What is trained. Every training reads as many sequences, however few items these are of."""

    domain: Literal[*TRAIN_DOMAINS]
    sequences: Annotated[int, Field(gt=0)]  # so the epochs of a run are sequences / train_items
    train_items: Annotated[tuple[int, ...], Field(min_length=3)]
    seeds: Annotated[tuple[int, ...], SEVERAL]
    arms: dict[str, dict[str, Any]]  # name -> fields of its runs; `learning_rate` is a list
    crossings: Annotated[tuple[Crossing, ...], SEVERAL]
    settings: dict[str, Any] = field(default_factory=dict)  # more fields of all runs

    def __post_init__(self) -> None:
        """Refuse rates that are no such grid, epochs that are not whole, and arms that are not there."""
        for name, own in self.arms.items():
            rates = own.get("learning_rate", ())
            steps = [high / low for low, high in zip(rates, rates[1:], strict=False)]
            if len(rates) != N_RATES or any(abs(step / HALF_DECADE - 1) > 0.1 for step in steps):
                raise ValueError(
                    f"arm {name!r} has learning_rate={shown(list(rates))}: give {N_RATES}, each half a "
                    "decade above the one before it, so that all arms have as many trials"
                )
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


def cells_of(study: Adaptation) -> list[Cell]:
    """All cells, each once."""
    made = (
        Cell(*pair, method, arm)
        for each in study.crossings
        for pair, method, arm in product(each.pairs, each.methods, each.arms)
    )
    return list(dict.fromkeys(made))


def trials(study: Adaptation, cell: Cell, settings: dict[str, Any]) -> list[RunSpec]:
    """The runs that choose a cell's learning rate, by rising rate. `settings` as of Live.settings_of."""
    rates = study.arms[cell.arm]["learning_rate"]
    return [_spec(study, cell, settings, rate, study.tuned_on, study.seeds[0]) for rate in rates]


def _spec(
    study: Adaptation, cell: Cell, settings: dict[str, Any], rate: float, n_items: int, seed: int
) -> RunSpec:
    own = study.arms[cell.arm] | {"learning_rate": rate, "train_items": n_items, "seed": seed}
    own |= {"epochs": study.sequences // n_items}
    if cell.method != "sft":
        most = max(study.train_items)
        own |= {"teacher": cell.teacher, "teacher_items": None if n_items == most else most}
        own |= {"teacher_adapter": "full"} if own.get("adapter") == "lora" else {}
    named = {"student": cell.student, "method": cell.method, "domain": study.domain}
    return RunSpec(**settings | study.settings | own | named)


def best_loss(out: Path, spec: RunSpec) -> float:
    """The lowest validation loss of a run over its epochs, nats a token.

    Infinite if it diverged; NaN if it is not finished or has no validation items.
    """
    folder = store.folder_of(out, sources.resolved(spec).run_id)
    result = folder.result()
    if result is None:
        return math.nan
    losses = [
        entry["validation_loss"] for entry in folder.curve() if entry.get("validation_loss") is not None
    ]
    return math.inf if result["status"] == "diverged" else min(losses, default=math.nan)


def chosen(losses: list[float]) -> int | None:
    """Which of the losses is the lowest; None if one is NaN, so not known, or all are infinite."""
    if any(map(math.isnan, losses)) or min(losses) == math.inf:
        return None
    return losses.index(min(losses))


def is_on_edge(place: int, n_rates: int) -> bool:
    """Whether it is the first or the last of so many."""
    return place in (0, n_rates - 1)


def runs_of(live: Any, out: Path) -> Iterator[Run]:
    """All trials of a profile's study, then the runs of every cell whose rate is chosen and not on the edge.

    None if the profile's part that is trained (grid.profile.Live) has no such study.
    """
    study, later = live.adaptation, []
    for cell in cells_of(study) if study else ():
        settings = live.settings_of(domain=study.domain, protocol="careful", method=cell.method)
        tried = trials(study, cell, settings)
        place = chosen([best_loss(out, spec) for spec in tried])
        is_good = place is not None and not is_on_edge(place, len(tried))
        taught = _spec(study, cell._replace(method="fkl"), settings, 1.0, study.tuned_on, study.seeds[0])
        for at, spec in enumerate(tried):
            yield Run(cell, spec, taught.teacher_spec, True, is_good and at == place)
        for n_items, seed in product(study.train_items, study.seeds) if is_good else ():
            spec = _spec(study, cell, settings, tried[place].learning_rate, n_items, seed)
            if spec != tried[place]:
                later.append(Run(cell, spec, taught.teacher_spec, False, True))
    yield from later


def planned(
    section: str, live: Any, evaluation_of: Callable[[str], EvalSpec], out: Path
) -> Iterator[PlannedRun]:
    """The runs of section 15 of a profile (`runs_of`), evaluated as its other students; none of others."""
    for run in runs_of(live, out) if section == "15" else ():
        yield PlannedRun(run.spec, evaluation_of(run.spec.domain))
