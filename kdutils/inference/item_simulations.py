"""How often procedures over test items err, whose truth is known: the other parts of notebook 10."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdutils.constants import MATH_TASKS, TEST_ITEMS
from kdutils.inference import intervals, simulated_studies, student_tests
from kdutils.inference.simulations import PARTS as OF_STUDENTS
from kdutils.inference.simulations import SLOW, Outcome, bounds_of, coverage, size

SHARES = {"half right": 0.5, "1 in 20 right": 0.05, "1 in 200 right": 0.005}  # truth by the name of the null
N_ITEMS = TEST_ITEMS["aqua"]  # the smallest test set
FEW_ITEMS = 8  # of each task, in the smallest profile
N_TEXTS = 100  # of a corpus for BLEU
RUN = simulated_studies.EFFECTS.run


def shares(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of a share of right answers among the items of one task."""
    found = []
    for null, truth in SHARES.items():
        hits = rng.binomial(N_ITEMS, truth, size=n)
        exact = [intervals.share_interval(int(count), N_ITEMS) for count in hits]
        found.append(coverage("share, Clopper-Pearson", null, bounds_of(exact), truth=100 * truth))
        share = hits / N_ITEMS
        errors = 100 * np.sqrt(share * (1 - share) / N_ITEMS)  # cells.accuracy_se
        runs = pd.DataFrame({"accuracy": 100 * share, "accuracy_se": errors})
        wald = intervals.accuracy_intervals(runs)[["low", "high"]].to_numpy()
        found.append(coverage("accuracy, normal", null, wald, truth=100 * truth))
    return found


def paired(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of two runs on the same items of six tasks that differ by chance, or by their training seeds."""
    n = max(n // SLOW, 1)
    real = [TEST_ITEMS[task] for task in MATH_TASKS]
    usual = {"right": 0.6, "discordant": 0.2}
    worlds = {
        "math items": (real, usual),
        "8 items a task, near the ceiling": ([FEW_ITEMS] * 6, {"right": 0.97, "discordant": 0.04}),
        "math items, seeds vary": (real, usual | {"run": RUN}),
    }
    found = []
    for null, (items, world) in worlds.items():
        drawn = simulated_studies.paired_differences(max(items), len(items), n_studies=n, rng=rng, **world)
        tasks = np.repeat(np.arange(len(items)), items)
        values = [np.concatenate([row[:k] for row, k in zip(one, items, strict=True)]) for one in drawn]
        tested = [intervals.difference_over_items(one, tasks) for one in values]
        found.append(coverage("difference over items", null, bounds_of(tested), truth=0.0))
        found.append(size("difference over items", null, [result.p_value for result in tested]))
        exact = [
            student_tests.mcnemar(one > 0, one < 0) for one in values
        ]  # both right or wrong says nothing
        found.append(size("McNemar over all items", null, [result.p_value for result in exact]))
        if "run" not in world:
            right = rng.random((n, len(tasks))) < world["right"]
            means = [intervals.mean_over_items(one, tasks) for one in right]
            truth = 100 * world["right"]
            found.append(coverage("mean over items", null, bounds_of(means), truth=truth))
    return found


def baselines(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of a student's mean gain on a task over its runs, which share the SFT accuracy."""
    found = []
    for null, effects in (
        ("shared baselines", simulated_studies.NO_EFFECTS),
        ("student effects", simulated_studies.EFFECTS),
    ):
        studies = simulated_studies.imagine(simulated_studies.released_pairs(), n, rng=rng, effects=effects)
        rows = _runs_of_one_student(studies, student=0)
        bounds = intervals.gain_intervals(rows, by=["student", "task"])[["low", "high"]].to_numpy()
        found.append(coverage("gain of a student on a task", null, bounds, truth=0.0))
    return found


def _runs_of_one_student(studies: simulated_studies.Studies, *, student: int) -> pd.DataFrame:
    """What gain_intervals takes: runs of a student on the first task; each study stands as a student."""
    own = np.flatnonzero(studies.layout.students == student)
    kd = studies.kd[:, own, :, 0].reshape(len(studies.kd), -1)
    sft = np.broadcast_to(studies.sft[:, [student], 0], kd.shape)
    items = TEST_ITEMS[studies.tasks[0]]
    columns = {"student": np.repeat(np.arange(len(kd)), kd.shape[1]), "task": studies.tasks[0]}
    columns |= {"gain": (kd - sft).ravel()}
    for name, values in (("accuracy_se", kd), ("sft_accuracy_se", sft)):
        columns[name] = np.sqrt(values * (100 - values) / items).ravel()
    return pd.DataFrame(columns).assign(seed_se=np.nan, sft_seed_se=np.nan)


def texts(n: int, rng: np.random.Generator) -> list[Outcome]:
    """Of the rise of corpus BLEU between two runs that are alike."""
    n = max(n // SLOW, 1)
    counts = simulated_studies.bleu_items(n, N_TEXTS, rng=rng)
    sums = counts.sum(axis=2)
    rises = np.diff(intervals.bleu(sums))[:, 0]  # KD less SFT
    left_out = np.diff(intervals.bleu(sums[:, :, None] - counts), axis=1)[:, 0]
    tested = [intervals.jackknife([rise], [each]) for rise, each in zip(rises, left_out, strict=True)]
    null = f"{N_TEXTS} texts alike"
    found = [coverage("BLEU rise, jackknife", null, bounds_of(tested), truth=0.0)]
    return [*found, size("BLEU rise, jackknife", null, [result.p_value for result in tested])]


PARTS = OF_STUDENTS | {"shares": shares, "paired items": paired, "shared items": baselines, "texts": texts}
