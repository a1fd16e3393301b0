"""Item rows summed up: accuracies; of a student and its teacher agreement and fidelity."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import sacrebleu

from kdutils.constants import ALL_TASKS, is_text
from kdutils.data.answers import same_number

KEYS = ["task", "item_id", "sample"]  # of an item row
BLEU = sacrebleu.BLEU()  # with its defaults
ANSWERS = ("both_right", "same_wrong", "other_wrong", "only_teacher", "only_student")  # together all items
AGREEMENT = ("agreement", *ANSWERS, "error_consistency", "top1_agreement")
OF_TEXTS = ("truncated", "unparsed")


def paired(student: pd.DataFrame, teacher: pd.DataFrame) -> pd.DataFrame:
    """Student and teacher rows of equal KEYS side by side (suffix `_teacher`), in the student's order.

    Raises:
        ValueError: if they were not evaluated on the same items.
    """
    student, teacher = student.reset_index(drop=True), teacher.reset_index(drop=True)
    if student[KEYS].equals(teacher[KEYS]):  # the usual case, and by place is quicker than by name
        others = teacher.drop(columns=KEYS)
        return student.join(others.rename(columns=lambda name: name + "_teacher" * (name in student)))
    how = {"on": KEYS, "how": "outer", "suffixes": ("", "_teacher"), "indicator": True}
    both = student.assign(order=student.index).merge(teacher, **how, validate="one_to_one")
    if (lonely := both.pop("_merge") != "both").any():
        one = both.loc[lonely, KEYS].iloc[0].to_dict()
        raise ValueError(f"student and teacher have different items ({int(lonely.sum())}, such as {one})")
    return both.sort_values("order", ignore_index=True).drop(columns="order")


def same_answer(both: pd.DataFrame) -> pd.Series:
    """True where student and teacher give the same answer; an unparsed one agrees with nothing."""
    columns = (both[name].to_numpy(object) for name in ("task", "parsed", "parsed_teacher"))
    asked = list(zip(*columns, strict=True))
    known = {each: _agree(*each) for each in set(asked)}  # few: comparing numbers takes longer than finding
    return pd.Series([known[each] for each in asked], index=both.index, dtype=bool)


def _agree(task: str, left: object, right: object) -> bool:
    if not isinstance(left, str) or not isinstance(right, str):
        return False
    is_alike = same_number(left, right) and ALL_TASKS[task].reading not in ("letter", "keyword", "text")
    return is_alike or (left == right and ALL_TASKS[task].reading != "number")


def agreements(both: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
    """Agreement of paired rows and what it is made of, a row a group of `by`, in order of appearance.

    Columns `by`, n, and in percent `agreement` (the same answer, right or wrong) and ANSWERS: who are both
    right give the same answer, who are both wrong may. `error_consistency` is Cohen's kappa of being right:
    agreement in correctness beyond what two models of these accuracies would have by chance; NaN where both
    are always right or always wrong.
    Source: Geirhos et al. 2020 (arXiv:2006.16736).
    """
    right, teacher_right = both["correct"].astype(bool), both["correct_teacher"].astype(bool)
    same, both_wrong = same_answer(both), ~right & ~teacher_right
    counted = {
        "agreement": same,
        "both_right": right & teacher_right,
        "same_wrong": both_wrong & same,
        "other_wrong": both_wrong & ~same,
        "only_teacher": ~right & teacher_right,
        "only_student": right & ~teacher_right,
        "right": right,
        "teacher_right": teacher_right,
    }
    groups = both[list(by)].assign(**counted).groupby(list(by), sort=False)
    share = groups.mean()
    chance = share["right"] * share["teacher_right"] + (1 - share["right"]) * (1 - share["teacher_right"])
    observed = 1 - share["only_teacher"] - share["only_student"]
    kappa = ((observed - chance) / (1 - chance)).where(chance < 1)
    percent = 100 * share[["agreement", *ANSWERS]]
    return percent.assign(error_consistency=kappa, n=groups.size()).reset_index()


def agreement(both: pd.DataFrame) -> dict[str, float]:
    """What `agreements` says of all rows together, and `top1_agreement`; NaN without rows.

    `top1_agreement` is the share of tokens of the reference response at which both find the same token
    likeliest, given the true tokens before it, percent; NaN if their tokens differ.
    """
    if both.empty:
        return dict.fromkeys(AGREEMENT, math.nan)
    found = agreements(both.assign(group=0), by=["group"]).iloc[0].to_dict()
    found["top1_agreement"] = _top1_agreement(both)
    return {name: float(found[name]) for name in AGREEMENT}


def _top1_agreement(both: pd.DataFrame) -> float:
    if "top1" not in both or "top1_teacher" not in both:  # rows of texts alone
        return math.nan
    pairs = list(zip(both["top1"], both["top1_teacher"], strict=True))
    if any(len(student) != len(teacher) for student, teacher in pairs):
        return math.nan
    student, teacher = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return 100 * float((student == teacher).mean()) if len(student) else math.nan


def corpus_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of texts against references, percent (sacrebleu's defaults); NaN without texts."""
    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score) if len(texts) else math.nan


