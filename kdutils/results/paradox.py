"""The paradox item by item: what becomes of an answer through KD, and of its likeness to the teacher's text.

The paper sees fidelity rise while accuracy hardly follows it. Between students that is a correlation; here it
is asked of single items: where a student became right through KD (wrong after SFT of the same seed, right
after KD, teacher right), did its text come closer to the teacher's than where it stayed wrong? Math alone,
whose texts reason; students at temperature 1 without noise and their tuned teacher, one text an item.

Likeness is sentence BLEU and ROUGE-L with the teacher's text, and, since two right answers share at least the
number they end on, BLEU of the words alone (`wording`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import sacrebleu

from kdutils import evaluate
from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.crossed_bootstrap import Resampled, ratio, weighted_mean
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity
from kdutils.runs import comparison

DOMAIN = "math"
PAIR = ["teacher", "student"]
STRATUM = [*PAIR, "seed", "task"]
COLUMNS = [*comparison.KEYS, "text", "parsed", "correct", "truncated"]  # of the item rows
OUTCOMES = {  # evaluate.ANSWERS in words
    "both_right": "both right",
    "only_student": "only the student right",
    "only_teacher": "only the teacher right",
    "same_wrong": "both wrong, same answer",
    "other_wrong": "both wrong, other answers",
}
FATES = {  # what became of an item through KD; the first four where the teacher is right
    "became_right": "became right",
    "stayed_right": "stayed right",
    "stayed_wrong": "stayed wrong",
    "became_wrong": "became wrong",
    "teacher_wrong": "teacher wrong",
}
MEASURES = {"bleu": "sentence BLEU", "rouge_l": "ROUGE-L", "wording": "BLEU of the words alone"}
NONE = "no text in this group"
ESTIMATED = ["estimate", "low", "high", "reason"]
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
STATED = re.compile(r"\s*[Tt]he answer is\b.*$", re.DOTALL)


def texts(plan: Plan) -> pd.DataFrame:
    """Texts of a plan's students and of their teachers: a row a student x teacher x seed x item.

    Columns agreement_fidelity.NAMES, COLUMNS, those of the teacher with the suffix `_teacher`, `outcome` (a
    key of OUTCOMES) and MEASURES, percent. No rows without live runs, or without math.
    """
    found = list(agreement_fidelity.beside_teachers(plan, COLUMNS, domains=(DOMAIN,))) if plan.runs else []
    stacked = [
        pd.concat([comparison.paired(student, teacher)], keys=[place], names=["place"])
        for place, (_, student, teacher) in enumerate(found)
    ]
    names = [name for name in COLUMNS if name not in comparison.KEYS]
    if not stacked:
        suffixed = [f"{name}_teacher" for name in names]
        return pd.DataFrame(columns=[*agreement_fidelity.NAMES, *COLUMNS, *suffixed, "outcome", *MEASURES])
    both = pd.concat(stacked).reset_index("place")
    both = both[both["sample"] == both["sample"].min()]  # one text an item
    named = pd.DataFrame([where for where, _, _ in found])[agreement_fidelity.NAMES].iloc[both.pop("place")]
    rows = pd.concat([named.reset_index(drop=True), both.reset_index(drop=True)], axis=1)
    return rows.assign(outcome=outcomes(rows), **likeness(rows["text"], rows["text_teacher"]))


def outcomes(both: pd.DataFrame) -> np.ndarray:
    """Of paired rows the key of OUTCOMES that holds; exactly one does."""
    right, teacher_right = both["correct"].to_numpy(bool), both["correct_teacher"].to_numpy(bool)
    wrong = np.where(comparison.same_answer(both), "same_wrong", "other_wrong")
    wrong = np.where(teacher_right, "only_teacher", wrong)
    return np.where(right, np.where(teacher_right, "both_right", "only_student"), wrong)


def likeness(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """MEASURES of each text against its reference, percent: sacrebleu (effective order) and rouge-score."""
    metric = sacrebleu.BLEU(effective_order=True)

    def bleu(text: str, reference: str) -> float:
        return metric.sentence_score(text, [reference]).score

    alone = [list(map(wording, side)) for side in (texts, references)]
    return {
        "bleu": _of_pairs(texts, references, bleu),
        "rouge_l": 100 * _of_pairs(texts, references, evaluate.rouge_l),
        "wording": _of_pairs(*alone, bleu),
    }


def _of_pairs(
    texts: Sequence[str], references: Sequence[str], measure: Callable[[str, str], float]
) -> np.ndarray:
    """A measure of pairs, each computed once, however often it occurs."""
    pairs = list(zip(texts, references, strict=True))
    known = {pair: measure(*pair) for pair in dict.fromkeys(pairs)}
    return np.array([known[pair] for pair in pairs], dtype=float)


def wording(text: str) -> str:
    """The text without the sentence that states the answer, every number as 0: what is left is words."""
    return NUMBER.sub("0", STATED.sub("", text))


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """`texts` of KD joined to those of the SFT student of the same pair and seed.

    Adds `correct_sft`, `fate` (a key of FATES; exactly one holds) and MEASURES as rises: KD less SFT, each
    against the same text of the teacher, points.
    """
    keys = [*STRATUM, "item_id"]
    sft = rows.loc[rows["method"] == "sft", [*keys, "correct", *MEASURES]]
    kd = rows[rows["method"] != "sft"]
    both = kd.merge(sft, on=keys, how="inner", suffixes=("", "_sft"), validate="many_to_one")
    rises = {name: both[name] - both.pop(f"{name}_sft") for name in MEASURES}
    return both.assign(fate=_fates(both), **rises)


def _fates(both: pd.DataFrame) -> np.ndarray:
    before, after = both["correct_sft"].to_numpy(bool), both["correct"].to_numpy(bool)
    right = np.where(before, "stayed_right", "became_right")
    wrong = np.where(before, "became_wrong", "stayed_wrong")
    fates = np.where(after, right, wrong)
    return np.where(both["correct_teacher"].to_numpy(bool), fates, "teacher_wrong")


# --- means with intervals ---------------------------------------------------------------------------------


def by_method(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Method, its name and its rows, of each that there is, SFT first."""
    for method in ("sft", *KD_METHODS):
        if (is_own := rows["method"] == method).any():
            yield method, METHOD_NAMES[method], rows[is_own]


