"""What each difference between the protocols changes, one at a time: accuracies, and the gain over SFT.

All is compared on the same items, question by question. An interval speaks of other questions of these tasks;
it holds neither other pairs nor other training seeds. What luck alone does to a training is a control of its
own: the same run with another seed.

Written before a value was looked at: a factor `raises` or `lowers` something if the 95 % interval of the
change leaves out 0, and, where it takes another training, if the change is larger than that of each control
(else it is `within seed noise`). It is `less than MARGIN points` if the 90 % interval lies within them (two
one-sided tests at 5 %), else `not told apart`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kdutils import evaluate
from kdutils.constants import DOMAIN_LABELS, DOMAIN_TASKS, DOMAINS, KD_METHODS, METHOD_NAMES
from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.plan import Plan
from kdutils.grid.profile import FACTORS
from kdutils.grid.study import TOGETHER
from kdutils.inference import intervals
from kdutils.inference.estimate import Estimate
from kdutils.results.gain_tables import in_domain_order
from kdutils.runs import store
from kdutils.spec import BY_SEQUENCE, LOGIT_METHODS, RunSpec

SETTING = ["domain", "teacher", "student", "method", "temperature", "seed", "prompt", "sequences", "sampled"]
ITEM = ["task", "item_id"]
MARGIN = 2.0  # points
TRAINED = ("prompt", "sequences", TOGETHER)  # factors that take another training


@dataclass(frozen=True)
class Variant:
    """One way of getting from a pair to accuracies; by default `careful` with what it leaves open."""

    label: str = "careful"
    prompt: bool = False  # in the loss
    sequences: bool = False  # each weighs the same, in the methods of BY_SEQUENCE
    sampled: bool = False
    lenient: bool = False  # how an answer is read
    choice: str = ""  # of each task's temperature, on its `test` items or the `other` half; else it is 1
    seed: int = 0

    def touches(self, method: str) -> bool:
        """Whether it has an effect on a method at all."""
        only = replace(self, sequences=False, choice="")
        return (
            only != replace(CAREFUL, label=self.label)
            or (self.sequences and method in BY_SEQUENCE)
            or (self.choice != "" and method in LOGIT_METHODS)
        )


CAREFUL = Variant()
ALL = {"prompt": True, "sequences": True, "sampled": True, "lenient": True}
VARIANTS = {
    "prompt": Variant(FACTORS["prompt"].label, prompt=True),
    "sequences": Variant(FACTORS["sequences"].label, sequences=True),
    "sampling": Variant(FACTORS["sampling"].label, sampled=True),
    "selection": Variant(FACTORS["selection"].label, choice="test"),
    "extraction": Variant(FACTORS["extraction"].label, lenient=True),
    TOGETHER: Variant("all at temperature 1", **ALL),
    "together_selected": Variant("all", choice="test", **ALL),
    "selection_other": Variant("control: temperature by other half", choice="other"),
    "seed_1": Variant("control: seed 1 for 0", seed=1),
    "seed_2": Variant("control: seed 2 for 0", seed=2),
}
CONTROLS = ("seed_1", "seed_2")


def read(plan: Plan) -> pd.DataFrame:
    """The texts of a plan's finished students, a row each: SETTING, sample, ITEM, lenient, strict (right?).

    What decides is how a run was made, not its protocol's name: `paper` is all factors. Baselines without
    training, noisy runs, untuned teachers and instructions, which have no answer to read, are left out.
    """
    students = {run.spec.student for run in plan.runs if run.spec.teacher}
    tables = []
    for run in dict.fromkeys((*plan.runs, *plan.variants)):
        if not _is_compared(run.spec) or run.spec.student not in students:
            continue
        spec = sources.resolved(run.spec)
        rows = store.folder_of(plan.out, spec.run_id).evaluation(run.evaluation)
        if rows is None:
            continue
        rows = rows[["sample", *ITEM, "correct", "correct_strict"]]
        rows = rows.rename(columns={"correct": "lenient", "correct_strict": "strict"})
        setting = (spec.domain, short_name(spec.teacher or ""), short_name(spec.student), spec.method)
        setting += (spec.temperature, spec.seed, spec.scores_prompt, spec.weighs_sequences)
        setting += (run.evaluation.temperature > 0,)
        tables.append(rows.assign(**dict(zip(SETTING, setting, strict=True))))
    columns = [*SETTING, "sample", *ITEM, "lenient", "strict"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _is_compared(spec: RunSpec) -> bool:
    is_trained = spec.method == "sft" or (spec.method in KD_METHODS and spec.teacher_tuned)
    return spec.domain in DOMAINS and is_trained and spec.noise_sigma == 0.0


def value(part: pd.DataFrame, variant: Variant) -> pd.Series | None:
    """The share of a student's texts that are right, by question; None if it was not run so."""
    chosen = part[
        (part["seed"] == variant.seed)
        & (part["sampled"] == variant.sampled)
        & (part["prompt"] == variant.prompt)
    ]
    chosen = chosen[~chosen["method"].isin(BY_SEQUENCE) | (chosen["sequences"] == variant.sequences)]
    chosen = chosen.assign(right=chosen["lenient" if variant.lenient else "strict"].astype(float))
    if variant.choice and part["method"].isin(LOGIT_METHODS).any():
        is_choice = chosen["temperature"].nunique() > 1
        chosen = _best_temperature(chosen, variant.choice) if is_choice else chosen.head(0)
    else:
        chosen = chosen[chosen["temperature"] == 1.0]
    return chosen.groupby(ITEM)["right"].mean() if len(chosen) else None


