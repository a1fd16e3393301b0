"""The temperature of a method chosen on items that it is not measured on.

The authors take, of each pair and method, the best temperature for each task on the test items, and measure
on the same items. Here one half of a task's items chooses and the other is measured, then the other way
round, so that every item is measured once, at a temperature that it had no say in: cross-fitting. So the
validation items are test items that are held out in turn, and nothing is trained or generated for it.
Sources: Varma and Simon 2006 (doi:10.1186/1471-2105-7-91), Cawley and Talbot 2010 (JMLR 11, 2079-2107).

What is chosen for is what the authors choose for (gain_tables.gains): a pair x method x task, seeds averaged
that have all of its temperatures, and the domain's average as one more task (the best average, not an
average of the best). Of tied temperatures the lowest. A temperature without runs is not there to be chosen,
and one alone is taken. Where a half of a task has no items, there is nothing to choose on or to measure:
NaN, and a reason, for the task and for the average, which would be one of other tasks.
"""

import hashlib
import math
from typing import Any

import numpy as np
import pandas as pd
import sacrebleu

from kdutils.constants import AVERAGE, is_text
from kdutils.data import sources
from kdutils.grid.cell_table import Scored, kept, short_name
from kdutils.grid.plan import Plan
from kdutils.inference import intervals
from kdutils.results import gain_tables
from kdutils.results.item_gains import COUNTS, item_values
from kdutils.runs import comparison
from kdutils.spec import RunSpec

