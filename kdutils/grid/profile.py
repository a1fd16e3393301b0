"""Profiles: how much of the study is run (`profiles/NAME.toml`), and the values that parameters may take."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdutils.constants import (
    ALL_TASKS,
    KD_METHODS,
    NOTEBOOKS,
    OF_EVALUATION,
    OF_NEEDS,
    OF_PROFILE,
    PERFORMANCE_CASES,
    PLANNED,
    PROTOCOLS,
    RUN_FACTORS,
    SELECTIONS,
    SOURCES,
    TRAIN_DOMAINS,
)
from kdutils.grid import profile_file
from kdutils.io.cache import MEASURES
from kdutils.io.text_safety import shown

PROFILE_FOLDER = Path(__file__).parent / "profiles"


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship with the package, sorted."""
    return tuple(sorted(path.stem for path in PROFILE_FOLDER.glob("*.toml")))


# Values a parameter may take, by its name: one name means one thing in every notebook.
PARAMETER_CHOICES = {
    "profile": profile_names(),
    "selection": SELECTIONS,
    "domains": TRAIN_DOMAINS,
    "tasks": ALL_TASKS,
    "methods": KD_METHODS,
    "protocol": PROTOCOLS,
    "cases": PERFORMANCE_CASES,
    "measure": MEASURES,
}


