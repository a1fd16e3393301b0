"""What a section asks for: the runs of a profile, narrowed or changed by the parameters of its notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

from kdutils.constants import ALL_TASKS, DOMAIN_TASKS, KD_METHODS, TRAIN_DOMAINS
from kdutils.data import model_files, sources
from kdutils.grid.cell_table import model_family, model_parameters, short_name
from kdutils.grid.profile import Live, Need, Profile, load_profile, one_line_errors, with_factor
from kdutils.grid.study import OWN_SECTIONS, PLANNED, RELEASED_MODELS, RUN_FACTORS, TOGETHER
from kdutils.io import disk
from kdutils.runs import store
from kdutils.spec import LOGIT_METHODS, EvalSpec, PlannedRun, RunSpec

EVERYTHING = ("00", "08")  # sections that look at the runs of all others
LISTS = ("seeds", "temperatures", "noise_sigmas")
SIZES = ("train_items", "items_per_task", "devices")
OF_RUNS = ("train_items", "devices")  # of these, fields of every run
REPLACED = (*LISTS, "protocol", *SIZES)  # parameters that change what is trained or how it is evaluated


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which results to train and show; None is all. Models go by their short names (cells.short_name)."""

    students: tuple[str, ...] | None = None
    teachers: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    domains: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None

    def keeps(self, name: str, value: str) -> bool:
        """Whether a student, teacher, ... is asked for; `name` is that of the field."""
        wanted = getattr(self, name)
        return wanted is None or (short_name(value) if name in ("students", "teachers") else value) in wanted


@dataclass(frozen=True)
class Plan:
    """A section of a profile as its notebook asked for it."""

    section: str  # a key of PLANNED
    profile: Profile
    out: Path
    runs: tuple[PlannedRun, ...]  # live ones, whose texts are scored; baselines and teachers first
    shown: Filter
    variants: tuple[PlannedRun, ...] = ()  # runs with one factor of the protocol changed, which are no cells

    @property
    def to_make(self) -> tuple[PlannedRun, ...]:
        """The runs, and where the profile ranks options too, each of them evaluated so as well; variants."""
        ranks = self.profile.live is not None and self.profile.live.ranks
        twins = ((run.spec, run.evaluation.ranking()) for run in self.runs if ranks)
        ranked = (PlannedRun(spec, twin) for spec, twin in twins if twin is not None)
        return (*self.runs, *ranked, *self.variants)

    def hangs_on(self) -> list[Any]:
        """What a table made of these runs' item rows hangs on: each run, and the SHA-256 of its rows.

        None where a run is not evaluated yet; what is shown of them counts too.
        """
        resolved = sources.resolved_all(run.spec for run in self.runs)
        found = []
        for run, spec in zip(self.runs, resolved, strict=True):
            digest = store.folder_of(self.out, spec.run_id).items_digest(run.evaluation)
            found.append((spec.run_id, run.evaluation.eval_id, digest))
        return [found, self.shown]


def plan(section: str, parameters: Mapping[str, Any]) -> Plan:
    """The plan of a section for the parameters of its notebook, by name; those it lacks are None.

    `students`, `teachers`, `methods`, `domains` and `tasks` narrow what is trained and shown. `seeds`,
    `temperatures`, `noise_sigmas`, `protocol`, `train_items`, `items_per_task` and `devices` stand in for
    those of the profile. `model_files` (NAME=PATH) stand in for models, also in later plans of the process.

    Raises:
        ValueError: for a name or value that is unknown, a pair or method that the section does not have, or a
            change to what is trained in a profile that trains nothing.
    """
    if section not in PLANNED:
        raise ValueError(f"unknown section {section!r}; there are {list(PLANNED)}")
    profile = load_profile(parameters["profile"])
    if parameters.get("model_files") is not None:
        _use_model_files(parameters["model_files"], profile)
    shown = _filter(parameters, profile)
    changes = {name: parameters.get(name) for name in REPLACED}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes and profile.live is None:
        raise ValueError(
            f"{_listed(changes)} changes what is trained, and profile {profile.name!r} trains nothing; "
            "leave it out or choose a profile that does, such as mini"
        )
    runs: tuple[PlannedRun, ...] = ()
    variants: tuple[PlannedRun, ...] = ()
    if profile.live is not None:
        number = section[:2]  # 01b asks more of the runs of 01
        live, needs = _changed(profile.live, number, changes)
        needs = _narrowed(live, needs, shown, number)
        runs = tuple(dict.fromkeys(_runs(live, needs)))
        own = [need for need in needs if number in need.sections]
        variants = tuple(dict.fromkeys(each for need in own for each in _variants_of(live, need)))
    out = disk.REPOSITORY / Path(parameters.get("out", disk.OUTPUTS)).expanduser()
    return Plan(section, profile, out, runs, shown, variants)