def _best_temperature(rows: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The rows of the best temperature of each task, the lowest of equals; each sample chooses for itself.

    On `test` all of a task's items choose and count. On `other` they are split in two, every second one, and
    each half counts at the temperature that is best on the other.
    """
    kept = []
    for _, part in rows.groupby(["task", "sample"], sort=False):
        wide = part.pivot(index="item_id", columns="temperature", values="right").sort_index(axis=1)
        half = np.arange(len(wide)) % 2
        for each in (0, 1):
            voters = wide if choice == "test" else wide[half != each]
            best = voters.mean().idxmax()
            counted = part["item_id"].isin(wide.index[half == each]) & (part["temperature"] == best)
            kept.append(part[counted])
    return pd.concat(kept)


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """What each of VARIANTS changes against `careful`, in points: a row a domain x method x arm x quantity.

    Quantities: `sft` and `kd` accuracy, and the `gain` of KD over SFT. Columns domain, method, arm (a key of
    VARIANTS), label,
    quantity, careful (percent, or points), change, low, high, p_value, low_90, high_90, n (questions),
    n_pairs, verdict. Task means are averaged, and a question's value over pairs. What a factor cannot touch
    has no row, nor has what was not run; NaN where runs were scored on different questions.
    """
    table = []
    kd_rows = rows[rows["method"].isin(KD_METHODS)]
    for (domain, method), part in kd_rows.groupby(["domain", "method"], sort=False):
        sft = rows[(rows["domain"] == domain) & (rows["method"] == "sft")]
        pairs = [
            (kd, sft[sft["student"] == student])
            for (_, student), kd in part.groupby(["teacher", "student"], sort=False)
        ]
        for name, variant in VARIANTS.items():
            for quantity, before, after, n_pairs in _compared(pairs, variant, method):
                levels = before.groupby(level="task").mean().mean()
                found = _intervals(after - before, widest=2.0 if quantity == "gain" else 1.0)
                table.append((domain, method, name, variant.label, quantity, 100 * levels, *found, n_pairs))
    columns = ["domain", "method", "arm", "label", "quantity", "careful", "change", "low", "high", "p_value"]
    table = pd.DataFrame(table, columns=[*columns, "low_90", "high_90", "n", "n_pairs"])
    return in_domain_order(_judged(table)).reset_index(drop=True)


def _compared(
    pairs: list[tuple[pd.DataFrame, pd.DataFrame]], variant: Variant, method: str
) -> Iterator[tuple[str, pd.Series, pd.Series, int]]:
    """Quantity, its value by question under `careful` and under the variant, and of how many pairs."""
    found: dict[str, list[tuple[pd.Series, pd.Series]]] = {"sft": [], "kd": [], "gain": []}
    touched = {"sft": variant.touches("sft"), "kd": variant.touches(method)}
    for kd, sft in pairs:
        values = {}
        for side, part in (("sft", sft), ("kd", kd)):
            before = value(part, CAREFUL)
            values[side] = (before, value(part, variant) if touched[side] else before)
        if any(value is None for pair in values.values() for value in pair):
            continue
        values["gain"] = tuple(
            after - before for before, after in zip(values["sft"], values["kd"], strict=True)
        )
        for quantity, pair in values.items():
            found[quantity].append(pair)
    for quantity, of_pairs in found.items():
        if of_pairs and (quantity == "gain" or touched[quantity]) and any(touched.values()):
            sides = (pd.concat(side, axis=1) for side in zip(*of_pairs, strict=True))
            before, after = (side.mean(axis=1, skipna=False) for side in sides)  # NaN where a pair lacks it
            yield quantity, before, after, len(of_pairs)


def _intervals(differences: pd.Series, *, widest: float) -> tuple[float, ...]:
    """change, low, high, p_value, low_90, high_90, n of differences of at most `widest`.

    A gain is a difference already, so that two of them may differ by 2: halved, it is one outcome of a pair.
    """
    tasks = differences.index.get_level_values("task")
    wide, narrow = (
        intervals.difference_over_items(differences / widest, tasks, confidence=confidence)
        for confidence in (0.95, 0.90)
    )
    bounds = (widest * value for value in (wide.value, wide.low, wide.high))
    return *bounds, wide.p_value, widest * narrow.low, widest * narrow.high, wide.n


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """With `verdict`, by the rule of this module."""
    where = ["domain", "method", "quantity"]
    luck = table["change"].abs().where(table["arm"].isin(CONTROLS))
    luck = luck.groupby([table[name] for name in where]).transform("max")
    verdicts = [verdict(row, luck=one) for row, one in zip(table.to_dict("records"), luck, strict=True)]
    return table.assign(verdict=verdicts)


def verdict(row: dict, *, luck: float) -> str:
    """The verdict on a change by the rule of this module; `luck` is the larger control, NaN without one."""
    if row["arm"] in CONTROLS:
        return "control"
    if math.isnan(row["low"]):
        return "undefined: scored on different questions"
    if row["low"] > 0 or row["high"] < 0:
        if row["arm"].startswith(TRAINED) and abs(row["change"]) <= luck:
            return "within seed noise"
        return "raises" if row["low"] > 0 else "lowers"
    if row["low_90"] > -MARGIN and row["high_90"] < MARGIN:
        return f"less than {MARGIN:g} points"
    return "not told apart"


def decoding_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation, points, of an average over tasks that is taken from one sampled text an item.

    From the variance over an item's samples of one `careful` student. A row a domain x KD method: columns
    domain, method, sft, kd, gain, n_samples. NaN with one sample an item.
    """
    table = []
    sampled = rows[rows["sampled"] & ~rows["prompt"] & ~rows["sequences"] & (rows["temperature"] == 1.0)]
    for (domain, method), part in sampled.groupby(["domain", "method"], sort=False):
        if method == "sft":
            continue
        for (_, student), kd in part.groupby(["teacher", "student"], sort=False):
            is_sft = (sampled["domain"] == domain) & (sampled["method"] == "sft")
            sft = sampled[is_sft & (sampled["student"] == student)]
            spread = [_sample_variance(side) for side in (sft, kd)]
            deviations = (100 * math.sqrt(value) for value in (*spread, sum(spread)))
            table.append((domain, method, *deviations, kd["sample"].nunique()))
    return pd.DataFrame(table, columns=["domain", "method", "sft", "kd", "gain", "n_samples"])


def _sample_variance(rows: pd.DataFrame) -> float:
    """Of the mean over tasks of the share of items that are right, one sample an item."""
    by_item = rows.groupby(ITEM)["strict"].agg(lambda right: right.astype(float).var(ddof=1))
    by_task = by_item.groupby(level="task").agg(lambda each: each.sum(skipna=False) / len(each) ** 2)
    return float(by_task.sum(skipna=False)) / len(by_task) ** 2 if len(by_task) else math.nan


def worth_drawing(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` of the methods of which more than the reading of answers was varied."""
    return table[table.groupby("method")["arm"].transform("nunique") > 1]


def table_of(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` for people: a row a domain x method x arm, with intervals and the verdict on the gain."""
    shown, columns = [], {"sft": "SFT, %", "kd": "KD, %", "gain": "gain, points"}
    for (domain, method), part in table.groupby(["domain", "method"], sort=False):
        who = (DOMAIN_LABELS[domain], METHOD_NAMES[method])
        levels = part.drop_duplicates("quantity").set_index("quantity")["careful"].reindex(list(columns))
        texts = [f"{level:{'+' * (name == 'gain')}.1f}" for name, level in levels.items()]
        shown.append((*who, "careful", *texts, ""))
        for _, of_arm in part.groupby("arm", sort=False):
            found = {row["quantity"]: row for row in of_arm.to_dict("records")}
            texts = [_text(found[name]) if name in found else "" for name in columns]
            shown.append((*who, of_arm["label"].iloc[0], *texts, found["gain"]["verdict"]))
    frame = pd.DataFrame(shown, columns=["domain", "method", "factor", *columns.values(), "on the gain"])
    return frame.replace({name: {"-": "−"} for name in columns.values()}, regex=True)


def _text(row: dict) -> str:
    return Estimate(row["change"], row["low"], row["high"]).text()


def factor_table() -> pd.DataFrame:
    """Every factor and what the authors do otherwise."""
    return pd.DataFrame([{"factor": each.label, "meaning": each.meaning} for each in FACTORS.values()])


def remark(table: pd.DataFrame) -> str:
    """A summary of the factors, a paragraph a domain x method: on the two accuracies, then on the gain."""
    paragraphs = []
    for (domain, method), part in table.groupby(["domain", "method"], sort=False):
        name = METHOD_NAMES[method]
        sentences = [f"**{DOMAIN_LABELS[domain]}, {name}.**", *_at_chance(domain, part, name)]
        own = part[~part["arm"].isin(CONTROLS)]
        for quantity, what in (("sft", "SFT accuracy"), ("kd", f"accuracy of {name}")):
            of_it = own[own["quantity"] == quantity]
            clear = of_it[of_it["verdict"].isin(["raises", "lowers"])].to_dict("records")
            if len(of_it):
                found = _listed(_named(clear)) or "nothing for certain"
                sentences.append(f"What changes the {what}: {found}.")
        gains = own[own["quantity"] == "gain"]
        sentences.append(f"The gain is {gains['careful'].iloc[0]:+.1f} points under careful;")
        each = (
            f"*{name}*: {_listed(_named(group.to_dict('records')))}"
            for name, group in gains.groupby("verdict", sort=False)
        )
        sentences.append(f"{'; '.join(each)}.")
        luck = part[part["arm"].isin(CONTROLS) & (part["quantity"] == "gain")]["change"]
        if len(luck):
            sentences.append(f"Another seed alone changes it by {_listed([f'{one:+.1f}' for one in luck])}.")
        paragraphs.append(re.sub(r"(?<=[ \[(])-(?=\d)", "−", " ".join(sentences)))
    return "\n\n".join(paragraphs)


def _named(rows: list[dict]) -> list[str]:
    return [f"{row['label']} {_text(row)}" for row in rows]


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _at_chance(domain: str, part: pd.DataFrame, name: str) -> list[str]:
    """A warning where students are right as often as by guessing: a factor has little to change."""
    chance = sum(map(evaluate.chance_accuracy, DOMAIN_TASKS[domain])) / len(DOMAIN_TASKS[domain])
    levels = part.drop_duplicates("quantity").set_index("quantity")["careful"]
    named = {"SFT": levels.get("sft", math.nan), name: levels.get("kd", math.nan)}
    low = [f"{who} {level:.1f}" for who, level in named.items() if level < chance + MARGIN]
    return [f"At the level of guessing ({chance:.0f} %): {_listed(low)}."] if low else []


def noise_remark(noise: pd.DataFrame) -> str:
    """What one sample alone hangs on, in a sentence; "" where nothing was sampled."""
    parts = [
        f"{row.gain:.1f} points in {row.domain} ({METHOD_NAMES[row.method]} {row.kd:.1f}, SFT {row.sft:.1f})"
        for row in noise.itertuples()
        if not math.isnan(row.gain)
    ]
    if not parts:
        return ""
    return (
        "With one sampled text an item, as the authors have it, the standard deviation of the gain from the "
        f"sampling alone, on these items, is {', '.join(parts)}."
    )
