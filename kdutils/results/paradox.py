"""The paradox item by item: what becomes of an answer through KD, and of its likeness to the teacher's text.

The paper sees fidelity rise while accuracy hardly follows it. Between students that is a correlation; here it
is asked of single items: where a student became right through KD (wrong after SFT of the same seed, right
after KD, teacher right), did its text come closer to the teacher's than where it stayed wrong? Math alone,
whose texts reason; students at temperature 1 without noise beside their tuned teacher, one text an item.

Likeness is sentence BLEU and ROUGE-L with the teacher's text, and, since two right answers share at least the
number they end on, BLEU of the words alone (text_similarity.wording).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from kdutils import evaluate
from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.data import sources
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap
from kdutils.inference.crossed_bootstrap import Resampled, ratio, weighted_mean
from kdutils.results import agreement_fidelity, solution_steps, text_similarity

DOMAIN = "math"
PAIR = ["teacher", "student"]
STRATUM = [*PAIR, "seed", "task"]
COLUMNS = [*evaluate.KEYS, "text", "parsed", "correct", "truncated"]  # of the item rows
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
CLUSTERS = {"clusters": PAIR}  # drawn again, crossed with the items; seeds of a pair go with it


def texts(plan: Plan) -> pd.DataFrame:
    """Texts of a plan's students beside their teacher's: a row a student x teacher x seed x item.

    Columns agreement_fidelity.NAMES, COLUMNS, those of the teacher with the suffix `_teacher`, `outcome` (a
    key of OUTCOMES) and MEASURES, percent. No rows without live runs, or without math.
    """
    found = list(agreement_fidelity.beside_teachers(plan, COLUMNS, domains=(DOMAIN,))) if plan.runs else []
    stacked = [
        pd.concat([evaluate.paired(student, teacher)], keys=[place], names=["place"])
        for place, (_, student, teacher) in enumerate(found)
    ]
    names = [name for name in COLUMNS if name not in evaluate.KEYS]
    if not stacked:
        suffixed = [f"{name}_teacher" for name in names]
        return pd.DataFrame(columns=[*agreement_fidelity.NAMES, *COLUMNS, *suffixed, "outcome", *MEASURES])
    both = pd.concat(stacked).reset_index("place")
    both = both[both["sample"] == both["sample"].min()]  # one text an item
    named = pd.DataFrame([where for where, _, _ in found])[agreement_fidelity.NAMES].iloc[both.pop("place")]
    rows = pd.concat([named.reset_index(drop=True), both.reset_index(drop=True)], axis=1)
    return rows.assign(outcome=outcomes(rows), **_measured(rows))


def outcomes(both: pd.DataFrame) -> np.ndarray:
    """Of paired rows the key of OUTCOMES that holds; exactly one does."""
    right, teacher_right = both["correct"].to_numpy(bool), both["correct_teacher"].to_numpy(bool)
    wrong = np.where(evaluate.same_answer(both), "same_wrong", "other_wrong")
    wrong = np.where(teacher_right, "only_teacher", wrong)
    return np.where(right, np.where(teacher_right, "both_right", "only_student"), wrong)


def _measured(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    own, teacher = rows["text"].tolist(), rows["text_teacher"].tolist()
    words = {text: text_similarity.wording(text) for text in {*own, *teacher}}
    alone = ([words[text] for text in own], [words[text] for text in teacher])
    return {
        "bleu": text_similarity.sentence_bleu(own, teacher),
        "rouge_l": text_similarity.rouge_l(own, teacher),
        "wording": text_similarity.sentence_bleu(*alone),
    }


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """`texts` of KD beside those of the SFT student of the same pair and seed.

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


# --- likeness by group ------------------------------------------------------------------------------------


