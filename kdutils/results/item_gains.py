"""Accuracies and gains of live runs, with intervals over the items of the test set.

With several pairs the study compares pairs. One pair leaves its items: students of one pair answer the same
questions, so that two of them are compared question by question. Such an interval says what other items of
these tasks would do; it holds neither other pairs nor other training seeds. `gain_intervals` alone is of
several pairs, each for itself, and holds the variation over seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from kdutils.constants import AVERAGE, PAPER_METHODS, TASK_LABELS, is_text
from kdutils.data import sources
from kdutils.grid.cell_table import model_parameters, short_name
from kdutils.grid.plan import Plan
from kdutils.grid.study import place_of
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity
from kdutils.results.gain_tables import (
    in_domain_order,
    in_method_order,
    of_common_seeds,
    pair_label,
    plain,
)
from kdutils.runs import comparison, store
from kdutils.spec import RunSpec

SETTING = ["domain", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma"]
PAIRED = ["domain", "teacher", "student", "method"]
COUNTS = [f"bleu_{place}" for place in range(10)]  # of an item's text: lengths, matches, totals
SCORED = [*SETTING, "seed", "task", "item_id", "value"]
BESIDE = [*PAIRED, "seed", "task", "item_id", "value", *COUNTS]


@dataclass(frozen=True)
class Items:
    """The item rows of a plan's finished live runs.

    `scored`: SCORED, a row a run x item, `value` as of item_values. `beside`: BESIDE, a row a student x item
    of those compared with their tuned teacher (temperature 1, no noise; the SFT student is method `sft`),
    `value`: same answer as the teacher.
    """

    scored: pd.DataFrame
    beside: pd.DataFrame

    def __bool__(self) -> bool:
        """Whether there are any."""
        return len(self.scored) > 0


def read(plan: Plan) -> Items:
    """The item rows of a plan with one live pair and protocol; none without live runs, or with several."""
    kd = [run.spec for run in plan.runs if run.spec.teacher]
    if len({(spec.teacher, spec.student, spec.protocol) for spec in kd}) != 1:
        return Items(pd.DataFrame(columns=SCORED), pd.DataFrame(columns=BESIDE))
    both = agreement_fidelity.paired_rows(plan, ["text", "parsed", "correct"])
    both = both[both["sample"] == both["sample"].min()].reset_index(drop=True)  # one text an item
    texts = zip(both["text"], both["text_teacher"], strict=True)
    counts = pd.DataFrame([comparison.bleu_counts(*pair) for pair in texts], columns=COUNTS)
    both = both.assign(value=comparison.same_answer(both).astype(float)).join(counts)
    return Items(read_scored(plan), both[BESIDE])


def read_scored(plan: Plan) -> pd.DataFrame:
    """The rows of `Items.scored`, of however many pairs."""
    tables = []
    for run in plan.runs:
        spec = sources.resolved(run.spec)
        rows = store.folder_of(plan.out, spec.run_id).evaluation(run.evaluation)
        if rows is None:
            continue
        tables.append(item_values(rows).reset_index().assign(**setting(spec), seed=spec.seed))
    return pd.concat(tables, ignore_index=True)[SCORED] if tables else pd.DataFrame(columns=SCORED)


def setting(spec: RunSpec) -> dict[str, object]:
    """The columns SETTING of a run."""
    of_kd = (spec.teacher_tuned, spec.temperature) if spec.teacher else (None, math.nan)
    who = (spec.domain, short_name(spec.teacher or ""), short_name(spec.student), spec.method)
    return dict(zip(SETTING, (*who, *of_kd, spec.noise_sigma), strict=True))


def item_values(rows: pd.DataFrame) -> pd.Series:
    """Of each task and item the share of its texts that are right; in instruction following mean ROUGE-L."""
    value = rows["correct"].astype(float).mask(rows["task"].map(is_text).astype(bool), rows["rouge_l"])
    keys = ["task", "item_id"]
    return rows[keys].assign(value=value).groupby(keys, sort=False)["value"].mean()


# --- accuracies and their differences ----------------------------------------------------------------


def accuracies(scored: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each setting by task and on average: SETTING, task, label, accuracy, low, high, n, n_seeds.

    Percent. An item's value is its mean over training seeds.
    """
    return _over_items(scored, SETTING, intervals.mean_over_items, "accuracy").drop(columns="p_value")


