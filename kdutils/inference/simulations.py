"""How often procedures err on imagined studies whose truth is known: the parts of notebook 10.

Each part gives Outcomes of procedures as the study calls them. Slow ones see fewer studies (SLOW, SLOWER).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from kdutils.constants import MATH_TASKS, TASKS, TEST_ITEMS
from kdutils.inference import intervals, resampling, size_effects, student_tests
from kdutils.inference.estimate import CONFIDENCE, Estimate
from kdutils.inference.simulated_studies import (
    EFFECTS,
    NO_EFFECTS,
    Studies,
    bleu_items,
    imagine,
    one_teacher,
    paired_differences,
    released_pairs,
)

LEVEL = 0.05
MARGIN = 2.0  # points, of equivalence
SLOW, SLOWER = 5, 10  # one study in so many, for procedures that take milliseconds, and tens of them
N_PERMUTATIONS = 999  # where not all orders are counted
SHARES = {"half right": 0.5, "1 in 20 right": 0.05, "1 in 200 right": 0.005}  # truth by the name of the null
N_ITEMS = TEST_ITEMS["aqua"]  # the smallest test set
FEW_ITEMS = 8  # of each task, in the smallest profile
N_TEXTS = 100  # of a corpus for BLEU
EQUAL_LOGIT_GAIN = 0.3  # about 6 points in the middle of the scale
FIXED_TEACHER = EFFECTS._replace(teacher=0.0)  # of one teacher nothing can be said but of this one


class Outcome(NamedTuple):
    """How often a procedure rejected a true null, or its interval held the truth."""

    procedure: str
    null: str
    quantity: str  # size: share of studies with p <= nominal; coverage: share of intervals with the truth
    nominal: float
    hits: int
    n_simulations: int


def size(procedure: str, null: str, tests: Iterable) -> Outcome:
    """How often a test rejects, of p-values or of results that have one; an undefined p rejects nothing."""
    p_values = np.array([getattr(test, "p_value", test) for test in tests], dtype=float)
    return Outcome(procedure, null, "size", LEVEL, int((p_values <= LEVEL).sum()), len(p_values))


def coverage(procedure: str, null: str, intervals: Iterable, *, truth: float = 0.0) -> Outcome:
    """How often an interval (bounds, or an Estimate) holds the truth, of those that are defined."""
    bounds = [(each.low, each.high) if hasattr(each, "low") else each for each in intervals]
    low, high = np.asarray(bounds, dtype=float).reshape(-1, 2).T
    is_defined = np.isfinite(low) & np.isfinite(high)
    hits = is_defined & (low <= truth) & (truth <= high)
    return Outcome(procedure, null, "coverage", CONFIDENCE, int(hits.sum()), int(is_defined.sum()))


def _student_worlds(n: int, rng: np.random.Generator, **how) -> dict[str, Studies]:
    """Layouts in which no student gains, by the name of the null."""
    released = released_pairs()
    return {
        "4 students": imagine(one_teacher(4), n, rng=rng, effects=FIXED_TEACHER, **how),
        "11 students": imagine(one_teacher(11), n, rng=rng, effects=FIXED_TEACHER, **how),
        "shared baselines": imagine(released, n, rng=rng, **how),
        "student effects": imagine(released, n, rng=rng, effects=EFFECTS, **how),
    }


def means(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of the mean gain, which is 0: over cells, pairs and students."""
    for null, studies in _student_worlds(n, rng).items():
        cells, of_students = studies.cells, studies.student_means
        pairs = studies.gains.mean(axis=3)[:, :, 0]
        by_cell, by_pair = student_tests.mean_tests(cells), student_tests.mean_tests(pairs)
        yield size("t-test > 0 over cells (authors)", null, by_cell.p_greater)
        yield coverage("t interval over cells", null, by_cell.bounds)
        yield coverage("t interval over pairs", null, by_pair.bounds)
        families = studies.layout.families
        for words, blocks in (("", None), (", family fixed", families)):
            if blocks is None or len(set(blocks)) > 1:
                tested = student_tests.mean_tests(of_students, blocks=blocks)
                yield size(f"t-test of students{words}", null, tested.p_value)
                yield coverage(f"t-test of students{words}", null, tested.bounds)
        flips = [resampling.sign_flip(row, rng=rng, n_permutations=N_PERMUTATIONS) for row in of_students]
        yield size("sign flips of students", null, flips)
        n_slow = n // SLOW
        shifted = [student_tests.equivalence(row + MARGIN, margin=MARGIN) for row in of_students[:n_slow]]
        yield size("equivalence at the margin", null, shifted)
        drawn = [resampling.cluster_bootstrap(row, studies.cell_students, rng=rng) for row in cells[:n_slow]]
        yield coverage("bootstrap of students and runs", null, drawn)