def by_group(
    rows: pd.DataFrame,
    group: str,
    names: Mapping[str, str],
    *,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Mean of MEASURES by method and `group` (of `names`) with intervals: a row a method x group x measure.

    Columns method, label, group, group_label, measure, estimate, low, high, reason, n (texts), n_pairs. Every
    text counts the same. Intervals draw pairs and items again, crossed.
    """
    table = []
    for method, drawn in _drawn(rows, group, list(names), rng, n_resamples):
        part = rows[rows["method"] == method]
        for key, label in names.items():
            of_group = part[part[group] == key]
            n_pairs = len(of_group[PAIR].drop_duplicates())
            for measure in MEASURES:
                mean = drawn.mean(f"{key} {measure}", f"{key} one")
                found = crossed_bootstrap.estimate(
                    mean, why_undefined=NONE, why_not=_why_not(drawn, of_group)
                )
                value = (found.value, found.low, found.high, found.reason)
                table.append(
                    (method, METHOD_NAMES[method], key, label, measure, *value, len(of_group), n_pairs)
                )
    columns = ["method", "label", "group", "group_label", "measure", "estimate", "low", "high", "reason"]
    return pd.DataFrame(table, columns=[*columns, "n", "n_pairs"])


def _why_not(drawn: Resampled, part: pd.DataFrame) -> str:
    return drawn.why_not or ("one text, nothing to draw again" if len(part) == 1 else "")


def _drawn(
    rows: pd.DataFrame, group: str, names: Sequence[str], rng: np.random.Generator, n_resamples: int
) -> Iterator[tuple[str, Resampled]]:
    """Of each method there is the resampled sums of ones and MEASURES in each group."""
    for method in ("sft", *KD_METHODS):
        part = rows[rows["method"] == method]
        if part.empty:
            continue
        values = {f"{name} one": (part[group] == name).astype(float) for name in names}
        values |= {
            f"{name} {measure}": part[measure] * values[f"{name} one"]
            for name in names
            for measure in MEASURES
        }
        table = part[[*STRATUM, "item_id"]].assign(**values)
        how = {"strata": STRATUM, "values": list(values), "rng": rng, "n_resamples": n_resamples}
        yield method, crossed_bootstrap.resampled(table, **CLUSTERS, **how)


def contrasts(
    rises: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int = crossed_bootstrap.N_RESAMPLES
) -> pd.DataFrame:
    """How much more likeness rose where an item became right than where it stayed wrong, and stayed right.

    A row a method x `than` x measure: estimate, low, high, reason, n (items that became right), n_than.
    Compared within a pair, seed and task, since items become right on easy tasks and stay wrong on hard ones;
    such strata weigh n m / (n + m), n and m being their items of both groups (Cochran 1954).
    """
    table = []
    for method, drawn in _drawn(rises, "fate", list(FATES), rng, n_resamples):
        for than in ("stayed_wrong", "stayed_right"):
            n, m = drawn.sums("became_right one"), drawn.sums(f"{than} one")
            weight = drawn.weights_RS * ratio(n * m, n + m)
            for measure in MEASURES:
                rise = ratio(drawn.sums(f"became_right {measure}"), n)
                rise = rise - ratio(drawn.sums(f"{than} {measure}"), m)
                weighted = weighted_mean(rise, weight)
                why = "no pair, seed and task has both kinds of items"
                found = crossed_bootstrap.estimate(weighted, why_undefined=why, why_not=drawn.why_not)
                value = (found.value, found.low, found.high, found.reason, n[0].sum(), m[0].sum())
                table.append((method, METHOD_NAMES[method], than, FATES[than], measure, *value))
    columns = ["method", "label", "than", "than_label", "measure", "estimate", "low", "high", "reason"]
    return pd.DataFrame(table, columns=[*columns, "n", "n_than"]).astype({"n": int, "n_than": int})


def remark(table: pd.DataFrame) -> str:
    """What `contrasts` with the items that stayed wrong comes to, a sentence a method.

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
    return f"{row['estimate']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]".replace("-", "−")


# --- does it follow? --------------------------------------------------------------------------------------


def followed(
    rows: pd.DataFrame,
    rises: pd.DataFrame,
    *,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Whether the answer of a text follows from its steps, by rule (solution_steps): a row a method x group.

    Groups are all texts, and of KD those whose item became right or stayed wrong. Percent: `checkable` texts
    state a number and compute one; `follows`, of these the stated is the last computed; `right_steps`, of all
    steps the share that is right; each with low and high, and n, the texts. AQuA, which states a letter, is
    left out.
    """
    parts = [("all texts", rows)]
    parts += [(FATES[fate], rises[rises["fate"] == fate]) for fate in ("became_right", "stayed_wrong")]
    read = {text: solution_steps.read(text) for text in rows.loc[rows["task"] != "aqua", "text"].unique()}
    table = []
    for method in ("sft", *KD_METHODS):
        for label, part in parts:
            own = part[(part["method"] == method) & (part["task"] != "aqua")]
            if len(own):
                found = [read[text] for text in own["text"]]
                table.append(
                    (method, METHOD_NAMES[method], label, *_followed(own, found, rng, n_resamples), len(own))
                )
    shares = ("checkable", "follows", "right_steps")
    columns = [f"{share}{end}" for share in shares for end in ("", "_low", "_high")]
    return pd.DataFrame(table, columns=["method", "label", "group", *columns, "n"])


def readable_followed(table: pd.DataFrame) -> pd.DataFrame:
    """`followed` for people: shares with their intervals, such as `82.1 [66.9, 92.8]`."""
    shown = {
        f"{name.replace('_', ' ')}, %": table.apply(_with_interval, axis=1, name=name)
        for name in ("checkable", "follows", "right_steps")
    }
    names = {"label": "student", "n": "texts"}
    return table[["label", "group", "n"]].rename(columns=names).assign(**shown)


def _with_interval(row: pd.Series, *, name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if not np.isfinite(value):
        return "—"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" if np.isfinite(low) else f"{value:.1f}"


def _followed(
    own: pd.DataFrame, found: list[solution_steps.Reading], rng: np.random.Generator, n_resamples: int
) -> list[float]:
    values = {
        "one": 1.0,
        "checkable": [reading.follows is not None for reading in found],
        "follows": [reading.follows is True for reading in found],
        "steps": [reading.n_steps for reading in found],
        "right_steps": [reading.n_right_steps for reading in found],
    }
    table = own[[*STRATUM, "item_id"]].assign(**values)
    how = {"strata": STRATUM, "values": list(values), "rng": rng, "n_resamples": n_resamples}
    drawn = crossed_bootstrap.resampled(table, **CLUSTERS, **how)
    shares = []
    for top, bottom in (("checkable", "one"), ("follows", "checkable"), ("right_steps", "steps")):
        share = crossed_bootstrap.estimate(
            100 * drawn.mean(top, bottom), why_undefined="nothing to check", why_not=_why_not(drawn, own)
        )
        shares += [share.value, share.low, share.high]
    return shares


# --- do right and alike go together? ----------------------------------------------------------------------


def links(
    rows: pd.DataFrame,
    *,
    task: str,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Correlation over the items of a task of being right with sentence BLEU, mean over students, by method.

    A row a method x `of` (`r`, `|r|`): method, label, of, estimate, low, high, reason, n_students, n_runs. A
    student is the mean of its runs; runs that are all right or all wrong have none. Students, with all their
    runs, and items are drawn again, crossed: a size |r| is pulled up by chance, and more so in a resample.
    """
    table, part = [], rows[rows["task"] == task]
    for method in ("sft", *KD_METHODS):
        own = part[part["method"] == method]
        if own.empty:
            continue
        right, bleu = own["correct"].astype(float), own["bleu"]
        values = {"one": 1.0, "right": right, "bleu": bleu, "square": bleu**2, "both": right * bleu}
        drawn = crossed_bootstrap.resampled(
            own[[*STRATUM, "item_id"]].assign(**values),
            strata=STRATUM,
            clusters=["student"],
            values=list(values),
            rng=rng,
            n_resamples=n_resamples,
        )
        r_RS = _correlations(*(drawn.sums(name) for name in values))
        n_runs = drawn.keys.groupby("student")["seed"].transform("size").to_numpy(float)
        for of, each in (("r", r_RS), ("|r|", np.abs(r_RS))):
            found = crossed_bootstrap.estimate(
                weighted_mean(each, drawn.weights_RS / n_runs),
                why_undefined="every run is all right, all wrong or all alike",
                why_not=drawn.why_not,
            )
            value = (found.value, found.low, found.high, found.reason)
            table.append(
                (method, METHOD_NAMES[method], of, *value, own["student"].nunique(), len(drawn.keys))
            )
    columns = ["method", "label", "of", "estimate", "low", "high", "reason", "n_students", "n_runs"]
    return pd.DataFrame(table, columns=columns)


def _correlations(
    n: np.ndarray, right: np.ndarray, bleu: np.ndarray, square: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Pearson's r from sums; NaN where one of the two does not vary."""
    spread = np.maximum(n * right - right**2, 0.0) * np.maximum(n * square - bleu**2, 0.0)
    is_flat = (n * right - right**2 <= 0) | (n * square - bleu**2 <= 1e-9 * n * square)
    return ratio(n * both - right * bleu, np.where(is_flat, 0.0, np.sqrt(spread)))


# --- where does it go wrong? ------------------------------------------------------------------------------


def errors(
    plan: Plan,
    rows: pd.DataFrame,
    *,
    task: str,
    rng: np.random.Generator,
    n_resamples: int = crossed_bootstrap.N_RESAMPLES,
) -> pd.DataFrame:
    """Shares of solution_steps.CATEGORIES on one task by method, percent: a row a method x category.

    Columns method, label, category, estimate, low, high, reason, n (texts), n_pairs, n_without: texts of
    items whose own solution has no equation, which are left out. Pairs and items are drawn again, crossed.
    """
    part = rows[rows["task"] == task]
    items = _items_of(plan, task) if len(part) else {}
    gold = ["question", "rationale"]
    asked = part[["text", "parsed", "correct", "truncated"]].to_dict("records")
    found = [
        solution_steps.category(**own, **{name: getattr(items[item], name) for name in gold})
        for own, item in zip(asked, part["item_id"], strict=True)
    ]
    has_gold = (
        part["item_id"].map(lambda item: bool(solution_steps.steps(items[item].rationale))).astype(bool)
    )
    part = part.assign(category=found)
    table = []
    for method in ("sft", *KD_METHODS):
        own, is_own = part[(part["method"] == method) & has_gold], part["method"] == method
        if own.empty:
            continue
        values = {name: (own["category"] == name).astype(float) for name in solution_steps.CATEGORIES} | {
            "one": 1.0
        }
        how = {"strata": STRATUM, "values": list(values), "rng": rng, "n_resamples": n_resamples}
        drawn = crossed_bootstrap.resampled(own[[*STRATUM, "item_id"]].assign(**values), **CLUSTERS, **how)
        n_pairs, n_without = len(own[PAIR].drop_duplicates()), int((is_own & ~has_gold).sum())
        for name in solution_steps.CATEGORIES:
            share = crossed_bootstrap.estimate(
                100 * drawn.mean(name, "one"), why_undefined=NONE, why_not=_why_not(drawn, own)
            )
            value = (share.value, share.low, share.high, share.reason)
            table.append((method, METHOD_NAMES[method], name, *value, len(own), n_pairs, n_without))
    columns = [
        "method",
        "label",
        "category",
        "estimate",
        "low",
        "high",
        "reason",
        "n",
        "n_pairs",
        "n_without",
    ]
    return pd.DataFrame(table, columns=columns)


def _items_of(plan: Plan, task: str) -> dict[str, sources.Item]:
    """The items of a task by id, of every data set and evaluation in the plan."""
    found = {}
    for run in plan.runs:
        spec = sources.resolved(run.spec)
        if spec.domain == DOMAIN and task in run.evaluation.tasks:
            found.setdefault((spec.data, run.evaluation.eval_id), (spec, run.evaluation))
    items = [item for spec, evaluation in found.values() for item in sources.test_items(spec, evaluation)]
    return {item.id: item for item in items if item.task == task}


def error_shares(table: pd.DataFrame) -> pd.DataFrame:
    """`errors` for the stacked bars: a row (index) a method, a column a category; pairs where they differ."""
    most = table["n_pairs"].max()
    few = table["n_pairs"].map(lambda n: "" if n == most else f" ({n} pairs)")
    wide = table.assign(row=table["label"] + few).pivot(index="row", columns="category", values="estimate")
    return wide.loc[(table["label"] + few).unique(), list(solution_steps.CATEGORIES)].rename_axis(
        columns=None
    )
