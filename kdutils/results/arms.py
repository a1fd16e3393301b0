"""What became of the students of a study of arms (grid.arms): runs, rates, held-out items."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdutils.data import sources
from kdutils.data.model_files import is_large
from kdutils.grid import arms, fill
from kdutils.grid.cell_table import short_name
from kdutils.grid.local_pool import Send
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.estimate import Estimate
from kdutils.io import cache, disk
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

CELL = ["teacher", "student", "method", "arm"]  # SFT students stand beside each of their teachers
RUN = [*CELL, "train_items", "seed"]
ITEM = ["task", "item_id"]
FACTS = ["trainable", "coordinate_updates", "steps", "seconds", "peak_memory_gb", "file_bytes"]
FACTS += ["stored_parameters", "effective_rank"]  # of result.json
VALUES = ["nll", "forward_kl", "reverse_kl", "same_top1"]  # of runs.held_out.compared
VALUES += ["right", "same", "bleu"]
EARLY = 0.2  # share of the steps whose training loss says how fast an arm begins
LEAST = 4  # students through which a line is drawn: through two it takes everything out
BASE = "base"  # method and arm of a student as it is
NO_STUDY = "the profile has no such study, or it is not trained yet"


def read(plan: Plan, study: str) -> pd.DataFrame:
    """The finished runs of the study of that name of a plan's profile; no rows without one.

    RUN, rate, run_id, is_trial, is_final (see arms.Run), validation_loss (the lowest over the epochs;
    infinite if it diverged), early_loss (mean training loss over the first EARLY of the steps), and FACTS.
    """
    table = []
    for run, folder in _finished(plan, study):
        losses = [entry["loss"] for entry in folder.curve() if "loss" in entry]
        early = losses[: max(1, round(EARLY * len(losses)))]
        row = named(run.cell, run.spec) | {"rate": run.spec.learning_rate, "run_id": folder.path.name}
        row |= {"is_trial": run.is_trial, "is_final": run.is_final}
        row |= {"validation_loss": arms.best_loss(plan.out, run.spec)}
        row |= {"early_loss": math.inf if None in early else float(np.mean(early))}
        table.append(row | {name: folder.result().get(name) for name in FACTS})
    numbers = ["validation_loss", "early_loss", *FACTS]
    kinds = {"is_trial": bool, "is_final": bool} | dict.fromkeys(numbers, float)
    return pd.DataFrame(table, columns=[*RUN, "rate", "run_id", *kinds]).astype(kinds)


def study_of(plan: Plan, name: str) -> arms.ArmStudy | None:
    """The study of that name of a plan's profile; None without one."""
    live = plan.profile.live
    return next((each for each in live.arm_studies if each.name == name), None) if live else None


def _finished(plan: Plan, name: str) -> Iterator[tuple[arms.Run, store.RunFolder]]:
    study = study_of(plan, name)
    for run in arms.runs_of(study, plan.profile.live, plan.out) if study else ():
        folder = store.folder_of(plan.out, sources.resolved(run.spec).run_id)
        if folder.result() is not None:
            yield run, folder


def finals(plan: Plan, name: str) -> list[tuple[arms.Run, EvalSpec]]:
    """The finished runs of a study at their chosen rates, and how each is evaluated usually."""
    usual = {run.spec: run.evaluation for run in reversed(plan.asked)}  # the first of each
    made = (run for run, _ in _finished(plan, name) if run.is_final)
    return [(run, usual[run.spec]) for run in made if run.spec in usual]  # others may be made meanwhile


def named(cell: arms.Cell, spec: RunSpec) -> dict[str, Any]:
    """The columns RUN."""
    who = {"teacher": short_name(cell.teacher), "student": short_name(cell.student)}
    return who | {"method": spec.method, "arm": cell.arm, "train_items": spec.train_items, "seed": spec.seed}


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """What became of each cell's learning rate: CELL, tried, rate, validation_loss, outcome.

    outcome is `chosen`, `void` (the best rate is the lowest or the highest that was tried) or `open` (trials
    are missing, or all diverged). Takes `read`.
    """
    table = []
    for cell, part in runs[runs["is_trial"]].sort_values("rate").groupby(CELL, sort=False):
        place = arms.chosen(part["validation_loss"].tolist())
        if place is None or len(part) < arms.N_RATES:
            table.append((*cell, len(part), math.nan, math.nan, "open"))
            continue
        outcome = "void" if arms.is_on_edge(place, len(part)) else "chosen"
        table.append((*cell, len(part), *part[["rate", "validation_loss"]].iloc[place], outcome))
    return pd.DataFrame(table, columns=[*CELL, "tried", "rate", "validation_loss", "outcome"])


