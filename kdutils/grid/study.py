"""What the study is made of: released models and pairs, sources of results, notebooks, parts of a profile."""

from collections.abc import Iterator
from dataclasses import dataclass

from kdutils.constants import ALL_TASKS, AVERAGE, MATH_TASKS, TRAIN_DOMAINS, is_text
from kdutils.spec import EvalSpec, RunSpec

PROTOCOLS = ("careful", "paper")
DECODINGS = {"greedy": {}, "sampled": {"temperature": 1.0}}  # -> fields of the EvalSpec; usual one first
LABEL_WAYS = ("label", "label_without_prior")  # of cells without texts: results.label_cells
TOGETHER = "together"  # every factor in which the protocols differ (grid.factors.FACTORS)
RUN_FACTORS = ("prompt", "sequences", "sampling", TOGETHER)  # those for which there are runs to make
SOURCES = ("published", "live")  # where cells come from
SOURCE_LABELS = {"published": "Released", "live": "Live"}
# Column of tables made of cells, where some are of students that have not learned the response format, and
# what stands after their numbers: † is that of SeqKD†.
UNFORMATTED, DAGGER = "unformatted", "‡"
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

BEYOND = {  # ask more of the runs of a section, that of their first two digits
    "01b": "01b_beyond_effectiveness",
}
OWN_SECTIONS = {  # no sections of the paper; they plan runs of their own
    "11": "11_protocol",
    "12": "12_decoding",
    "13": "13_scoring",
    "14": "14_label_bias",
    "15": "15_adaptation",
    "16": "16_construction",
    "17": "17_training",
}
PLANNED = SECTIONS | BEYOND | OWN_SECTIONS

NOTEBOOKS = (
    *sorted([*SECTIONS.values(), *BEYOND.values()]),
    "09_performance",  # this one and the next are no sections of the paper and plan no runs
    "10_calibration",
    *OWN_SECTIONS.values(),
)
ALONE = ("09_performance",)  # measure time
SHARED_FOLDERS = ("runs", "states", "texts", "cache", "damaged", "leases")  # of all profiles' outputs
PERFORMANCE_CASES = ("mini", "smollm", "qwen-vocabulary")  # of notebook 09, see bench.workloads

# Fields of a run, and of an evaluation, that follow from the needs of a profile: no setting of its own.
OF_NEEDS = (
    *("student", "teacher", "method", "domain", "seed", "temperature", "noise_sigma", "teacher_tuned"),
    *("student_start", "prefix", "divergence"),
)
OF_PROFILE = ("data", "protocol")
OF_EVALUATION = ("tasks", "items_per_task", "scoring")


def has_steps(task: str) -> bool:
    """Whether responses reason before they answer: in math, and as far as is known in a study's own tasks."""
    return task in MATH_TASKS or ("?answer=" in task and not is_text(task))


def place_of(name: str) -> str:
    """What sorts tasks, or domains: as listed here, then those of a study file by name, the average last."""
    listed = [*ALL_TASKS, *TRAIN_DOMAINS]
    return f"{listed.index(name):02d}" if name in listed else f"{98 + (name == AVERAGE)}{name}"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study needs, and how it is evaluated there."""

    spec: RunSpec
    evaluation: EvalSpec
    beside_teacher: bool = True  # its teacher is evaluated, too, to compare their answers


def with_needs(spec: RunSpec, role: str = "itself") -> Iterator[tuple[str, RunSpec]]:
    """Role and spec of each run that has to be there before a run, in order, and at last of itself."""
    for name, needed in spec.needs.items():
        yield from with_needs(needed, name)
    yield role, spec
