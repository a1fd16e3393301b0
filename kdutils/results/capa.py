"""Agreement given accuracy: how much more student and teacher agree than two unrelated models would.

Two models that are often right agree often, whatever one has learnt from the other. Two measures take that
out. *Error consistency* looks at being right alone (Geirhos et al. 2020). *CAPA* (chance-adjusted agreement,
discrete version: Goel et al. 2025, arXiv:2502.04313) also counts which wrong answer is given: with accuracies
a and b it is (c - e) / (1 - e), where c is the share of equal answers and e = ab + (1 - a)(1 - b) / (k - 1),
what independent errors that are spread evenly over the k - 1 wrong options would give.

Departures, each on its own account:
- An answer that cannot be read is wrong and agrees with nothing, so that only wrong answers that can be read
  stand in e. `capa_read` is of the items that both can be read on.
- An open numeric answer has no k. In place of 1 / (k - 1) stands how often a wrong answer of the student to
  one item of the task is the teacher's to *another*: what a liking for some numbers brings about.
- Over several tasks, pairs and seeds, c - e and 1 - e are added up and divided once, each with chance of its
  own. A task on which both are always right adds zero to both.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from kdutils.constants import ALL_TASKS, AVERAGE, DOMAIN_LABELS, KD_METHODS, METHOD_NAMES
from kdutils.inference import crossed_bootstrap, intervals
from kdutils.inference.crossed_bootstrap import Resampled, ratio
from kdutils.inference.estimate import Estimate
from kdutils.results import gain_tables
from kdutils.runs import comparison

RUN = ["method", "teacher", "student", "seed"]
MEASURES = {  # column -> in words
    "agreement": "same answer, %",
    "error_consistency": "kappa of being right",
    "capa": "CAPA",
    "capa_read": "CAPA, both answers read",
}
SHOWN = ("agreement", "error_consistency", "capa")  # in the figure and the remark
WHY_UNDEFINED = "chance alone makes them agree on everything: both always right, or always wrong alike"
ROUNDING = 1e-4  # of a share: released values have two or more decimals of a percent
RISE = ["difference", "difference_low", "difference_high"]
COUNTED = ("one", "same", "right", "teacher_right", "as_right", "wrong", "teacher_wrong")


def given_accuracy(paired: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """MEASURES of every method with intervals, and the difference to SFT: a row a domain x method x measure.

    Takes agreement_fidelity.paired_answers. Columns domain, method, label, measure, estimate, low, high,
    and of the KD student less the SFT student of its pair and seed on the same items `difference`,
    `difference_low`, `difference_high`; `reason` where something is NaN; n_pairs and n, the texts. A pair
    weighs as much as another, however many seeds it has. Clusters of the intervals are student x seed. The
    likeliness of equal wrong numbers is held fixed over resamples.
    """
    table = []
    for domain, part in gain_tables.in_domain_order(paired).groupby("domain", sort=False):
        part = part[part["sample"] == part["sample"].min()]  # one text an item
        table += [(domain, *row) for row in _of_domain(part, rng)]
    columns = ["domain", "method", "label", "measure", "estimate", "low", "high", *RISE]
    return pd.DataFrame(table, columns=[*columns, "reason", "n_pairs", "n"])


def _counted(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """COUNTED by row, and with the prefix `read_` where both answers can be read."""
    right, teacher_right = rows["correct"].astype(bool), rows["correct_teacher"].astype(bool)
    is_read, teacher_read = rows["parsed"].notna(), rows["parsed_teacher"].notna()
    found = {
        "one": pd.Series(True, index=rows.index),
        "same": comparison.same_answer(rows),
        "right": right,
        "teacher_right": teacher_right,
        "as_right": right == teacher_right,
        "wrong": ~right & is_read,
        "teacher_wrong": ~teacher_right & teacher_read,
    }
    both_read = is_read & teacher_read
    return found | {f"read_{name}": values & both_read for name, values in found.items()}


def _of_domain(rows: pd.DataFrame, rng: np.random.Generator) -> Iterator[tuple]:
    counted = _counted(rows)
    strata = {"strata": [*RUN, "task"], "clusters": ["student", "seed"], "values": list(counted)}
    drawn = crossed_bootstrap.resampled(rows.assign(**counted), **strata, rng=rng)
    keys, reasons = drawn.keys, {"why_undefined": WHY_UNDEFINED, "why_not": drawn.why_not}
    plain = rows.astype({"parsed": object, "parsed_teacher": object})  # rows are chosen in half the time
    by_stratum = plain.groupby([*RUN, "task"], sort=False)
    alike = [same_wrong_by_chance(by_stratum.get_group(key)) for key in keys.itertuples(index=False)]
    for measure in MEASURES:
        for method in ("sft", *KD_METHODS):
            own = keys[keys["method"] == method]
            if own.empty:
                continue
            weights = _weights_in_means(keys, method)
            value = _statistic(drawn, np.array(alike), measure, weights_SG=np.stack(weights, axis=1))
            level, with_kd, with_sft = value.T
            found = crossed_bootstrap.estimate(level, **reasons)
            rise = Estimate(np.nan)
            if method != "sft" and weights[2].any():
                rise = crossed_bootstrap.estimate(with_kd - with_sft, **reasons)
            bounds = (*found.bounds, *rise.bounds, found.reason or rise.reason)
            n = own.groupby(["teacher", "student"]).ngroups, int(drawn.sums("one")[0, own.index].sum())
            yield method, METHOD_NAMES[method], measure, *bounds, *n


def _weights_in_means(keys: pd.DataFrame, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each stratum weighs in the mean of a method, of those that SFT has too, and of SFT's of the same.

    One over the number of seeds of its pair, so that pairs weigh the same; 0 for what is not in the mean.
    """
    names = pd.MultiIndex.from_frame(keys[["teacher", "student", "seed", "task"]])
    is_own, is_sft = ((keys["method"] == name).to_numpy() for name in (method, "sft"))
    has_sft = is_own & names.isin(names[is_sft])
    level, with_sft = np.zeros(len(keys)), np.zeros(len(keys))
    for weights, where in ((level, is_own), (with_sft, has_sft)):
        weights[where] = 1 / keys[where].groupby(["teacher", "student"])["seed"].transform("nunique")
    of_sft = pd.Series(with_sft[has_sft], names[has_sft]).reindex(names).fillna(0.0).to_numpy()
    return level, with_sft, of_sft * is_sft


