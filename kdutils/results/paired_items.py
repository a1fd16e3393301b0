"""KD and SFT student on the same items: which answers were won and lost, and the mean gain three ways.

Live runs alone: no item-level results were released. Students at temperature 1 without noise, each
compared with the SFT student of its seed, so that nothing is picked and nothing but the training differs.
"""

import numpy as np
import pandas as pd

from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.data.answers import is_correct, parse_robust
from kdutils.grid.cell_table import model_parameters
from kdutils.grid.plan import Plan
from kdutils.inference import crossed_bootstrap, student_tests
from kdutils.inference.estimate import Estimate
from kdutils.results import agreement_fidelity
from kdutils.results.gain_tables import in_domain_order, in_method_order, pair_label
from kdutils.results.item_gains import PAIRED

STRATUM = ["domain", "family", "teacher", "student", "seed", "task"]
ALPHA = 0.05
WAYS = {
    "students": "t of student means, families as blocks",
    "crossed": "students and items drawn again, crossed",
    "mixed": "mixed model, students and tasks random",
}


def against_sft(paired: pd.DataFrame) -> pd.DataFrame:
    """KD and SFT answers of the same pair, seed and item: STRATUM, item_id, method, `kd`, `sft` (right?).

    Takes agreement_fidelity.paired_answers; of several texts an item the first. No seed without SFT.
    """
    first = paired[paired["sample"] == paired["sample"].min()].astype({"correct": bool})
    keys = [*STRATUM, "item_id"]
    is_sft = first["method"] == "sft"
    sft = first.loc[is_sft, [*keys, "correct"]].rename(columns={"correct": "sft"})
    kd = first.loc[~is_sft, [*keys, "method", "correct"]].rename(columns={"correct": "kd"})
    return kd.merge(sft, on=keys, how="inner", validate="many_to_one")


def won_and_lost(rows: pd.DataFrame) -> pd.DataFrame:
    """McNemar's exact test of each pair x method x domain, of the first seed there is: a map of tests.

    Columns domain, method, label, seed, n, won (right after KD alone), lost (right after SFT alone), gain
    (points), p_value, q_value (Benjamini and Hochberg over the whole map), reason, where p is NaN,
    student_parameters and pair.
    """
    table = []
    for names, part in rows.groupby(PAIRED, sort=False):
        seed = part["seed"].min()
        one = part[part["seed"] == seed]
        found = student_tests.mcnemar(one["kd"], one["sft"])
        gain = 100 * (found.left_only - found.right_only) / found.n
        what = (found.n, found.left_only, found.right_only, gain, found.p_value, found.reason)
        table.append((*names, METHOD_NAMES[names[-1]], seed, *what))
    columns = [*PAIRED, "label", "seed", "n", "won", "lost", "gain", "p_value", "reason"]
    frame = pd.DataFrame(table, columns=columns)
    frame.insert(len(columns) - 1, "q_value", student_tests.benjamini_hochberg(frame["p_value"]))
    sizes = {f"{side}_parameters": frame[side].map(model_parameters) for side in ("student", "teacher")}
    frame = in_method_order(frame.assign(**sizes)).sort_values(list(sizes), kind="stable")
    frame = in_domain_order(frame).reset_index(drop=True)
    frame = frame.assign(pair=pair_label(frame) if len(frame) else [])
    return frame.drop(columns=["teacher", "student", "teacher_parameters"])


def map_remark(table: pd.DataFrame) -> str:
    """How many comparisons of `won_and_lost` stand out, in a sentence; "" for none at all."""
    if table.empty:
        return ""
    is_found = table["q_value"] < ALPHA
    up, down = (int((is_found & (sign * table["gain"] > 0)).sum()) for sign in (1, -1))
    text = f"Of {len(table)} comparisons, {up} gains and {down} losses have q < {ALPHA:g}"
    undefined = int(table["p_value"].isna().sum())
    return text + (f"; {undefined} cannot be tested." if undefined else ".")


READINGS = {"correct": "lenient", "correct_strict": "strict", "correct_robust": "robust"}


def readings(plan: Plan) -> pd.DataFrame:
    """`by_reading` of a plan's finished live runs."""
    rows = agreement_fidelity.paired_rows(plan, ["text", "answer", "correct", "correct_strict"])
    return by_reading(rows)