def _over_items(
    rows: pd.DataFrame, by: Sequence[str], estimate: Callable[..., Estimate], name: str, **how: float
) -> pd.DataFrame:
    """An estimate of each group x task, and of its average, from the values of items and their tasks."""
    table = []
    for group, part in rows.groupby(list(by), sort=False, dropna=False):
        by_item = part.groupby(["task", "item_id"], sort=False)["value"].mean().reset_index()
        for task in (*_in_order(by_item["task"]), AVERAGE):
            items = by_item if task == AVERAGE else by_item[by_item["task"] == task]
            found = estimate(items["value"], items["task"], **how)
            table.append((*group, task, *found.bounds, found.p_value, found.n, part["seed"].nunique()))
    return _labelled(table, [*by, "task", name, "low", "high", "p_value", "n", "n_seeds"])


def contrasts(
    rows: pd.DataFrame,
    others: pd.DataFrame,
    *,
    on: Sequence[str] = (),
    by: Sequence[str] = SETTING,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Rows less others on the same items, in points: a line a group of `by` x task, and its average.

    Both are like `Items.scored` or `Items.beside`. Those are compared that have domain, student, training
    seed, task, item and the columns `on` in common; a seed that only one of them has says nothing. Columns
    `by`, task, label, difference, low, high, p_value, n (items), n_seeds.

    Raises:
        ValueError: if two runs that are compared were scored on different items. Without the lonely ones it
            would be another question.
    """
    run = ["domain", "student", "seed", *on]
    is_common = pd.MultiIndex.from_frame(rows[run]).isin(pd.MultiIndex.from_frame(others[run]))
    keys = [*run, "task", "item_id"]
    how = {"on": keys, "how": "left", "suffixes": ("", "_other"), "validate": "many_to_one"}
    both = rows[is_common].merge(others[[*keys, "value"]], **how)
    if (lonely := both["value_other"].isna()).any():
        one = both.loc[lonely, keys].iloc[0].to_dict()
        raise ValueError(f"two runs were scored on different items, such as {one}; evaluate both on the same")
    both["value"] -= both.pop("value_other")
    return _over_items(both, by, intervals.difference_over_items, "difference", confidence=confidence)


def _in_order(tasks: pd.Series) -> list[str]:
    return sorted(tasks.unique(), key=place_of)


def _labelled(table: list[tuple], columns: list[str]) -> pd.DataFrame:
    """Rows with the task's label; domains and methods in the order of constants, the rest as it was."""
    frame = pd.DataFrame(table, columns=columns)
    frame = frame.assign(label=frame["task"].map(TASK_LABELS))
    if "method" in columns:
        frame = in_method_order(frame)
    return in_domain_order(frame).reset_index(drop=True)


def gains(scored: pd.DataFrame, *, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """KD (`plain`) less SFT of the same student on the same items (`contrasts`); nothing is selected."""
    sft = scored[scored["method"] == "sft"]
    return contrasts(plain(scored), sft, by=by)


def gain_table(items: Items) -> pd.DataFrame:
    """`gains` as intervals.gain_intervals gives them: columns gain, pair, student_parameters."""
    found = gains(items.scored).rename(columns={"difference": "gain", "n_seeds": "n_runs"})
    parameters = found["student"].map(model_parameters)
    return found.assign(pair=pair_label(found), student_parameters=parameters)


def gain_intervals(gain_table: pd.DataFrame, scored: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """intervals.gain_intervals from paired items: KD less SFT on each, stratified by task.

    An item's value is its mean over the runs and seeds of a group, those that the gain is a mean of, at the
    temperature of each. What seeds vary is added as there: the distances of the bounds are summed in squares.

    Args:
        gain_table: gains of live runs (gain_tables.gains), of one selection of the temperature.
        scored: read_scored of the same runs.
        by: domain, student, task and method among them. A bound is NaN where there is no gain.
    """
    of_seeds = gain_table.assign(accuracy_se=0.0, sft_accuracy_se=0.0)
    table, keys = intervals.gain_intervals(of_seeds, by=list(by)), [*PAIRED, "temperature"]
    if gain_table["selection"].eq("best_on_test").any():
        scored = of_common_seeds(scored.reset_index(drop=True).assign(source="live", protocol=""))
    items, is_sft = ["task", "item_id"], scored["method"] == "sft"
    sft = scored[is_sft].groupby(["domain", "student", *items], sort=False)["value"].mean()
    kd = plain(scored, temperature=None).groupby([*keys, *items], sort=False)["value"].mean()
    asked = gain_table[[*dict.fromkeys([*by, *keys])]].rename(columns={"task": "asked"})
    rows = asked.merge(kd.reset_index(), on=keys)
    rows = rows[rows["asked"].eq(rows["task"]) | rows["asked"].eq(AVERAGE)]
    groups = ["asked" if name == "task" else name for name in by]
    found = contrasts(rows.assign(seed=0), sft.reset_index().assign(seed=0), by=groups)
    found = found[found["task"] == AVERAGE].drop(columns="task").rename(columns={"asked": "task"})
    found = table[[*by]].merge(found[[*by, "low", "high"]], on=[*by], how="left", validate="one_to_one")
    gain, seeds = table["gain"], table["high"] - table["gain"]
    low, high = (np.hypot(gain - found[bound].astype(float), seeds) for bound in ("low", "high"))
    return table.assign(low=gain - low, high=gain + high)


def tuning_costs(scored: pd.DataFrame) -> pd.DataFrame:
    """What the tuned teacher gives over the untuned one (`contrasts`): forward KL, else `plain`."""
    untuned = scored[scored["teacher_tuned"].eq(False)]
    untuned = plain(untuned.assign(teacher_tuned=True), methods=("fkl",))
    return contrasts(plain(scored, methods=("fkl",)), untuned, on=["teacher"])


def noise_changes(
    scored: pd.DataFrame, *, by: Sequence[str] = SETTING, kept_share: float = 1.0
) -> pd.DataFrame:
    """Each noisy run less `kept_share` of its method's noise-free one (`contrasts`): a loss is negative."""
    noisy = scored[(scored["noise_sigma"] > 0.0) & scored["teacher_tuned"].eq(True)]
    clean = plain(scored).assign(value=lambda rows: kept_share * rows["value"])
    return contrasts(noisy[noisy["temperature"] == 1.0], clean, on=["teacher", "method"], by=by)


def temperature_changes(scored: pd.DataFrame, *, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """Each run at another temperature less that at 1 of its method (`contrasts`)."""
    others = plain(scored, temperature=None)
    others = others[others["temperature"] != 1.0]
    return contrasts(others, plain(scored), on=["teacher", "method"], by=by)


def method_differences(scored: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Each two of the paper's methods against each other (`contrasts`): method less `other`."""
    runs, tables = plain(scored, methods=PAPER_METHODS), []
    for method, other in combinations(PAPER_METHODS, 2):
        rows, others = (runs[runs["method"] == name] for name in (method, other))
        found = contrasts(rows, others, on=["teacher"], confidence=confidence)
        tables.append(found.assign(other=other))
    return pd.concat([each for each in tables if len(each)] or tables[:1], ignore_index=True)


def with_intervals(runs: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Runs of one source with columns low and high, of the items where there are some, else normal ones."""
    table = intervals.accuracy_intervals(runs)
    if scored.empty:
        return table
    keys = [*SETTING, "task"]
    found = accuracies(scored)[[*keys, "low", "high"]].astype({"teacher_tuned": "boolean"})
    return table.drop(columns=["low", "high"]).merge(found, on=keys, how="left", validate="one_to_one")


# --- likeness to the teacher -----------------------------------------------------------------------------


def agreements(beside: pd.DataFrame) -> pd.DataFrame:
    """Items with the teacher's answer, percent, and the rise over the SFT student of the same teacher.

    A line a method (`sft` among them) x task, and its average: PAIRED, task, label, agreement, low, high, n,
    and rise, rise_low, rise_high, p_value, points, NaN for SFT.
    """
    levels = _over_items(beside, PAIRED, intervals.mean_over_items, "agreement")
    return _with_rises(levels.drop(columns=["p_value", "n_seeds"]), agreement_rises(beside))


def _with_rises(levels: pd.DataFrame, rises: pd.DataFrame) -> pd.DataFrame:
    rises = rises[[*PAIRED, "task", "difference", "low", "high", "p_value"]]
    names = {"difference": "rise", "low": "rise_low", "high": "rise_high"}
    return levels.merge(rises.rename(columns=names), on=[*PAIRED, "task"], how="left")


def agreement_rises(beside: pd.DataFrame, *, by: Sequence[str] = PAIRED) -> pd.DataFrame:
    """KD less SFT student in giving the teacher's answer (`contrasts`)."""
    is_sft = beside["method"] == "sft"
    return contrasts(beside[~is_sft], beside[is_sft], on=["teacher"], by=by)


def fidelities(beside: pd.DataFrame) -> pd.DataFrame:
    """Corpus BLEU with the teacher's texts, percent, and its rise over the SFT student's: as `agreements`.

    Columns PAIRED, task, label, fidelity, low, high, n, rise, rise_low, rise_high, p_value.
    """
    levels = _jackknifed(_bleus(beside), PAIRED)
    levels = levels.rename(columns={"estimate": "fidelity"}).drop(columns="p_value")
    levels[["low", "high"]] = levels[["low", "high"]].clip(0.0, 100.0)
    return _with_rises(levels, fidelity_rises(beside))


def fidelity_rises(beside: pd.DataFrame, *, by: Sequence[str] = PAIRED) -> pd.DataFrame:
    """KD less SFT student in corpus BLEU with the teacher's texts, points: columns as of `contrasts`."""
    bleus, keys = _bleus(beside), ["domain", "teacher", "student", "seed", "task"]
    is_sft = bleus["method"] == "sft"
    sft = bleus.loc[is_sft, [*keys, "bleu", "left_out"]]
    both = bleus[~is_sft].merge(sft, on=keys, suffixes=("", "_sft"))
    for name in ("bleu", "left_out"):
        both[name] = [kd - before for kd, before in zip(both[name], both[f"{name}_sft"], strict=True)]
    return _jackknifed(both, by).rename(columns={"estimate": "difference"})


def _bleus(beside: pd.DataFrame) -> pd.DataFrame:
    """Corpus BLEU of each student x seed x task, and as an array what it is without each of the items."""
    table = []
    for key, part in beside.groupby([*PAIRED, "seed", "task"], sort=False):
        counts = part.sort_values("item_id")[COUNTS].to_numpy(float)
        total = counts.sum(axis=0)
        table.append((*key, float(intervals.bleu(total)), intervals.bleu(total - counts)))
    return pd.DataFrame(table, columns=[*PAIRED, "seed", "task", "bleu", "left_out"])


def _jackknifed(bleus: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means of `bleu` in each group x task and on average, with intervals jackknifed over a task's items.

    BLEU is of a corpus, so no mean over items.
    """
    table = []
    for group, part in bleus.groupby(list(by), sort=False):
        of_tasks = {task: part[part["task"] == task] for task in _in_order(part["task"])}
        values = [float(each["bleu"].mean()) for each in of_tasks.values()]
        left_out = [np.mean(each["left_out"].tolist(), axis=0) for each in of_tasks.values()]
        found = [intervals.jackknife([one], [each]) for one, each in zip(values, left_out, strict=True)]
        found.append(intervals.jackknife(values, left_out))
        for task, each in zip((*of_tasks, AVERAGE), found, strict=True):
            table.append((*group, task, *each.bounds, each.p_value, each.n))
    return _labelled(table, [*by, "task", "estimate", "low", "high", "p_value", "n"])