def fidelity_correct_r(both: pd.DataFrame) -> float:
    """Point-biserial correlation, over paired rows, of being right with the likeness to the teacher's text.

    Likeness is `sentence_bleu`. Positive where right items are those on which the student writes like its
    teacher. NaN below three rows, or where all are right, all wrong or all equally like.
    """
    right, likeness = both["correct"].to_numpy(float), sentence_bleu(both)
    if len(right) < 3 or np.ptp(right) == 0 or np.ptp(likeness) == 0:
        return math.nan
    return float(np.corrcoef(right, likeness)[0, 1])


def sentence_bleu(both: pd.DataFrame) -> np.ndarray:
    """BLEU of each student text against the teacher's, percent.

    sacrebleu's with effective order, so that short texts are not all near zero.
    """
    metric = sacrebleu.BLEU(effective_order=True)
    pairs = zip(both["text"], both["text_teacher"], strict=True)
    return np.array([metric.sentence_score(text, [reference]).score for text, reference in pairs])


def bleu_counts(text: str, reference: str) -> list[int]:
    """Lengths, matches and totals of one text: what corpus BLEU adds up over texts."""
    found = BLEU.corpus_score([text], [[reference]])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


# --- accuracies ---------------------------------------------------------------------------------------------


def chance_accuracy(task: str) -> float:
    """Percent right by guessing: among the options, 0 where the answer is free, or as the study file says."""
    known = ALL_TASKS[task]
    of_options = 100 / len(known.options) if known.options else 0.0
    return of_options if known.chance is None else known.chance


def accuracies(rows: pd.DataFrame, *, strict: bool = False) -> pd.DataFrame:
    """Accuracy by task: task, n, accuracy, accuracy_se, chance, truncated, unparsed (percent).

    The last two are NaN where options were ranked, and no text was written.
    Instruction tasks, which have no right answer, have their mean ROUGE-L in its place. `n_clean` and
    `accuracy_clean` are of the items whose question is not in the training set, as far as the rows say.
    Several samples of an item are averaged first; the standard error is over items.
    """
    table = []
    for task, part in rows.groupby("task", sort=False):
        column = "correct_strict" if strict else "correct"
        if is_text(task):
            column = "rouge_l"
        by_item = part.groupby("item_id")[column].mean()
        spread = float(by_item.std(ddof=1)) if len(by_item) > 1 else math.nan
        table.append(
            {
                "task": task,
                "n": len(by_item),
                "accuracy": 100 * float(by_item.mean()),
                "accuracy_se": 100 * spread / math.sqrt(len(by_item)),
                "chance": chance_accuracy(task),
                **{name: 100 * float(part[name].mean()) if name in part else math.nan for name in OF_TEXTS},
            }
            | _clean(part, by_item)
        )
    return pd.DataFrame(table)


def _clean(part: pd.DataFrame, by_item: pd.Series) -> dict[str, float]:
    if "contaminated" not in part:  # rows of before this was known
        return {"n_clean": math.nan, "accuracy_clean": math.nan}
    clean = by_item[part.groupby("item_id")["contaminated"].first() == ""]
    return {"n_clean": len(clean), "accuracy_clean": 100 * float(clean.mean()) if len(clean) else math.nan}


def in_format(rows: pd.DataFrame) -> float:
    """Texts in which the strict reading finds an answer, percent; NaN without any that has a format to keep.

    Instructions have none.
    """
    return 100 * float(rows.loc[~rows["task"].map(is_text).astype(bool), "parsed_strict"].notna().mean())


def ranked_accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of ranked options by task, percent: task, accuracy_ranked, accuracy_ranked_normalised."""
    means = 100 * rows.groupby("task", sort=False)[["correct", "correct_normalised"]].mean()
    return means.set_axis(["accuracy_ranked", "accuracy_ranked_normalised"], axis=1).reset_index()


def measures(rows: pd.DataFrame) -> pd.DataFrame:
    """Every way of scoring an evaluation, a row a task x measure: task, measure, value, se, n.

    A measure is a column of the item rows: `correct` and what begins so, for instruction tasks `rouge_l`.
    `value` is a share; several samples of an item are averaged first. `se` is over the n items, NaN for one.
    """
    columns = [name for name in rows if name.startswith("correct") or name == "rouge_l"]
    by_task = rows.groupby(["task", "item_id"], sort=False)[columns].mean().groupby("task", sort=False)
    value, se, n = by_task.mean(), by_task.sem(), by_task.size()
    table = [
        (task, column, value.at[task, column], se.at[task, column], n[task])
        for task in n.index
        for column in columns
        if (column == "rouge_l") == is_text(task)
    ]
    return pd.DataFrame(table, columns=["task", "measure", "value", "se", "n"])
