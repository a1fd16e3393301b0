"""What a section asks for: the runs of a profile, narrowed or changed by the parameters of its notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from kdutils.constants import KD_METHODS, LOGIT_METHODS, NOT_OF_PAPER
from kdutils.data import model_files, sources
from kdutils.grid import arms, study
from kdutils.grid.cell_table import short_name
from kdutils.grid.evaluations import asked_of, tables_of
from kdutils.grid.factors import with_factor
from kdutils.grid.profile import Live, Need, Profile, load_profile
from kdutils.grid.study import DECODINGS, OWN_SECTIONS, PLANNED, RELEASED_MODELS, SECTIONS, PlannedRun
from kdutils.io import disk, toml_files
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

READS = {"00": PLANNED, "08": SECTIONS}  # sections that look at the runs of all these
LISTS = ("seeds", "temperatures", "noise_sigmas")
OF_RUNS = ("train_items", "devices")  # fields of every run
OF_EVALUATION = ("decoding", "items_per_task")
REPLACED = (*LISTS, "protocol", *OF_EVALUATION, *OF_RUNS)  # change what is trained or how it is evaluated


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
    variants: tuple[PlannedRun, ...] = ()  # other factors, starts, recipes: no cells
    decoding: str = "greedy"  # of the runs of protocol `careful`
    others: tuple[Plan, ...] = ()  # the same for those, under each other decoding of the profile
    asked: tuple[PlannedRun, ...] = ()  # under the evaluations of the section's own needs: no cells either

    @property
    def to_make(self) -> tuple[PlannedRun, ...]:
        """The runs under every decoding, and ranked where the profile ranks options too; variants, asked."""
        ranks = self.profile.live is not None and self.profile.live.ranks
        twins = ((run.spec, run.evaluation.ranking()) for run in self.runs if ranks)
        ranked = (PlannedRun(spec, twin) for spec, twin in twins if twin is not None)
        others = (run for other in self.others for run in (*other.runs, *other.variants))
        return tuple(dict.fromkeys((*self.runs, *others, *ranked, *self.variants, *self.asked)))

    @property
    def statistics_source(self) -> str:
        """The source of the live rows in statistics.csv: greedy texts are the plain one."""
        return "live" if self.decoding == "greedy" else f"live, {self.decoding}"

    def hangs_on(self) -> list[Any]:
        """What a table made of these runs' item rows hangs on: `evaluated`, and what is shown of them."""
        return [self.evaluated(self.runs), self.shown]

    def evaluated(self, runs: Sequence[PlannedRun]) -> list[tuple[str, str, str | None]]:
        """Ids of each run and its evaluation, and the SHA-256 of its item rows: None if not evaluated yet."""
        found = []
        for run, spec in zip(runs, sources.resolved_all(run.spec for run in runs), strict=True):
            digest = store.folder_of(self.out, spec.run_id).items_digest(run.evaluation)
            found.append((spec.run_id, run.evaluation.eval_id, digest))
        return found


