"""The paradox item by item: what becomes of an answer through KD, and of its likeness to the teacher's text.

The paper sees fidelity rise while accuracy hardly follows it. Between students that is a correlation; here it
is asked of single items: where a student became right through KD (wrong after SFT of the same seed, right
after KD, teacher right), did its text come closer to the teacher's than where it stayed wrong? Math alone,
whose texts reason; students at temperature 1 without noise and their tuned teacher, one text an item.

Likeness is sentence BLEU and ROUGE-L with the teacher's text, and, since two right answers share at least the
number they end on, BLEU of the words alone (`wording`).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import sacrebleu

from kdutils.constants import ALL_TASKS, KD_METHODS, METHOD_NAMES, TASK_LABELS
from kdutils.data import answers, sources
from kdutils.grid.plan import Plan
from kdutils.grid.study import has_steps, place_of
from kdutils.inference import crossed_bootstrap
from kdutils.inference.crossed_bootstrap import Resampled, ratio, weighted_mean
from kdutils.inference.estimate import Estimate
from kdutils.results.agreement_fidelity import paired_rows
from kdutils.results.gain_tables import in_view
from kdutils.runs import comparison
from kdutils.runs.comparison import KEYS

STRATUM = ["teacher", "student", "seed", "task"]
OUTCOMES = {  # comparison.ANSWERS in words
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
QUADRANTS = {  # (same answer as the teacher, right) -> in words
    (True, True): "right, with the teacher's answer",
    (True, False): "wrong, with the teacher's answer",
    (False, True): "right, with another answer",
    (False, False): "wrong, with another answer",
}
DRAWN = (
    "drawn by a seeded generator, not picked: of each method one of each outcome, as far as there are any, "
    "from all items of all its students (temperature 1, no noise, tuned teacher)"
)
NONE = "no text in this group"
ESTIMATED = ["estimate", "low", "high", "reason"]
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
STATED = re.compile(r"\s*[Tt]he answer is\b.*$", re.DOTALL)


def texts(plan: Plan) -> pd.DataFrame:
    """Texts that reason, of a plan's students and of their teachers (constants.has_steps): a row a student x
    teacher x seed x item.

    As agreement_fidelity.paired_rows, with text, parsed, correct, truncated, and `outcome` (a key of
    OUTCOMES) and MEASURES, percent.
    """
    rows = paired_rows(plan, ["text", "parsed", "correct", "truncated"], of=has_steps)
    rows = rows[rows["sample"] == rows["sample"].min()].reset_index(drop=True)  # one text an item
    return rows.assign(outcome=outcomes(rows), **likeness(rows["text"], rows["text_teacher"]))


def outcomes(both: pd.DataFrame) -> np.ndarray:
    """Of paired rows the key of OUTCOMES that holds; exactly one does."""
    right, teacher_right = both["correct"].to_numpy(bool), both["correct_teacher"].to_numpy(bool)
    same_wrong = ~right & ~teacher_right & comparison.same_answer(both).to_numpy()
    cases = [right & teacher_right, right, teacher_right, same_wrong]
    return np.select(cases, ["both_right", "only_student", "only_teacher", "same_wrong"], "other_wrong")


def likeness(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """MEASURES of each text against its reference, percent: sacrebleu (effective order) and rouge-score."""
    metric = sacrebleu.BLEU(effective_order=True)

    def bleu(text: str, reference: str) -> float:
        return metric.sentence_score(text, [reference]).score

    alone = [list(map(wording, side)) for side in (texts, references)]
    return {
        "bleu": _of_pairs(texts, references, bleu),
        "rouge_l": 100 * _of_pairs(texts, references, answers.rouge_l),
        "wording": _of_pairs(*alone, bleu),
    }


def _of_pairs(
    texts: Sequence[str], references: Sequence[str], measure: Callable[[str, str], float]
) -> np.ndarray:
    """A measure of pairs, each computed once, however often it occurs."""
    return np.array(list(map(cache(measure), texts, references)), dtype=float)


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
    before, after, teacher_right = (
        both[f"correct{side}"].to_numpy(bool) for side in ("_sft", "", "_teacher")
    )
    cases = [~teacher_right, before & after, before, after]
    names = ["teacher_wrong", "stayed_right", "became_wrong", "became_right"]
    return both.assign(fate=np.select(cases, names, "stayed_wrong"), **rises)


# --- means with intervals ---------------------------------------------------------------------------------


def by_method(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Method, its name and its rows, of each that there is, SFT first."""
    for method in ("sft", *KD_METHODS):
        if (is_own := rows["method"] == method).any():
            yield method, METHOD_NAMES[method], rows[is_own]


