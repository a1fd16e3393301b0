"""Profiles (`profiles/NAME.toml`, or a study file of one's own): how much of the study is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, fields
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict

from kdutils.constants import (
    ALL_TASKS,
    DIVERGENCES,
    DOMAIN_TASKS,
    KD_METHODS,
    MINI,
    PREFIXES,
    STUDY,
    TRAIN_DOMAINS,
)
from kdutils.data import study_files
from kdutils.grid import study
from kdutils.grid.arms import SEVERAL, ArmStudies
from kdutils.grid.cell_table import model_family, model_parameters, short_name
from kdutils.grid.evaluations import checked
from kdutils.io import toml_files
from kdutils.io.cache import MEASURES
from kdutils.io.text_safety import shown
from kdutils.mini.family import MINI_MODELS
from kdutils.spec import EvalSpec

PROFILE_FOLDER = Path(__file__).parent / "profiles"
NEW_STUDY = Path(__file__).parent / "new_study.toml"


def folder_of(profile: str) -> str:
    """The folder, in that of all outputs, of a profile: its name, of a study file without .toml."""
    return Path(profile).stem if profile.endswith(".toml") else profile


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship with the package, sorted."""
    return tuple(sorted(path.stem for path in PROFILE_FOLDER.glob("*.toml")))


# Values a parameter may take, by its name: one name means one thing in every notebook. Domains, tasks and
# models are those of the profile (grid.plan).
PARAMETER_CHOICES = {
    "profile": profile_names(),
    "selection": study.SELECTIONS,
    "methods": KD_METHODS,
    "protocol": study.PROTOCOLS,
    "decoding": tuple(study.DECODINGS),
    "cases": study.PERFORMANCE_CASES,
    "measure": MEASURES,
}


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it must be text on one line, not empty")
    return text