def shared_methods(runs: pd.DataFrame) -> list[str]:
    """The methods by which most arms are trained, in their order; arms are compared after these."""
    by = runs[["student", "arm", "method"]].drop_duplicates().groupby("method").size()
    return [method for method in dict.fromkeys(runs["method"]) if by[method] == by.max()]


class _HeldOut(NamedTuple):
    """Arguments of held_out.compared, after where its rows are kept once this code has computed them."""

    path: Path
    out: Path
    spec: RunSpec
    teacher: RunSpec
    evaluation: EvalSpec


def items(plan: Plan, study: str) -> pd.DataFrame:
    """What the students at their chosen rates, and the models as they are, make of test items: a row an item.

    RUN, ITEM, is_other (of the other domain, with nll alone) and VALUES. The models as they are have method
    and arm BASE, 0 items and seed 0. What is not evaluated yet is missing. Tiny models compute on all cores.
    """
    made, code = finals(plan, study), cache.code_digest("kdutils.runs.held_out")
    wanted = [(run.spec, run.teacher, evaluation, named(run.cell, run.spec)) for run, evaluation in made]
    for run, evaluation in {run.cell[:2]: (run, how) for run, how in made}.values():
        base = RunSpec(student=run.spec.student, method=BASE, domain=run.spec.domain, data=run.spec.data)
        about = named(run.cell._replace(arm=BASE), base) | {"train_items": 0}
        wanted.append((base, run.teacher, evaluation, about))
    asked = [(_held_out(plan.out, *which, code), about) for *which, about in wanted]
    asked = [(one, about) for one, about in asked if one is not None]
    missing = [one for one, _ in asked if not one.path.exists() and not is_large(one.spec.student)]
    if len(missing) > 1:
        fill.in_workers(_rows, missing)
    tables = [pd.DataFrame(_rows(one)).assign(**about) for one, about in asked]
    names = [*RUN, *ITEM, "is_other", *VALUES]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)
    return table.reindex(columns=names).astype(dict.fromkeys(VALUES, float) | {"is_other": bool})


def _held_out(out: Path, spec: RunSpec, teacher: RunSpec, evaluation: EvalSpec, code: str) -> _HeldOut | None:
    """Of a run beside its teacher; None where one of them is not evaluated so."""
    spec, teacher = map(sources.resolved, (spec, teacher))
    folders = [store.folder_of(out, each.run_id) for each in (spec, teacher)]
    digests = [folder.items_digest(evaluation) for folder in folders]
    if None in digests:
        return None
    name = cache.digest([spec.run_id, teacher.run_id, evaluation.eval_id, *digests, code])
    return _HeldOut(out / "cache" / "held_out" / f"{name}.json", out, spec, teacher, evaluation)


def _rows(asked: _HeldOut, send: Send | None = None) -> list[dict[str, Any]]:
    def measured() -> list[dict[str, Any]]:
        from kdutils.runs import held_out  # torch takes seconds to import

        table = held_out.compared(*asked[1:]).astype(object)
        return table.where(table.notna(), None).to_dict("records")

    return disk.kept(asked.path, measured)


def scored_twice(plan: Plan, study: str) -> pd.DataFrame:
    """By how much more a student stays behind its teacher in what it writes than in how it ranks options.

    RUN, ITEM and `gap`, points, an item of the tasks with options; no rows where options are not ranked.
    """
    tables = []
    for run, usual in finals(plan, study):
        folders = [
            store.folder_of(plan.out, sources.resolved(each).run_id) for each in (run.spec, run.teacher)
        ]
        found = [folder.evaluation(how) for how in (usual, usual.ranking()) for folder in folders]
        if all(rows is not None for rows in found):
            student, teacher, student_ranked, teacher_ranked = (
                rows.set_index(ITEM)["correct"].astype(float) for rows in found
            )
            behind = ((teacher - student) - (teacher_ranked - student_ranked)).dropna()
            tables.append((100 * behind).rename("gap").reset_index().assign(**named(run.cell, run.spec)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*RUN, *ITEM, "gap"])