def same_wrong_by_chance(rows: pd.DataFrame) -> float:
    """How likely two wrong answers are equal that know nothing of each other; paired rows of one task.

    With k options 1 / (k - 1). Else of all wrong answers of the student to one item and of the teacher to
    another, the share that are equal; 0 where there are none.
    """
    if n_options := len(ALL_TASKS[rows["task"].iloc[0]].options):
        return 1 / (n_options - 1)
    wrong = rows["parsed"].notna() & ~rows["correct"].astype(bool)
    teacher_wrong = rows["parsed_teacher"].notna() & ~rows["correct_teacher"].astype(bool)
    counts = Counter(map(_number, rows.loc[wrong, "parsed"]))
    teacher_counts = Counter(map(_number, rows.loc[teacher_wrong, "parsed_teacher"]))
    both = rows[wrong & teacher_wrong]
    equal = sum(times * teacher_counts[value] for value, times in counts.items())
    n = int(wrong.sum()) * int(teacher_wrong.sum()) - len(both)
    return (equal - int(comparison.same_answer(both).sum())) / n if n else 0.0


def _number(text: str) -> float | str:
    """A number rounded to about the tolerance of answers.same_number."""
    try:
        return round(float(text), 3)
    except ValueError:
        return text


def _statistic(drawn: Resampled, alike: np.ndarray, measure: str, *, weights_SG: np.ndarray) -> np.ndarray:
    """One of MEASURES: a row a resample, a column a group of strata, each with its weights."""
    prefix = "read_" if measure == "capa_read" else ""
    n = drawn.sums(f"{prefix}one")
    share = {name: ratio(drawn.sums(prefix + name), n) for name in COUNTED[1:]}

    def total(values_RS: np.ndarray) -> np.ndarray:
        return (drawn.weights_RS * np.nan_to_num(values_RS)) @ weights_SG  # NaN: no item, so no part in it

    if measure == "agreement":
        return 100 * ratio(total(share["same"]), total(np.where(n > 0, 1.0, 0.0)))
    if measure == "error_consistency":
        own, teacher = share["right"], share["teacher_right"]
        return chance_adjusted(share["as_right"], own * teacher + (1 - own) * (1 - teacher), total=total)
    expected = share["right"] * share["teacher_right"]
    expected += share["wrong"] * share["teacher_wrong"] * alike
    return chance_adjusted(share["same"], expected, total=total)