def none_twice(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("it must name each value once")
    return values


Text = Annotated[str, Strict(), AfterValidator(_one_line)]
Truth = Annotated[bool, Strict()]
Pairs = Annotated[tuple[tuple[Text, Text], ...], SEVERAL]
Settings = dict[str, Any]


def _list_of(each: Any) -> Any:
    """The type of a list, at least one and none twice."""
    return Annotated[tuple[each, ...], SEVERAL, AfterValidator(none_twice)]


Names, Seeds = _list_of(Text), _list_of(Annotated[int, Strict(), Field(ge=0)])
Temperatures, Sigmas = (_list_of(Annotated[float, Strict(), bound]) for bound in (Field(gt=0), Field(ge=0)))
Methods, Domains = _list_of(Literal[KD_METHODS]), Names  # domains: of constants, or of the study file
Sections, Protocols = _list_of(Literal[*study.PLANNED]), _list_of(Literal[study.PROTOCOLS])
Decodings = _list_of(Literal[*study.DECODINGS])
Factors = Annotated[tuple[Literal[study.RUN_FACTORS], ...], AfterValidator(none_twice)]
Starts, Recipe = _list_of(Literal["base", "sft"]), tuple[Literal[*PREFIXES], Literal[DIVERGENCES]]
ByDomain, ByProtocol = dict[Text, Settings], dict[Literal[study.PROTOCOLS], Settings]
ByMethod = dict[Literal[*KD_METHODS, "kd"], Settings]


@study_files.checked_dataclass
class Need:
    """Runs that some sections look at: every pair x method x domain x variant x seed."""

    sections: Sections  # keys of study.PLANNED; "00" and "08" look at all runs anyway
    methods: Methods
    domains: Domains
    pairs: Text | Pairs | None = None  # (teacher, student), or which of `pair_sets`; None: see family_pairs
    temperatures: Temperatures = (1.0,)  # without noise
    noise_sigmas: Sigmas = (0.0,)  # at temperature 1
    teacher_tuned: Truth = True
    seeds: Seeds = (0,)
    factors: Factors = ()  # the students of the first seed are trained with each of these factors, too
    student_start: Starts = ("base",)  # sft: careful ones also after their SFT, beside SFT continued
    recipes: Annotated[tuple[Recipe, ...], AfterValidator(none_twice)] = ()  # also of method kd
    variations: tuple[Settings, ...] = ()  # distilled careful students also with these fields
    evaluations: Annotated[tuple[Settings, ...], AfterValidator(checked)] = ()  # of all careful ones, too


@study_files.checked_dataclass
class Live:
    """What a profile trains; settings are checked when the runs are planned (plan.plan).

    Fields of a run come from `settings`, then from its domain, its protocol and its method, the last word.
    """

    models: Names
    needs: Annotated[tuple[Need, ...], SEVERAL]
    sft_seeds: Seeds  # of every student's SFT; a teacher's is 0
    items_per_task: Annotated[int, Strict()]  # of the test set
    settings: Settings  # more fields of every RunSpec, such as train_items
    data: Text = STUDY  # items of the domains in TRAIN_DOMAINS: mini, benchmark, llm-adapters or a folder
    study_file: str = ""  # where the other domains are; "": there are none
    protocols: Protocols = ("careful",)  # every run that is trained, under each of them
    decodings: Decodings = ("greedy",)  # every run of protocol `careful` is evaluated with each of them
    by_domain: ByDomain = field(default_factory=dict)  # settings of a domain's runs
    by_protocol: ByProtocol = field(default_factory=dict)
    by_method: ByMethod = field(default_factory=dict)
    evaluation: Settings = field(default_factory=dict)  # fields of every EvalSpec
    evaluation_by_protocol: ByProtocol = field(default_factory=dict)
    ranks: Truth = False  # tasks with options are evaluated by ranking these, too
    base_models: Truth = True  # models are also evaluated as they are, before any training
    pair_sets: dict[str, Pairs] = field(default_factory=dict)  # that needs name
    arm_studies: ArmStudies = ()  # see grid.arms

    def __post_init__(self) -> None:
        """Refuse settings that the needs decide, which would be ignored or rename a run, and wrong pairs."""
        self._check_domains()
        runs = [self.settings, *self.by_domain.values(), *self.by_protocol.values(), *self.by_method.values()]
        runs += [table for need in self.needs for table in need.variations]
        evaluations = [self.evaluation, *self.evaluation_by_protocol.values()]
        for tables, fixed in ((runs, study.OF_NEEDS + study.OF_PROFILE), (evaluations, study.OF_EVALUATION)):
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
            if need.pairs is None and not family_pairs(self.models):
                raise toml_files.Refused(
                    f"models: no two of a family differ in size in {list(self.models)}; add one, or give "
                    "needs pairs = [[TEACHER, STUDENT]]",
                    ("live", "models"),
                )
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

    def _check_domains(self) -> None:
        own = study_files.read(Path(self.study_file)).domains if self.study_file else ()
        known = [*TRAIN_DOMAINS, *own]
        named = [(("by_domain", domain), domain) for domain in self.by_domain]
        for place, need in enumerate(self.needs):
            named += [(("needs", place, "domains"), domain) for domain in need.domains]
        for key, domain in named:
            message = f"{key[0] if key[0] == 'by_domain' else 'domains'}={shown(domain)}"
            if domain not in known:
                message += f" must be one of {known}; name one, or describe it in [domains]"
            elif domain in TRAIN_DOMAINS and self.data == STUDY:
                message += ": data is missing: whose items? give data = 'mini' or 'benchmark', say"
            else:
                continue
            raise toml_files.Refused(message, ("live", *key))

    def pairs_of(self, need: Need) -> Iterable[tuple[str, str]]:
        """(teacher, student) of the runs of a need."""
        if need.pairs is None:
            return family_pairs(self.models)
        return self.pair_sets[need.pairs] if isinstance(need.pairs, str) else need.pairs

    def settings_of(self, *, domain: str, protocol: str, method: str) -> dict[str, Any]:
        """Fields of the runs of a domain, protocol and method, without models and variants."""
        found = {"data": self.data, "protocol": protocol} | self.settings
        if domain not in TRAIN_DOMAINS:
            found |= {"data": STUDY, "study_file": self.study_file}
        found |= self.by_domain.get(domain, {}) | self.by_protocol.get(protocol, {})
        return found | self.by_method.get(method, {})

    def usual_evaluation(self, domain: str, **how: Any) -> EvalSpec:
        """All tasks of a domain, `items_per_task` each, asked as `how` says."""
        tasks = {"tasks": DOMAIN_TASKS.get(domain, ())}
        if domain not in TRAIN_DOMAINS:
            own = study_files.read(Path(self.study_file))
            tasks = {"tasks": own.keys_of(domain), "items_digest": own.benchmark(domain).digests[1]}
        return EvalSpec(**tasks, items_per_task=self.items_per_task, **how)

    @property
    def watermark(self) -> str:
        """What every live figure says across it; "" where the models and items are real."""
        return "model world" if self.data == MINI or set(self.models) <= set(MINI_MODELS) else ""


def family_pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    """(teacher, student) of every two models of one family, the larger one the teacher."""
    return [
        (teacher, student)
        for teacher, student in permutations(models, 2)
        if model_family(teacher) == model_family(student)
        and model_parameters(teacher) > model_parameters(student)
    ]


@study_files.checked_dataclass
class Profile:
    """How much of the study to run: which sources of cells, which notebooks."""

    name: str  # of its folder of outputs
    title: Text
    summary: Text
    sources: _list_of(Literal[study.SOURCES])
    notebooks: _list_of(Literal[study.NOTEBOOKS])  # in the order of the reports
    live: Live | None = None  # what is trained, where "live" is a source
    file: str = ""  # the study file's path; "": it ships with the package

    def __post_init__(self) -> None:
        if ("live" in self.sources) != (self.live is not None):
            raise ValueError(
                f"sources={list(self.sources)}: a [live] table goes with 'live', give both or neither"
            )

    def refusal(self, error: ValueError) -> ValueError:
        """The error, with the line of the study file that it is about."""
        return ValueError(toml_files.placed(Path(self.file), error)) if self.file else error

    def domains_and_tasks(self) -> tuple[list[str], dict[str, str]]:
        """The domains there are, and the tasks, each name with its key; with those of the study file."""
        found = [*TRAIN_DOMAINS], {key: key for key in ALL_TASKS}
        if self.live and self.live.study_file:
            own = study_files.read(Path(self.live.study_file))
            found[0].extend(own.domains)
            found[1].update({name: task.key(name) for name, task in own.tasks.items()})
        return found


# --- reading ------------------------------------------------------------------------------------------------


def load_profile(name: str) -> Profile:
    """The profile of that name, or the study file (NAME.toml) at that path.

    Raises:
        ValueError: if there is no such profile; the message lists those there are. If its file, or one of
            items, is not what it must be; the message, one line, names the line, the key, its value and the
            remedy.
    """
    if name.endswith(".toml"):
        return _study(Path(name))
    if name not in profile_names():
        raise ValueError(
            f"unknown profile {shown(name)}; choose one of {list(profile_names())}, or give a file NAME.toml"
        )
    try:
        return _checked_profile(toml_files.read(PROFILE_FOLDER / f"{name}.toml"), name, "")
    except ValueError as error:
        raise ValueError(f"profile {name}: {error}") from None


def _checked_profile(entries: dict[str, Any], name: str, file: str) -> Profile:
    """The entries as a profile, with the fields of runs gathered in `settings`."""
    for key in ("name", "file"):
        if key in entries:
            raise toml_files.Refused(f"{key} is that of the file itself: leave it out", [key])
    if isinstance(live := entries.get("live"), dict):
        own = {each.name for each in fields(Live)} - {"settings"}
        entries["live"] = {key: live[key] for key in live if key in own}
        entries["live"]["settings"] = {key: live[key] for key in live if key not in own}
    return toml_files.checked(Profile, entries | {"name": name, "file": file}, inner={"needs": Need})


def check_name(path: Path) -> None:
    """Raise a ValueError for a study file under whose name outputs cannot go."""
    taken = (*profile_names(), *study.SHARED_FOLDERS)
    if path.suffix != ".toml" or not study_files.NAME.fullmatch(path.stem) or path.stem in taken:
        raise ValueError(
            f"{path}: a study file is NAME.toml, of letters, digits, - and _, and other than {list(taken)}, "
            "since its outputs go to a folder NAME; rename it"
        )


def _study(path: Path) -> Profile:
    path = path.expanduser().absolute()
    try:
        check_name(path)
        entries = toml_files.read(path)
        own = study_files.read(path)
        live = entries.get("live")
        if isinstance(live, dict):
            entries["live"] = _with_paths(live, path.parent) | {"study_file": str(path)}
        entries = {key: value for key, value in entries.items() if key not in ("tasks", "domains")}
        found = _checked_profile(entries, path.stem, str(path))
        for domain in own.domains:
            own.benchmark(domain)  # raises for items that cannot be used
    except ValueError as error:
        raise ValueError(toml_files.placed(path, error)) from None
    return found


def _with_paths(values: Any, folder: Path) -> Any:
    """The entries of [live], with paths (./..., ~/..., ....gguf) that begin at the folder made absolute."""
    if isinstance(values, dict):
        return {name: _with_paths(each, folder) for name, each in values.items()}
    if isinstance(values, list):
        return [_with_paths(each, folder) for each in values]
    is_path = isinstance(values, str) and (values.startswith(("./", "../", "~")) or values.endswith(".gguf"))
    return str((folder / Path(values).expanduser()).resolve()) if is_path else values