def levels(items: pd.DataFrame, value: str, *, rng: np.random.Generator) -> pd.DataFrame:
    """The mean over tasks of a value of `items` by CELL and train_items: crossed_bootstrap.group_means."""
    rows = items[~items["is_other"] & (items["method"] != BASE)].dropna(subset=[value])
    if rows.empty:
        return pd.DataFrame(columns=pd.MultiIndex.from_tuples([], names=[*CELL, "train_items"]))
    return crossed_bootstrap.group_means(rows, value, by=[*CELL, "train_items"], rng=rng)


def levels_alike(items: pd.DataFrame, values: Iterable[str], *, seed: int) -> dict[str, pd.DataFrame]:
    """`levels` of several values, for each of which the same items and seeds are drawn."""
    return {value: levels(items, value, rng=np.random.default_rng(seed)) for value in values}


def by_arm(found: pd.DataFrame) -> pd.DataFrame:
    """`levels`, a column an arm x method: means over pairs and numbers of items."""
    return found.T.groupby(level=["arm", "method"], sort=False).mean().T


def at_matched(values: pd.DataFrame, others: pd.DataFrame, *, apart: Collection[str] = ()) -> pd.DataFrame:
    """What is left of a level of students once the line on another over all of them is taken out.

    A row a resample, a column a student (`levels` of two values, drawn alike). Arms that stand `apart` are
    compared with the line of the others. NaN where that is of fewer than LEAST.
    """
    on = ~values.columns.get_level_values("arm").isin(list(apart))
    tables = (values, others[values.columns])
    value, other = (table.sub(table.loc[:, on].mean(axis=1), axis=0) for table in tables)
    slope = (value * other).loc[:, on].sum(axis=1) / (other**2).loc[:, on].sum(axis=1)
    left = value - other.mul(slope.fillna(0.0), axis=0)  # equal all over: nothing to take out
    return left if on.sum() >= LEAST else left * np.nan


def less(of_arms: pd.DataFrame, one: str, other: str, methods: Sequence[str]) -> Estimate | str:
    """One arm less another of `by_arm`, a mean over methods; or which is not there."""
    for arm, method in product((one, other), methods):
        if (arm, method) not in of_arms:
            return f"{arm} by {method} is not trained, or void"
    differences = [of_arms[one, method] - of_arms[other, method] for method in methods]
    return estimated(sum(differences) / len(methods))


def estimated(of_resamples: pd.Series) -> Estimate:
    """A value and its interval: crossed_bootstrap.estimate."""
    return crossed_bootstrap.estimate(of_resamples.to_numpy(), why_undefined="too few students or items")


def counted(found: Mapping[str, Estimate | str], items: pd.DataFrame) -> dict[str, Estimate | str]:
    """The contrasts, those that have no count of their own with the number of the domain's test items."""
    n_items = len(items.loc[~items["is_other"], ITEM].drop_duplicates())
    return {
        name: replace(value, n=value.n or n_items) if isinstance(value, Estimate) else value
        for name, value in found.items()
    }


def measures(items: pd.DataFrame) -> pd.DataFrame:
    """Means over tasks and seeds of `items`, by CELL and train_items: VALUES and forgetting.

    That is nll on the other domain less that of the model as it is.
    """
    keys, pair = [*CELL, "train_items"], CELL[:2]
    by_task = items.groupby([*keys, "is_other", "task"], sort=False)[VALUES].mean()
    means = by_task.groupby([*keys, "is_other"], sort=False).mean().reset_index()
    far = means[means["is_other"]].set_index(keys)["nll"].rename("far")
    before = far[far.index.get_level_values("arm") == BASE].groupby(level=pair).first().rename("before")
    own = means[~means["is_other"]].join(far, on=keys).join(before, on=pair)
    return own.assign(forgetting=own["far"] - own["before"]).drop(columns=["is_other", "far", "before"])