def _use_model_files(entries: Sequence[str], profile: Profile) -> None:
    own = profile.live.models if profile.live else ()
    if strangers := [entry for entry in entries if entry.split("=")[0].strip() not in own]:
        raise ValueError(
            f"model_files: {strangers[0]!r} is for none of the models of profile {profile.name!r}, "
            f"which are {list(own)}; give NAME=PATH"
        )
    model_files.use_model_files(entries)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _filter(parameters: Mapping[str, Any], profile: Profile) -> Filter:
    own = profile.live.models if profile.live else ()
    models = list(dict.fromkeys([*own, *map(short_name, own), *RELEASED_MODELS]))
    known = {"students": models, "teachers": models, "methods": KD_METHODS, "domains": TRAIN_DOMAINS}
    wanted = {}
    for name, allowed in (known | {"tasks": ALL_TASKS}).items():
        values = parameters.get(name)
        if values is None:
            continue
        if not values or set(values) - set(allowed):
            raise ValueError(f"{name}={list(values)}: name at least one of {list(allowed)}, and no other")
        if known.get(name) is models:  # live and released results of a model are told apart by their source
            values = dict.fromkeys(map(short_name, values))
        wanted[name] = tuple(values)
    return Filter(**wanted)


@one_line_errors()
def _changed(live: Live, section: str, changes: Mapping[str, Any]) -> tuple[Live, list[Need]]:
    """The profile's live part and the needs of a section, with seeds, temperatures, ... replaced."""
    for name, value in changes.items():
        if name in LISTS and not value:
            raise ValueError(f"{name}={value}: give at least one value, or leave it out")
        if name in SIZES and value < 1:
            raise ValueError(f"{name}={value}: give at least 1, or leave it out")
    lists = {name: tuple(value) for name, value in changes.items() if name in LISTS}
    needs = [need for need in live.needs if section in (*need.sections, *EVERYTHING)]
    needs = [replace(need, **lists) for need in needs]
    if "items_per_task" in changes:
        live = replace(live, items_per_task=changes["items_per_task"])
    if own := {name: changes[name] for name in OF_RUNS if name in changes}:
        tables = {name: getattr(live, name) for name in ("by_domain", "by_protocol", "by_method")}
        tables = {name: {key: kept | own for key, kept in table.items()} for name, table in tables.items()}
        live = replace(live, settings=live.settings | own, **tables)
    if "seeds" in lists:
        live = replace(live, sft_seeds=lists["seeds"])
    if "protocol" in changes:
        live = replace(live, protocols=(changes["protocol"],))
    return live, needs


def _narrowed(live: Live, needs: Iterable[Need], shown: Filter, section: str) -> list[Need]:
    """The needs with the pairs, methods and domains that are asked for."""
    sides = ("teachers", "students")  # of a pair
    if not all(any(shown.keeps(side, name) for name in live.models) for side in sides):
        return []  # only released models are asked for
    kept = []
    for need in needs:
        pairs = _checked_pairs(live, need)
        narrow = {"pairs": tuple(pair for pair in pairs if all(map(shown.keeps, sides, pair)))}
        for name in ("methods", "domains"):
            narrow[name] = tuple(value for value in getattr(need, name) if shown.keeps(name, value))
        if all(narrow.values()):
            kept.append(replace(need, **narrow))
    if needs and not kept and section not in OWN_SECTIONS:  # those have few pairs, and say if none is left
        wanted = {name: getattr(shown, name) for name in ("students", "teachers", "methods", "domains")}
        wanted = {name: list(value) for name, value in wanted.items() if value is not None}
        there = sorted({" → ".join(pair) for need in needs for pair in _pairs(live, need)})
        raise ValueError(
            f"no run of section {section} has {_listed(wanted)}; its pairs (teacher → student) are {there}: "
            "choose among them"
        )
    return kept


def student_protocols(planned: Iterable[PlannedRun]) -> dict[EvalSpec, str | None]:
    """The protocol of the students that each evaluation is of; None where they are of several, or none."""
    found: dict[EvalSpec, set[str]] = {}
    for run in planned:
        own = found.setdefault(run.evaluation, set())
        if run.spec.method != "base":  # a model as it is has no protocol
            own.add(run.spec.protocol)
    return {each: next(iter(own)) if len(own) == 1 else None for each, own in found.items()}


def family_pairs(models: Iterable[str]) -> list[tuple[str, str]]:
    """(teacher, student) of every two models of one family, the larger one the teacher."""
    return [
        (teacher, student)
        for teacher, student in permutations(models, 2)
        if model_family(teacher) == model_family(student)
        and model_parameters(teacher) > model_parameters(student)
    ]


def _pairs(live: Live, need: Need) -> Iterable[tuple[str, str]]:
    return family_pairs(live.models) if need.pairs is None else need.pairs


