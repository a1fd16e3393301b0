"""KD and SFT student on the same items: which answers were won and lost, and the mean gain three ways.

Live runs alone: no item-level results were released. Students at temperature 1 without noise, each
compared with the SFT student of its seed, so that nothing is picked and nothing but the training differs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kdutils.constants import KD_METHODS, METHOD_NAMES
from kdutils.grid.cell_table import model_parameters
from kdutils.inference import crossed_bootstrap, student_tests
from kdutils.inference.estimate import Estimate
from kdutils.results.gain_tables import in_domain_order, in_method_order, pair_label

RUN = ["domain", "family", "teacher", "student", "seed"]
STRATUM = [*RUN, "task"]
ALPHA = 0.05
WAYS = {
    "students": "t of student means, families as blocks",
    "crossed": "students and items drawn again, crossed",
    "mixed": "mixed model, students and tasks random",
}


def against_sft(paired: pd.DataFrame) -> pd.DataFrame:
    """KD and SFT answers of the same pair, seed and item: RUN, method, task, item_id, `kd`,
    `sft` (right or not).

    Takes agreement_fidelity.paired_answers; of several texts an item the first. No seed without SFT.
    """
    first = paired[paired["sample"] == paired["sample"].min()]
    keys = [*STRATUM, "item_id"]
    is_sft = first["method"] == "sft"
    sft = first.loc[is_sft, [*keys, "correct"]].rename(columns={"correct": "sft"})
    kd = first.loc[~is_sft, [*keys, "method", "correct"]].rename(columns={"correct": "kd"})
    both = kd.merge(sft, on=keys, how="inner", validate="many_to_one")
    return both.astype({"kd": bool, "sft": bool})


def won_and_lost(rows: pd.DataFrame) -> pd.DataFrame:
    """McNemar's exact test of each pair x method x domain, of the first seed there is: a map of tests.

    Columns domain, pair, student_parameters, method, label, seed, n, won (right after KD alone), lost (right
    after SFT alone), gain (points), p_value, q_value (Benjamini and Hochberg over the whole map) and reason,
    where p is NaN.
    """
    table = []
    keys = ["domain", "teacher", "student", "method"]
    for (domain, teacher, student, method), part in rows.groupby(keys, sort=False):
        seed = part["seed"].min()
        one = part[part["seed"] == seed]
        found = student_tests.mcnemar(one["kd"], one["sft"])
        gain = 100 * (found.left_only - found.right_only) / found.n
        who = (domain, teacher, student, method, METHOD_NAMES[method], seed)
        what = (found.n, found.left_only, found.right_only, gain, found.p_value, found.reason)
        table.append((*who, *what))
    names = [*keys, "label", "seed", "n", "won", "lost", "gain", "p_value", "reason"]
    frame = pd.DataFrame(table, columns=names)
    frame.insert(len(names) - 1, "q_value", student_tests.benjamini_hochberg(frame["p_value"]))
    sizes = {side: frame[side].map(model_parameters) for side in ("student", "teacher")}
    frame = frame.assign(student_parameters=sizes["student"], teacher_parameters=sizes["teacher"])
    frame = in_method_order(frame).sort_values(["student_parameters", "teacher_parameters"], kind="stable")
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


def three_ways(
    rows: pd.DataFrame, *, rng: np.random.Generator, n_resamples: int = crossed_bootstrap.N_RESAMPLES
) -> pd.DataFrame:
    """The mean gain of each domain and method by three analyses (WAYS): a row a domain x method x way.

    Columns domain, label, way, estimate, low, high, n_students, reason where it is undefined. All are means
    over students of means over tasks of means over runs, in points; the mixed model's weighs by how much each
    says. What differs is who else they speak of: other students of these families, other students and items,
    other students and tasks.
    """
    table = []
    for domain, of_domain in rows.groupby("domain", sort=False):
        for method in KD_METHODS:
            part = of_domain[of_domain["method"] == method]
            if len(part):
                name = METHOD_NAMES[method]
                n = part["student"].nunique()
                for way, found in _ways(part, rng, n_resamples).items():
                    table.append((domain, name, WAYS[way], *found.bounds, n, found.reason))
    columns = ["domain", "label", "way", "estimate", "low", "high", "n_students", "reason"]
    return in_domain_order(pd.DataFrame(table, columns=columns)).reset_index(drop=True)


def _ways(part: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> dict[str, Estimate]:
    gains = part.assign(gain=100.0 * (part["kd"].astype(int) - part["sft"].astype(int)))
    tasks = gains.groupby([*STRATUM], sort=False)["gain"].mean().reset_index()
    tasks = tasks.groupby(["family", "student", "task"], sort=False)["gain"].mean().reset_index()
    students = tasks.groupby(["family", "student"], sort=False)["gain"].mean().reset_index()
    by_t = student_tests.student_mean_test(students, "gain", unit="student", block="family")
    return {
        "students": by_t,
        "crossed": _drawn(gains, rng, n_resamples),
        "mixed": student_tests.mixed_gain(tasks),
    }


def _drawn(gains: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> Estimate:
    """The mean over students, which are drawn again with all their runs, and items."""
    found = crossed_bootstrap.resampled(
        gains.assign(one=1.0),
        strata=STRATUM,
        clusters=["student"],
        values=["one", "gain"],
        rng=rng,
        n_resamples=n_resamples,
    )
    keys = found.keys
    n_runs = keys.groupby(["student", "task"])["seed"].transform("size")
    n_tasks = keys.groupby("student")["task"].transform("nunique")
    weights_RS = found.weights_RS / (n_runs * n_tasks).to_numpy(float)
    mean = crossed_bootstrap.weighted_mean(
        crossed_bootstrap.ratio(found.sums("gain"), found.sums("one")), weights_RS
    )
    return crossed_bootstrap.estimate(mean, why_undefined="no items", why_not=found.why_not)
