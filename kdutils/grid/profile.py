"""Profiles (`profiles/NAME.toml`): how much of the study is run; values of parameters; factors."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic.dataclasses import dataclass

from kdutils.constants import ALL_TASKS, BY_SEQUENCE, DIVERGENCES, KD_METHODS, PREFIXES, TRAIN_DOMAINS
from kdutils.grid.adaptation import Adaptation
from kdutils.grid.cell_table import model_family, model_parameters, short_name
from kdutils.grid.evaluations import checked
from kdutils.grid.study import (
    DECODINGS,
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
    TOGETHER,
)
from kdutils.io.cache import MEASURES
from kdutils.io.text_safety import shown
from kdutils.spec import PlannedRun

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
    "decoding": tuple(DECODINGS),
    "cases": PERFORMANCE_CASES,
    "measure": MEASURES,
}

_checked = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it must be text on one line, not empty")
    return text


def _none_twice(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("it must name each value once")
    return values


Text = Annotated[str, Strict(), AfterValidator(_one_line)]
Truth = Annotated[bool, Strict()]
AtLeastOne = Field(min_length=1)
Pairs = Annotated[tuple[tuple[Text, Text], ...], AtLeastOne]
Settings = dict[str, Any]


def _list_of(each: Any) -> Any:
    """The type of a list, at least one and none twice."""
    return Annotated[tuple[each, ...], AtLeastOne, AfterValidator(_none_twice)]


Names, Seeds = _list_of(Text), _list_of(Annotated[int, Strict(), Field(ge=0)])
Temperatures, Sigmas = (_list_of(Annotated[float, Strict(), bound]) for bound in (Field(gt=0), Field(ge=0)))
Methods, Domains = _list_of(Literal[KD_METHODS]), _list_of(Literal[TRAIN_DOMAINS])
Sections, Protocols = _list_of(Literal[*PLANNED]), _list_of(Literal[PROTOCOLS])
Decodings = _list_of(Literal[*DECODINGS])
Factors = Annotated[tuple[Literal[RUN_FACTORS], ...], AfterValidator(_none_twice)]
Starts, Recipe = _list_of(Literal["base", "sft"]), tuple[Literal[*PREFIXES], Literal[DIVERGENCES]]
ByDomain, ByProtocol = dict[Literal[TRAIN_DOMAINS], Settings], dict[Literal[PROTOCOLS], Settings]
ByMethod = dict[Literal[*KD_METHODS, "kd"], Settings]


@_checked
class Need:
    """Runs that some sections look at: every pair x method x domain x variant x seed."""

    sections: Sections  # keys of PLANNED; "00" and "08" look at all runs anyway
    methods: Methods
    domains: Domains
    pairs: Text | Pairs | None = None  # (teacher, student), or which of `pair_sets`; None: see family_pairs
    temperatures: Temperatures = (1.0,)  # without noise
    noise_sigmas: Sigmas = (0.0,)  # at temperature 1
    teacher_tuned: Truth = True
    seeds: Seeds = (0,)
    factors: Factors = ()  # the students of the first seed are trained with each of these factors, too
    student_start: Starts = ("base",)  # sft: careful ones also after their SFT, beside SFT continued
    recipes: Annotated[tuple[Recipe, ...], AfterValidator(_none_twice)] = ()  # also of method kd
    variations: tuple[Settings, ...] = ()  # distilled careful students also with these fields
    evaluations: Annotated[tuple[Settings, ...], AfterValidator(checked)] = ()  # of all careful ones, too


@_checked
class Live:
    """What a profile trains; settings are checked when the runs are planned (plan.plan).

    Fields of a run come from `settings`, then from its domain, its protocol and its method, the last word.
    """

    data: Text
    models: Names
    needs: Annotated[tuple[Need, ...], AtLeastOne]
    sft_seeds: Seeds  # of every student's SFT; a teacher's is 0
    items_per_task: Annotated[int, Strict()]  # of the test set
    settings: Settings  # more fields of every RunSpec, such as train_items
    protocols: Protocols = ("careful",)  # every run that is trained, under each of them
    decodings: Decodings = ("greedy",)  # every run of protocol `careful` is evaluated with each of them
    by_domain: ByDomain = field(default_factory=dict)  # settings of a domain's runs
    by_protocol: ByProtocol = field(default_factory=dict)
    by_method: ByMethod = field(default_factory=dict)
    evaluation: Settings = field(default_factory=dict)  # fields of every EvalSpec
    evaluation_by_protocol: ByProtocol = field(default_factory=dict)
    ranks: Truth = False  # tasks with options are evaluated by ranking these, too
    pair_sets: dict[str, Pairs] = field(default_factory=dict)  # that needs name
    adaptation: Adaptation | None = None  # of section 15

    def __post_init__(self) -> None:
        """Refuse settings that the needs decide, which would be ignored or rename a run, and wrong pairs."""
        runs = [self.settings, *self.by_domain.values(), *self.by_protocol.values(), *self.by_method.values()]
        runs += [table for need in self.needs for table in need.variations]
        evaluations = [self.evaluation, *self.evaluation_by_protocol.values()]
        for tables, fixed in ((runs, OF_NEEDS + OF_PROFILE), (evaluations, OF_EVALUATION)):
            for name, value in ((name, table[name]) for table in tables for name in table if name in fixed):
                raise ValueError(
                    f"{name}={shown(value)} cannot be a setting, since needs, protocols and items_per_task "
                    "decide it; delete it"
                )
        for table in (self.evaluation, self.evaluation_by_protocol.get("careful", {})):
            for name in ("temperature", "samples", "seed"):
                if name in table:
                    raise ValueError(
                        f"{name}={shown(table[name])} cannot be a setting of protocol careful, since "
                        "`decodings` decides it; delete it, or move it to evaluation_by_protocol.paper"
                    )
        shortened: dict[str, str] = {}
        for name in self.models:
            model_parameters(name)  # one without a size is refused also where no pair has it
            if (other := shortened.setdefault(short_name(name), name)) != name:
                raise ValueError(f"models {other!r} and {name!r} have one name in tables; rename one")
        for need in self.needs:
            if isinstance(need.pairs, str) and need.pairs not in self.pair_sets:
                raise ValueError(
                    f"pairs={shown(need.pairs)} must be one of [live.pair_sets]: {list(self.pair_sets)}"
                )
            for teacher, student in self.pairs_of(need):
                if unknown := {teacher, student} - set(self.models):
                    raise ValueError(
                        f"pair {teacher} → {student}: {min(unknown)!r} is not in models={list(self.models)}; "
                        "use one of those"
                    )
                if teacher == student:
                    raise ValueError(
                        f"pair {teacher} → {student}: a model cannot be its own teacher; use two"
                    )

    def pairs_of(self, need: Need) -> Iterable[tuple[str, str]]:
        """(teacher, student) of the runs of a need."""
        if need.pairs is None:
            return family_pairs(self.models)
        return self.pair_sets[need.pairs] if isinstance(need.pairs, str) else need.pairs

    def settings_of(self, *, domain: str, protocol: str, method: str) -> dict[str, Any]:
        """Fields of the runs of a domain, protocol and method, without models and variants."""
        found = {"data": self.data, "protocol": protocol} | self.settings
        found |= self.by_domain.get(domain, {}) | self.by_protocol.get(protocol, {})
        return found | self.by_method.get(method, {})

    @property
    def watermark(self) -> str:
        """What every live figure says across it; "" where the models and items are real."""
        return "model world" if self.data == "mini" else ""


def family_pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    """(teacher, student) of every two models of one family, the larger one the teacher."""
    return [
        (teacher, student)
        for teacher, student in permutations(models, 2)
        if model_family(teacher) == model_family(student)
        and model_parameters(teacher) > model_parameters(student)
    ]


@_checked
class Profile:
    """How much of the study to run: which sources of cells, which notebooks."""

    name: str
    title: Text
    summary: Text
    sources: _list_of(Literal[SOURCES])
    notebooks: _list_of(Literal[NOTEBOOKS])  # in the order of the reports
    live: Live | None = None  # what is trained, where "live" is a source

    def __post_init__(self) -> None:
        if ("live" in self.sources) != (self.live is not None):
            raise ValueError(
                f"sources={list(self.sources)}: a [live] table goes with 'live', give both or neither"
            )


# --- the factors in which the protocols differ --------------------------------------------------------------
# Some are of a training or of a decoding, so that there are runs to make (RUN_FACTORS); two are of what is
# done with finished runs: which temperature stands for a method, and how an answer is read from a text.
# All at once are the authors' protocol: the same losses, bit for bit, wherever no item is too long.

SAMPLES = 3  # texts an item at temperature 1: their mean says what sampling does, their spread how noisily


class Factor(NamedTuple):
    """One thing that protocol `paper` does otherwise than `careful`."""

    label: str
    meaning: str  # against `careful`
    training: Mapping[str, Any] = {}  # fields of the RunSpec
    evaluation: Mapping[str, Any] = {}  # fields of the EvalSpec


FACTORS = {
    "prompt": Factor(
        "prompt tokens in the loss",
        "student and teacher are trained on the question's tokens, too, not on the response alone",
        training={"prompt_in_loss": True},
    ),
    "sequences": Factor(
        "mean by sequence",
        "each sequence weighs the same in a step, not each token; KL methods alone, so not SFT and not GKD",
        training={"mean_by_sequence": True},
    ),
    "sampling": Factor(
        "sampled decoding",
        f"texts are sampled at temperature 1, not greedy; the mean of {SAMPLES} texts an item",
        evaluation={"temperature": 1.0, "samples": SAMPLES},
    ),
    "selection": Factor(
        "temperature chosen on test",
        "the divergence's best temperature of each task on the very items that are scored, not 1",
    ),
    "extraction": Factor(
        "lenient reading",
        "an answer is the last number, first letter or first keyword anywhere, not what stands where the "
        "response format puts it",
    ),
}


def with_factor(run: PlannedRun, name: str) -> PlannedRun | None:
    """A `careful` run with one factor as the authors have it, or `together` all; None where nothing changes.

    Its teacher is not evaluated so for it: nothing is compared with that.
    """
    chosen = FACTORS.values() if name == TOGETHER else [FACTORS[name]]
    training = {key: value for each in chosen for key, value in each.training.items()}
    if run.spec.method not in BY_SEQUENCE:
        training.pop("mean_by_sequence", None)
    evaluation = {key: value for each in chosen for key, value in each.evaluation.items()}
    if run.spec.method == "base" or not training | evaluation:
        return None
    made = replace(run.spec, **training), replace(run.evaluation, **evaluation)
    return PlannedRun(*made, beside_teacher=not evaluation)


# --- reading ------------------------------------------------------------------------------------------------


def load_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ValueError: if there is no such profile; the message lists those there are. If its file is not what
            it must be; the message, one line, names the key, its value and what it must be.
    """
    if name not in profile_names():
        raise ValueError(f"unknown profile {shown(name)}; choose one of {list(profile_names())}")
    try:
        entries = _read(PROFILE_FOLDER / f"{name}.toml")
        with one_line_errors():
            return TypeAdapter(Profile).validate_python(entries | {"name": name})
    except ValueError as error:
        raise ValueError(f"profile {name}: {error}") from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Within the block, the first thing that pydantic refuses is a ValueError of one line.

    Raises:
        ValueError: naming the key, its value and what it must be.
    """
    try:
        yield
    except PydanticError as error:
        raise ValueError(_first_of(error)) from None


def _first_of(error: PydanticError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part not in ("[key]", "Profile", "Live", "Need"))
    if first["type"] == "missing":
        return f"{key} is missing; give it"
    if first["type"] == "unexpected_keyword_argument":
        known = fields(Need if ".needs." in key else Profile)
        return f"{key} is unknown; use one of {[each.name for each in known]}"
    message = first["msg"].removeprefix("Value error, ").replace(" after validation", "")
    if first["type"] == "value_error" and not message.startswith("it must"):  # of `__post_init__`
        return message
    message = re.sub("^[A-Z][a-z]+ should (be|have)", r"it must \1", message)
    return f"{key}={shown(first['input'])}: {message}"


def _read(path: Path) -> dict[str, Any]:
    """The entries of a profile's file, with the fields of runs gathered in `settings`."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error.reason}); use that encoding") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path.name} is not TOML ({reason}); use KEY = VALUE lines and [tables]") from None
    live = entries.get("live")
    if isinstance(live, dict):
        own = {each.name for each in fields(Live)} - {"settings"}
        entries["live"] = {key: live[key] for key in live if key in own}
        entries["live"]["settings"] = {key: live[key] for key in live if key not in own}
    return entries