def _checked_pairs(live: Live, need: Need) -> Iterable[tuple[str, str]]:
    shown = {short_name(name): name for name in live.models}
    for name in live.models:
        model_parameters(name)  # one without a size is refused also where no pair has it
    if alike := [name for name in live.models if shown[short_name(name)] != name]:
        raise ValueError(
            f"models {alike[0]!r} and {shown[short_name(alike[0])]!r} have one name in tables; rename one"
        )
    pairs = _pairs(live, need)
    for teacher, student in pairs:
        for name in (teacher, student):
            if name not in live.models:
                raise ValueError(
                    f"pair {teacher} → {student}: {name!r} is not in models={list(live.models)}; "
                    "use one of those"
                )
        if teacher == student:
            raise ValueError(f"pair {teacher} → {student}: a model cannot be its own teacher here, use two")
    return pairs


def _runs(live: Live, needs: Iterable[Need]) -> Iterator[PlannedRun]:
    """Base models and SFT of every need first, then the distilled runs."""
    for need in needs:
        for domain in need.domains:
            yield from baselines(live, need.pairs, domain, sft_seeds=(*live.sft_seeds, *need.seeds))
    for need, protocol in product(needs, live.protocols):
        for domain in need.domains:
            for teacher, student in need.pairs:
                for fields in _variants(need, protocol):
                    pair = {"teacher": teacher, "student": student, "domain": domain}
                    common = live.settings_of(domain=domain, protocol=protocol, method=fields["method"])
                    for seed in need.seeds:
                        yield planned(
                            live, RunSpec.from_dict(pair | common | fields | {"seed": seed}), protocol
                        )


def _variants_of(live: Live, need: Need) -> Iterator[PlannedRun]:
    """The careful students of a need, after SFT and distilled, with each of its factors of the protocol.

    At another temperature than 1 with all factors together alone.
    """
    students, seed = {student for _, student in need.pairs}, need.seeds[0]
    plain = replace(need, seeds=(seed,), noise_sigmas=(0.0,))
    names = [name for name in RUN_FACTORS if name in need.factors]
    for run in _runs(replace(live, sft_seeds=(seed,)), [plain]) if names else ():
        if run.spec.protocol == "careful" and run.spec.student in students and run.spec.seed == seed:
            own = [name for name in names if run.spec.temperature == 1.0 or name == TOGETHER]
            yield from filter(None, (with_factor(run, name) for name in own))


def baselines(
    live: Live, pairs: Iterable[tuple[str, str]], domain: str, *, sft_seeds: Iterable[int]
) -> Iterator[PlannedRun]:
    """The models of the pairs as they are, and after SFT: students with every seed, teachers with seed 0."""
    models = list(dict.fromkeys(name for pair in pairs for name in pair))
    teachers, students = ({pair[side] for pair in pairs} for side in (0, 1))
    for name, protocol in product(models, live.protocols):
        devices = live.settings_of(domain=domain, protocol=protocol, method="sft").get("devices", 1)
        as_it_is = RunSpec(student=name, method="base", domain=domain, data=live.data, devices=devices)
        yield planned(live, as_it_is, protocol)
    for name, protocol in product(models, live.protocols):
        common = live.settings_of(domain=domain, protocol=protocol, method="sft")
        for seed in dict.fromkeys([0] * (name in teachers) + list(sft_seeds) * (name in students)):
            own = {"student": name, "method": "sft", "domain": domain, "seed": seed}
            yield planned(live, RunSpec.from_dict(common | own), protocol)


def _variants(need: Need, protocol: str) -> Iterator[dict[str, Any]]:
    """Method, tuning of the teacher, and temperature or noise; plain where a method has neither.

    Under protocol `paper` GKD has temperature 1 only, because the authors' code ignores another.
    """
    for method in need.methods:
        fields = {"method": method, "teacher_tuned": need.teacher_tuned}
        if method not in LOGIT_METHODS:
            yield fields
            continue
        fixed = method == "gkd" and protocol == "paper"
        for temperature in (1.0,) if fixed else need.temperatures:
            yield fields | {"temperature": temperature}
        for sigma in need.noise_sigmas:
            if sigma > 0:
                yield fields | {"noise_sigma": sigma}


def planned(live: Live, spec: RunSpec, protocol: str) -> PlannedRun:
    """A run of a profile with the evaluation of its domain under a protocol.

    A model as it is has no protocol: it is evaluated under each of those whose students it is compared with.
    """
    how = live.evaluation | live.evaluation_by_protocol.get(protocol, {})
    own = {"tasks": DOMAIN_TASKS[spec.domain], "items_per_task": live.items_per_task}
    return PlannedRun(spec, EvalSpec.from_dict(how | own))
