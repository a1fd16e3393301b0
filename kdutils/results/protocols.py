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

import pandas as pd

from kdutils import evaluate
from kdutils.constants import DOMAIN_LABELS, DOMAIN_TASKS, KD_METHODS, METHOD_NAMES, TOGETHER
from kdutils.grid.factors import FACTORS
from kdutils.inference import intervals
from kdutils.results import protocol_runs
from kdutils.results.gain_tables import in_domain_order
from kdutils.results.protocol_runs import ARMS, CAREFUL, CONTROLS, ITEM, Arm

MARGIN = 2.0  # points
TRAINED = ("prompt", "sequences", TOGETHER)  # factors that take another training


# --- changes ---------------------------------------------------------------------------------------------


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """What each of ARMS changes against `careful`, in points; a row a domain x KD method x arm x quantity.

    Quantities: `sft` and `kd` accuracy, and the `gain` of KD over SFT. Columns domain, method, arm, label,
    quantity, careful (percent, or points), change, low, high, p_value, low_90, high_90, n (questions),
    n_pairs, verdict. Task means are averaged, and a question's value over pairs. What a factor cannot touch
    has no row, nor has what was not run; NaN where runs were scored on different questions.
    """
    table = []
    for (domain, method), part in rows[rows["method"].isin(KD_METHODS)].groupby(
        ["domain", "method"], sort=False
    ):
        sft = rows[(rows["domain"] == domain) & (rows["method"] == "sft")]
        pairs = [
            (kd, sft[sft["student"] == student])
            for (_, student), kd in part.groupby(["teacher", "student"], sort=False)
        ]
        for name, arm in ARMS.items():
            for quantity, before, after, n_pairs in _compared(pairs, arm, method):
                levels = before.groupby(level="task").mean().mean()
                found = _intervals(after - before, widest=2.0 if quantity == "gain" else 1.0)
                table.append((domain, method, name, arm.label, quantity, 100 * levels, *found, n_pairs))
    columns = ["domain", "method", "arm", "label", "quantity", "careful", "change", "low", "high", "p_value"]
    table = pd.DataFrame(table, columns=[*columns, "low_90", "high_90", "n", "n_pairs"])
    return in_domain_order(_judged(table)).reset_index(drop=True)


def _compared(
    pairs: list[tuple[pd.DataFrame, pd.DataFrame]], arm: Arm, method: str
) -> Iterator[tuple[str, pd.Series, pd.Series, int]]:
    """Quantity, its value by question under `careful` and under the arm, and of how many pairs."""
    found: dict[str, list[tuple[pd.Series, pd.Series]]] = {"sft": [], "kd": [], "gain": []}
    touched = {"sft": arm.touches("sft"), "kd": arm.touches(method)}
    for kd, sft in pairs:
        values = {}
        for side, part in (("sft", sft), ("kd", kd)):
            before = protocol_runs.value(part, CAREFUL)
            values[side] = (before, protocol_runs.value(part, arm) if touched[side] else before)
        if any(value is None for pair in values.values() for value in pair):
            continue
        values["gain"] = tuple(
            after - before for before, after in zip(values["sft"], values["kd"], strict=True)
        )
        for quantity, pair in values.items():
            found[quantity].append(pair)
    for quantity, of_pairs in found.items():
        if of_pairs and (quantity == "gain" or touched[quantity]) and any(touched.values()):
            before, after = (_mean_over_pairs(side) for side in zip(*of_pairs, strict=True))
            yield quantity, before, after, len(of_pairs)


def _mean_over_pairs(values: tuple[pd.Series, ...]) -> pd.Series:
    """By question; NaN where a pair lacks it."""
    return pd.concat(values, axis=1).mean(axis=1, skipna=False)


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
    control = table[table["arm"].isin(CONTROLS)]
    luck = control.assign(luck=control["change"].abs()).groupby(where)["luck"].max()
    luck = table[where].merge(luck.reset_index(), on=where, how="left")["luck"].tolist()
    verdicts = [verdict(row, luck=one) for row, one in zip(table.to_dict("records"), luck, strict=True)]
    return table.assign(verdict=verdicts)


def verdict(row: dict, *, luck: float) -> str:
    """What a change comes to by the rule of this module; `luck` is the larger control, NaN without one."""
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


# --- how much one sample hangs on luck ---------------------------------------------------------------------


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
    """`changes` of the methods for which there is more than the reading of answers."""
    return table[table.groupby("method")["arm"].transform("nunique") > 1]


# --- to be read ------------------------------------------------------------------------------------------


def table_of(table: pd.DataFrame) -> pd.DataFrame:
    """`changes` for people: a row a domain x method x arm, with intervals and the verdict on the gain."""
    shown = []
    for (domain, method), part in table.groupby(["domain", "method"], sort=False):
        levels = part.drop_duplicates("quantity").set_index("quantity")["careful"]
        sft, kd, gain = (levels.get(name, math.nan) for name in ("sft", "kd", "gain"))
        who = {"domain": DOMAIN_LABELS[domain], "method": METHOD_NAMES[method]}
        level = {"SFT, %": f"{sft:.1f}", "KD, %": f"{kd:.1f}", "gain, points": f"{gain:+.1f}"}
        shown.append(who | {"factor": "careful"} | level | {"on the gain": ""})
        for _, of_arm in part.groupby("arm", sort=False):
            texts = {row["quantity"]: _text(row) for row in of_arm.to_dict("records")}
            cells = zip(level, (texts.get(name, "") for name in ("sft", "kd", "gain")), strict=True)
            verdicts = of_arm.loc[of_arm["quantity"] == "gain", "verdict"]
            shown.append(
                who | {"factor": of_arm["label"].iloc[0]} | dict(cells) | {"on the gain": verdicts.iloc[0]}
            )
    frame = pd.DataFrame(shown)
    for name in ("SFT, %", "KD, %", "gain, points"):
        frame[name] = frame[name].str.replace("-", "−")
    return frame


def _text(row: dict) -> str:
    return f"{row['change']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def factor_table() -> pd.DataFrame:
    """Every factor and what the authors do otherwise."""
    return pd.DataFrame(
        [(each.label, each.meaning) for each in FACTORS.values()], columns=["factor", "meaning"]
    )


def remark(table: pd.DataFrame) -> str:
    """What the factors come to, a paragraph a domain x method: on the two accuracies, then on the gain."""
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
    """A warning where students know no more than guessing tells, so that a factor has little to change."""
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
        "Whoever samples one text an item, as the authors do, has a gain whose standard deviation from the "
        f"sampling alone, on these items, is {', '.join(parts)}."
    )
