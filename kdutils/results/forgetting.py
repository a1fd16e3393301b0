"""Two domains in turn: what the second costs the first, in accuracy and in likeness to its teacher."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from kdutils.grid.cell_table import short_name
from kdutils.runs import comparison, store
from kdutils.spec import EvalSpec, RunSpec

ARM = ["student", "first_domain", "domain", "method", "adapter", "penalty", "replay_share"]
POINT = [*ARM, "penalty_strength"]
MEASURES = ["before", "after", "forgetting", "second"]  # accuracies, points lost of the first
MEASURES += ["guessed_before", "guessed"]  # of `before` and `after`, what guessing at each answer would reach
MEASURES += ["agreement_before", "agreement", "bleu_before", "bleu"]  # with the first teacher, first domain
GRID = 201  # accuracies at which two frontiers are compared


def read(
    out: Path, runs: Iterable[tuple[RunSpec, RunSpec]], evaluations: dict[str, EvalSpec]
) -> pd.DataFrame:
    """POINT, seed and MEASURES of the runs that are finished and evaluated on both domains.

    Args:
        runs: each with a `first_domain`, and the run of the teacher of that domain (beside an SFT student the
            teacher of the distilled students that it is compared with); both resolved.
        evaluations: of the tasks of each domain.
    """
    table = []
    for spec, first_teacher in runs:
        first, second = evaluations[spec.first_domain], evaluations[spec.domain]
        asked = [(spec.start_spec, first), (spec, first), (spec, second), (first_teacher, first)]
        rows = [store.folder_of(out, each.run_id).evaluation(how) for each, how in asked]
        if all(found is not None for found in rows):
            own = {name: getattr(spec, name) for name in [*POINT, "seed"]}
            table.append(own | {"student": short_name(spec.student)} | measures(*rows))
    return pd.DataFrame(table, columns=[*POINT, "seed", *MEASURES])


def measures(
    before: pd.DataFrame, after: pd.DataFrame, second: pd.DataFrame, first_teacher: pd.DataFrame
) -> dict[str, float]:
    """MEASURES of one student, each a mean over tasks in percent, from item rows.

    Args:
        before, after: of the student on the first domain, before and after the second was learned.
        second: of the student on the second domain, after it.
        first_teacher: of the teacher of the first domain, on that.
    """
    tables = {"before": before, "after": after, "second": second}
    of_tasks = {name: comparison.accuracies(rows) for name, rows in tables.items()}
    found = {name: float(own["accuracy"].mean()) for name, own in of_tasks.items()}
    found["forgetting"] = found["before"] - found["after"]
    for name, when in {"guessed_before": "before", "guessed": "after"}.items():
        answered = 1 - of_tasks[when]["unparsed"] / 100
        found[name] = float((of_tasks[when]["chance"] * answered).mean())
    return found | _likeness(before, first_teacher, "_before") | _likeness(after, first_teacher, "")


def _likeness(student: pd.DataFrame, teacher: pd.DataFrame, suffix: str) -> dict[str, float]:
    both = comparison.paired(student, teacher)
    agreement = comparison.agreements(both, by=["task"])["agreement"].mean()
    tasks = both.groupby("task", sort=False)
    bleu = [comparison.corpus_bleu(own["text"], own["text_teacher"]) for _, own in tasks]
    return {f"agreement{suffix}": float(agreement), f"bleu{suffix}": float(np.mean(bleu))}


def means(table: pd.DataFrame) -> pd.DataFrame:
    """MEASURES of `read` by POINT, means over seeds."""
    return table.groupby(POINT, sort=False)[MEASURES].mean().reset_index()


def curves(points: pd.DataFrame) -> pd.DataFrame:
    """`means` by arm and rising strength; a run without penalty is strength 0 of every one of its method."""
    plain = points[points["penalty"] == ""].drop(columns="penalty")
    arms = points.loc[points["penalty"] != "", ARM].drop_duplicates()
    shared = arms.merge(plain, on=[name for name in ARM if name != "penalty"])
    return pd.concat([points, shared]).sort_values([*ARM, "penalty_strength"], ignore_index=True)


def gap(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Mean height of one frontier above another: accuracy kept on the first domain at equal on the second.

    Takes points of any strengths, with columns `second` and `after`. The height of a frontier at an accuracy
    is the most that a point with at least it has; nothing is interpolated, since no student lies between two
    points. The mean is over accuracies from the lowest point of both to the highest that both reach. NaN
    without points.
    """
    if one.empty or other.empty:
        return float("nan")
    low = min(one["second"].min(), other["second"].min())
    high = min(one["second"].max(), other["second"].max())
    asked = np.linspace(low, high, GRID)
    heights = []
    for points in (one, other):
        second, kept = (points[name].to_numpy()[:, None] for name in ("second", "after"))
        heights.append(np.where(second >= asked, kept, -np.inf).max(0))
    return float((heights[0] - heights[1]).mean())
