"""How often procedures err on imagined studies whose truth is known: the parts of notebook 10.

Each part gives Outcomes of procedures as the study calls them. Slow ones see fewer studies (SLOW, SLOWER).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.constants import TASKS, TEST_ITEMS
from kdutils.inference import intervals, simulated_studies, student_tests, vectorised
from kdutils.inference.size_effects import empirical_logit

LEVEL, CONFIDENCE = 0.05, 0.95
MARGIN = 2.0  # points, of equivalence
SLOW, SLOWER = 5, 10  # one study in so many, for procedures that take milliseconds, and tens of them
N_PERMUTATIONS = 999  # where not all orders are counted
EQUAL_LOGIT_GAIN = 0.3  # about 6 points in the middle of the scale
FIXED_TEACHER = simulated_studies.EFFECTS._replace(
    teacher=0.0
)  # of one teacher nothing can be said but of this one


class Outcome(NamedTuple):
    """How often a procedure rejected a true null, or its interval held the truth."""

    procedure: str
    null: str
    quantity: str  # size: share of studies with p <= nominal; coverage: share of intervals with the truth
    nominal: float
    hits: int
    n_simulations: int


def size(procedure: str, null: str, p_values: Iterable[float], *, nominal: float = LEVEL) -> Outcome:
    """How often a test rejects; an undefined p rejects nothing."""
    p_values = np.asarray(list(p_values), dtype=float)
    return Outcome(procedure, null, "size", nominal, int((p_values <= nominal).sum()), len(p_values))


def coverage(
    procedure: str,
    null: str,
    bounds: Iterable[tuple[float, float]],
    *,
    truth: float,
    nominal: float = CONFIDENCE,
) -> Outcome:
    """How often an interval holds the truth, of those that are defined."""
    low, high = np.asarray(list(bounds), dtype=float).reshape(-1, 2).T
    is_defined = np.isfinite(low) & np.isfinite(high)
    hits = is_defined & (low <= truth) & (truth <= high)
    return Outcome(procedure, null, "coverage", nominal, int(hits.sum()), int(is_defined.sum()))


def bounds_of(estimates: Iterable) -> list[tuple[float, float]]:
    """Low and high of intervals, whatever their class."""
    return [(interval.low, interval.high) for interval in estimates]


def _student_worlds(n: int, rng: np.random.Generator, **how) -> dict[str, simulated_studies.Studies]:
    """Layouts in which no student gains, by the name of the null."""
    released = simulated_studies.released_pairs()
    return {
        "4 students": simulated_studies.imagine(
            simulated_studies.one_teacher(4), n, rng=rng, effects=FIXED_TEACHER, **how
        ),
        "11 students": simulated_studies.imagine(
            simulated_studies.one_teacher(11), n, rng=rng, effects=FIXED_TEACHER, **how
        ),
        "shared baselines": simulated_studies.imagine(released, n, rng=rng, **how),
        "student effects": simulated_studies.imagine(
            released, n, rng=rng, effects=simulated_studies.EFFECTS, **how
        ),
    }


def means(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of the mean gain, which is 0: over cells, pairs and students."""
    found: list[Outcome] = []
    for null, studies in _student_worlds(n, rng).items():
        cells, of_students = studies.cells, studies.student_means
        pairs = studies.gains.mean(axis=3)[:, :, 0]
        by_cell, by_pair = vectorised.mean_tests(cells), vectorised.mean_tests(pairs)
        found += [
            size("t-test > 0 over cells (authors)", null, by_cell.p_greater),
            coverage("t interval over cells", null, by_cell.bounds, truth=0.0),
            coverage("t interval over pairs", null, by_pair.bounds, truth=0.0),
        ]
        families = studies.layout.families
        for words, blocks in (("", None), (", family fixed", families)):
            if blocks is None or len(set(blocks)) > 1:
                tested = vectorised.mean_tests(of_students, blocks=blocks)
                found.append(size(f"t-test of students{words}", null, tested.p_value))
                found.append(coverage(f"t-test of students{words}", null, tested.bounds, truth=0.0))
        flips = [student_tests.sign_flip(row, rng=rng, n_permutations=N_PERMUTATIONS) for row in of_students]
        found.append(size("sign flips of students", null, [flip.p_value for flip in flips]))
        n_slow = n // SLOW
        shifted = [student_tests.equivalence(row + MARGIN, margin=MARGIN) for row in of_students[:n_slow]]
        found.append(size("equivalence at the margin", null, [result.p_value for result in shifted]))
        how = {"levels": ["student", "run"], "rng": rng}
        tables = [_table(studies, index) for index in range(n_slow)]
        drawn = [student_tests.cluster_bootstrap(table, "gain", **how) for table in tables]
        found.append(coverage("bootstrap of students and runs", null, bounds_of(drawn), truth=0.0))
    return found


