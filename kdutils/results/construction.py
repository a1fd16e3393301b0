"""Students of as many stored parameters, made in several ways: narrow, low rank, pruned, shared, hybrid.

How alike a student is to its teacher rises with its accuracy, so likeness is compared at matched accuracy:
what is left of it once the line on accuracy over all students is taken out. Takes rows of results.arms.
Intervals draw test items and training seeds again, the same ones for all that is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdutils.data import sources
from kdutils.grid.arms import Run
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.estimate import Estimate
from kdutils.io import cache, disk
from kdutils.results import arms
from kdutils.results.arms import CELL, at_matched, by_arm, estimated, less, levels_alike
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

BOTH = ("sft", "fkl")  # methods over which contrasts are means
LIKENESS = ("same", "bleu")  # agreement and fidelity
SHOWN = ("right", *LIKENESS, "nll", "forward_kl")
BARRIER = 0.05  # nats a token; regimes have no thresholds in the source
ALIKE = 0.95  # linear CKA
SHARES = ("right", "same")  # shown in percent
LATER = ("converted", "converted_frozen", "converted_distilled")  # store more, and are in no claim


def table(items: pd.DataFrame, scored: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """A row a student x measure: CELL, measure, value, low, high.

    Measures: SHOWN (accuracy, agreement in percent; sentence BLEU; nats a token), `same_matched` and
    `bleu_matched` (at matched accuracy, by the line of all but LATER), and `gap`, of arms.scored_twice,
    points. `seed` draws the resamples.
    """
    found = levels_alike(items, SHOWN, seed=seed)
    found |= {name: 100 * found[name] for name in SHARES}
    for name in LIKENESS:
        found[f"{name}_matched"] = at_matched(found[name], found["right"], apart=LATER)
    if len(scored):
        rng = np.random.default_rng(seed)
        found["gap"] = crossed_bootstrap.group_means(scored, "gap", by=[*CELL, "train_items"], rng=rng)
    rows = [
        (*cell[: len(CELL)], measure, *estimated(of_cells[cell]).bounds)
        for measure, of_cells in found.items()
        for cell in of_cells
    ]
    return pd.DataFrame(rows, columns=[*CELL, "measure", "value", "low", "high"])


# --- density x training of the dense model ------------------------------------------------------------------


def places(plan: Plan) -> pd.DataFrame:
    """arm, density, dense_epochs: of the arms of a plan's study `regimes`."""
    rows, study = [], arms.study_of(plan, "regimes")
    for arm, own in study.arms.items() if study else ():
        fields = study.settings | own
        rows.append((arm, 1 / fields["build_compression"], fields["start_epochs"]))
    return pd.DataFrame(rows, columns=["arm", "density", "dense_epochs"])


