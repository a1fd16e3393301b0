"""The items of every task in two halves, and what each run comes to on each.

For a choice that must not see what it is measured on: one half chooses, the other measures, and then the
other way round.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pandas as pd
import sacrebleu

from kdutils import evaluate
from kdutils.constants import INSTRUCTION_TASKS
from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.item_records import Scored, kept
from kdutils.grid.plan import Plan
from kdutils.results.item_gains import COUNTS
from kdutils.spec import RunSpec

HALVES = (0, 1)
ARM = ["protocol", "domain", "teacher", "student", "method"]  # what a temperature is chosen for
SUMS = ["n", "value", "square"]
BESIDE = ["n_texts", "same", *COUNTS]
COMPARED = [*evaluate.KEYS, "text", "parsed"]
COLUMNS = [*ARM, "temperature", "seed", "task", "half", *SUMS, *BESIDE]
NUMBERS = {"seed": int, "half": int} | dict.fromkeys(["temperature", *SUMS, *BESIDE], float)


def half_of(item_id: str) -> int:
    """0 or 1: the lowest bit of the SHA-256 of an item's id.

    It hangs on nothing but the id, so every run and every set of items, in any order, is split alike. The two
    are of equal size on average, not exactly.
    """
    return hashlib.sha256(item_id.encode()).digest()[-1] & 1


def read(plan: Plan) -> pd.DataFrame:
    """The halves of a plan's finished runs among which a temperature can be chosen: COLUMNS.

    A row a run x task x half, of KD from a tuned teacher without noise, where the plan has several
    temperatures. `n` items, the sum of their `value` in [0, 1] (the share of an item's texts that are right;
    in instruction following their mean ROUGE-L) and of its `square`. Beside the teacher `n_texts`, how many
    give the `same` answer, and COUNTS; NaN where its texts are not at hand. A half without items has no row.
    """
    specs = {sources.resolved(run.spec): run.evaluation for run in plan.runs}
    swept = [spec for spec in specs if spec.teacher and spec.teacher_tuned and not spec.noise_sigma]
    temperatures: dict[tuple, set[float]] = {}
    for spec in swept:
        temperatures.setdefault(_arm(spec), set()).add(spec.temperature)
    found = []
    for spec in swept:
        evaluation, tuned = specs[spec], spec.teacher_spec()
        own = Scored.of(plan.out, spec, evaluation)
        if len(temperatures[_arm(spec)]) == 1 or own is None:
            continue
        teacher = Scored.of(plan.out, tuned, evaluation) if tuned in specs else None
        records = kept(plan.out, _sums, *(each for each in (own, teacher) if each))
        names = dict(zip(ARM, _arm(spec), strict=True)) | {"temperature": spec.temperature, "seed": spec.seed}
        found += [names | record for record in records]
    return pd.DataFrame(found, columns=COLUMNS).astype(NUMBERS)  # None becomes NaN, which JSON has not


def _arm(spec: RunSpec) -> tuple[str, ...]:
    return spec.protocol, spec.domain, short_name(spec.teacher), short_name(spec.student), spec.method


def _sums(student: pd.DataFrame, teacher: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    return sums(student, teacher).to_dict("records")


def sums(student: pd.DataFrame, teacher: pd.DataFrame | None = None) -> pd.DataFrame:
    """One run's item rows by task and half: task, half, SUMS and BESIDE, as `read` has them.

    Raises:
        ValueError: if student and teacher were not evaluated on the same items.
    """
    half = {item: half_of(item) for item in student["item_id"].unique()}
    own = _values(student.assign(half=student["item_id"].map(half)))
    if teacher is None:
        return own.assign(**dict.fromkeys(BESIDE, math.nan))
    both = evaluate.paired(student[COMPARED], teacher[COMPARED])
    both = both.assign(half=both["item_id"].map(half), same=evaluate.same_answer(both))
    table = []
    for (task, which), part in both.groupby(["task", "half"], sort=False):
        same = math.nan if task in INSTRUCTION_TASKS else int(part["same"].sum())  # no answer to agree on
        table.append((task, which, len(part), same, *_bleu_counts(part)))
    return own.merge(pd.DataFrame(table, columns=["task", "half", *BESIDE]), on=["task", "half"])


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    is_instruction = rows["task"].isin(INSTRUCTION_TASKS)
    value = rows["correct"].astype(float).mask(is_instruction, rows["rouge_l"])
    keys = ["task", "half"]
    by_item = rows[keys].assign(value=value).groupby([*keys, rows["item_id"]], sort=False).mean()
    groups = by_item.assign(square=by_item["value"] ** 2).groupby(keys, sort=False)
    return groups[["value", "square"]].sum().assign(n=groups.size()).reset_index()


def _bleu_counts(part: pd.DataFrame) -> list[int]:
    found = sacrebleu.BLEU().corpus_score(part["text"].tolist(), [part["text_teacher"].tolist()])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]