def by_reading(rows: pd.DataFrame) -> pd.DataFrame:
    """`won_and_lost` under each reading of answers: a row a pair x method x domain.

    Takes agreement_fidelity.paired_rows with text, answer, correct and correct_strict. Columns domain, pair,
    method, n, and for `lenient` (the authors'), `strict` and `robust` (see data.answers) the gain in points
    and, with the suffix `_found`, whether its q is below ALPHA.
    """
    asked = list(zip(rows["task"], rows["text"], rows["answer"], strict=True))
    known = {each: is_correct(each[0], parse_robust(*each[:2]), each[2]) for each in set(asked)}
    rows = rows.assign(correct_robust=np.array([known[each] for each in asked], dtype=bool))
    keys, tables = ["domain", "pair", "label", "n"], []
    for column, reading in READINGS.items():
        table = won_and_lost(against_sft(rows.assign(correct=rows[column]))).set_index(keys)
        is_found = table["q_value"] < ALPHA
        tables.append(pd.DataFrame({reading: table["gain"], f"{reading}_found": is_found}))
    return pd.concat(tables, axis=1).reset_index().rename(columns={"label": "method"})


def moved_by_reading(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `by_reading` where robust for lenient moves the gain by a point or changes what its test finds.

    Columns domain, pair, method, n, lenient, strict, robust (points, starred where found).
    """
    is_moved = (table["robust"] - table["lenient"]).abs() >= 1
    moved = table[is_moved | (table["robust_found"] != table["lenient_found"])].reset_index(drop=True)
    for name in READINGS.values():
        marks = moved.pop(f"{name}_found").map({True: "*", False: ""})
        moved[name] = [f"{gain:+.1f}{mark}" for gain, mark in zip(moved[name], marks, strict=True)]
    return moved


def reading_remark(table: pd.DataFrame) -> str:
    """How much the robust reading changes of `by_reading`, in a sentence; "" without comparisons."""
    if table.empty:
        return ""
    changes = (table["robust"] - table["lenient"]).abs()
    n_crossed = int((table["robust_found"] != table["lenient_found"]).sum())
    text = "Read robustly instead of as the authors do,"
    if changes.max() <= 1e-9 and not n_crossed:
        return f"{text} no gain changes (of {len(table)})."
    return (
        f"{text} {int((changes > 1e-9).sum())} of {len(table)} gains change, by at most {changes.max():.1f} "
        f"points, and {n_crossed} of the tests find something else (q < {ALPHA:g})."
    )


def three_ways(rows: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """The mean gain of each domain and method by three analyses (WAYS): a row a domain x method x way.

    Columns domain, label, way, estimate, low, high, n_students, reason where it is undefined. All are means
    over students of means over tasks of means over runs, in points; the mixed model's weighs by how much each
    says. What differs is who else they speak of: other students of these families, other students and items,
    other students and tasks.
    """
    table = []
    gains = rows.assign(one=1.0, gain=100.0 * (rows["kd"].astype(int) - rows["sft"].astype(int)))
    for domain, of_domain in gains.groupby("domain", sort=False):
        for method in KD_METHODS:
            part = of_domain[of_domain["method"] == method]
            if part.empty:
                continue
            tasks = part
            for keys in (STRATUM, ["family", "student", "task"]):
                tasks = tasks.groupby(keys, sort=False)["gain"].mean().reset_index()
            students = tasks.groupby(["family", "student"], sort=False)["gain"].mean().reset_index()
            ways = {
                "students": student_tests.student_mean_test(students, "gain", unit="student", block="family"),
                "crossed": _drawn(part, rng),
                "mixed": student_tests.mixed_gain(tasks),
            }
            for way, found in ways.items():
                who = (domain, METHOD_NAMES[method], WAYS[way])
                table.append((*who, *found.bounds, len(students), found.reason))
    columns = ["domain", "label", "way", "estimate", "low", "high", "n_students", "reason"]
    return in_domain_order(pd.DataFrame(table, columns=columns)).reset_index(drop=True)


def _drawn(gains: pd.DataFrame, rng: np.random.Generator) -> Estimate:
    """The mean over students, which are drawn again with all their runs, and items."""
    found = crossed_bootstrap.resampled(
        gains, strata=STRATUM, clusters=["student"], values=["one", "gain"], rng=rng
    )
    n_runs = found.keys.groupby(["student", "task"])["seed"].transform("size")
    n_tasks = found.keys.groupby("student")["task"].transform("nunique")
    means_RS = crossed_bootstrap.ratio(found.sums("gain"), found.sums("one"))
    weights_RS = found.weights_RS / (n_runs * n_tasks).to_numpy(float)
    mean = crossed_bootstrap.weighted_mean(means_RS, weights_RS)
    return crossed_bootstrap.estimate(mean, why_undefined="no items", why_not=found.why_not)
