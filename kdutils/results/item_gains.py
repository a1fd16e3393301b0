"""Accuracies and gains of one pair's live runs, with intervals over the items of the test set.

With several pairs the study compares pairs. One pair leaves its items: students of one pair answer the same
questions, so that two of them are compared question by question. Such an interval says what other items of
these tasks would do; it holds neither other pairs nor other training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from kdutils.constants import ALL_TASKS, AVERAGE, INSTRUCTION_TASKS, KD_METHODS, PAPER_METHODS, TASK_LABELS
from kdutils.data import sources
from kdutils.grid.cell_table import model_parameters, short_name
from kdutils.grid.plan import Plan
from kdutils.inference import intervals
from kdutils.results import agreement_fidelity
from kdutils.results.gain_tables import in_domain_order, in_method_order, pair_label
from kdutils.runs import comparison, store

SETTING = ["domain", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma"]
PAIRED = ["domain", "teacher", "student", "method"]
COUNTS = [f"bleu_{place}" for place in range(10)]  # of an item's text: lengths, matches, totals


@dataclass(frozen=True)
class Items:
    """The item rows of a plan's finished live runs.

    `scored` has a row a run x item: SETTING, seed, task, item_id, `value`: the share of its texts that are
    right (in instruction following their mean ROUGE-L), and `is_clean`: its question is not a training item.
    `beside` has a row a student x item of those compared with their tuned teacher (temperature 1, no noise;
    the SFT student is method `sft`): PAIRED, seed, task, item_id, `value` (same answer as the teacher),
    COUNTS.
    """

    scored: pd.DataFrame
    beside: pd.DataFrame

    def __bool__(self) -> bool:
        """Whether there are any."""
        return len(self.scored) > 0


def read(plan: Plan) -> Items:
    """The item rows of a plan with one live pair and protocol; none without live runs, or with several."""
    kd = [run.spec for run in plan.runs if run.spec.teacher]
    is_one = len({(spec.teacher, spec.student, spec.protocol) for spec in kd}) == 1
    scored, beside = (_scored(plan), _beside(plan)) if is_one else ([], [])
    return Items(
        pd.DataFrame(scored, columns=[*SETTING, "seed", "task", "item_id", "value", "is_clean"]),
        pd.DataFrame(beside, columns=[*PAIRED, "seed", "task", "item_id", "value", *COUNTS]),
    )


def _scored(plan: Plan) -> list[tuple]:
    table = []
    for run in plan.runs:
        spec = sources.resolved(run.spec)
        rows = store.folder_of(plan.out, spec.run_id).evaluation(run.evaluation)
        if rows is None:
            continue
        has_teacher = spec.teacher is not None
        setting = (spec.domain, short_name(spec.teacher or ""), short_name(spec.student), spec.method)
        setting += (spec.teacher_tuned, spec.temperature) if has_teacher else (None, math.nan)
        for task, part in rows.groupby("task", sort=False):
            column = "rouge_l" if task in INSTRUCTION_TASKS else "correct"
            by_item = part.groupby("item_id", sort=False)
            values, clean = by_item[column].mean(), _is_clean(by_item)
            table += [
                (*setting, spec.noise_sigma, spec.seed, task, item, value, clean[item])
                for item, value in values.items()
            ]
    return table


def _is_clean(by_item: DataFrameGroupBy) -> pd.Series:
    """Whether each item's question is not in the training set; NA where the rows do not say."""
    if "contaminated" not in by_item.obj:
        return by_item.size().map(lambda _: None)
    return by_item["contaminated"].first() == ""


def _beside(plan: Plan) -> list[tuple]:
    table = []
    columns = ["task", "item_id", "sample", "text", "parsed", "correct"]
    for names, student, teacher in agreement_fidelity.beside_teachers(plan, columns):
        both = comparison.paired(student, teacher)
        both = both[both["sample"] == both["sample"].min()]  # one text an item
        where = tuple(names[name] for name in (*PAIRED, "seed"))
        answers = comparison.same_answer(both).astype(float)
        for row, same in zip(both.itertuples(), answers, strict=True):
            table.append(
                (*where, row.task, row.item_id, same, *comparison.bleu_counts(row.text, row.text_teacher))
            )
    return table


