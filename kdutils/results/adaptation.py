"""Does the benefit of KD hang on how the student is adapted? Takes rows of results.arms.

The benefit of a KD method is the loss after SFT less that after KD, with the same arm, items and seed; the
loss is the cross-entropy of the gold responses of test items, nats a token, a mean over tasks. Every arm has
its own learning rate (grid.arms), every training as many steps, and the epoch with the lowest
validation loss is kept, so that neither one rate nor overfitting is compared. Intervals draw test items and
training seeds again, the same ones for all that is compared; they speak of these students and tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np
import pandas as pd

from kdutils.inference import intervals, student_tests
from kdutils.inference.estimate import Estimate
from kdutils.results.arms import BASE, CELL, RUN, counted, estimated, levels

PLACE = ["teacher", "student", "train_items"]
CAPACITY = ("full", "lora_small")  # arms with the most and the fewest values to train


def benefits(found: pd.DataFrame) -> pd.DataFrame:
    """Loss after SFT less that after each KD method, of `levels`: CELL, train_items, benefit, low, high.

    Of arms that have both at that number of items.
    """
    table = []
    for column in found:
        cell = dict(zip(found.columns.names, column, strict=True))
        sft = tuple((cell | {"method": "sft"}).values())
        if cell["method"] != "sft" and sft in found:
            benefit = estimated(found[sft] - found[column])
            table.append(cell | dict(zip(("benefit", "low", "high"), benefit.bounds, strict=True)))
    return pd.DataFrame(table, columns=[*CELL, "train_items", "benefit", "low", "high"])


def interactions(items: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """How much less KD benefits an arm than full fine-tuning, mean over pairs and numbers of items.

    A row a KD method x arm: method, arm, interaction, low, high, p_value (Student's t over pairs x numbers of
    items x seeds), n (of those), p_holm (for all rows together).
    """
    by_run, table = _by_run(items), []
    arms, methods = (list(dict.fromkeys(found.columns.get_level_values(name))) for name in ("arm", "method"))
    for method, arm in product(methods, arms):
        if method == "sft" or arm == "full" or not (both := _crossed(found, ["full", arm], ["sft", method])):
            continue
        value = estimated(_benefit(both, "full", method) - _benefit(both, arm, method))
        own = by_run.reindex(columns=list(product(["full", arm], ["sft", method]))).dropna()
        less = (_benefit(own, "full", method) - _benefit(own, arm, method)).to_numpy()
        table_of_runs = pd.DataFrame({"less": less, "run": range(len(less))})
        test = student_tests.student_mean_test(table_of_runs, "less", unit="run")
        table.append((method, arm, *value.bounds, test.p_value, test.n))
    table = pd.DataFrame(table, columns=["method", "arm", "interaction", "low", "high", "p_value", "n"])
    return table.assign(p_holm=student_tests.holm(table["p_value"]))


def anova(items: pd.DataFrame, *, method: str = "fkl") -> pd.DataFrame:
    """Repeated-measures analysis of variance of the loss, method (SFT or another) x arm (pingouin).

    A subject is a pair x number of items x seed that has all arms which have both methods. Columns source, F,
    p (by Greenhouse and Geisser), partial_eta_squared, n (subjects), arms; no rows below two of either.
    """
    wide = _by_run(items).loc[:, lambda table: table.columns.get_level_values("method").isin(["sft", method])]
    has_both = wide.columns.to_frame(index=False).groupby("arm")["method"].transform("size") == 2
    wide = wide.loc[:, has_both.to_numpy()].dropna()
    n_arms = wide.columns.unique("arm").size
    if len(wide) < 2 or n_arms < 2:
        return pd.DataFrame(columns=["source", "F", "p", "partial_eta_squared", "n", "arms"])
    import pingouin

    long = wide.reset_index(drop=True).rename_axis(index="subject").unstack().rename("nll").reset_index()
    found = pingouin.rm_anova(long, dv="nll", within=["method", "arm"], subject="subject", effsize="np2")
    named = {"Source": "source", "p_GG_corr": "p", "np2": "partial_eta_squared"}
    found = found.rename(columns=named)[["source", "F", "p", "partial_eta_squared"]]
    return found.assign(n=len(wide), arms=n_arms)


def _by_run(items: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over tasks, a row a pair x number of items x seed, a column an arm x method."""
    rows = items[~items["is_other"] & (items["method"] != BASE)]
    means = rows.groupby([*RUN, "task"])["nll"].mean().groupby(RUN).mean()
    return means.reset_index().pivot(index=[*PLACE, "seed"], columns=["arm", "method"], values="nll")


