"""Studies of which the truth is known: imagined results of students that look like those of the paper.

A layout says who teaches whom, effects say what varies beside the test items. The numbers below describe the
released tables (temperature 1, rounded) and were set before any procedure was looked at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from kdutils.constants import DOMAIN_TASKS, TEST_ITEMS
from kdutils.grid.cell_table import model_family, model_parameters
from kdutils.grid.study import RELEASED_PAIRS

TASK_ACCURACY = {  # percent: the mean over the released SFT students
    **{"aqua": 26, "addsub": 81, "gsm8k": 42, "multiarith": 85, "svamp": 57, "singleeq": 84},
    **{"arc_c": 65, "arc_e": 79, "boolq": 59, "hellaswag": 56, "obqa": 70, "piqa": 72, "siqa": 62},
    "winogrande": 59,
}
MIDDLE_SIZE = 1.5e9  # of which those are the accuracies here
LOGIT_PER_DOUBLING = 0.35  # of SFT accuracy: 53 to 78 % from 0.5B to 7B on the math average
OWN_LOGIT = 0.15  # spread of SFT accuracies of one size, by student and task
N_METHODS = 3
LOWEST, HIGHEST = 0.01, 0.99  # accuracy of a KD student in truth: where effects would lead out of [0, 1]


class Effects(NamedTuple):
    """Standard deviations of what a gain has beside its mean, in points; each has mean 0 over studies."""

    student: float = 0.0  # of all gains of a student
    teacher: float = 0.0  # of all gains from a teacher
    run: float = 0.0  # of one pair and method: its training seed
    cell: float = 0.0  # of a student on one task, whatever the teacher


NO_EFFECTS = Effects()
EFFECTS = Effects(student=2.5, teacher=1.0, run=1.5, cell=2.0)  # released: 2.9; 2.6 for the next two; 2.2


@dataclass(frozen=True)
class Layout:
    """Who teaches whom: a pair a place of `students` and `teachers`, which are indices."""

    sizes: np.ndarray  # parameters of each student
    families: tuple[str, ...]  # of each student
    students: np.ndarray  # of each pair
    teachers: np.ndarray

    @property
    def n_students(self) -> int:
        return len(self.sizes)


def released_pairs() -> Layout:
    """The 11 released pairs: 6 students, 4 teachers, 2 families."""
    students = sorted({student for _, student in RELEASED_PAIRS}, key=lambda name: (name[:4], name))
    teachers = sorted({teacher for teacher, _ in RELEASED_PAIRS})
    return Layout(
        sizes=np.array([float(model_parameters(name)) for name in students]),
        families=tuple(model_family(name) for name in students),
        students=np.array([students.index(student) for _, student in RELEASED_PAIRS]),
        teachers=np.array([teachers.index(teacher) for teacher, _ in RELEASED_PAIRS]),
    )


def one_teacher(n_students: int) -> Layout:
    """That many students of one family and one teacher, from 0.5B to 7B in equal ratios."""
    sizes = np.geomspace(5e8, 7e9, n_students)
    places = np.arange(n_students)
    return Layout(sizes, ("Qwen2.5",) * n_students, places, np.zeros(n_students, dtype=int))


@dataclass(frozen=True)
class Studies:
    """Many imagined studies of one layout; accuracies in percent."""

    layout: Layout
    tasks: tuple[str, ...]
    sft: np.ndarray  # studies x students x tasks
    kd: np.ndarray  # studies x pairs x methods x tasks

    @property
    def gains(self) -> np.ndarray:
        """Points, of the shape of `kd`: all pairs and methods of a student share its SFT accuracy."""
        return self.kd - self.sft[:, self.layout.students, None, :]

    @property
    def cells(self) -> np.ndarray:
        """Gains on the average over tasks: studies x (pairs x methods), pair by pair."""
        return self.gains.mean(axis=3).reshape(len(self.sft), -1)

    @property
    def student_means(self) -> np.ndarray:
        """The mean of each student's cells: studies x students."""
        return self.of_students(self.gains.mean(axis=(2, 3)))

    def by_student(self, *, axis: int) -> np.ndarray:
        """Mean gains: studies x students x methods (axis 2 of `gains`) or x tasks (axis 3)."""
        return self.of_students(self.gains.mean(axis=5 - axis))

    def of_students(self, of_pairs: np.ndarray) -> np.ndarray:
        """The mean of each student's pairs, which are the second axis."""
        owners = self.layout.students
        columns = [of_pairs[:, owners == one].mean(axis=1) for one in range(self.layout.n_students)]
        return np.stack(columns, axis=1)

    @property
    def cell_students(self) -> np.ndarray:
        """The student of each of `cells`."""
        return np.repeat(self.layout.students, self.kd.shape[2])

    @property
    def cell_sizes(self) -> np.ndarray:
        return self.layout.sizes[self.cell_students]