def plan(section: str, parameters: Mapping[str, Any]) -> Plan:
    """The plan of a section for the parameters of its notebook, by name; those it lacks are None.

    `students`, `teachers`, `methods`, `domains` and `tasks` narrow what is trained and shown. `seeds`,
    `temperatures`, `noise_sigmas`, `protocol`, `train_items`, `items_per_task` and `devices` stand in for
    those of the profile. `decoding` is how the texts that are shown were written, of those of the profile.
    `model_files` (NAME=PATH) say where models are read from.

    Raises:
        ValueError: for a name or value that is unknown, a pair or method that the section does not have, or a
            change to what is trained in a profile that trains nothing.
    """
    if section not in PLANNED:
        raise ValueError(f"unknown section {section!r}; there are {list(PLANNED)}")
    profile = load_profile(parameters["profile"])
    stand_ins = _stand_ins(parameters.get("model_files") or (), profile)
    shown = _filter(parameters, profile)
    out = disk.REPOSITORY / Path(parameters.get("out", disk.OUTPUTS)).expanduser()
    changes = {name: value for name in REPLACED if (value := parameters.get(name)) is not None}
    if changes and profile.live is None:
        raise ValueError(
            f"{_listed(changes)} changes what is trained, and profile {profile.name!r} trains nothing; "
            "leave it out or choose a profile that does, such as mini"
        )
    runs, variants, decoding, others, asked = (), (), "", [], ()
    if profile.live is not None:
        number = section[:2]  # 01b asks more of the runs of 01
        decodings, changed = _decodings(profile, parameters.get("decoding")), _changed(profile.live, changes)
        live, *rest = (replace(changed, decodings=(decoding,)) for decoding in decodings)
        needs = _narrowed(live, shown, number)

        def once(planned: Iterable[PlannedRun]) -> tuple[PlannedRun, ...]:
            try:
                return tuple(dict.fromkeys(_read_from(stand_ins, run) for run in planned))
            except ValueError as error:
                raise profile.refusal(error) from None

        runs, decoding = once(_runs(live, needs)), decodings[0]
        careful = [replace(each, protocols=("careful",)) for each in rest if "careful" in live.protocols]
        own = [need for need in needs if number in need.sections]
        of_runs = partial(Plan, section, profile, out)
        for each in careful:
            started = once(run for need in own for run in _others_of(each, replace(need, variations=())))
            others.append(of_runs(once(_runs(each, needs)), shown, started, each.decodings[0]))
        variants = once(run for need in own for run in (*_variants_of(live, need), *_others_of(live, need)))
        compared = arms.planned(number, live, partial(_evaluation, live, "careful"), out)
        asked = once((*(run for need in own for run in _asked_of(live, need)), *compared))
    return Plan(section, profile, out, runs, shown, variants, decoding, tuple(others), asked)


def _decodings(profile: Profile, wanted: str | None) -> list[str]:
    """Those of the profile, the one that is shown first."""
    known = sorted(profile.live.decodings, key=list(DECODINGS).index)
    if wanted not in (None, *known):
        has = f"profile {profile.name!r} has decodings={known}"
        raise ValueError(f"decoding={wanted}: {has}; choose one of those, or add this one to its file")
    return sorted(known, key=lambda decoding: decoding != wanted)


def _stand_ins(entries: Sequence[str], profile: Profile) -> dict[str, str]:
    """Model -> what it is read from, all of which are there."""
    own = profile.live.models if profile.live else ()
    if strangers := [entry for entry in entries if entry.split("=")[0].strip() not in own]:
        raise ValueError(
            f"model_files: {strangers[0]!r} is for none of the models of profile {profile.name!r}, "
            f"which are {list(own)}; give NAME=PATH"
        )
    stand_ins = model_files.model_files(entries)
    try:
        for name in own if profile.file else stand_ins:
            model_files.locate(name, stand_ins.get(name, ""))
    except model_files.ModelError as error:
        raise profile.refusal(toml_files.Refused(f"models: {error}", ("live", "models"))) from None
    return stand_ins


def _read_from(stand_ins: Mapping[str, str], run: PlannedRun) -> PlannedRun:
    if not stand_ins:
        return run
    named = {"student_source": run.spec.student, "teacher_source": run.spec.teacher}
    places = {field: stand_ins.get(name, "") for field, name in named.items()}
    return replace(run, spec=replace(run.spec, **places))


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _filter(parameters: Mapping[str, Any], profile: Profile) -> Filter:
    own = profile.live.models if profile.live else ()
    models = list(dict.fromkeys([*own, *map(short_name, own), *RELEASED_MODELS]))
    domains, tasks = profile.domains_and_tasks()
    known = {"students": models, "teachers": models, "methods": KD_METHODS, "domains": domains}
    wanted = {}
    for name, allowed in (known | {"tasks": tasks}).items():
        values = parameters.get(name)
        if values is None:
            continue
        if not values or set(values) - set(allowed):
            raise ValueError(f"{name}={list(values)}: name at least one of {list(allowed)}, and no other")
        if known.get(name) is models:  # live and released results of a model are told apart by their source
            values = dict.fromkeys(map(short_name, values))
        if name == "tasks":
            values = [tasks[value] for value in values]
        wanted[name] = tuple(values)
    return Filter(**wanted)