HALVES = (0, 1)
CASE = ["protocol", "domain", "teacher", "student", "method"]  # what a temperature is chosen for
SUMS = ["n", "value", "square"]
LIKENESS_SUMS = ["n_texts", "same", *COUNTS]
COMPARED = [*comparison.KEYS, "text", "parsed"]
COLUMNS = [*CASE, "temperature", "seed", "task", "half", *SUMS, *LIKENESS_SUMS]
NUMBERS = {"seed": int, "half": int} | dict.fromkeys(["temperature", *SUMS, *LIKENESS_SUMS], float)
CHOICE = ["by_0", "by_1", "by_all"]  # the temperature that a half chooses for the other; that all items do
ALIKE = 9  # digits to which means are equal
MEASURED = ["accuracy", "accuracy_se", "agreement", "fidelity"]
OF_ONE_RUN = [  # columns of cells that no run put together from two has
    *("n_clean", "accuracy_clean", "accuracy_ranked", "accuracy_ranked_normalised"),
    *("accuracy_strict", "in_format", "unparsed", "truncated", "fidelity_correct_r"),
]


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
    in instruction following their mean ROUGE-L) and of its `square`. Of the texts compared with the teacher's
    `n_texts`, how many give the `same` answer, and COUNTS; NaN without them. No row for a half without items.
    """
    asked = {sources.resolved(run.spec): run.evaluation for run in plan.runs}
    swept: dict[tuple, list[RunSpec]] = {}
    for spec in asked:
        if spec.teacher and spec.teacher_tuned and not spec.noise_sigma:
            names = short_name(spec.teacher), short_name(spec.student)
            swept.setdefault((spec.protocol, spec.domain, *names, spec.method), []).append(spec)
    found = []
    for case, specs in swept.items():
        if len({spec.temperature for spec in specs}) == 1:
            continue
        for spec in specs:
            own, tuned = Scored.of(plan.out, spec, asked[spec]), spec.teacher_spec
            if own is None:
                continue
            teacher = Scored.of(plan.out, tuned, asked[spec]) if tuned in asked else None
            where = dict(zip(CASE, case, strict=True)) | {"temperature": spec.temperature, "seed": spec.seed}
            records = kept(plan.out, _sums, *filter(None, (own, teacher)))
            found += [where | record for record in records]
    return pd.DataFrame(found, columns=COLUMNS).astype(NUMBERS)  # None becomes NaN, which JSON has not


def _sums(student: pd.DataFrame, teacher: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    return sums(student, teacher).to_dict("records")


def sums(student: pd.DataFrame, teacher: pd.DataFrame | None = None) -> pd.DataFrame:
    """One run's item rows by task and half: task, half, SUMS and LIKENESS_SUMS, as `read` has them.

    Raises:
        ValueError: if student and teacher were not evaluated on the same items.
    """
    student = student.assign(half=student["item_id"].map(half_of))
    own = _values(student)
    if teacher is None:
        return own.assign(**dict.fromkeys(LIKENESS_SUMS, math.nan))
    both = comparison.paired(student[[*COMPARED, "half"]], teacher[COMPARED])
    both = both.assign(same=comparison.same_answer(both))
    table = []
    for (task, half), part in both.groupby(["task", "half"], sort=False):
        same = math.nan if is_text(task) else int(part["same"].sum())  # no answer to agree on
        bleu = sacrebleu.BLEU().corpus_score(part["text"].tolist(), [part["text_teacher"].tolist()])
        table.append((task, half, len(part), same, bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals))
    return own.merge(pd.DataFrame(table, columns=["task", "half", *LIKENESS_SUMS]), on=["task", "half"])


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    by_item = item_values(rows).reset_index()
    by_item = by_item.assign(half=by_item["item_id"].map(half_of), square=by_item["value"] ** 2)
    groups = by_item.groupby(["task", "half"], sort=False)
    return groups[["value", "square"]].sum().assign(n=groups.size()).reset_index()


# --- which temperature is chosen ---------------------------------------------------------------------------


def choices(halves: pd.DataFrame) -> pd.DataFrame:
    """What temperature each half and all items choose, a row a pair x method x task: CASE, task, CHOICE.

    Takes `read`. The domain's average is one of the tasks. `reason`: why CHOICE is NaN, or "".

    Raises:
        ValueError: if two runs among which is chosen were scored on different items.
    """
    table = []
    for case, part in _of_common_seeds(halves).groupby(CASE, sort=False):
        tasks, temperatures = list(part["task"].unique()), sorted(part["temperature"].unique())
        values, n = (_by_task(part, name, tasks, temperatures) for name in ("value", "n"))
        if (odd := (n != n[..., :1]).any(axis=(1, 2))).any():
            who = f"{' '.join(case)}: runs on {tasks[odd.argmax()]}"
            raise ValueError(f"{who} were scored on different items; evaluate them on the same")
        shares = np.divide(values, n, out=np.full(n.shape, math.nan), where=n > 0)
        totals = values.sum(axis=1) / n.sum(axis=1)
        lacks = [
            f"a half of {task} has no items" if (of == 0).any() else ""
            for task, of in zip(tasks, n, strict=True)
        ]
        for task, of_half, of_all, reason in zip(tasks, shares, totals, lacks, strict=True):
            table.append((*case, task, *_best(of_half, of_all, temperatures), reason))
        chosen = _best(shares.mean(axis=0), totals.mean(axis=0), temperatures)
        table.append((*case, AVERAGE, *chosen, "; ".join(filter(None, lacks))))
    frame = pd.DataFrame(table, columns=[*CASE, "task", *CHOICE, "reason"])
    return frame.astype(dict.fromkeys(CHOICE, float))


def _of_common_seeds(halves: pd.DataFrame) -> pd.DataFrame:
    """Without seeds that lack a temperature, as in gain_tables: several would lose to the luck of one."""
    n_temperatures = halves.groupby(CASE)["temperature"].transform("nunique")
    return halves[halves.groupby([*CASE, "seed"])["temperature"].transform("nunique") == n_temperatures]


def _by_task(rows: pd.DataFrame, name: str, tasks: list[str], temperatures: list[float]) -> np.ndarray:
    """A sum over seeds by task, half and temperature; 0 where there are no items."""
    table = rows.groupby(["task", "half", "temperature"])[name].sum()
    index = pd.MultiIndex.from_product([tasks, HALVES, temperatures])
    return table.reindex(index).fillna(0.0).to_numpy(float).reshape(len(tasks), len(HALVES), -1)


def _best(shares: np.ndarray, totals: np.ndarray, temperatures: list[float]) -> list[float]:
    """CHOICE of shares by half and temperature and of those over all items; NaN if a half has none."""
    if np.isnan(shares).any():
        return [math.nan] * len(CHOICE)
    return [temperatures[int(np.round(each, ALIKE).argmax())] for each in (*shares, totals)]


# --- what a choice is measured to be ----------------------------------------------------------------------


def measured(halves: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Runs whose halves are each at the temperature that the other chose: CASE, seed, task, MEASURED.

    Over all items, as in the cell table: fidelity is BLEU of all texts together, an average has no likeness.
    Takes `choices`; what could not be chosen has no row.
    """
    turns = [chosen.assign(half=half, temperature=chosen[f"by_{1 - half}"]) for half in HALVES]
    return composed(halves, pd.concat(turns))