def imagine(
    layout: Layout,
    n_studies: int,
    *,
    rng: np.random.Generator,
    effects: Effects = NO_EFFECTS,
    logit_gain: float = 0.0,
    domains: tuple[str, ...] = ("math",),
) -> Studies:
    """Studies in which every student gains `logit_gain` on each task, give or take `effects`.

    With a `logit_gain` of 0 the mean gain in points over studies is 0, for every pair, method and task.
    """
    tasks = tuple(task for domain in domains for task in DOMAIN_TASKS[domain])
    items = np.array([TEST_ITEMS[task] for task in tasks])
    n_students, n_pairs, n_tasks = layout.n_students, len(layout.students), len(tasks)
    middle = logit(np.array([TASK_ACCURACY[task] / 100 for task in tasks]))
    of_size = LOGIT_PER_DOUBLING * np.log2(layout.sizes / MIDDLE_SIZE)
    own = OWN_LOGIT * rng.normal(size=(n_studies, n_students, n_tasks))
    truth = expit(middle + of_size[:, None] + own)
    sft = 100 * rng.binomial(items, truth) / items

    of_student = effects.student * rng.normal(size=(n_studies, n_students, 1))
    of_student = of_student + effects.cell * rng.normal(size=(n_studies, n_students, n_tasks))
    of_teacher = effects.teacher * rng.normal(size=(n_studies, layout.teachers.max() + 1))
    of_run = effects.run * rng.normal(size=(n_studies, n_pairs, N_METHODS))
    points = of_student[:, layout.students, None, :] + of_teacher[:, layout.teachers, None, None]
    points = points + of_run[..., None]
    after = expit(logit(truth) + logit_gain)[:, layout.students, None, :] + points / 100
    kd = 100 * rng.binomial(items, np.clip(after, LOWEST, HIGHEST)) / items
    return Studies(layout, tasks, sft, kd)


def paired_differences(
    n_items: int,
    n_tasks: int,
    *,
    n_studies: int,
    right: float,
    discordant: float,
    run: float = 0.0,
    rng: np.random.Generator,
) -> np.ndarray:
    """Right after KD less right after SFT on the same items, -1, 0 or 1: studies x tasks x items.

    Both are right with probability `right`, on one of the two alone with `discordant`, half of it each. With
    `run`, the true difference of a study has that standard deviation (of its training seed), in points.
    """
    # The difference is that of two shares which move against each other, so that each moves by half.
    shift = np.clip(run / 200 * rng.normal(size=(n_studies, 1, 1)), -discordant / 2, discordant / 2)
    if discordant / 2 > min(right, 1 - right):
        raise ValueError(f"discordant={discordant:g} is too much: both runs are right with {right:g}")
    draw = rng.random((n_studies, n_tasks, n_items))
    better, worse = discordant / 2 + shift, discordant / 2 - shift
    return (draw < better).astype(float) - ((draw >= better) & (draw < better + worse))


def bleu_items(n_studies: int, n_items: int, *, rng: np.random.Generator) -> np.ndarray:
    """Counts that corpus BLEU adds up (comparison.bleu_counts) of two runs: studies x 2 x items x 10.

    An item has a length and a likeness of its own, the same for both runs, whose texts differ by chance.
    Matches of higher orders are parts of those of lower ones.
    """
    shape = (n_studies, 2, n_items)
    reference = np.broadcast_to(8 + rng.poisson(40, size=(n_studies, 1, n_items)), shape)
    length = np.maximum(8, reference + rng.integers(-6, 7, size=shape))
    likeness = np.broadcast_to(rng.beta(6, 3, size=(n_studies, 1, n_items)), shape)
    totals = np.stack([length - order for order in range(4)], axis=-1)
    matches, possible = [], np.minimum(length, reference)
    for order in range(4):
        possible = rng.binomial(np.minimum(possible, length - order), likeness)
        matches.append(possible)
    return np.concatenate([length[..., None], reference[..., None], np.stack(matches, -1), totals], axis=-1)