@dataclass(frozen=True, kw_only=True)
class Need:
    """Runs that some sections look at: every pair x method x domain x variant x seed."""

    sections: tuple[str, ...]  # keys of PLANNED; "00" and "08" look at all runs anyway
    methods: tuple[str, ...]
    domains: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] | None = None  # (teacher, student); None: all that the models form
    temperatures: tuple[float, ...] = (1.0,)  # without noise
    noise_sigmas: tuple[float, ...] = (0.0,)  # at temperature 1
    teacher_tuned: bool = True
    seeds: tuple[int, ...] = (0,)
    factors: tuple[str, ...] = ()  # of RUN_FACTORS: the students of the first seed with each, beside the runs

    def __post_init__(self) -> None:
        choices = {"sections": tuple(PLANNED), "methods": KD_METHODS, "domains": TRAIN_DOMAINS}
        for name, allowed in choices.items():
            values = getattr(self, name)
            if not values or set(values) - set(allowed):
                raise ValueError(f"{name}={list(values)}: name at least one of {list(allowed)}, no other")
        if unknown := [name for name in self.factors if name not in RUN_FACTORS]:
            raise ValueError(f"factors={list(self.factors)}: {unknown[0]!r} is none of {list(RUN_FACTORS)}")
        for name in ("temperatures", "noise_sigmas", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one value")
        if wrong := [value for value in self.temperatures if not value > 0]:
            raise ValueError(f"temperatures: {shown(wrong[0])} must be above 0")
        least = {"noise_sigmas": 0.0, "seeds": 0}
        for name, least_value in least.items():  # a negative sigma would be taken for none
            if wrong := [value for value in getattr(self, name) if not value >= least_value]:
                raise ValueError(f"{name}: {shown(wrong[0])} must be at least {least_value:g}")


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a profile trains; models and settings are checked when the runs are planned (plan.plan).

    Fields of a run come from `settings`, then from its domain, its protocol and its method, the last word.
    """

    data: str
    models: tuple[str, ...]
    needs: tuple[Need, ...]
    sft_seeds: tuple[int, ...]  # of every student's SFT; a teacher's is 0
    items_per_task: int  # of the test set
    settings: dict[str, Any]  # more fields of every RunSpec, such as train_items
    protocols: tuple[str, ...] = ("careful",)  # every run that is trained, under each of them
    by_domain: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings of a domain's runs
    by_protocol: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_method: dict[str, dict[str, Any]] = field(default_factory=dict)  # KD methods
    evaluation: dict[str, Any] = field(default_factory=dict)  # fields of every EvalSpec
    evaluation_by_protocol: dict[str, dict[str, Any]] = field(default_factory=dict)
    ranks: bool = False  # tasks with options are evaluated by ranking these, too

    def __post_init__(self) -> None:
        known = {"by_domain": TRAIN_DOMAINS, "by_protocol": PROTOCOLS, "by_method": KD_METHODS}
        for name, allowed in (known | {"evaluation_by_protocol": PROTOCOLS}).items():
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise ValueError(f"[live.{name}] has {unknown[0]!r}; there are {list(allowed)}, use those")
        if not self.protocols:
            raise ValueError(f"protocols is empty: name at least one of {list(PROTOCOLS)}")
        if unknown := [name for name in self.protocols if name not in PROTOCOLS]:
            raise ValueError(f"protocols has {shown(unknown[0])}; choose from {list(PROTOCOLS)}")
        self._refuse_what_follows()

    def _refuse_what_follows(self) -> None:
        """Settings that the needs decide would be passed over, or make a run another than it is called."""
        runs = [self.settings, *self.by_domain.values(), *self.by_protocol.values(), *self.by_method.values()]
        evaluations = [self.evaluation, *self.evaluation_by_protocol.values()]
        for tables, fixed in ((runs, OF_NEEDS + OF_PROFILE), (evaluations, OF_EVALUATION)):
            for settings in tables:
                if wrong := [name for name in settings if name in fixed]:
                    raise ValueError(
                        f"{wrong[0]}={shown(settings[wrong[0]])} cannot be a setting, since needs, protocols "
                        "and items_per_task decide it; delete it"
                    )

    def settings_of(self, *, domain: str, protocol: str, method: str) -> dict[str, Any]:
        """Fields of the runs of a domain, protocol and method, beside models and variants."""
        found = {"data": self.data, "protocol": protocol} | self.settings
        found |= self.by_domain.get(domain, {}) | self.by_protocol.get(protocol, {})
        return found | self.by_method.get(method, {})

    @property
    def watermark(self) -> str:
        """What every live figure says across it; "" where the models and items are real."""
        return "model world" if self.data == "mini" else ""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How much of the study to run: which sources of cells, which notebooks."""

    name: str
    title: str
    summary: str
    sources: tuple[str, ...]  # of "published", "live"
    notebooks: tuple[str, ...]  # in the order of the reports
    live: Live | None = None  # what is trained, where "live" is a source

    def __post_init__(self) -> None:
        unknown = sorted(set(self.notebooks) - set(NOTEBOOKS))
        if unknown:
            raise ValueError(
                f"profile {self.name!r} names unknown notebooks {unknown}; there are {list(NOTEBOOKS)}, "
                "choose from those"
            )
        if unknown := [name for name in self.sources if name not in SOURCES]:
            raise ValueError(
                f"profile {self.name!r} has sources={list(self.sources)}; choose from {list(SOURCES)}"
            )
        if ("live" in self.sources) != (self.live is not None):
            raise ValueError(
                f"profile {self.name!r} has sources {list(self.sources)}: a [live] table goes with 'live', "
                "give both or neither"
            )


def load_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: if there is no such profile; the message lists those there are. If its file is not what
            it must be; the message names the key and its value.
    """
    if name not in profile_names():
        raise ValueError(f"unknown profile {shown(name)}; choose one of {list(profile_names())}")
    try:
        entries = profile_file.read(PROFILE_FOLDER / f"{name}.toml")
        return Profile(
            name=name,
            title=entries["title"],
            summary=entries["summary"],
            sources=tuple(entries["sources"]),
            notebooks=tuple(entries["notebooks"]),
            live=_live(entries["live"]) if "live" in entries else None,
        )
    except ValueError as error:
        raise ValueError(f"profile {name}: {error}") from None


def _live(entries: dict[str, Any]) -> Live:
    """The `[live]` table of a profile; keys that `Live` lacks are fields of the runs.

    A need names its pairs by a key of `[live.pair_sets]`; without one it has all.
    """
    sets = entries.get("pair_sets", {})
    values = {key: _frozen(value) for key, value in entries.items() if key != "pair_sets"}
    values["needs"] = tuple(_need(need, sets) for need in entries["needs"])
    own = {entry.name for entry in fields(Live)} - {"settings"}
    settings = {key: value for key, value in values.items() if key not in own}
    return Live(**{key: value for key, value in values.items() if key in own}, settings=settings)


def _need(entries: dict[str, Any], sets: dict[str, list[list[str]]]) -> Need:
    values = {key: _frozen(value) for key, value in entries.items()}
    if "pairs" in values:
        if values["pairs"] not in sets:
            raise ValueError(f"pairs={shown(values['pairs'])} must be one of [live.pair_sets]: {list(sets)}")
        values["pairs"] = tuple((teacher, student) for teacher, student in sets[values["pairs"]])
    return Need(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
