"""Does the benefit of KD hang on how the student is adapted? Takes rows of results.arms.

The benefit of a KD method is the loss after SFT less that after KD, with the same arm, items and seed; the
loss is the cross-entropy of the gold responses of test items, nats a token, a mean over tasks. Every arm has
its own learning rate (grid.arms), every training as many steps, and the epoch with the lowest
validation loss is kept, so that neither one rate nor overfitting is compared. Intervals draw test items and
training seeds again, the same ones for all that is compared; they speak of these students, tasks and training
items: all seeds have the same ones, which matters where they are few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdutils.inference import student_tests
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

    A row a KD method x arm: method, arm, students (that have both arms by both methods), interaction, low,
    high, p_value and n of `_over_runs`, p_holm (for all rows together).
    """
    by_run, table = _by_run(items), []
    arms, methods = (list(dict.fromkeys(found.columns.get_level_values(name))) for name in ("arm", "method"))
    for method, arm in product(methods, arms):
        if method == "sft" or arm == "full" or not (both := _crossed(found, ["full", arm], ["sft", method])):
            continue
        value = both.estimated(_benefit(both.means, "full", method) - _benefit(both.means, arm, method))
        own = by_run.reindex(columns=list(product(["full", arm], ["sft", method]))).dropna()
        test = _over_runs(_benefit(own, "full", method) - _benefit(own, arm, method))
        students = ", ".join(own.index.unique("student"))
        table.append((method, arm, students, *value.bounds, test.p_value, test.n))
    names = ["method", "arm", "students", "interaction", "low", "high", "p_value", "n"]
    table = pd.DataFrame(table, columns=names)
    return table.assign(p_holm=student_tests.holm(table["p_value"]))


def anova(items: pd.DataFrame, *, method: str = "fkl") -> pd.DataFrame:
    """Repeated-measures analysis of variance of the benefit of a method, arm x number of items (pingouin).

    A subject is a pair x seed; an arm counts if every subject has it by both methods with every number of
    items. Columns source, F, p (by Greenhouse and Geisser), partial_eta_squared, n (subjects), arms; no rows
    below two of either.
    """
    wide = _by_run(items)
    of_arms = wide.columns.unique("arm")
    both = [arm for arm in of_arms if {(arm, "sft"), (arm, method)} <= set(wide.columns)]
    benefit = pd.DataFrame({arm: _benefit(wide, arm, method) for arm in both}, index=wide.index)
    benefit = benefit.dropna(axis="columns").rename_axis(columns="arm")
    subjects = [name for name in wide.index.names if name != "train_items"]
    n = benefit.groupby(subjects).ngroups
    if n < 2 or benefit.shape[1] < 2:
        return pd.DataFrame(columns=["source", "F", "p", "partial_eta_squared", "n", "arms"])
    import pingouin

    long = benefit.stack().rename("benefit").reset_index()
    long = long.assign(subject=long.groupby(subjects).ngroup())
    within = ["arm", "train_items"] if long["train_items"].nunique() > 1 else "arm"
    how = {"within": within, "subject": "subject", "effsize": "np2", "correction": True}
    found = pingouin.rm_anova(long, dv="benefit", **how)
    named = {"Source": "source", "p_GG_corr": "p", "np2": "partial_eta_squared"}
    found = found.rename(columns=named)[["source", "F", "p", "partial_eta_squared"]]
    return found[found["source"] != "Error"].assign(n=n, arms=benefit.shape[1])


def _by_run(items: pd.DataFrame) -> pd.DataFrame:
    """Mean loss over tasks, a row a pair x number of items x seed, a column an arm x method."""
    rows = items[~items["is_other"] & (items["method"] != BASE)]
    means = rows.groupby([*RUN, "task"])["nll"].mean().groupby(RUN).mean()
    return means.reset_index().pivot(index=[*PLACE, "seed"], columns=["arm", "method"], values="nll")


class _Crossed(NamedTuple):
    """Means of `levels` over the places that all of some arms and methods have."""

    means: dict[tuple[str, str], pd.Series]  # by arm and method
    only: str  # of which pairs, unless of all

    def estimated(self, of_resamples: pd.Series) -> Estimate:
        return _about(estimated(of_resamples), self.only)


def _crossed(
    found: pd.DataFrame, arms: Iterable[str], methods: Iterable[str], at: int | None = None
) -> _Crossed | None:
    """The means over places (PLACE) that all these arms and methods have, or over those of `at` items.

    None without such a place.
    """
    arm, method = (found.columns.get_level_values(name) for name in ("arm", "method"))
    wanted = list(product(arms, methods))
    parts = [found.loc[:, (arm == a) & (method == m)].droplevel(["method", "arm"], axis=1) for a, m in wanted]
    places = sorted(set.intersection(*(set(part.columns) for part in parts)))
    places = [place for place in places if at in (None, place[-1])]
    if not places:
        return None
    means = {key: part[places].mean(axis=1) for key, part in zip(wanted, parts, strict=True)}
    return _Crossed(means, _only(places, found.columns))


def _only(places: Iterable[tuple], all_places: pd.MultiIndex) -> str:
    """`student under teacher alone`, if places (PLACE) lack a pair that there is; else nothing."""
    pairs = dict.fromkeys(place[:2] for place in places)
    there = set(zip(*(all_places.get_level_values(name) for name in PLACE[:2]), strict=True))
    named = ", ".join(f"{student} under {teacher}" for teacher, student in pairs)
    return f"{named} alone" if there - set(pairs) else ""


def _about(value: Estimate, only: str) -> Estimate:
    """The value with the pairs it is about, unless it already says why it is undefined."""
    return replace(value, reason=value.reason or only)


def _over_runs(values: pd.Series) -> Estimate:
    """The mean over pairs x seeds by Student's t, numbers of items averaged first; the pairs are fixed."""
    table = values.rename("value").reset_index()
    pair = table["teacher"] + " " + table["student"]
    table = table.assign(pair=pair, run=pair + " " + table["seed"].astype(str))
    return student_tests.student_mean_test(table, "value", unit="run", block="pair")


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
        means = both.means
        found["AD1"] = both.estimated(_benefit(means, high, "fkl") - _benefit(means, low, "fkl"))
    sizes = sorted(nll.columns.unique("train_items"))
    few, many = (_crossed(nll, [high], ["sft", "fkl"], sizes[place]) for place in (0, -1))
    if few and many and len(sizes) > 1:
        found["AD2"] = few.estimated(_benefit(few.means, high, "fkl") - _benefit(many.means, high, "fkl"))
    if both := _crossed(reverse, CAPACITY, ["fkl", "revkd"]):
        rises = [both.means[arm, "revkd"] - both.means[arm, "fkl"] for arm in CAPACITY]
        found["AD3"] = both.estimated(rises[0] - rises[1])
    for name, (one, other, methods) in APART.items():
        if both := _crossed(nll, [one, other], methods):
            differences = [both.means[one, method] - both.means[other, method] for method in methods]
            found[name] = both.estimated(sum(differences) / len(methods))
    one, other, methods = BEGINS
    final = runs[runs["is_final"] & runs["method"].isin(methods)]
    early = final.pivot_table(index=[*PLACE, "seed"], columns=["arm", "method"], values="early_loss")
    own = early.reindex(columns=list(product((one, other), methods))).dropna()
    if len(own):
        apart = sum(own[one, method] - own[other, method] for method in methods) / len(methods)
        found["AD6"] = _about(_over_runs(apart), _only(own.index, early.index))
    return counted(found, items)