def resampled(
    rows: pd.DataFrame, values: Mapping[str, Any], clusters: Sequence[str] = PAIR, **how
) -> Resampled:
    """Sums of `values` with pairs (or what `clusters` names) and items drawn again, crossed.

    Seeds of a pair go with it.
    """
    table = rows[[*STRATUM, "item_id"]].assign(**values)
    return crossed_bootstrap.resampled(table, strata=STRATUM, clusters=clusters, values=list(values), **how)


def estimated(mean: np.ndarray, drawn: Resampled, part: pd.DataFrame, why_undefined: str = NONE) -> Estimate:
    """The mean over `part` with its interval."""
    why_not = drawn.why_not or ("one text, nothing to draw again" if len(part) == 1 else "")
    return crossed_bootstrap.estimate(mean, why_undefined=why_undefined, why_not=why_not)


def _sums_by_group(rows: pd.DataFrame, group: str, names: Sequence[str]) -> dict[str, pd.Series]:
    """What is added up of ones and MEASURES in each group."""
    ones = {name: (rows[group] == name).astype(float) for name in names}
    values = {f"{name} one": is_in for name, is_in in ones.items()}
    return values | {f"{name} {of}": rows[of] * is_in for name, is_in in ones.items() for of in MEASURES}


def by_group(
    rows: pd.DataFrame,
    group: str,
    names: Mapping[str, str],
    *,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Mean of MEASURES by method and `group` (of `names`) with intervals: a row a method x group x measure.

    Columns method, label, group, group_label, measure, ESTIMATED, n (texts), n_pairs. Every text counts the
    same. Intervals draw pairs and items again, crossed.
    """
    table = []
    for method, name, part in by_method(rows):
        drawn = resampled(part, _sums_by_group(part, group, list(names)), rng=rng, n_resamples=n_resamples)
        for key, label in names.items():
            of_group = part[part[group] == key]
            n = len(of_group), len(of_group[PAIR].drop_duplicates())
            for measure in MEASURES:
                found = estimated(drawn.mean(f"{key} {measure}", f"{key} one"), drawn, of_group)
                table.append((method, name, key, label, measure, *found.bounds, found.reason, *n))
    columns = ["method", "label", "group", "group_label", "measure", *ESTIMATED, "n", "n_pairs"]
    return pd.DataFrame(table, columns=columns)


def contrasts(
    rises: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int = crossed_bootstrap.N_RESAMPLES
) -> pd.DataFrame:
    """How much more likeness rose where an item became right than where it stayed wrong, and stayed right.

    A row a method x `than` x measure: ESTIMATED, n (items that became right), n_than. Compared within a pair,
    seed and task, since items become right on easy tasks and stay wrong on hard ones; such strata weigh
    n m / (n + m), n and m being their items of both groups (Cochran 1954).
    """
    table, why = [], "no pair, seed and task has both kinds of items"
    for method, name, part in by_method(rises):
        drawn = resampled(part, _sums_by_group(part, "fate", list(FATES)), rng=rng, n_resamples=n_resamples)
        for than in ("stayed_wrong", "stayed_right"):
            n, m = drawn.sums("became_right one"), drawn.sums(f"{than} one")
            weight = drawn.weights_RS * ratio(n * m, n + m)
            for measure in MEASURES:
                rise = ratio(drawn.sums(f"became_right {measure}"), n)
                rise = weighted_mean(rise - ratio(drawn.sums(f"{than} {measure}"), m), weight)
                found = crossed_bootstrap.estimate(rise, why_undefined=why, why_not=drawn.why_not)
                counts = int(n[0].sum()), int(m[0].sum())
                who = (method, name, than, FATES[than], measure)
                table.append((*who, *found.bounds, found.reason, *counts))
    columns = ["method", "label", "than", "than_label", "measure", *ESTIMATED, "n", "n_than"]
    return pd.DataFrame(table, columns=columns).astype({"n": int, "n_than": int})


def remark(table: pd.DataFrame) -> str:
    """A summary of `contrasts` with the items that stayed wrong, a sentence a method.

    The rule: likeness goes with becoming right if the interval of the sentence BLEU lies above 0; the paradox
    is seen item by item if it holds 0 or lies below.
    """
    sentences = []
    for _, part in table[table["than"] == "stayed_wrong"].groupby("method", sort=False):
        row = part.set_index("measure")
        bleu, words = row.loc["bleu"], row.loc["wording"]
        if not np.isfinite(bleu["low"]):
            sentences.append(f"{bleu['label']}: undefined ({bleu['reason']}).")
            continue
        seen = "goes with" if bleu["low"] > 0 else "does not go with"
        sentences.append(
            f"{bleu['label']}: coming closer to the teacher's text {seen} becoming right: the change of "
            f"sentence BLEU is {_points(bleu)} points above that of items that stayed wrong; in the words "
            f"alone, {_points(words)}."
        )
    return " ".join(sentences)


def _points(row: pd.Series) -> str:
    return Estimate(row["estimate"], row["low"], row["high"]).text().replace("-", "−")


# --- do right and alike go together? ----------------------------------------------------------------------


def links(
    rows: pd.DataFrame,
    *,
    task: str,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Correlation over the items of a task of being right with sentence BLEU, mean over students, by method.

    A row a method x `of` (`r`, `|r|`): method, label, of, ESTIMATED, n_students, n_runs. A student is the
    mean of its runs; runs that are all right or all wrong have none. Students, with all their runs, and items
    are drawn again, crossed: a size |r| is pulled up by chance, and more so in a resample.
    """
    table, why = [], "every run is all right, all wrong or all alike"
    for method, name, own in by_method(rows[rows["task"] == task]):
        right, bleu = own["correct"].astype(float), own["bleu"]
        values = {"one": 1.0, "right": right, "bleu": bleu, "square": bleu**2, "both": right * bleu}
        drawn = resampled(own, values, ["student"], rng=rng, n_resamples=n_resamples)
        r_RS = _correlations(*(drawn.sums(value) for value in values))
        n_runs = drawn.keys.groupby("student")["seed"].transform("size").to_numpy(float)
        n = own["student"].nunique(), len(drawn.keys)
        for of, each in (("r", r_RS), ("|r|", np.abs(r_RS))):
            mean = weighted_mean(each, drawn.weights_RS / n_runs)
            found = crossed_bootstrap.estimate(mean, why_undefined=why, why_not=drawn.why_not)
            table.append((method, name, of, *found.bounds, found.reason, *n))
    return pd.DataFrame(table, columns=["method", "label", "of", *ESTIMATED, "n_students", "n_runs"])


def _correlations(
    n: np.ndarray, right: np.ndarray, bleu: np.ndarray, square: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Pearson's r from sums; NaN where one of the two does not vary."""
    spread = np.maximum(n * right - right**2, 0.0) * np.maximum(n * square - bleu**2, 0.0)
    is_flat = (n * right - right**2 <= 0) | (n * square - bleu**2 <= 1e-9 * n * square)
    return ratio(n * both - right * bleu, np.where(is_flat, 0.0, np.sqrt(spread)))
