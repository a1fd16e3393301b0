"""What each difference between the protocols changes, one at a time: accuracies, and the gain over SFT.

All is compared on the same items, question by question. An interval speaks of other questions of these tasks;
it holds neither other pairs nor other training seeds. What luck alone does to a training is a control of its
own: the same run with another seed. What choosing a temperature gains by the choice alone is another: the
same choice on other items.

Written before a value was looked at: a factor `raises` or `lowers` something if the 95 % interval of the
change leaves out 0, and, where it takes another training, if the change is larger than that of each seed
(else it is `within seed noise`). It is `less than MARGIN points` if the 90 % interval lies within them (two
one-sided tests at 5 %), else `not told apart`.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdutils.constants import BY_SEQUENCE, DOMAIN_LABELS, KD_METHODS, LOGIT_METHODS, METHOD_NAMES, is_text
from kdutils.data import sources
from kdutils.grid.cell_table import short_name
from kdutils.grid.factors import FACTORS
from kdutils.grid.plan import Plan
from kdutils.grid.study import TOGETHER
from kdutils.inference.intervals import difference_by_item
from kdutils.results.gain_tables import in_domain_order, interval_text
from kdutils.runs import comparison, store

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
        return bool(
            (self.prompt or self.sampled or self.lenient or self.seed)
            or (self.sequences and method in BY_SEQUENCE)
            or (self.choice and method in LOGIT_METHODS)
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
SEEDS = ("seed_1", "seed_2")
CONTROLS = ("selection_other", *SEEDS)  # no factors


def read(plan: Plan) -> pd.DataFrame:
    """The texts of a plan's finished students, a row each: SETTING, sample, ITEM, lenient, strict (right?).

    What decides is how a run was made, not its protocol's name: `paper` is all factors. Baselines without
    training, noisy runs, untuned teachers and instructions, which have no answer to read, are left out.
    """
    students = {run.spec.student for run in plan.runs if run.spec.teacher}
    columns, tables = [*SETTING, "sample", *ITEM, "lenient", "strict"], []
    for run in dict.fromkeys((*plan.runs, *plan.variants)):
        spec = run.spec
        is_compared = not is_text(run.evaluation.tasks[0]) and spec.student in students
        is_compared &= not spec.noise_sigma and spec.student_start == "base"
        if not is_compared or not (
            spec.method == "sft" or (spec.method in KD_METHODS and spec.teacher_tuned)
        ):
            continue
        spec = sources.resolved(spec)
        rows = store.folder_of(plan.out, spec.run_id).evaluation(run.evaluation)
        if rows is None:
            continue
        setting = (spec.domain, short_name(spec.teacher or ""), short_name(spec.student), spec.method)
        setting += (spec.temperature, spec.seed, spec.scores_prompt, spec.weighs_sequences)
        setting += (run.evaluation.temperature > 0,)
        rows = rows.rename(columns={"correct": "lenient", "correct_strict": "strict"})
        tables.append(rows.assign(**dict(zip(SETTING, setting, strict=True)))[columns])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def value(part: pd.DataFrame, variant: Variant) -> pd.Series | None:
    """The share of a student's texts that are right, by question; None if it was not run so."""
    is_chosen = (part["seed"] == variant.seed) & (part["prompt"] == variant.prompt)
    is_chosen &= part["sampled"] == variant.sampled
    is_chosen &= ~part["method"].isin(BY_SEQUENCE) | (part["sequences"] == variant.sequences)
    chosen = part[is_chosen]
    chosen = chosen.assign(right=chosen["lenient" if variant.lenient else "strict"].astype(float))
    if not (variant.choice and part["method"].isin(LOGIT_METHODS).any()):
        chosen = chosen[chosen["temperature"] == 1.0]
    elif chosen["temperature"].nunique() < 2:  # nothing to choose from
        return None
    else:
        chosen = _best_temperature(chosen, variant.choice)
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
    VARIANTS), label, quantity, careful (percent, or points), change, low, high, p_value, low_90, high_90, n
    (questions), n_pairs, chance (percent right by guessing), verdict. Task means are averaged, and a
    question's value over pairs. All of a domain and method is of the same pairs: those that were run with
    as many variants as the pair with the most. What a factor cannot touch has no row, nor has what was not
    run; NaN where runs were scored on different questions.
    """
    table = []
    kd_rows = rows[rows["method"].isin(KD_METHODS)]
    for (domain, method), part in kd_rows.groupby(["domain", "method"], sort=False):
        sft = rows[(rows["domain"] == domain) & (rows["method"] == "sft")]
        chance = float(np.mean([*map(comparison.chance_accuracy, part["task"].unique())]))
        pairs = [
            {"sft": sft[sft["student"] == student], "kd": kd}
            for (_, student), kd in part.groupby(["teacher", "student"], sort=False)
        ]
        arms = [_arms(pair, method) for pair in pairs]
        most = max(map(frozenset, arms), key=len)
        arms = [each for each in arms if most <= each.keys()]
        for name in (name for name in VARIANTS if name in most):
            variant = VARIANTS[name]
            # NaN where a pair lacks a question.
            before, after = (sum(arm) / len(arms) for arm in zip(*(each[name] for each in arms), strict=True))
            touched = {"sft": variant.touches("sft"), "kd": variant.touches(method), "gain": True}
            for quantity in (quantity for quantity in before if touched[quantity]):
                levels = before[quantity].groupby(level="task").mean().mean()
                change, widest = after[quantity] - before[quantity], 2.0 if quantity == "gain" else 1.0
                wide, narrow = (
                    difference_by_item(change, confidence=each, widest=widest) for each in (0.95, 0.90)
                )
                found = (*wide.bounds, wide.p_value, narrow.low, narrow.high, wide.n)
                row = (domain, method, name, variant.label, quantity, 100 * levels)
                table.append((*row, *found, len(arms), chance))
    columns = ["domain", "method", "arm", "label", "quantity", "careful", "change", "low", "high", "p_value"]
    columns += ["low_90", "high_90", "n", "n_pairs", "chance"]
    table = pd.DataFrame(table, columns=columns)
    luck = table["change"].abs().where(table["arm"].isin(SEEDS))
    luck = luck.groupby([table[name] for name in ("domain", "method", "quantity")]).transform("max")
    verdicts = [verdict(row, luck=one) for row, one in zip(table.to_dict("records"), luck, strict=True)]
    return in_domain_order(table.assign(verdict=verdicts)).reset_index(drop=True)


def _arms(pair: dict[str, pd.DataFrame], method: str) -> dict[str, list[pd.DataFrame]]:
    """Of one pair, by variant: sft, kd and gain of each question under `careful` and under the variant.

    Variants that do not touch the method, or that the pair was not run with, are left out.
    """
    careful, found = {side: value(rows, CAREFUL) for side, rows in pair.items()}, {}
    for name, variant in VARIANTS.items():
        touched = {side: variant.touches(side if side == "sft" else method) for side in pair}
        varied = {side: value(pair[side], variant) if touched[side] else careful[side] for side in pair}
        if any(touched.values()) and all(
            each is not None for arm in (careful, varied) for each in arm.values()
        ):
            arms = (pd.DataFrame(arm) for arm in (careful, varied))
            found[name] = [arm.assign(gain=arm["kd"] - arm["sft"]) for arm in arms]
    return found


def verdict(row: dict, *, luck: float) -> str:
    """The verdict on a change by the rule of this module; `luck` is the larger of SEEDS, NaN without one."""
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
    sampled = rows[rows["sampled"] & ~rows["prompt"] & ~rows["sequences"] & (rows["temperature"] == 1.0)]
    keys, table = ["domain", "method", "teacher", "student"], []
    variances = {key: _sample_variance(part) for key, part in sampled.groupby(keys, sort=False)}
    n_samples = sampled.groupby(keys)["sample"].nunique()
    for key, variance in variances.items():
        domain, method, _, student = key
        if method != "sft":
            sft = variances.get((domain, "sft", "", student), math.nan)
            deviations = (100 * math.sqrt(each) for each in (sft, variance, sft + variance))
            table.append((domain, method, *deviations, n_samples[key]))
    return pd.DataFrame(table, columns=["domain", "method", "sft", "kd", "gain", "n_samples"])


def _sample_variance(rows: pd.DataFrame) -> float:
    """Of the mean over tasks of the share of items that are right, one sample an item."""
    by_item = rows.groupby(ITEM)["strict"].agg(lambda right: right.astype(float).var(ddof=1))
    by_task = by_item.groupby(level="task").agg(lambda each: each.sum(skipna=False) / len(each) ** 2)
    return float(by_task.sum(skipna=False)) / len(by_task) ** 2


def luck_remark(table: pd.DataFrame) -> str:
    """What `changes` know of luck, in a sentence."""
    if table["arm"].isin(SEEDS).any():
        return "Other seeds are luck alone."
    return "No run was repeated with another seed, so luck is not shown."


def worth_drawing(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` of the methods of which more than the reading of answers was varied."""
    return table[table.groupby("method")["arm"].transform("nunique") > 1]


