"""Which verdicts hang on which choice of the analysis: one choice is changed at a time, and judged anew.

A choice turns the evidence into what it would have been, and the authors' rule of each claim says what it
says of any evidence. Where the finding stays the same to the digit, the choice has no bearing on the claim. A
changed analysis cannot give a printed value to the digit, so that the rules for values that cannot be equal
apply to it.

A temperature chosen on held-out items needs items. Released tables have none: where the choice could have a
bearing there, it stays untestable.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdutils.claims.claims import CLAIMS, Claim, Judgement, by_authors
from kdutils.claims.evidence import NOT_TESTABLE, REPRODUCED, Evidence, Finding
from kdutils.constants import AVERAGE, DOMAINS
from kdutils.inference import size_effects
from kdutils.results import gain_tables, held_out_temperature, sweeps
from kdutils.results.gain_tables import LIKENESS

AS_AUTHORS, STRICTER = "as the authors", "stricter analysis"
NO_ITEMS = "these results have no items to choose a temperature on"
TEMPERATURE_1, HELD_OUT = "temperature 1", "held-out items"  # instead of the best on the test items
ABOUT_TEACHERS = ("T1", "T2", "T3", "A2", "A3")  # of single teachers: no student's mean can answer them
OF_METHODS = ("E4", "E5", "E7", "E8")  # they compare methods or pick one: no mean over methods can
BY_SWEEP = {"06": "noise_sigma", "07": "temperature"}  # section whose judges read cells -> what it varies
TOGETHER = "all teachers"
Make = Callable[[Evidence], Evidence]  # turns evidence into what it would have been


class Choice(NamedTuple):
    """One way to analyse otherwise."""

    name: str
    of: Callable[[Claim], Make | None]  # what it does to the evidence on a claim; None: nothing
    cannot: str = ""  # why these results do not allow it: `of` then says where it could have a bearing


def _always(make: Make) -> Callable[[Claim], Make]:
    return lambda claim: make


def _of_students(claim: Claim) -> Make | None:
    if claim.section in BY_SWEEP:
        return OF_STUDENTS[claim.section]
    return None if claim.id in ABOUT_TEACHERS else OF_STUDENTS[claim.id in OF_METHODS]


def choices(evidence: Evidence, halves: pd.DataFrame | None = None) -> list[Choice]:
    """Those that these results allow, as one family or seed alone needs several, and held-out items.

    `halves` (held_out_temperature.read) are those of live results; without them that choice cannot be made.
    """
    families = list(dict.fromkeys(evidence.all_cells["family"]))
    seeds = sorted(evidence.all_cells["seed"].dropna().unique())
    alone = [(f"{name} alone", partial(_of_family, name=name)) for name in families if len(families) > 1]
    alone += [(f"seed {seed}", partial(_of_seed, seed=seed)) for seed in seeds if len(seeds) > 1]
    return [
        Choice(TEMPERATURE_1, _always(_at_temperature_1)),
        _by_held_out_items(evidence.all_cells, halves),
        # Magnitudes are printed in points.
        Choice("log odds", lambda claim: None if claim.is_magnitude else _on_log_odds),
        Choice("students", _of_students),
        Choice("not in training set", _always(_uncontaminated)),
        *(Choice(name, _always(make)) for name, make in alone),
    ]


def table(judgement: Judgement, halves: pd.DataFrame | None = None) -> pd.DataFrame:
    """Verdicts of one source, a row a claim x choice: id, section, claim, choice, verdict, estimate, p_value.

    First as the authors choose, then each choice, last the stricter analysis, which makes several at once.
    `bears` is False where the finding stays as it was; then the verdict is that of the authors' choice. A
    choice that the results cannot make is not testable where another of the same aspect has a bearing. No
    rows for one pair, which the authors' analysis cannot judge.

    Args:
        halves: of the live runs (held_out_temperature.read); those of released results do not exist.
    """
    evidence = judgement.evidence
    halves = halves if evidence.source == "live" else None
    if evidence.one_pair:
        names = ["id", "section", "claim", "choice", "verdict", "estimate", "p_value", "bears"]
        return pd.DataFrame(columns=names)
    asked = [claim for claim in CLAIMS if claim.id in judgement.authors]
    rows = [_row(claim, AS_AUTHORS, judgement.authors[claim.id]) for claim in asked]
    unchanged = _altered(evidence)  # judged by the rules for values that cannot equal the printed ones
    before = {claim.id: by_authors(claim, unchanged) for claim in asked}
    for choice in choices(evidence, halves):
        made: dict[Make, Evidence] = {}
        for claim in asked:
            after, make = before[claim.id], choice.of(claim)
            if make is not None:
                if make not in made:
                    made[make] = make(evidence)
                after = by_authors(claim, made[make])
            bears = repr(after) != repr(before[claim.id])
            if choice.cannot:
                after = Finding(verdict=NOT_TESTABLE, reason=choice.cannot)
            after = after if bears else judgement.authors[claim.id]
            rows.append(_row(claim, choice.name, after, bears=bears))
    rows += [_row(claim, STRICTER, judgement.stricter[claim.id]) for claim in asked]
    return pd.DataFrame(rows)


def _row(claim: Claim, choice: str, finding: Finding, *, bears: bool = True) -> dict:
    row = {"id": claim.id, "section": claim.section, "claim": claim.statement, "choice": choice}
    row |= {"verdict": finding.verdict, "estimate": finding.estimate, "p_value": finding.p_value}
    return row | {"bears": bears}


def holds(long: pd.DataFrame) -> pd.DataFrame:
    """Under how many choices each claim is reproduced: id, claim, holds, changed by.

    Takes `table`. Counted are the authors' choice and those that have a bearing and leave something to test;
    the stricter analysis is no single choice and is not counted. `holds` is `every`, `some`, `none` or
    `not testable`.
    """
    rows = []
    for claim, part in long[long["choice"] != STRICTER].groupby("id", sort=False):
        counted = part[part["bears"] & (part["verdict"] != NOT_TESTABLE)]
        is_so = counted["verdict"] == REPRODUCED
        word = "every" if is_so.all() else "some" if is_so.any() else "none"
        base = part["verdict"].iloc[0]
        said = [f"{row.choice}: {row.verdict.replace('_', ' ')}" for row in changes(part).itertuples()]
        row = {"id": claim, "claim": part["claim"].iloc[0], "as the authors": base.replace("_", " ")}
        row |= {"holds under": word if len(counted) else "not testable", "choices": len(counted)}
        rows.append(row | {"changed by": "; ".join(said) or "none"})
    return pd.DataFrame(rows)


def changes(of_claim: pd.DataFrame) -> pd.DataFrame:
    """Those rows of one claim in `table` whose single choice gives another verdict than the authors'.

    A choice that leaves nothing to test gives none.
    """
    base = of_claim.loc[of_claim["choice"] == AS_AUTHORS, "verdict"].iloc[0]
    is_single = ~of_claim["choice"].isin([AS_AUTHORS, STRICTER]) & of_claim["bears"]
    return of_claim[is_single & ~of_claim["verdict"].isin([base, NOT_TESTABLE])]


def cannot_remark(long: pd.DataFrame) -> str:
    """Where held-out items would be needed to choose a temperature and are not there; "" if nowhere."""
    n = int(((long["choice"] == HELD_OUT) & long["bears"] & (long["verdict"] == NOT_TESTABLE)).sum())
    text = f"For {n} claims the temperature could not be chosen on held-out items, for want of them."
    return text if n else ""


def holds_remark(summary: pd.DataFrame) -> str:
    """How many claims hold under every single choice, some or none, in sentences."""
    words = ("every", "some", "none")
    counts = summary["holds under"].value_counts().reindex([*words, "not testable"], fill_value=0)
    parts = [f"{counts[word]} under {'no' if word == 'none' else word} single choice" for word in words]
    hanging = ", ".join(summary.loc[summary["holds under"] == "some", "id"])
    text = f"Of {len(summary)} claims are reproduced {parts[0]}, {parts[1]} and {parts[2]}; "
    text += f"{counts['not testable']} are not testable. The last column, the stricter analysis, makes "
    text += "several choices at once and is not counted."
    return f"{text} Those that hang on a choice: {hanging}." if hanging else text


def _altered(evidence: Evidence, **changes) -> Evidence:
    return replace(evidence, is_altered=True, _tests={}, **changes)


def _at_temperature_1(evidence: Evidence) -> Evidence:
    return _altered(evidence, selection="temperature_1")


def _by_held_out_items(cells: pd.DataFrame, halves: pd.DataFrame | None) -> Choice:
    """Gains of temperatures that were chosen on other items than they are measured on."""
    cannot = NO_ITEMS if halves is None else held_out_temperature.lacking(cells, halves)
    if cannot:
        return Choice(HELD_OUT, _always(_at_temperature_1), cannot)

    def held_out(evidence: Evidence) -> Evidence:
        # Other cells than those of gains keep their temperatures: judges ask for 1, or compare several.
        cells = held_out_temperature.cells(evidence.all_cells, halves)
        gains = gain_tables.gains(cells, selection="best_on_test").assign(selection="held_out")

        def of_held_out(best: pd.DataFrame) -> pd.DataFrame:
            return gains[gains["domain"].isin(best["domain"])].reset_index(drop=True)

        return _altered(evidence, of_gains=of_held_out)

    return Choice(HELD_OUT, _always(held_out))


def _on_log_odds(evidence: Evidence) -> Evidence:
    """Gains in log odds of being right; of an average, of the average accuracy over all its items."""
    n_items = evidence.cells.groupby(["domain", "task"])["n"].max()

    def on_log_odds(gains: pd.DataFrame) -> pd.DataFrame:
        gains = gains[gains["domain"].isin(DOMAINS)]  # ROUGE-L is no share of items
        items = n_items.reindex(pd.MultiIndex.from_frame(gains[["domain", "task"]])).to_numpy(float)
        logit = size_effects.logit_gain(gains["accuracy"], gains["sft_accuracy"], items)
        return gains.assign(gain=logit)

    return _altered(evidence, of_gains=on_log_odds)


def _gains_of_students(evidence: Evidence, *, of_methods: bool) -> Evidence:
    """One gain a student and task, its teachers and then its methods averaged; `of_methods`: one a method."""
    where = ["source", "protocol", "selection", "domain", "task", "family", "student", "student_parameters"]
    numbers = ["accuracy", "accuracy_se", "sft_accuracy", "sft_accuracy_se", "teacher_accuracy"]
    numbers += ["gain", "gain_se", *LIKENESS]

    def over_teachers(gains: pd.DataFrame) -> pd.DataFrame:
        means = gains.groupby([*where, "method"], sort=False)[numbers].mean().reset_index()
        if not of_methods:  # judges name the method; no text of theirs is shown
            means = means.groupby(where, sort=False)[numbers].mean().reset_index().assign(method="fkl")
        return means.assign(teacher=TOGETHER, temperature=np.nan)

    return _altered(evidence, of_gains=over_teachers)


def _runs_of_students(evidence: Evidence, *, varied: str) -> Evidence:
    """Cells whose teachers and methods are averaged: one a student, value of `varied`, task and seed.

    Of runs that were trained at several values of it, so that each value has the same pairs and methods.
    """
    cells = evidence.all_cells
    is_kd = cells["teacher"] != ""
    kd = sweeps.swept(cells[is_kd], varied)
    where = ["source", "protocol", "domain", "task", "family", "student", "student_parameters"]
    where += ["teacher_tuned", "temperature", "noise_sigma", "seed"]
    means = kd.groupby(where, sort=False)[["n", "accuracy", "accuracy_se"]].mean().reset_index()
    # The judges ask for a method and name it; no text of theirs is shown.
    means = means.assign(teacher=TOGETHER, teacher_parameters=0, method="fkl", flags="")
    means = means.reindex(columns=cells.columns).astype({"n": "Float64"})
    return _altered(evidence, all_cells=pd.concat([cells[~is_kd], means], ignore_index=True))


OF_STUDENTS: dict[bool | str, Make] = {
    **{of_methods: partial(_gains_of_students, of_methods=of_methods) for of_methods in (False, True)},
    **{section: partial(_runs_of_students, varied=varied) for section, varied in BY_SWEEP.items()},
}


def _uncontaminated(evidence: Evidence) -> Evidence:
    return _altered(evidence, all_cells=without_tasks(evidence.all_cells, evidence.contaminated))


def without_tasks(cells: pd.DataFrame, tasks: Iterable[str]) -> pd.DataFrame:
    """Cells without these tasks; averages are those of the tasks left, the tasks taken as independent."""
    is_dropped = cells["task"].isin(set(tasks))
    touched = set(cells.loc[is_dropped, "domain"])
    kept = cells[~is_dropped & ~(cells["domain"].isin(touched) & (cells["task"] == AVERAGE))]
    run = ["source", "protocol", "domain", "family", "teacher", "student", "teacher_parameters"]
    run += ["student_parameters", "method", "teacher_tuned", "temperature", "noise_sigma", "seed"]
    grouped = kept[kept["domain"].isin(touched)].groupby(run, dropna=False, sort=False)
    if not grouped.ngroups:
        return kept.reset_index(drop=True)
    averages = grouped[["accuracy"]].mean()
    averages["accuracy_se"] = grouped["accuracy_se"].agg(lambda each: (each**2).sum() ** 0.5 / len(each))
    averages["n"] = grouped["n"].sum()
    averages = averages.reset_index().assign(task=AVERAGE, flags="")
    return pd.concat([kept, averages.reindex(columns=cells.columns)], ignore_index=True)


def _of_family(evidence: Evidence, *, name: str) -> Evidence:
    cells = evidence.all_cells
    return _altered(evidence, all_cells=cells[cells["family"] == name])


def _of_seed(evidence: Evidence, *, seed: int) -> Evidence:
    """Runs of that seed; those that were not repeated stay, so that the same runs are compared.

    They are all called by that seed: temperatures and sigmas are compared within a seed only.
    """
    cells = evidence.all_cells
    run = ["domain", "task", "teacher", "student", "method", "teacher_tuned", "temperature", "noise_sigma"]
    has_it = (cells["seed"] == seed).groupby([cells[name] for name in run], dropna=False).transform("any")
    kept = cells[~has_it | (cells["seed"] == seed)]
    return _altered(evidence, all_cells=kept.drop_duplicates(run).assign(seed=seed))