def resampled(
    rows: pd.DataFrame, values: Mapping[str, Any], *clusters: str, rng: np.random.Generator
) -> Resampled:
    """Sums of `values`, with clusters (such as teacher and student, of all seeds) and items drawn again."""
    table = rows[[*STRATUM, "item_id"]].assign(**values)
    return crossed_bootstrap.resampled(table, strata=STRATUM, clusters=clusters, values=list(values), rng=rng)


def means(
    rows: pd.DataFrame,
    values: Mapping[str, Any],
    over: Mapping[str, str],
    *,
    rng: np.random.Generator,
    scale: float = 1.0,
) -> dict[str, Estimate]:
    """Sums of the values that `over` names, over those that it gives them; pairs and items drawn again."""
    drawn, found = resampled(rows, values, "teacher", "student", rng=rng), {}
    for name, of in over.items():
        is_one = drawn.sums(of)[0].sum() == 1
        why_not = drawn.why_not or ("one text, nothing to draw again" if is_one else "")
        mean = scale * drawn.mean(name, of)
        found[name] = crossed_bootstrap.estimate(mean, why_undefined=NONE, why_not=why_not)
    return found


def _sums_by_group(rows: pd.DataFrame, group: str, names: Iterable[str]) -> dict[str, pd.Series]:
    """What is added up of ones and MEASURES in each group."""
    ones = {name: (rows[group] == name).astype(float) for name in names}
    values = {f"{name} one": is_in for name, is_in in ones.items()}
    return values | {f"{name} {of}": rows[of] * is_in for name, is_in in ones.items() for of in MEASURES}


def by_group(
    rows: pd.DataFrame, group: str, names: Mapping[str, str], *, rng: np.random.Generator
) -> pd.DataFrame:
    """Mean of MEASURES by method and `group` (of `names`) with intervals: a row a method x group x measure.

    Columns method, label, group, group_label, measure, ESTIMATED, n (texts), n_pairs. Every text counts the
    same. Intervals draw pairs and items again, crossed.
    """
    table = []
    for method, name, part in by_method(rows):
        cases = list(product(names, MEASURES))
        over = {f"{key} {measure}": f"{key} one" for key, measure in cases}
        found = means(part, _sums_by_group(part, group, names), over, rng=rng)
        for (key, measure), each in zip(cases, found.values(), strict=True):
            of_group = part[part[group] == key]
            n = len(of_group), of_group.groupby(["teacher", "student"]).ngroups
            table.append((method, name, key, names[key], measure, *each.bounds, each.reason, *n))
    columns = ["method", "label", "group", "group_label", "measure", *ESTIMATED, "n", "n_pairs"]
    return pd.DataFrame(table, columns=columns)


