"""What can be asked for: the names of the study and its profiles.

Every key that appears in a table, a parameter or a file name is defined here once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdutils import profilefile
from kdutils.io.measurements import MEASURES
from kdutils.io.text_safety import shown

MATH_TASKS = ("aqua", "addsub", "gsm8k", "multiarith", "svamp", "singleeq")
COMMONSENSE_TASKS = ("arc_c", "arc_e", "boolq", "hellaswag", "obqa", "piqa", "siqa", "winogrande")
DOMAINS = ("math", "commonsense")  # those with released results
TASKS = MATH_TASKS + COMMONSENSE_TASKS
INSTRUCTION_TASKS = ("dolly", "selfinst", "vicuna")
TRAIN_DOMAINS = (*DOMAINS, "instruction")
DOMAIN_TASKS = {"math": MATH_TASKS, "commonsense": COMMONSENSE_TASKS, "instruction": INSTRUCTION_TASKS}
ALL_TASKS = TASKS + INSTRUCTION_TASKS
CHOICE_TASKS = {  # commonsense task -> its answers, in the words of the prompt
    "arc_c": ("answer1", "answer2", "answer3", "answer4"),
    "arc_e": ("answer1", "answer2", "answer3", "answer4"),
    "boolq": ("true", "false"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "obqa": ("answer1", "answer2", "answer3", "answer4"),
    "piqa": ("solution1", "solution2"),
    "siqa": ("answer1", "answer2", "answer3"),
    "winogrande": ("option1", "option2"),
}
AVERAGE = "average"  # the mean over a domain's tasks, analysed as one more task

TASK_LABELS = {
    "aqua": "AQuA",
    "addsub": "AddSub",
    "gsm8k": "GSM8K",
    "multiarith": "MultiArith",
    "svamp": "SVAMP",
    "singleeq": "SingleEq",
    "arc_c": "ARC-c",
    "arc_e": "ARC-e",
    "boolq": "BoolQ",
    "hellaswag": "HellaSwag",
    "obqa": "OBQA",
    "piqa": "PIQA",
    "siqa": "SIQA",
    "winogrande": "WinoGrande",
    "dolly": "Dolly",
    "selfinst": "Self-Instruct",
    "vicuna": "Vicuna",
    AVERAGE: "Average",
}
DOMAIN_LABELS = {
    "math": "Math",
    "commonsense": "Commonsense",
    "instruction": "Instruction following",
}

# Size of each test set, as in the authors' repository (HellaSwag: the official validation set).
TEST_ITEMS = {
    "aqua": 254,
    "addsub": 395,
    "gsm8k": 1319,
    "multiarith": 600,
    "svamp": 1000,
    "singleeq": 508,
    "arc_c": 1172,
    "arc_e": 2376,
    "boolq": 3270,
    "hellaswag": 10042,
    "obqa": 500,
    "piqa": 1838,
    "siqa": 1954,
    "winogrande": 1267,
}

# Tasks whose test questions occur in math_10k, the training set (LLM-Adapters' own README).
CONTAMINATED_TASKS = ("addsub", "multiarith", "singleeq")

METHOD_LABELS = {
    "base": "Base model",
    "sft": "SFT",
    "fkl": "SeqKD† (token forward KL)",
    "seqkd": "SeqKD (teacher text)",
    "revkd": "RevKD",
    "gkd": "GKD",
}
METHOD_NAMES = {method: label.split(" (")[0] for method, label in METHOD_LABELS.items()}  # without the note
KD_METHODS = ("fkl", "seqkd", "revkd", "gkd")
PAPER_METHODS = ("fkl", "revkd", "gkd")  # the three that the paper compares
PROTOCOLS = ("careful", "paper")
TOGETHER = "together"  # every factor in which the protocols differ (kdutils.factors)
RUN_FACTORS = ("prompt", "sequences", "sampling", TOGETHER)  # those for which there are runs to make
SOURCES = ("published", "live")  # where cells come from
SOURCE_LABELS = {"published": "Released", "live": "Live"}
SELECTIONS = ("best_on_test", "temperature_1")

RELEASED_MODELS = (  # students and teachers of the released tables
    *("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Qwen2.5-14B"),
    *("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"),
)

RELEASED_PAIRS = (  # (teacher, student) of the released tables
    *(("Qwen2.5-3B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B")),
    *(("Qwen2.5-7B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B")),
    *(("Qwen2.5-14B", student) for student in ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B")),
    *(("Llama-3.1-8B", student) for student in ("Llama-3.2-1B", "Llama-3.2-3B")),
)

SECTIONS = {
    "00": "00_overview",
    "01": "01_effectiveness",
    "02": "02_size_correlation",
    "03": "03_teacher_quality",
    "04": "04_agreement",
    "05": "05_fidelity",
    "06": "06_noise",
    "07": "07_temperature",
    "08": "08_claims",
}

OWN_SECTIONS = {  # no sections of the paper; they plan runs of their own
    "11": "11_protocol",
}
PLANNED = SECTIONS | OWN_SECTIONS

NOTEBOOKS = (
    *SECTIONS.values(),
    "09_performance",  # this one and the next are no sections of the paper and plan no runs
    "10_calibration",
    "11_protocol",
)
AT_ONCE = ("10_calibration",)  # need nothing that is trained, and measure no time
ALONE = ("09_performance",)  # measure time
LONG = (
    "08_claims",
    "05_fidelity",
    "01_effectiveness",
    "04_agreement",
    "02_size_correlation",
)  # the longest first

PERFORMANCE_CASES = ("mini", "smollm", "qwen-vocabulary")  # of notebook 09, see work.case_of

# Fields of a run, and of an evaluation, that follow from the needs of a profile: no setting of its own.
OF_NEEDS = ("student", "teacher", "method", "domain", "seed", "temperature", "noise_sigma", "teacher_tuned")
OF_PROFILE = ("data", "protocol")
OF_EVALUATION = ("tasks", "items_per_task", "scoring")

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
        entries = profilefile.read(PROFILE_FOLDER / f"{name}.toml")
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