def _table(studies: simulated_studies.Studies, index: int) -> pd.DataFrame:
    """Cells of one study: student, run, gain."""
    students = studies.cell_students
    columns = {"student": students, "run": np.arange(len(students)), "gain": studies.cells[index]}
    return pd.DataFrame(columns)


def comparisons(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of methods and tasks that do not differ, and of the mixed model."""
    found: list[Outcome] = []
    kinds = {"": "p_value", ", corrected": "p_corrected", ", Friedman": "friedman_p"}
    for null, studies in _student_worlds(n, rng).items():
        by_method = [
            studies.gains.mean(axis=3)[:, :, method] for method in range(simulated_studies.N_METHODS)
        ]
        found.append(
            size("ANOVA of methods over cells (authors)", null, vectorised.anova_p_values(by_method))
        )
        by_task = studies.by_student(axis=3)
        for within, values in (("methods", studies.by_student(axis=2)), ("tasks", by_task)):
            p_values = vectorised.repeated_measures_p_values(values)
            for words, name in kinds.items():
                found.append(size(f"repeated measures, {within}{words}", null, p_values[name]))
        if null in ("11 students", "student effects"):  # a fit takes 25 ms
            fits = [student_tests.mixed_gain(_by_task(values)) for values in by_task[: n // SLOWER]]
            found.append(coverage("mixed model of students and tasks", null, bounds_of(fits), truth=0.0))
    return found


def _by_task(values: np.ndarray) -> pd.DataFrame:
    """Gains of one study, students x tasks, as rows."""
    rows = pd.DataFrame(values).rename_axis(index="student", columns="task").stack()
    return rows.rename("gain").reset_index()


def correlations(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of gain and size, which have nothing to do with one another but what equal logit gains bring about."""
    worlds = _student_worlds(n, rng)
    equal = {"rng": rng, "logit_gain": EQUAL_LOGIT_GAIN}
    worlds["equal logit gains"] = simulated_studies.imagine(simulated_studies.released_pairs(), n, **equal)
    found: list[Outcome] = []
    for null, studies in worlds.items():
        cells, sizes, layout = studies.cells, studies.cell_sizes, studies.layout
        rho, p_values = vectorised.spearman_tests(cells, sizes)
        found.append(size("Spearman of gain and size over cells (authors)", null, p_values))
        if null != "equal logit gains":  # of points, where the truth is not 0
            bounds = [intervals.spearman_interval(one, len(sizes)) for one in rho]
            found.append(coverage("Spearman interval over cells", null, bounds_of(bounds), truth=0.0))
            pearson = [float(np.corrcoef(row, np.log(sizes))[0, 1]) for row in cells]
            bounds = [intervals.pearson_interval(r, len(sizes)) for r in pearson]
            found.append(coverage("Pearson interval over cells", null, bounds_of(bounds), truth=0.0))
        # Of student means, as inference.cluster_permutation makes them of cells.
        has_families = len(set(layout.families)) > 1
        how = {"blocks": layout.families if has_families else None, "n_permutations": N_PERMUTATIONS}
        means = studies.student_means
        orders = [student_tests.rank_permutation(layout.sizes, row, rng=rng, **how) for row in means]
        name = "orders of students within families" if has_families else "orders of students"
        found.append(size(name, null, [result.p_value for result in orders]))
        found += _at_same_sft_accuracy(null, studies)
        found += _equal_gains(null, studies, n // SLOW, rng)
    return found


def _at_same_sft_accuracy(null: str, studies: simulated_studies.Studies) -> list[Outcome]:
    """Of the size effect at the same SFT accuracy; its truth is 0 on a scale on which gains are equal."""
    items = np.array([TEST_ITEMS[task] for task in studies.tasks])
    layout, found = studies.layout, []
    for scale in ("points", "logit"):
        kd, sft = studies.kd, studies.sft
        if scale == "logit":
            kd, sft = empirical_logit(kd, items), empirical_logit(sft, items)
        by_pair = kd.mean(axis=(2, 3))
        own = {"sizes": layout.sizes, "families": layout.families}
        p_values = vectorised.size_effect_p_values(studies.of_students(by_pair), sft.mean(axis=2), **own)
        found.append(size(f"size at the same SFT accuracy, {scale}", null, p_values))
    return found


def _equal_gains(
    null: str, studies: simulated_studies.Studies, n: int, rng: np.random.Generator
) -> list[Outcome]:
    """Of the null of equal gains: each student's first run, as the null imagines one."""
    first = [int(np.flatnonzero(studies.layout.students == s)[0]) for s in range(studies.layout.n_students)]
    both = np.stack([studies.sft, studies.kd[:, first, 0, :]], axis=-1)[:n]
    items = np.array([TEST_ITEMS[task] for task in studies.tasks])
    found = []
    for scale in ("logit", "points"):
        how = {"scale": scale, "rng": rng, "n_simulations": 199}
        tested = [student_tests.null_of_equal_gain(one, items, studies.layout.sizes, **how) for one in both]
        p_values = [result.observed.p_value for result in tested]
        found.append(size(f"against equal gains, {scale}", null, p_values))
    return found


def many_tests(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Any rejection among the correlations of gain and size on the 14 tasks, with and without correction."""
    found = []
    both = {"domains": ("math", "commonsense")}
    for null, studies in _student_worlds(n, rng, **both).items():
        by_task = studies.gains.reshape(n, -1, len(TASKS))
        columns = [
            vectorised.spearman_tests(by_task[..., t], studies.cell_sizes)[1] for t in range(len(TASKS))
        ]
        found += _any(null, "Spearman over cells (authors)", np.stack(columns, axis=1))
        if null == "11 students":
            orders = [_orders_of_tasks(studies, index, rng) for index in range(n // SLOW)]
            found += _any(null, "orders of students", np.array(orders))
    return found


def _any(null: str, what: str, p_values: np.ndarray) -> list[Outcome]:
    """Of any rejection among tests, studies x tests: uncorrected, by Holm, and by Benjamini and Hochberg."""
    name, smallest = f"any of {p_values.shape[1]} {what}", p_values.min(axis=1)
    discoveries = scipy.stats.false_discovery_control(p_values, axis=1)
    return [
        size(name, null, smallest),
        size(f"{name}, Holm", null, smallest * p_values.shape[1]),  # his smallest adjusted p
        size(f"{name}, Benjamini-Hochberg", null, discoveries.min(axis=1)),
    ]


def _orders_of_tasks(studies: simulated_studies.Studies, index: int, rng: np.random.Generator) -> list[float]:
    by_task, sizes = studies.by_student(axis=3)[index].T, studies.layout.sizes
    how = {"rng": rng, "n_permutations": N_PERMUTATIONS}
    return [student_tests.rank_permutation(sizes, row, **how).p_value for row in by_task]


def points(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of correlations over 11 independent points, the textbook case."""
    found = []
    for rho in (0.0, 0.5):
        null = "independent points" if rho == 0 else f"independent points, r = {rho:g}"
        x, noise = rng.normal(size=(2, n, 11))
        y = rho * x + math.sqrt(1 - rho**2) * noise
        pearson = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(x, y, strict=True)]
        bounds = [intervals.pearson_interval(r, 11) for r in pearson]
        found.append(coverage("Pearson interval", null, bounds_of(bounds), truth=rho))
        ranked = [intervals.spearman(a, b) for a, b in zip(x, y, strict=True)]
        bounds = [intervals.spearman_interval(result.statistic, 11) for result in ranked]
        truth = 6 / math.pi * math.asin(rho / 2)  # of ranks of a normal pair
        found.append(coverage("Spearman interval", null, bounds_of(bounds), truth=truth))
        if rho == 0:
            found.append(size("Spearman, p by t", null, [result.p_value for result in ranked]))
    return found


PARTS: dict[str, Callable[[int, np.random.Generator], list[Outcome]]] = {
    "means": means,
    "comparisons": comparisons,
    "correlations": correlations,
    "many tests": many_tests,
    "points": points,
}
