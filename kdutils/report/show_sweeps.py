"""What notebooks 06 and 07 show: accuracy over the noise on the teacher's logits and over the temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdutils.claims import selection_optimism
from kdutils.constants import DOMAIN_LABELS, METHOD_LABELS
from kdutils.grid import cell_table
from kdutils.report import figures, styles, teacher_figures
from kdutils.report.section import Section, by_domain
from kdutils.results import (
    authors_tables,
    authors_tests,
    gain_tables,
    held_out_temperature,
    item_gains,
    released_comparison,
    sweeps,
)


class Sweep(NamedTuple):
    runs: Callable[..., pd.DataFrame]  # that differ in the swept quantity alone
    changes: Callable[..., pd.DataFrame]  # of one live pair, against the plain value
    compared: Callable[..., pd.DataFrame]  # one live pair with what was released
    symbol: str
    name: str
    words: str
    plain: str


SWEPT = {
    "noise_sigma": Sweep(
        sweeps.noise_runs,
        item_gains.noise_changes,
        released_comparison.noise,
        *("σ", "sigma", "the noise on the teacher's logits", "without noise"),
    ),
    "temperature": Sweep(
        sweeps.temperature_runs,
        item_gains.temperature_changes,
        released_comparison.temperatures,
        *("T", "temperature", "the temperature of the divergence", "at T = 1"),
    ),
}


def swept(section: Section, varied: str) -> dict[str, pd.DataFrame]:
    """Runs that differ in `varied` (a key of SWEPT) alone, of every source."""
    return gain_tables.by_source(SWEPT[varied].runs(section.shown))


def averages(section: Section, varied: str) -> dict[str, pd.DataFrame]:
    """Their domain averages with intervals from the items."""
    scored = {"published": section.items.scored.head(0), "live": section.items.scored}
    return {
        source: item_gains.with_intervals(gain_tables.averages(table), scored[source])
        for source, table in swept(section, varied).items()
    }


def changes(section: Section, varied: str) -> pd.DataFrame:
    """What the swept quantity changes in the one live pair by task, on the same items; no rows of several."""
    return section.in_view(SWEPT[varied].changes(section.items.scored))


def curves(section: Section, varied: str) -> None:
    """Average accuracy over the swept quantity, a panel a pair, and the same as a table."""
    sweep, tables = SWEPT[varied], averages(section, varied)
    name = "noise_curves" if varied == "noise_sigma" else "temperature_curves"
    caption = f"average accuracy over {sweep.words}, by pair and domain; 95% intervals from the items"
    captions = {source: f"{caption} ({sweeps.decoding(table)})." for source, table in tables.items()}

    def alt(table: pd.DataFrame) -> str:
        means = table.groupby(varied)["accuracy"].mean().items()
        return f"Mean accuracy {', '.join(f'{mean:.1f} % at {sweep.symbol} = {x:g}' for x, mean in means)}."

    section.figure(name, tables, teacher_figures.sweep_curves, x=varied, alt=alt, caption=captions)
    wide = {source: sweeps.by_column(table, varied, sweep.symbol) for source, table in tables.items()}
    section.table(wide, f"average accuracy, %, by {sweep.symbol}.", ".1f")


def changes_of_one_pair(section: Section, varied: str) -> None:
    """What the swept quantity changes in the one live pair by task, on the same items."""
    sweep, table = SWEPT[varied], changes(section, varied)
    if table.empty:
        return
    looks = styles.ordered_styles(table[varied], sweep.symbol)
    look = {
        "x": "difference",
        "xlabel": f"accuracy less that {sweep.plain}, points",
        "by": varied,
        "styles": looks,
    }
    groups = {"noise_changes": table}
    if varied == "temperature":
        groups = {f"changes_{method}": part for method, part in table.groupby("method", sort=False)}
    for name, part in groups.items():
        of = "" if varied == "noise_sigma" else f", {METHOD_LABELS[part['method'].iloc[0]]}"
        caption = f"what {sweep.words} changes by task, same items, 95% intervals{of}."
        look |= {"value": "difference, points", "caption": caption}
        section.figure(name, {"live": part}, figures.by_task, **look)
    section.pair_table(
        sweep.compared, f"accuracy by task and {sweep.name}, %, with 95% intervals over items."
    )


# --- 06: noise ------------------------------------------------------------------------------------------


def noise_costs(section: Section) -> dict[str, pd.DataFrame]:
    """What noise costs on the average by domain and sigma, of every source with runs at several sigmas."""
    tables = gain_tables.several_pairs(averages(section, "noise_sigma"), least=2)
    return {source: authors_tests.noise_costs(sweeps.noise_losses(table)) for source, table in tables.items()}


def known_values(section: Section) -> None:
    """The two known values of the paper's noise study between its reference lines, and what they imply."""
    chosen = "student == 'Qwen2.5-0.5B' and domain == 'math' and task == 'average'"
    student = section.of("published").query(chosen)
    if not (student.query("method == 'fkl'")["teacher"] == "Qwen2.5-3B").any():
        return
    known, by_method = authors_tables.noise_results(), student.set_index("method")["accuracy"]
    sft, base, noisy = float(by_method["sft"]), float(by_method["base"]), known["accuracy"].iloc[1]
    caption = "Qwen2.5-3B to 0.5B, SeqKD†, temperature 1: two known values, two reference lines."
    look = {"sft": sft, "base": base, "value": "accuracy, %", "caption": caption}
    section.figure("noise_known", {"published": known}, teacher_figures.known_noise, **look)
    text = f"at sigma 5 the student would end {base - noisy:.1f} points below its untrained base model: "
    text += "noise does not merely drown the teacher, it teaches something wrong. Of 151,936 independent "
    text += "draws with sigma 5 the largest is expected to exceed 20, more than the lead of most top tokens."
    section.remarks({"published": text})