def chance_adjusted(
    observed: np.ndarray, expected: np.ndarray, *, total: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What `observed` adds to `expected`, of what could be added, both summed by `total`; NaN for 0 / 0."""
    room = total(1 - expected)
    return ratio(total(observed - expected), np.where(np.abs(room) < 1e-12, 0.0, room))


# --- released cells, which have no items ------------------------------------------------------------------


def of_cells(gain_table: pd.DataFrame) -> pd.DataFrame:
    """Released agreement and what unrelated models of those accuracies would give: a row a domain x kind.

    Takes gain_tables.gains at one temperature. The SFT student has one accuracy. Of the KD student it is not
    known which method's agreement was released, so each method's accuracy is tried (`student`). Columns,
    means over cells in percent: `agreement`; `by_chance`, with errors that are independent and spread
    evenly over the wrong options (an open answer has endlessly many); `most_by_chance`, if all wrong
    answers were the same; `above`, `low`, `high`: agreement less `by_chance`, Student's t over pairs;
    `capa`; and `impossible`, how many of the `cells` no two models of these accuracies can have: agreement
    is at least a + b - 1, and at most 1 - |a - b|.
    """
    table = []
    known = gain_table.dropna(subset=["agreement", "agreement_sft", "teacher_accuracy"])
    known = gain_tables.in_domain_order(known[known["task"] != AVERAGE])
    for domain, part in known.groupby("domain", sort=False):
        once = part.drop_duplicates(["teacher", "student", "task"])
        kinds = [("sft", once, "sft_accuracy", "agreement_sft")] if len(once) else []
        methods = [method for method in KD_METHODS if (part["method"] == method).any()]
        kinds += [(method, part[part["method"] == method], "accuracy", "agreement") for method in methods]
        table += [(domain, kind, *_of_cells(rows, *columns)) for kind, rows, *columns in kinds]
    columns = ["domain", "student", "agreement", "by_chance", "most_by_chance", "above", "low", "high"]
    found = pd.DataFrame(table, columns=[*columns, "capa", "impossible", "cells", "pairs"])
    names = {method: f"KD, if {METHOD_NAMES[method]}" for method in KD_METHODS}
    return found.assign(student=found["student"].map(names | {"sft": "SFT"}))


def _of_cells(rows: pd.DataFrame, accuracy: str, agreement: str) -> tuple:
    own, teacher, same = (rows[name] / 100 for name in (accuracy, "teacher_accuracy", agreement))
    options = rows["task"].map(lambda task: len(ALL_TASKS[task].options) or np.nan)
    both_wrong = (1 - own) * (1 - teacher)
    by_chance = own * teacher + (both_wrong / (options - 1)).fillna(0.0)
    above = 100 * (same - by_chance)
    of_pairs = intervals.mean_interval(above.groupby([rows["teacher"], rows["student"]]).mean())
    capa = chance_adjusted(same.to_numpy(), by_chance.to_numpy(), total=lambda values: np.sum(values))
    impossible = (same < own + teacher - 1 - ROUNDING) | (same > 1 - (own - teacher).abs() + ROUNDING)
    means = [100 * values.mean() for values in (same, by_chance, own * teacher + both_wrong)]
    return (*means, *of_pairs.bounds, float(capa), int(impossible.sum()), len(rows), of_pairs.n)


# --- for people to read -----------------------------------------------------------------------------------


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`given_accuracy` with intervals as texts: a row a domain x method, a column a measure."""
    texts = []
    for row in table.to_dict("records"):
        text = _text(row, "estimate", "low", "high", reason=row["reason"])
        rise = "" if row["method"] == "sft" else f" (less SFT: {_text(row, *RISE, signed=True)})"
        texts.append(text + rise)
    pairs = table.groupby(["domain", "label"], sort=False)["n_pairs"].transform("first")
    texts = table.assign(text=texts, measure=table["measure"].map(MEASURES), pairs=pairs)
    index = ["domain", "label", "pairs"]
    wide = gain_tables.wide(texts, index=index, columns="measure", values="text")
    return wide.rename(columns={"label": "student"})


def _text(row: dict, *bounds: str, signed: bool = False, reason: str = "") -> str:
    found = Estimate(*(row[name] for name in bounds), reason=reason)
    text = found.text(1 if row["measure"] == "agreement" else 2, signed=signed)
    lacks_interval = np.isfinite(found.value) and not np.isfinite(found.low)
    return text.replace("-", "−") + (" (no interval)" if lacks_interval else "")


def remark(table: pd.DataFrame) -> str:
    """For which methods agreement rises beyond accuracy, and for which with it alone: a sentence a domain.

    A measure is higher, or lower, if the interval of its difference to SFT leaves out 0.
    """
    sentences = []
    for domain, part in table[table["difference"].notna()].groupby("domain", sort=False):
        found = []
        for label, of_method in part.groupby("label", sort=False):
            measures = of_method.set_index("measure").reindex(SHOWN)
            moves = {MEASURES[name].split(",")[0]: _move(row) for name, row in measures.iterrows()}
            if len(set(moves.values())) == 1:  # the usual case
                moves = {"each of the three": next(iter(moves.values()))}
            found.append(f"{label}: " + ", ".join(f"{name} {move}" for name, move in moves.items()))
        sentences.append(f"{DOMAIN_LABELS[domain]}, compared with SFT. {'; '.join(found)}.")
    return " ".join(sentences)


def _move(row: pd.Series) -> str:
    if not np.isfinite(row["difference"]):
        return "undefined"
    if not np.isfinite(row["difference_low"]):
        return "without an interval"
    if row["difference_low"] > 0 or row["difference_high"] < 0:
        return "higher" if row["difference"] > 0 else "lower"
    return "not told apart"