def comparisons(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of methods and tasks that do not differ, and of the mixed model."""
    kinds = {"": "plain", ", corrected": "corrected", ", Friedman": "friedman"}
    for null, studies in _student_worlds(n, rng).items():
        by_method = np.moveaxis(studies.gains.mean(axis=3), 2, 0)
        p_values = scipy.stats.f_oneway(*by_method, axis=1).pvalue
        yield size("ANOVA of methods over cells (authors)", null, p_values)
        by_task = studies.by_student(axis=3)
        for within, values in (("methods", studies.by_student(axis=2)), ("tasks", by_task)):
            p_values = student_tests.repeated_measures_tests(values)
            for words, name in kinds.items():
                yield size(f"repeated measures, {within}{words}", null, p_values[name])
        if null in ("11 students", "student effects"):  # a fit takes 25 ms
            fits = [student_tests.mixed_gain(_rows(values)) for values in by_task[: n // SLOWER]]
            yield coverage("mixed model of students and tasks", null, fits)


def _rows(by_task: np.ndarray) -> pd.DataFrame:
    """Gains of one study, students x tasks, as rows."""
    wide = pd.DataFrame(by_task).rename_axis(index="student", columns="task")
    return wide.stack().rename("gain").reset_index()


def correlations(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of gain and size, which have nothing to do with one another but what equal logit gains bring about."""
    worlds = _student_worlds(n, rng)
    worlds["equal logit gains"] = imagine(released_pairs(), n, rng=rng, logit_gain=EQUAL_LOGIT_GAIN)
    for null, studies in worlds.items():
        cells, sizes, layout = studies.cells, studies.cell_sizes, studies.layout
        rho, p_values = size_effects.spearman_tests(cells, sizes)
        yield size("Spearman of gain and size over cells (authors)", null, p_values)
        if null != "equal logit gains":  # of points, where the truth is not 0
            ranked = [intervals.spearman_interval(one, len(sizes)) for one in rho]
            yield coverage("Spearman interval over cells", null, ranked)
            yield coverage("Pearson interval over cells", null, _pearson(cells, [np.log(sizes)] * n))
        # Of student means, as resampling.cluster_permutation makes them of cells.
        has_families = len(set(layout.families)) > 1
        how = {"blocks": layout.families if has_families else None, "n_permutations": N_PERMUTATIONS}
        means = studies.student_means
        orders = [resampling.rank_permutation(layout.sizes, row, rng=rng, **how) for row in means]
        name = "orders of students within families" if has_families else "orders of students"
        yield size(name, null, orders)
        yield from _at_same_sft_accuracy(null, studies)
        yield from _equal_gains(null, studies, n // SLOW, rng)


def _pearson(x: Iterable[np.ndarray], y: Iterable[np.ndarray]) -> list[Estimate]:
    """The correlation of each two rows with its interval."""
    pairs = zip(x, y, strict=True)
    return [intervals.pearson_interval(float(np.corrcoef(a, b)[0, 1]), len(a)) for a, b in pairs]


def _at_same_sft_accuracy(null: str, studies: Studies) -> Iterator[Outcome]:
    """Of the size effect at the same SFT accuracy; its truth is 0 on a scale on which gains are equal."""
    items = np.array([TEST_ITEMS[task] for task in studies.tasks])
    own = {"sizes": studies.layout.sizes, "families": studies.layout.families}
    logits = [size_effects.empirical_logit(each, items) for each in (studies.kd, studies.sft)]
    for scale, (kd, sft) in {"points": (studies.kd, studies.sft), "logit": logits}.items():
        by_student = studies.of_students(kd.mean(axis=(2, 3)))
        found, _ = size_effects.size_slopes(by_student, sft.mean(axis=2), **own)
        yield size(f"size at the same SFT accuracy, {scale}", null, found.p_value)


def _equal_gains(null: str, studies: Studies, n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of the null of equal gains: each student's first run, as the null imagines one."""
    first = [int(np.flatnonzero(studies.layout.students == s)[0]) for s in range(studies.layout.n_students)]
    both = np.stack([studies.sft, studies.kd[:, first, 0, :]], axis=-1)[:n]
    items = np.array([TEST_ITEMS[task] for task in studies.tasks])
    for scale in ("logit", "points"):
        how = {"scale": scale, "rng": rng, "n_simulations": 199}
        tested = [size_effects.null_of_equal_gain(one, items, studies.layout.sizes, **how) for one in both]
        yield size(f"against equal gains, {scale}", null, [one.observed for one in tested])


def many_tests(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Any rejection among the correlations of gain and size on the 14 tasks, with and without correction."""
    for null, studies in _student_worlds(n, rng, domains=("math", "commonsense")).items():
        by_task = np.moveaxis(studies.gains.reshape(n, -1, len(TASKS)), 2, 0)
        p_values = [size_effects.spearman_tests(one, studies.cell_sizes)[1] for one in by_task]
        yield from _any(null, "Spearman over cells (authors)", np.stack(p_values, axis=1))
        if null == "11 students":
            rows = np.moveaxis(studies.by_student(axis=3)[: n // SLOW], 2, 1)  # study, task, student
            how = {"rng": rng, "n_permutations": N_PERMUTATIONS}
            flat = rows.reshape(-1, studies.layout.n_students)
            orders = [resampling.rank_permutation(studies.layout.sizes, row, **how).p_value for row in flat]
            yield from _any(null, "orders of students", np.reshape(orders, rows.shape[:2]))


def _any(null: str, what: str, p_values: np.ndarray) -> Iterator[Outcome]:
    """Of any rejection among tests, studies x tests: uncorrected, by Holm, and by Benjamini and Hochberg."""
    name, smallest = f"any of {p_values.shape[1]} {what}", p_values.min(axis=1)
    discoveries = scipy.stats.false_discovery_control(p_values, axis=1)
    yield size(name, null, smallest)
    yield size(f"{name}, Holm", null, smallest * p_values.shape[1])  # his smallest adjusted p
    yield size(f"{name}, Benjamini-Hochberg", null, discoveries.min(axis=1))


def points(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of correlations over 11 independent points, the textbook case."""
    for rho in (0.0, 0.5):
        null = "independent points" if rho == 0 else f"independent points, r = {rho:g}"
        x, noise = rng.normal(size=(2, n, 11))
        y = rho * x + math.sqrt(1 - rho**2) * noise
        yield coverage("Pearson interval", null, _pearson(x, y), truth=rho)
        ranked = [intervals.spearman(a, b) for a, b in zip(x, y, strict=True)]
        truth = 6 / math.pi * math.asin(rho / 2)  # of ranks of a normal pair
        around = [intervals.spearman_interval(result.statistic, 11) for result in ranked]
        yield coverage("Spearman interval", null, around, truth=truth)
        if rho == 0:
            yield size("Spearman, p by t", null, ranked)


def shares(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of a share of right answers among the items of one task."""
    for null, truth in SHARES.items():
        hits = rng.binomial(N_ITEMS, truth, size=n)
        exact = [intervals.share_interval(int(count), N_ITEMS) for count in hits]
        yield coverage("share, Clopper-Pearson", null, exact, truth=100 * truth)
        share = hits / N_ITEMS
        errors = 100 * np.sqrt(share * (1 - share) / N_ITEMS)  # cells.accuracy_se
        runs = pd.DataFrame({"accuracy": 100 * share, "accuracy_se": errors})
        wald = intervals.accuracy_intervals(runs)[["low", "high"]].to_numpy()
        yield coverage("accuracy, normal", null, wald, truth=100 * truth)


def paired(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of two runs on the same items of six tasks that differ by chance, or by their training seeds."""
    n = max(n // SLOW, 1)
    real = [TEST_ITEMS[task] for task in MATH_TASKS]
    usual = {"right": 0.6, "discordant": 0.2}
    worlds = {
        "math items": (real, usual),
        "8 items a task, near the ceiling": ([FEW_ITEMS] * 6, {"right": 0.97, "discordant": 0.04}),
        "math items, seeds vary": (real, usual | {"run": EFFECTS.run}),
    }
    for null, (items, world) in worlds.items():
        drawn = paired_differences(max(items), len(items), n_studies=n, rng=rng, **world)
        tasks = np.repeat(np.arange(len(items)), items)
        values = [np.concatenate([row[:k] for row, k in zip(one, items, strict=True)]) for one in drawn]
        tested = [intervals.difference_over_items(one, tasks) for one in values]
        yield coverage("difference over items", null, tested)
        yield size("difference over items", null, tested)
        exact = [student_tests.mcnemar(one > 0, one < 0) for one in values]  # where both agree says nothing
        yield size("McNemar over all items", null, exact)
        if "run" not in world:
            right = rng.random((n, len(tasks))) < world["right"]
            means = [intervals.mean_over_items(one, tasks) for one in right]
            truth = 100 * world["right"]
            yield coverage("mean over items", null, means, truth=truth)


def baselines(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of a student's mean gain on a task over its runs, which share the SFT accuracy."""
    for null, effects in (("shared baselines", NO_EFFECTS), ("student effects", EFFECTS)):
        studies = imagine(released_pairs(), n, rng=rng, effects=effects)
        rows = _runs_of_one_student(studies, student=0)
        bounds = intervals.gain_intervals(rows, by=["student", "task"])[["low", "high"]].to_numpy()
        yield coverage("gain of a student on a task", null, bounds)


def _runs_of_one_student(studies: Studies, *, student: int) -> pd.DataFrame:
    """What gain_intervals takes: runs of a student on the first task; each study stands as a student."""
    kd = studies.kd[..., 0][:, studies.layout.students == student].reshape(len(studies.kd), -1)
    sft = np.broadcast_to(studies.sft[:, [student], 0], kd.shape)
    items = TEST_ITEMS[studies.tasks[0]]
    columns = {"student": np.repeat(np.arange(len(kd)), kd.shape[1]), "task": studies.tasks[0]}
    columns |= {"gain": (kd - sft).ravel()}
    for name, values in (("accuracy_se", kd), ("sft_accuracy_se", sft)):
        columns[name] = np.sqrt(values * (100 - values) / items).ravel()
    return pd.DataFrame(columns).assign(seed_se=np.nan, sft_seed_se=np.nan)


def texts(n: int, rng: np.random.Generator) -> Iterator[Outcome]:
    """Of the rise of corpus BLEU between two runs that are alike."""
    n = max(n // SLOW, 1)
    counts = bleu_items(n, N_TEXTS, rng=rng)
    sums = counts.sum(axis=2)
    rises = np.diff(intervals.bleu(sums))[:, 0]  # KD less SFT
    left_out = np.diff(intervals.bleu(sums[:, :, None] - counts), axis=1)[:, 0]
    tested = [intervals.jackknife([rise], [each]) for rise, each in zip(rises, left_out, strict=True)]
    null = f"{N_TEXTS} texts alike"
    yield coverage("BLEU rise, jackknife", null, tested)
    yield size("BLEU rise, jackknife", null, tested)


PARTS: dict[str, Callable[[int, np.random.Generator], Iterable[Outcome]]] = {
    "means": means,
    "comparisons": comparisons,
    "correlations": correlations,
    "many tests": many_tests,
    "points": points,
    "shares": shares,
    "paired items": paired,
    "shared items": baselines,
    "texts": texts,
}