def noise_sentences(section: Section) -> list[str]:
    """What each sigma costs, and how many students collapse; of one live pair, by items."""
    said = []
    for source, table in noise_costs(section).items():
        for sigma, part in table.groupby("sigma", sort=False):
            said.append(
                f"{section.labels[source]}: sigma {sigma:g} costs {by_domain(part, value='loss')} (95% "
                f"intervals over pairs and methods); {part['collapsed'].sum()} of {part['runs'].sum()} "
                "students collapse."
            )
    found = changes(section, "noise_sigma").query("task == 'average'")
    for sigma, part in found.groupby("noise_sigma"):
        text = f"{section.labels['live']}: sigma {sigma:g} changes the average accuracy by "
        said.append(f"{text}{by_domain(part, value='difference')} (95% intervals over items).")
    return said or ["No run with noise was released, so the paper's noise study cannot be recomputed here."]


# --- 07: temperature ------------------------------------------------------------------------------------


def decoding_remark(section: Section) -> None:
    """What decoding has to do with the best temperature."""
    tables, texts = swept(section, "temperature"), {}
    if "published" in tables:
        chosen = "method == 'revkd' and domain == 'commonsense' and temperature == 1"
        runs = section.of("published").query(chosen)
        runs = runs.merge(tables["published"][["teacher", "student"]].drop_duplicates())
        runs = runs.assign(is_collapsed=cell_table.has_flag(runs, "collapsed"))
        by_pair = runs.groupby(["teacher", "student"])["is_collapsed"].any()
        texts["published"] = (
            f"of the {len(by_pair)} runs of reverse KL on commonsense, {by_pair.sum()} collapse at "
            "temperature 1 in whole or in part, and a higher temperature repairs them. The authors decode by "
            "sampling at temperature 1: a student that was matched to its teacher at temperature 2 is "
            "decoded sharper than it was trained, so part of the advantage of 2 may be the sharper decoding."
        )
    if "live" in tables:
        texts["live"] = (
            f"{sweeps.decoding(tables['live'])}. The likeliest token does not depend on how sharp a "
            "distribution is, so what a temperature gains or loses here is not a matter of decoding."
        )
    section.remarks(texts)


def best_shares(section: Section) -> dict[str, pd.DataFrame]:
    """How often each temperature is the best, by domain and method, of every source."""
    tables = swept(section, "temperature")
    return {source: sweeps.best_temperature_shares(table) for source, table in tables.items()}


def choice(section: Section) -> str:
    """Accuracy by how the temperature was chosen, on the scored or on other items; returns what it says."""
    halves = held_out_temperature.read(section.asked)
    table = selection_optimism.table(halves, section.items, rng=np.random.default_rng(2505))
    remark = selection_optimism.remark(table)
    if table.empty:
        return remark
    caption = (
        "accuracy by how the temperature was chosen, mean over tasks and students, and optimism: what the "
    )
    caption += "choice on test items gains over that on held-out ones; 95% interval, cut at 0."
    section.table({"live": selection_optimism.readable(table)}, caption)
    section.run.remark(remark)
    caption = "accuracy of each student and method, mean over tasks, by how its temperature was chosen. From "
    caption += "green to blue is what choosing on the test items buys; intervals are in the table."
    students, draw = selection_optimism.of_students(halves), teacher_figures.choice_of_temperature
    section.figure("choice", {"live": students}, draw, alt=remark, caption=caption)
    return remark


def temperature_sentences(section: Section, chosen: str) -> list[str]:
    """Which temperature is best on the average, and what choosing it on the test items buys."""
    said, best = [], best_shares(section)
    for source, table in averages(section, "temperature").items():
        parts = []
        for domain, part in table.groupby("domain", sort=False):
            means = part.groupby("temperature")["accuracy"].mean()
            at = ", ".join(f"{mean:.1f} % at T = {value:g}" for value, mean in means.items())
            parts.append(f"{DOMAIN_LABELS[domain].lower()} {at}")
        shares = sweeps.best_temperature_remark(best[source])
        said.append(f"{section.labels[source]}: mean accuracy, {'; '.join(parts)}. {shares}")
    return [*said, f"{section.labels['live']}: {chosen}"] if chosen else said