@toml_files.one_line_errors()
def _changed(live: Live, changes: Mapping[str, Any]) -> Live:
    """The profile's live part with seeds, temperatures, ... replaced."""
    lists = {name: tuple(changes[name]) for name in LISTS if name in changes}
    of_runs = {name: changes[name] for name in OF_RUNS if name in changes}

    def with_own(table: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {key: settings | of_runs for key, settings in table.items()}

    return replace(
        live,
        needs=tuple(replace(need, **lists) for need in live.needs),
        items_per_task=changes.get("items_per_task", live.items_per_task),
        sft_seeds=lists.get("seeds", live.sft_seeds),
        protocols=(changes["protocol"],) if "protocol" in changes else live.protocols,
        settings=live.settings | of_runs,
        by_domain=with_own(live.by_domain),
        by_protocol=with_own(live.by_protocol),
        by_method=with_own(live.by_method),
    )


def _narrowed(live: Live, shown: Filter, section: str) -> list[Need]:
    """The needs of a section with the pairs, methods and domains that are asked for."""
    sides = ("teachers", "students")  # of a pair
    if not all(any(shown.keeps(side, name) for name in live.models) for side in sides):
        return []  # only released models are asked for
    needs = [need for need in live.needs if {section, *READS.get(section, ())} & set(need.sections)]
    kept = []
    for need in needs:
        pairs = tuple(pair for pair in live.pairs_of(need) if all(map(shown.keeps, sides, pair)))
        methods = tuple(method for method in need.methods if shown.keeps("methods", method))
        domains = tuple(domain for domain in need.domains if shown.keeps("domains", domain))
        if pairs and methods and domains:
            kept.append(replace(need, pairs=pairs, methods=methods, domains=domains))
    if needs and not kept and section not in OWN_SECTIONS:  # those have few pairs, and say if none is left
        wanted = {name: getattr(shown, name) for name in ("students", "teachers", "methods", "domains")}
        wanted = {name: list(value) for name, value in wanted.items() if value is not None}
        there = sorted({" → ".join(pair) for need in needs for pair in live.pairs_of(need)})
        raise ValueError(
            f"no run of section {section} has {_listed(wanted)}; its pairs (teacher → student) are {there}: "
            "choose among them"
        )
    return kept


def _runs(live: Live, needs: Iterable[Need]) -> Iterator[PlannedRun]:
    """Base models and SFT of every need first, then the distilled runs."""
    for need in needs:
        for domain in need.domains:
            yield from baselines(live, need.pairs, domain, sft_seeds=(*live.sft_seeds, *need.seeds))
    for need, protocol in product(needs, live.protocols):
        for domain, (teacher, student) in product(need.domains, need.pairs):
            for (method, temperature, sigma), seed in product(_variants(need, protocol), need.seeds):
                spec = RunSpec(
                    student=student,
                    teacher=teacher,
                    teacher_tuned=need.teacher_tuned,
                    method=method,
                    domain=domain,
                    temperature=temperature,
                    noise_sigma=sigma,
                    seed=seed,
                    **live.settings_of(domain=domain, protocol=protocol, method=method),
                )
                yield PlannedRun(spec, _evaluation(live, protocol, domain))


def _variants(need: Need, protocol: str) -> Iterator[tuple[str, float, float]]:
    """Method, temperature and noise; 1 and none where a method has neither.

    Under protocol `paper` GKD has temperature 1 only, because the authors' code ignores another, and methods
    that it has not are left out.
    """
    for method in need.methods:
        if protocol == "paper" and method in NOT_OF_PAPER:
            continue
        if method not in LOGIT_METHODS:
            yield method, 1.0, 0.0
            continue
        is_fixed = method == "gkd" and protocol == "paper"
        yield from ((method, temperature, 0.0) for temperature in ((1.0,) if is_fixed else need.temperatures))
        yield from ((method, 1.0, sigma) for sigma in need.noise_sigmas if sigma > 0)


def _variants_of(live: Live, need: Need) -> Iterator[PlannedRun]:
    """The careful students of a need, after SFT and distilled, with each of its factors of the protocol.

    At another temperature than 1 with all factors together alone.
    """
    students, seed = {student for _, student in need.pairs}, need.seeds[0]
    plain = replace(need, seeds=(seed,), noise_sigmas=(0.0,))
    names = [name for name in study.RUN_FACTORS if name in need.factors]
    for run in _runs(replace(live, sft_seeds=(seed,)), [plain]) if names else ():
        if run.spec.protocol == "careful" and run.spec.student in students and run.spec.seed == seed:
            own = [name for name in names if run.spec.temperature == 1.0 or name == study.TOGETHER]
            yield from filter(None, (with_factor(run, name) for name in own))


def _others_of(live: Live, need: Need) -> Iterator[PlannedRun]:
    """The careful students of a need that start after SFT, beside SFT continued; of its recipes; varied."""
    recipes = [{"method": "kd", "prefix": prefix, "divergence": each} for prefix, each in need.recipes]
    presets = [{"method": method} for method in need.methods]
    pairs = product(need.domains, live.pairs_of(need), need.seeds, need.student_start)
    for domain, (teacher, student), seed, start in pairs if "careful" in live.protocols else ():
        for own in recipes + presets * (start == "sft"):
            settings = live.settings_of(domain=domain, protocol="careful", method=own["method"])
            settings |= {"domain": domain, "seed": seed, "student_start": start} | own
            spec = RunSpec(student=student, teacher=teacher, teacher_tuned=need.teacher_tuned, **settings)
            for each in (spec, spec.sft_spec):
                yield PlannedRun(each, _evaluation(live, "careful", domain))
    yield from _varied(live, need)


def _varied(live: Live, need: Need) -> Iterator[PlannedRun]:
    """The careful distilled students of a need with each of its variations; with their teachers unscored."""
    plain = replace(need, temperatures=(1.0,), noise_sigmas=(0.0,))
    for run in _runs(live, [plain]) if need.variations else ():
        is_varied = run.spec.teacher and run.spec.protocol == "careful"
        for fields in tables_of(need.variations) if is_varied else ():
            yield PlannedRun(replace(run.spec, **fields), run.evaluation, beside_teacher=False)


def _asked_of(live: Live, need: Need) -> Iterator[PlannedRun]:
    """The models of a need and all its careful students, under each of its evaluations for their roles."""
    if not need.evaluations or "careful" not in live.protocols:
        return
    careful = replace(live, protocols=("careful",))
    made = (*_runs(careful, [need]), *_variants_of(careful, need), *_others_of(careful, need))
    specs, students = dict.fromkeys(run.spec for run in made), {student for _, student in need.pairs}
    yield from asked_of(need.evaluations, specs, students, partial(_evaluation, careful, "careful"))


def baselines(
    live: Live, pairs: Iterable[tuple[str, str]], domain: str, *, sft_seeds: Iterable[int]
) -> Iterator[PlannedRun]:
    """The models of the pairs as they are, and after SFT: students with every seed, teachers with seed 0."""
    models = dict.fromkeys(name for pair in pairs for name in pair)
    teachers, students = ({pair[side] for pair in pairs} for side in (0, 1))
    for name, protocol in product(models if live.base_models else (), live.protocols):
        settings = live.settings_of(domain=domain, protocol=protocol, method="sft")
        own = {key: settings[key] for key in ("data", "study_file", "devices") if key in settings}
        as_it_is = RunSpec(student=name, method="base", domain=domain, **own)
        yield PlannedRun(as_it_is, _evaluation(live, protocol, domain))
    for name, protocol in product(models, live.protocols):
        settings = live.settings_of(domain=domain, protocol=protocol, method="sft")
        for seed in dict.fromkeys([0] * (name in teachers) + list(sft_seeds) * (name in students)):
            tuned = RunSpec(student=name, method="sft", domain=domain, seed=seed, **settings)
            yield PlannedRun(tuned, _evaluation(live, protocol, domain))


def _evaluation(live: Live, protocol: str, domain: str) -> EvalSpec:
    own = live.evaluation | live.evaluation_by_protocol.get(protocol, {})
    own |= DECODINGS[live.decodings[0]] if protocol == "careful" else {}
    return live.usual_evaluation(domain, **own)