def contrasts(rises: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """How much more likeness rose where an item became right than where it stayed wrong, and stayed right.

    A row a method x `than` x measure: ESTIMATED, n (items that became right), n_than. Compared within a pair,
    seed and task, since items become right on easy tasks and stay wrong on hard ones; such strata weigh
    n m / (n + m), n and m being their items of both groups (Cochran 1954).
    """
    table, why = [], "no pair, seed and task has both kinds of items"
    for method, name, part in by_method(rises):
        drawn = resampled(part, _sums_by_group(part, "fate", FATES), "teacher", "student", rng=rng)
        for than, measure in product(("stayed_wrong", "stayed_right"), MEASURES):
            n, m = drawn.sums("became_right one"), drawn.sums(f"{than} one")
            rise = ratio(drawn.sums(f"became_right {measure}"), n) - ratio(drawn.sums(f"{than} {measure}"), m)
            mean = weighted_mean(rise, drawn.weights_RS * ratio(n * m, n + m))
            found = crossed_bootstrap.estimate(mean, why_undefined=why, why_not=drawn.why_not)
            who = (method, name, than, FATES[than], measure)
            table.append((*who, *found.bounds, found.reason, int(n[0].sum()), int(m[0].sum())))
    columns = ["method", "label", "than", "than_label", "measure", *ESTIMATED, "n", "n_than"]
    return pd.DataFrame(table, columns=columns).astype({"n": int, "n_than": int})


def links(rows: pd.DataFrame, *, task: str, rng: np.random.Generator) -> pd.DataFrame:
    """Correlation over the items of a task of being right with sentence BLEU, mean over students, by method.

    A row a method x `of` (`r`, `|r|`): method, label, of, ESTIMATED, n_students, n_runs. A student is the
    mean of its runs; runs that are all right or all wrong have none. Students, with all their runs, and items
    are drawn again, crossed: a size |r| is pulled up by chance, and more so in a resample.
    """
    table, why = [], "every run is all right, all wrong or all alike"
    for method, name, own in by_method(rows[rows["task"] == task]):
        right, bleu = own["correct"].astype(float), own["bleu"]
        values = {"one": 1.0, "right": right, "bleu": bleu, "square": bleu**2, "both": right * bleu}
        drawn = resampled(own, values, "student", rng=rng)
        r_RS = _correlations(*(drawn.sums(value) for value in values))
        n_runs = drawn.keys.groupby("student")["seed"].transform("size").to_numpy(float)
        for of, each in (("r", r_RS), ("|r|", np.abs(r_RS))):
            mean = weighted_mean(each, drawn.weights_RS / n_runs)
            found = crossed_bootstrap.estimate(mean, why_undefined=why, why_not=drawn.why_not)
            n = own["student"].nunique(), len(drawn.keys)
            table.append((method, name, of, *found.bounds, found.reason, *n))
    return pd.DataFrame(table, columns=["method", "label", "of", *ESTIMATED, "n_students", "n_runs"])


def _correlations(
    n: np.ndarray, right: np.ndarray, bleu: np.ndarray, square: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Pearson's r from sums; NaN where one of the two does not vary."""
    spread = np.maximum(n * right - right**2, 0.0) * np.maximum(n * square - bleu**2, 0.0)
    is_flat = (n * right - right**2 <= 0) | (n * square - bleu**2 <= 1e-9 * n * square)
    return ratio(n * both - right * bleu, np.where(is_flat, 0.0, np.sqrt(spread)))


# --- texts side by side -------------------------------------------------------------------------------------


def examples(plan: Plan, *, rng: np.random.Generator) -> pd.DataFrame:
    """What teacher, SFT and KD student wrote to the same question: of each method one of each of QUADRANTS.

    Of math, else of commonsense; by the rule DRAWN. No rows where no KD run, its teacher and the SFT student
    of its seed are all finished.
    """
    rows = in_view(paired_rows(plan, ["text", "answer", "parsed", "correct"]), plan)
    rows = rows[rows["domain"] == min(rows["domain"], key=place_of, default="")]
    keys = ["teacher", "student", "seed", *KEYS]
    sft = rows.loc[rows["method"] == "sft", [*keys, "text"]]
    kd = rows[rows["method"] != "sft"].merge(sft, on=keys, suffixes=("", "_sft"))
    run = kd.groupby(["teacher", "student", "method", "seed"], sort=False).ngroup()
    kd = kd.assign(run=run, same=comparison.same_answer(kd)).sort_values(["run", *KEYS])
    items, drawn = items_of(plan, {*kd["task"]}) if len(kd) else {}, []
    for method, ((is_same, is_right), label) in product(KD_METHODS, QUADRANTS.items()):
        pool = kd[(kd["method"] == method) & (kd["same"] == is_same) & (kd["correct"] == is_right)]
        for row in pool.iloc[rng.permutation(len(pool))[:1]].to_dict("records"):
            (name, student), (_, teacher) = (row[who].rsplit("-", 1) for who in ("student", "teacher"))
            who = f"{TASK_LABELS[row['task']]}: {name} {teacher} → {student}, {METHOD_NAMES[method]}"
            question = f"{items[row['task'], row['item_id']].question} [{row['answer']}]"
            texts = (row["text_teacher"], row["text_sft"], row["text"])
            drawn.append((f"{label} ({who})", question, *texts))
    return pd.DataFrame(drawn, columns=["KD student is", "question", "teacher", "SFT student", "KD student"])


def example_task(rows: pd.DataFrame) -> str:
    """The task whose errors are sorted: SVAMP as in the paper, else one with numbers, else the first."""
    tasks = sorted({*rows["task"]}, key=lambda task: (ALL_TASKS[task].reading != "number", place_of(task)))
    return tasks[0] if tasks and "svamp" not in tasks else "svamp"


def items_of(plan: Plan, tasks: Collection[str]) -> dict[tuple[str, str], sources.Item]:
    """The test items by task and id, of every evaluation in the plan that has one of the tasks."""
    asked = {}
    for run in plan.runs:
        spec = sources.resolved(run.spec)
        if not {*run.evaluation.tasks}.isdisjoint(tasks):
            asked.setdefault((spec.data, spec.domain, run.evaluation.eval_id), (spec, run.evaluation))
    items = [item for spec, evaluation in asked.values() for item in sources.test_items(spec, evaluation)]
    return {(item.task, item.id): item for item in items}