def _crossed(
    found: pd.DataFrame, arms: Iterable[str], methods: Iterable[str], at: int | None = None
) -> dict[tuple[str, str], pd.Series] | None:
    """Arm and method -> mean of `levels` over the places that all have, or those of `at` items; else None."""
    arm, method = (found.columns.get_level_values(name) for name in ("arm", "method"))
    wanted = list(product(arms, methods))
    parts = [found.loc[:, (arm == a) & (method == m)].droplevel(["method", "arm"], axis=1) for a, m in wanted]
    places = sorted(set.intersection(*(set(part.columns) for part in parts)))
    places = [place for place in places if at in (None, place[-1])]
    means = {key: part[places].mean(axis=1) for key, part in zip(wanted, parts, strict=True)}
    return means if places else None


def _benefit(table: Mapping[tuple[str, str], pd.Series], arm: str, method: str) -> pd.Series:
    return table[arm, "sft"] - table[arm, method]


# --- what was declared --------------------------------------------------------------------------------------

APART = {  # contrast -> two arms whose losses are compared, mean over these methods
    "AD4": ("id3", "static_mask_half", ("sft", "fkl")),  # as many coordinate updates
    "AD5": ("id3", "static_mask", ("sft", "fkl")),  # as many entries
    "AD7": ("miss", "lora", ("sft", "fkl")),
    "AD8": ("shadow_detached_kl", "shadow_detached", ("fkl",)),
    "AD9": ("spt", "lora", ("sft", "fkl")),
    "AD10": ("dora", "lora", ("sft", "fkl")),
}
BEGINS = ("pissa", "lora", ("sft", "fkl"))  # of AD6


def contrasts(
    items: pd.DataFrame, runs: pd.DataFrame, *, rng: np.random.Generator
) -> dict[str, Estimate | str]:
    """AD1 to AD10 of claims.toml, each with its interval, or why there is none."""
    found: dict[str, Estimate | str] = dict.fromkeys(
        (f"AD{place}" for place in range(1, 11)), "an arm is not trained, or void"
    )
    if items.empty:
        return dict.fromkeys(found, "the profile has no study of adapters, or it is not finished")
    nll, reverse = (levels(items, name, rng=rng) for name in ("nll", "reverse_kl"))
    high, low = CAPACITY
    if both := _crossed(nll, CAPACITY, ["sft", "fkl"]):
        found["AD1"] = estimated(_benefit(both, high, "fkl") - _benefit(both, low, "fkl"))
    sizes = sorted(nll.columns.unique("train_items"))
    few, many = (_crossed(nll, [high], ["sft", "fkl"], sizes[place]) for place in (0, -1))
    if few and many and len(sizes) > 1:
        found["AD2"] = estimated(_benefit(few, high, "fkl") - _benefit(many, high, "fkl"))
    if both := _crossed(reverse, CAPACITY, ["fkl", "revkd"]):
        rises = [both[arm, "revkd"] - both[arm, "fkl"] for arm in CAPACITY]
        found["AD3"] = estimated(rises[0] - rises[1])
    for name, (one, other, methods) in APART.items():
        if both := _crossed(nll, [one, other], methods):
            differences = [both[one, method] - both[other, method] for method in methods]
            found[name] = estimated(sum(differences) / len(methods))
    one, other, methods = BEGINS
    final = runs[runs["is_final"] & runs["method"].isin(methods)]
    early = final.pivot_table(index=[*PLACE, "method", "seed"], columns="arm", values="early_loss")
    if {one, other} <= set(early):
        by_run = (early[one] - early[other]).dropna().groupby(level=[*PLACE, "seed"]).mean()
        found["AD6"] = intervals.mean_interval(by_run)  # over pairs x numbers of items x seeds
    return counted(found, items)