def composed(halves: pd.DataFrame, turns: pd.DataFrame) -> pd.DataFrame:
    """Runs put together from halves at the temperatures of `turns`: CASE, task, half, temperature."""
    known = _of_common_seeds(halves)
    turns = turns[[*CASE, "task", "half", "temperature"]].rename(columns={"task": "asked"})
    parts = known.merge(turns, on=[*CASE, "half", "temperature"])
    parts = parts[(parts["asked"] == parts["task"]) | (parts["asked"] == AVERAGE)]
    keys = [*CASE, "seed", "asked", "task"]
    sums = parts.groupby(keys, sort=False)[["n", "value", "square", "n_texts", "same", *COUNTS]]
    sums = sums.sum(min_count=1).reset_index()
    share = sums["value"] / sums["n"]
    spread = (sums["square"] / sums["n"] - share**2).clip(lower=0.0) / (sums["n"] - 1)
    bleu = pd.Series(intervals.bleu(sums[COUNTS].fillna(0)), sums.index)
    sums = sums.assign(
        accuracy=100 * share,
        variance=100**2 * spread,
        agreement=100 * sums["same"] / sums["n_texts"],
        fidelity=bleu.where(sums["n_texts"].notna()),
    )
    runs = sums.groupby([*CASE, "seed", "asked"], sort=False)
    table = runs[["accuracy", "agreement", "fidelity"]].mean()
    table["accuracy_se"] = runs["variance"].sum(min_count=1) ** 0.5 / runs.size()
    table = table.reset_index().rename(columns={"asked": "task"})
    table.loc[table["task"] == AVERAGE, ["agreement", "fidelity"]] = math.nan
    return table[[*CASE, "seed", "task", *MEASURED]]


def cells(cells: pd.DataFrame, halves: pd.DataFrame) -> pd.DataFrame:
    """Live cells in which one run stands for the temperatures of a pair x method x task x seed.

    Where both halves choose the same one, it is that cell; else its temperature is NaN, and accuracy,
    agreement and fidelity are `measured`; what is of one run alone is then NaN. Pairs and methods of one
    temperature, baselines, noisy runs and untuned teachers stay as they are. What could not be chosen has no
    row: ask `lacking` first.
    """
    kept = gain_tables.of_common_seeds(cells)
    swept = _swept(kept)
    chosen = choices(halves).dropna(subset=CHOICE)
    rows = swept.merge(chosen, on=[*CASE, "task"], how="inner", validate="many_to_one")
    is_one = rows["by_0"] == rows["by_1"]
    same = rows[is_one & (rows["temperature"] == rows["by_0"])]
    mixed = rows[~is_one].drop_duplicates([*CASE, "task", "seed"]).drop(columns=MEASURED)
    mixed = mixed.merge(measured(halves, chosen), on=[*CASE, "task", "seed"])
    mixed = mixed.assign(temperature=math.nan, **dict.fromkeys(OF_ONE_RUN, math.nan))
    tables = [kept.drop(swept.index), same, mixed]
    return pd.concat([table[kept.columns].astype(kept.dtypes) for table in tables], ignore_index=True)


def lacking(cells: pd.DataFrame, halves: pd.DataFrame) -> str:
    """Why a temperature of some pair, method or task of these cells cannot be chosen; "" if all can."""
    wanted = _swept(gain_tables.of_common_seeds(cells))[[*CASE, "task"]].drop_duplicates()
    rows = wanted.merge(choices(halves), on=[*CASE, "task"], how="left")
    reasons = rows.loc[rows["by_0"].isna(), "reason"]
    return "; ".join(reasons.fillna("no items to choose a temperature on").unique())


def _swept(cells: pd.DataFrame) -> pd.DataFrame:
    """Noise-free KD of a tuned teacher at several temperatures, of those of which one is chosen."""
    plain = gain_tables.plain(cells, temperature=None)
    return plain[plain.groupby(CASE)["temperature"].transform("nunique") > 1]