def regimes(items: pd.DataFrame, at: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Accuracy of the pruned students, percent: method, density, dense_epochs, accuracy, low, high."""
    accuracy = 100 * by_arm(levels_alike(items, ["right"], seed=seed)["right"])
    rows = [(*cell, *estimated(accuracy[cell]).bounds) for cell in accuracy]
    found = pd.DataFrame(rows, columns=["arm", "method", "accuracy", "low", "high"])
    return found.merge(at, on="arm").drop(columns="arm")


def slopes(items: pd.DataFrame, at: pd.DataFrame, *, seed: int) -> dict[tuple[str, float], pd.Series]:
    """(method, density) -> accuracy gained by twice the dense epochs, points, one a resample; `at`: `places`.

    The slope of a straight line over log2 of the epochs, where every number of epochs is trained.
    """
    accuracy, found = 100 * by_arm(levels_alike(items, ["right"], seed=seed)["right"]), {}
    for density, part in at.groupby("density", sort=False):
        doublings = np.log2(part["dense_epochs"].to_numpy(float))
        weights = doublings - doublings.mean()
        for method in accuracy.columns.unique("method"):
            cells = [(arm, method) for arm in part["arm"]]
            if set(cells) <= set(accuracy.columns) and np.ptp(doublings):
                found[method, density] = accuracy[cells] @ (weights / (weights**2).sum())
    return found


def twins(plan: Plan, at: pd.DataFrame) -> pd.DataFrame:
    """Whether two students that were retrained from one pruned model, on its items in two orders, are alike.

    method, density, dense_epochs, means over seeds of barrier and cka (runs.twins.joined), regime: I with a
    barrier of more than BARRIER, II-A without and with a CKA below ALIKE, else II-B. Takes `places`. The
    study `twins` has arms of the study `regimes`, with an `order_seed`.
    """
    code, rows = cache.code_digest("kdutils.runs.twins"), []
    others = {_who(run): run.spec for run, _ in arms.finals(plan, "twins")}
    for run, how in arms.finals(plan, "regimes"):
        if (who := _who(run)) in others:
            pair = map(sources.resolved, (run.spec, others[who]))
            rows.append({"arm": who[0], "method": who[1]} | _joined(plan.out, *pair, how, code))
    names = ["method", "density", "dense_epochs", "barrier", "cka"]
    if not rows:
        return pd.DataFrame(columns=[*names, "regime"])
    means = pd.DataFrame(rows).groupby(["arm", "method"], sort=False).mean().reset_index()
    found = means.merge(at, on="arm")[names]
    is_connected, is_alike = found["barrier"] >= -BARRIER, found["cka"] >= ALIKE
    return found.assign(regime=np.select([~is_connected, ~is_alike], ["I", "II-A"], "II-B"))


def _who(run: Run) -> tuple[str, str, int]:
    return run.cell.arm, run.spec.method, run.spec.seed


def _joined(out: Path, one: RunSpec, other: RunSpec, how: EvalSpec, code: str) -> dict[str, float]:
    def measured() -> dict[str, float]:
        from kdutils.runs import twins  # torch takes seconds to import

        return twins.joined(out, one, other, how)

    digests = [store.folder_of(out, each.run_id).items_digest(how) for each in (one, other)]
    name = cache.digest([one.run_id, other.run_id, how.eval_id, *digests, code])
    return disk.kept(out / "cache" / "twins" / f"{name}.json", measured)


# --- what was declared --------------------------------------------------------------------------------------

APART = {  # contrast -> what is compared, of which two arms
    "C1": ("bleu_matched", "low_rank", "narrow"),
    "C2": ("nll", "low_rank", "low_rank_plain"),
    "C3": ("bleu_matched", "low_rank_features", "low_rank"),
    "C4": ("right", "low_rank_features", "low_rank"),
    "C5": ("nll", "low_rank_perturbation", "low_rank"),
    "C8": ("right", "shared", "pruned"),
    "C9": ("right", "shared", "narrow"),
}


def contrasts(
    items: pd.DataFrame, regimes: pd.DataFrame, at: pd.DataFrame, scored: pd.DataFrame, *, seed: int
) -> dict[str, Estimate | str]:
    """C1 to C10 of claims.toml, each with its interval, or why there is none.

    Args:
        items, regimes: of the constructions, and of density x dense epochs with its `places`.
        scored: arms.scored_twice of the hybrid students and what they are compared with.
    """
    found: dict[str, Estimate | str] = {f"C{place}": arms.NO_STUDY for place in range(1, 11)}
    if len(items):
        items = items[~items["arm"].isin(LATER)]
        right, nll, bleu = levels_alike(items, ("right", "nll", "bleu"), seed=seed).values()
        of_arms = {"right": 100 * by_arm(right), "nll": by_arm(nll)}
        of_arms["bleu_matched"] = by_arm(at_matched(bleu, right))
        found |= {name: less(of_arms[value], *pair, BOTH) for name, (value, *pair) in APART.items()}
        found = arms.counted(found, items)
    if len(regimes):
        found |= arms.counted(_of_slopes(slopes(regimes, at, seed=seed)), regimes)
    hybrid = scored[scored["student"].str.contains("hybrid") & scored["method"].isin(BOTH)]
    lost = [method for method in BOTH if method not in set(hybrid["method"])]
    if len(hybrid) and lost:
        found["C10"] = f"the hybrid by {lost[0]} is not trained, or void"
    elif len(hybrid) and not hybrid["gap"].any():
        found["C10"] = "every student writes the very option that it ranks first"
    elif len(hybrid):
        rng = np.random.default_rng(seed)
        gaps = crossed_bootstrap.group_means(hybrid, "gap", by=["method"], rng=rng)
        n_items = len(hybrid[arms.ITEM].drop_duplicates())
        found["C10"] = replace(estimated(gaps.mean(axis=1)), n=n_items)
    return found


def _of_slopes(found: Mapping[tuple[str, float], pd.Series]) -> dict[str, Estimate | str]:
    """C6 and C7."""
    high, low = (edge((density for _, density in found), default=math.nan) for edge in (max, min))
    wanted = [(method, density) for method in BOTH for density in (high, low)]
    if high == low or not set(wanted) <= set(found):
        return dict.fromkeys(("C6", "C7"), "not every density and number of dense epochs is trained")
    crossing = sum(found[method, high] - found[method, low] for method in BOTH) / len(BOTH)
    return {"C6": estimated(crossing), "C7": estimated(found["fkl", low] - found["sft", low])}