# --- accuracies and their differences ----------------------------------------------------------------


def accuracies(scored: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each setting by task and on average: SETTING, task, label, accuracy, low, high, n, n_seeds.

    Percent. An item's value is its mean over training seeds.
    """
    table = []
    for setting, part in scored.groupby(SETTING, sort=False, dropna=False):
        for task, items in _tasks_and_average(part):
            found = intervals.mean_over_items(items["value"], items["task"])
            table.append((*setting, task, *found.bounds, found.n, part["seed"].nunique()))
    return _labelled(table, [*SETTING, "task", "accuracy", "low", "high", "n", "n_seeds"])


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
    both = rows[is_common].merge(
        others[[*keys, "value"]], on=keys, how="left", suffixes=("", "_other"), validate="many_to_one"
    )
    if both["value_other"].isna().any():
        lonely = both.loc[both["value_other"].isna(), keys].iloc[0].to_dict()
        raise ValueError(
            f"two runs were scored on different items, such as {lonely}; evaluate both on the same"
        )
    both["value"] -= both.pop("value_other")
    table = []
    for group, part in both.groupby(list(by), sort=False, dropna=False):
        for task, items in _tasks_and_average(part):
            found = intervals.difference_over_items(items["value"], items["task"], confidence=confidence)
            seeds = part["seed"].nunique()
            table.append((*group, task, *found.bounds, found.p_value, found.n, seeds))
    return _labelled(table, [*by, "task", "difference", "low", "high", "p_value", "n", "n_seeds"])


def _tasks_and_average(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each task with its items, then all of them as the average: task, item_id and the mean value."""
    by_item = rows.groupby(["task", "item_id"], sort=False)["value"].mean().reset_index()
    for task in _in_order(by_item["task"]):
        yield task, by_item[by_item["task"] == task]
    yield AVERAGE, by_item


def _in_order(tasks: pd.Series) -> list[str]:
    return sorted(tasks.unique(), key=[*ALL_TASKS].index)


def _labelled(table: list[tuple], columns: list[str]) -> pd.DataFrame:
    """Rows with the task's label; domains and methods in the order of constants, the rest as it was."""
    frame = pd.DataFrame(table, columns=columns)
    frame = frame.assign(label=frame["task"].map(TASK_LABELS))
    if "method" in columns:
        frame = in_method_order(frame)
    return in_domain_order(frame).reset_index(drop=True)


def plain(rows: pd.DataFrame, *, methods: Iterable[str] = KD_METHODS) -> pd.DataFrame:
    """Those of `Items.scored` from KD at temperature 1 without noise, of a tuned teacher."""
    is_plain = rows["method"].isin(list(methods)) & rows["teacher_tuned"].eq(True)
    return rows[is_plain & (rows["temperature"] == 1.0) & (rows["noise_sigma"] == 0.0)]


def gains(scored: pd.DataFrame, *, by: Sequence[str] = SETTING, confidence: float = 0.95) -> pd.DataFrame:
    """KD (`plain`) less SFT of the same student on the same items, as `contrasts` gives it.

    Nothing is selected on the test items, so there is no rule of selection.
    """
    sft = scored[scored["method"] == "sft"]
    return contrasts(plain(scored), sft, by=by, confidence=confidence)


def gain_table(items: Items) -> pd.DataFrame:
    """`gains` as intervals.gain_intervals gives them: columns gain, pair, student_parameters."""
    found = gains(items.scored).rename(columns={"difference": "gain", "n_seeds": "n_runs"})
    parameters = found["student"].map(model_parameters)
    return found.assign(pair=pair_label(found), student_parameters=parameters)


def with_and_without(scored: pd.DataFrame) -> pd.DataFrame:
    """`gains` on all items, and on the items that are not in the training set with the suffix `_without`.

    Columns domain, method, task, label, difference, low, high, n and the same of the clean items. A task that
    has none is NaN there, and so is an average, which would be one of other tasks. Empty where it is not
    known which are clean.
    """
    keys, values = [*SETTING, "task"], ["difference", "low", "high", "n"]
    known = scored[scored["is_clean"].notna()]
    clean = gains(known[known["is_clean"].eq(True)])[[*keys, *values]]
    n_tasks, n_left = (table.groupby("domain")["task"].nunique() for table in (gains(known), clean))
    is_other = clean["domain"].map(n_left < n_tasks.reindex(n_left.index)).astype(bool)
    clean = clean[~(is_other & (clean["task"] == AVERAGE))]
    both = gains(known).merge(clean, on=keys, how="left", suffixes=("", "_without"))
    suffixed = [f"{name}_without" for name in values]
    return both[["domain", "method", "task", "label", *values, *suffixed]]


def tuning_costs(scored: pd.DataFrame) -> pd.DataFrame:
    """What the tuned teacher gives over the untuned one (`contrasts`): forward KL, else `plain`."""
    fkl = scored[(scored["method"] == "fkl") & (scored["noise_sigma"] == 0.0)]
    untuned = fkl[(fkl["temperature"] == 1.0) & fkl["teacher_tuned"].eq(False)]
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
    other = scored[(scored["temperature"] != 1.0) & scored["teacher_tuned"].eq(True)]
    return contrasts(other[other["noise_sigma"] == 0.0], plain(scored), on=["teacher", "method"], by=by)


def method_differences(scored: pd.DataFrame, *, confidence: float = 0.95) -> pd.DataFrame:
    """Each two of the paper's methods against each other (`contrasts`): method less `other`."""
    runs_of = plain(scored, methods=PAPER_METHODS)
    present = [method for method in PAPER_METHODS if (runs_of["method"] == method).any()]
    tables = []
    for method, other in combinations(present, 2):
        rows, others = (runs_of[runs_of["method"] == name] for name in (method, other))
        found = contrasts(rows, others, on=["teacher"], confidence=confidence)
        tables.append(found.assign(other=other))
    nothing = contrasts(runs_of.head(0), runs_of.head(0)).assign(other="")
    return pd.concat(tables, ignore_index=True) if tables else nothing


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
    table = []
    for setting, part in beside.groupby(PAIRED, sort=False):
        for task, items in _tasks_and_average(part):
            found = intervals.mean_over_items(items["value"], items["task"])
            table.append((*setting, task, *found.bounds, found.n))
    levels = _labelled(table, [*PAIRED, "task", "agreement", "low", "high", "n"])
    return _with_rises(levels, agreement_rises(beside))


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
    both = bleus[~is_sft].merge(
        bleus.loc[is_sft, [*keys, "bleu", "left_out"]], on=keys, suffixes=("", "_sft")
    )
    both["bleu"] -= both["bleu_sft"]
    both["left_out"] = [kd - sft for kd, sft in zip(both["left_out"], both["left_out_sft"], strict=True)]
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
        tasks = _in_order(part["task"])
        values = [float(part.loc[part["task"] == task, "bleu"].mean()) for task in tasks]
        left_out = [np.mean(part.loc[part["task"] == task, "left_out"].tolist(), axis=0) for task in tasks]
        found = [intervals.jackknife([one], [each]) for one, each in zip(values, left_out, strict=True)]
        for task, each in zip(
            (*tasks, AVERAGE), (*found, intervals.jackknife(values, left_out)), strict=True
        ):
            table.append((*group, task, *each.bounds, each.p_value, each.n))
    return _labelled(table, [*by, "task", "estimate", "low", "high", "p_value", "n"])
