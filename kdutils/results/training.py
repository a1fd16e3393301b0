"""How a student is trained: where it starts, and what it forgets when a second domain follows.

Where it starts: KD from the model as it is, or after SFT, with as many sequences in all. Forgetting: a
student learns one domain, then the other; what it keeps of the first is compared at equal accuracy on the
second, as frontiers over the strength of what holds it back (results.forgetting).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from kdutils.data import sources
from kdutils.grid.arms import first_teacher
from kdutils.grid.plan import Plan
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import arms, forgetting
from kdutils.results.arms import RUN, by_arm, estimated, less, levels_alike
from kdutils.runs import store
from kdutils.spec import RunSpec

STARTS = "starts"  # names of the studies of arms
ORDERS = ("math_first", "commonsense_first")
NEAR = 0.99  # a validation loss is near the final one where that is at least this share of it


def starts(items: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """A row a start x method x measure: arm, method, measure, value (right, same: percent), low, high."""
    rows = []
    for name, level in levels_alike(items, ("right", "same", "bleu", "nll"), seed=seed).items():
        found = by_arm(100 * level if name in ("right", "same") else level)
        rows += [(*cell, name, *estimated(found[cell]).bounds) for cell in found]
    return pd.DataFrame(rows, columns=["arm", "method", "measure", "value", "low", "high"])


def tokens_until_near(plan: Plan, study: str) -> pd.DataFrame:
    """How many target tokens a training takes until its validation loss is near its final one.

    RUN and `tokens`: until the end of the first epoch whose loss, times NEAR, is at most that of the last.
    An epoch of the SFT that it starts from can be the first, where the weights were kept as they were.
    """
    rows = []
    for run, _ in arms.finals(plan, study):
        spec = sources.resolved(run.spec)
        before, n_before = _curve(plan, spec.start_spec) if spec.start_spec else ([], 0)
        ends, _ = _curve(plan, spec, n_before)
        last = ends[-1][1] if ends else np.nan
        ends = ends if spec.shrink < 1 or spec.perturb else before + ends
        until = next((tokens for tokens, loss in ends if NEAR * loss <= last), np.nan)
        rows.append(arms.named(run.cell, run.spec) | {"tokens": until})
    return pd.DataFrame(rows, columns=[*RUN, "tokens"])


def _curve(plan: Plan, spec: RunSpec, n_before: int = 0) -> tuple[list[tuple[int, float]], int]:
    """Tokens so far and the validation loss at the end of each epoch, and all tokens."""
    found, tokens = [], n_before
    for entry in store.folder_of(plan.out, spec.run_id).curve():
        tokens += entry.get("n_tokens", 0)
        if entry.get("validation_loss") is not None:
            found.append((tokens, entry["validation_loss"]))
    return found, tokens


def kept(plan: Plan) -> pd.DataFrame:
    """Students of two domains in turn, a row a finished run: arm, then the columns of forgetting.read."""
    tables = []
    for run, second in (each for order in ORDERS for each in arms.finals(plan, order)):
        spec = sources.resolved(run.spec)
        teacher = sources.resolved(first_teacher(run))
        asked = (each.evaluation for each in plan.asked if each.spec == run.spec)
        first = next(each for each in asked if not set(each.tasks) & set(second.tasks))
        how = {spec.first_domain: first, spec.domain: second}
        tables.append(forgetting.read(plan.out, [(spec, teacher)], how).assign(arm=run.cell.arm))
    names = ["arm", *forgetting.POINT, "seed", *forgetting.MEASURES]
    return pd.concat(tables, ignore_index=True)[names] if tables else pd.DataFrame(columns=names)


# --- what was declared --------------------------------------------------------------------------------------

AFTER = ("fkl", "revkd", "gkd")  # methods over which contrasts of starts are means
APART = {  # contrast -> what is compared, of which two arms
    "R4": ("bleu", "after_sft", "from_base"),
    "R5": ("nll", "after_half", "after_sft"),
    "R6": ("nll", "shrunk", "after_sft"),
    "R7": ("nll", "after_wrong", "after_sft"),
}
PLAIN = "plain"  # the arm without anything that holds it back
L2_SP = ("l2_sp_weak", "l2_sp", "l2_sp_strong")
INTERVALS = ("intervals_weak", "intervals", "intervals_strong")


def contrasts(items: pd.DataFrame, in_turn: pd.DataFrame, *, seed: int) -> dict[str, Estimate | str]:
    """R4 to R10 of claims.toml, each with its interval, or why there is none.

    Takes arms.items of STARTS, and `kept`. Intervals of R8 to R10: Student's t over orders x seeds.
    """
    found: dict[str, Estimate | str] = {f"R{place}": arms.NO_STUDY for place in range(4, 11)}
    if len(items):
        alike = levels_alike(items, ("bleu", "nll"), seed=seed)
        of_arms = {name: by_arm(level) for name, level in alike.items()}
        found |= {name: less(of_arms[value], *pair, AFTER) for name, (value, *pair) in APART.items()}
        found = arms.counted(found, items)
    if len(in_turn):
        points = {method: in_turn[in_turn["method"] == method] for method in ("sft", "fkl")}
        fkl, held = points["fkl"], (PLAIN, *L2_SP)
        found["R8"] = _gap(_of(fkl, held), _of(points["sft"], held))
        found["R9"] = _gap(_of(fkl, (PLAIN, *INTERVALS)), _of(fkl, held))
        plain = in_turn[in_turn["arm"] == PLAIN]
        learned = (plain["before"] - plain["guessed_before"]).where(lambda points: points > 0)
        kept_N = plain["after"] - plain["guessed"]  # guessing is not kept
        share = 100 * (kept_N / learned - plain["bleu"] / plain["bleu_before"])
        found["R10"] = intervals.mean_interval(share.groupby([plain["first_domain"], plain["seed"]]).mean())
    return found


def _of(points: pd.DataFrame, names: Collection[str]) -> pd.DataFrame:
    return points[points["arm"].isin(names)]


def _gap(one: pd.DataFrame, other: pd.DataFrame) -> Estimate | str:
    """How far one frontier lies above another, a mean over orders x seeds that have both."""
    places = ["first_domain", "seed"]
    parts = [dict(iter(points.groupby(places))) for points in (one, other)]
    shared: Iterable = parts[0].keys() & parts[1].keys()
    if not shared:
        return arms.NO_STUDY
    return intervals.mean_interval([forgetting.gap(parts[0][key], parts[1][key]) for key in sorted(shared)])