def table_of(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` for people: a row a domain x method x arm, with intervals and the verdict on the gain."""
    shown, columns = [], {"sft": "SFT, %", "kd": "KD, %", "gain": "gain, points"}
    for (domain, method), part in table.groupby(["domain", "method"], sort=False):
        who = (DOMAIN_LABELS[domain], METHOD_NAMES[method])
        levels = part.drop_duplicates("quantity").set_index("quantity")["careful"].reindex(list(columns))
        texts = [f"{level:{'+' * (name == 'gain')}.1f}".replace("-", "−") for name, level in levels.items()]
        n_pairs = part["n_pairs"].iloc[0]
        of_pairs = f", {n_pairs} pairs" if n_pairs > 1 else ""
        shown.append((*who, f"careful{of_pairs}", *texts, ""))
        for label, of_arm in part.groupby("label", sort=False):
            found = of_arm.set_index("quantity")
            texts = dict(zip(found.index, _texts(of_arm), strict=True))
            changed = (texts.get(name, "") for name in columns)
            shown.append((*who, label, *changed, found.loc["gain", "verdict"]))
    return pd.DataFrame(shown, columns=["domain", "method", "factor", *columns.values(), "on the gain"])


def _texts(rows: pd.DataFrame) -> list[str]:
    return [interval_text(*bounds) for bounds in rows[["change", "low", "high"]].to_numpy()]


def factor_table() -> pd.DataFrame:
    """Every factor and what the authors do otherwise."""
    return pd.DataFrame([{"factor": each.label, "meaning": each.meaning} for each in FACTORS.values()])


def remark(table: pd.DataFrame) -> str:
    """A summary of the factors, a paragraph a domain x method: on the two accuracies, then on the gain."""
    paragraphs = []
    for (domain, method), part in table.groupby(["domain", "method"], sort=False):
        name = METHOD_NAMES[method]
        sentences = [f"**{DOMAIN_LABELS[domain]}, {name}.**", *_at_chance(part, name)]
        own = part[~part["arm"].isin(CONTROLS)]
        for quantity, what in (("sft", "SFT accuracy"), ("kd", f"accuracy of {name}")):
            of_it = own[own["quantity"] == quantity]
            clear = of_it[of_it["verdict"].isin(["raises", "lowers"])]
            if len(of_it):
                found = _listed(_named(clear)) or "nothing for certain"
                sentences.append(f"What changes the {what}: {found}.")
        gains = own[own["quantity"] == "gain"]
        sentences.append(f"The gain is {gains['careful'].iloc[0]:+.1f} points under careful;")
        by_verdict = gains.groupby("verdict", sort=False)
        each = (f"*{verdict}*: {_listed(_named(group))}" for verdict, group in by_verdict)
        sentences.append(f"{'; '.join(each)}.")
        luck = part[part["arm"].isin(SEEDS) & (part["quantity"] == "gain")]["change"]
        if len(luck):
            sentences.append(f"Another seed alone changes it by {_listed([f'{one:+.1f}' for one in luck])}.")
        paragraphs.append(re.sub(r"(?<=[ \[(])-(?=\d)", "−", " ".join(sentences)))
    return "\n\n".join(paragraphs)


def _named(rows: pd.DataFrame) -> list[str]:
    return [f"{label} {text}" for label, text in zip(rows["label"], _texts(rows), strict=True)]


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _at_chance(part: pd.DataFrame, name: str) -> list[str]:
    """A warning where students are right as often as by guessing: a factor has little to change."""
    chance = part["chance"].iloc[0]
    levels = part.drop_duplicates("quantity").set_index("quantity")["careful"]
    named = {"SFT": levels.get("sft", math.nan), name: levels.get("kd", math.nan)}
    low = [f"{who} {level:.1f}" for who, level in named.items() if level < chance + MARGIN]
    return [f"At the level of guessing ({chance:.0f} %): {_listed(low)}."] if low else []


def noise_remark(noise: pd.DataFrame) -> str:
    """What one sample alone hangs on, in a sentence; "" where nothing was sampled."""
    parts = [
        f"{row.gain:.1f} points in {row.domain} ({METHOD_NAMES[row.method]} {row.kd:.1f}, SFT {row.sft:.1f})"
        for row in noise.dropna(subset=["gain"]).itertuples()
    ]
    text = "With one sampled text an item, as the authors have it, the standard deviation of the gain from "
    text += f"the sampling alone, on these items, is {', '.join(parts)}."
    return text if parts else ""
