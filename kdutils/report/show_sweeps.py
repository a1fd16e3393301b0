"""What notebooks 06 and 07 show: accuracy over the noise on the teacher's logits and over the temperature."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from kdutils.claims import selection_optimism
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_LABELS
from kdutils.grid import cell_table
from kdutils.report import claim_figures, figures, styles
from kdutils.report.section import Section, by_domain, span
from kdutils.report.show_gains import POINTS
from kdutils.results import (
    authors_tables,
    authors_tests,
    gain_tables,
    held_out_temperature,
    item_gains,
    released_comparison,
    sweeps,
)

SWEPT = {  # quantity -> its runs, symbol, name in words, how it is written in an alt text
    "noise_sigma": (sweeps.noise_runs, "σ", "the noise on the teacher's logits", "sigma"),
    "temperature": (sweeps.temperature_runs, "T", "the temperature of the divergence", "T ="),
}


def swept(section: Section, varied: str) -> dict[str, pd.DataFrame]:
    """Runs that differ in `varied` (a key of SWEPT) alone, of every source."""
    return gain_tables.by_source(SWEPT[varied][0](section.shown))


def averages(section: Section, varied: str) -> dict[str, pd.DataFrame]:
    """Their domain averages with intervals from the items."""
    scored = {"published": section.items.scored.head(0), "live": section.items.scored}
    return {
        source: item_gains.with_intervals(gain_tables.averages(table), scored[source])
        for source, table in swept(section, varied).items()
    }


def curves(section: Section, varied: str) -> None:
    """Average accuracy over the swept quantity, a panel a pair, and the same as a table."""
    _, symbol, words, sign = SWEPT[varied]
    name = "noise_curves" if varied == "noise_sigma" else "temperature_curves"
    tables = averages(section, varied)
    caption = f"average accuracy over {words}, by pair and domain; 95% intervals from the items"

    def alt(table: pd.DataFrame) -> str:
        at = table.groupby(varied)["accuracy"].mean().items()
        return f"Mean accuracy {', '.join(f'{mean:.1f} percent at {sign} {value:g}' for value, mean in at)}."

    captions = {
        source: f"{caption} ({sweeps.decoding(table)})." for source, table in tables.items() if len(table)
    }
    section.figure(name, tables, partial(figures.sweep_curves, x=varied), alt=alt, caption=captions)
    for source, table in tables.items():
        wide = sweeps.by_column(table, varied, symbol)
        formats = {column: ".1f" for column in wide if column.startswith(symbol)}
        section.table(source, wide, f"average accuracy, %, by {sign.removesuffix(' =')}.", formats)


def changes_of_one_pair(section: Section, varied: str) -> None:
    """What the swept quantity changes in the one live pair by task, on the same items."""
    is_noise = varied == "noise_sigma"
    change = item_gains.noise_changes if is_noise else item_gains.temperature_changes
    changes = section.in_view(change(section.items.scored))
    if changes.empty:
        return
    what = "without noise" if is_noise else "at T = 1"
    looks = styles.ordered_styles(changes[varied], SWEPT[varied][1])
    look = {"x": "difference", "xlabel": f"accuracy less that {what}, points", "by": varied, "styles": looks}
    for method, part in [("noise", changes)] if is_noise else changes.groupby("method", sort=False):
        name = "noise_changes" if is_noise else f"changes_{method}"
        alt = f"Accuracy changes by {span(part['difference'], '+.1f')} points by task, against that {what}."
        of = "" if is_noise else f", {METHOD_LABELS[method]}"
        caption = f"what {SWEPT[varied][2]} changes by task, same items, 95% intervals{of}."
        section.figure(name, {"live": part}, partial(figures.by_task, **look), alt=alt, caption=caption)
    make = released_comparison.noise if is_noise else released_comparison.temperatures
    words = "sigma" if is_noise else "temperature"
    section.pair_table(make, f"accuracy by task and {words}, %, with 95% intervals over items.")


# --- 06: noise ------------------------------------------------------------------------------------------


def noise_costs(section: Section) -> dict[str, pd.DataFrame]:
    """What noise costs on the average by domain and sigma, of every source with runs at several sigmas."""
    tables = gain_tables.several_pairs(averages(section, "noise_sigma"), least=2)
    return {source: authors_tests.noise_costs(sweeps.noise_losses(table)) for source, table in tables.items()}


def costs_table(section: Section) -> None:
    """Mean loss by domain and sigma."""
    caption = "mean loss on the average, points, with a 95% interval over pairs and methods."
    section.tables(noise_costs(section), caption, POINTS)


def known_values(section: Section) -> None:
    """The two known values of the paper's noise study between its reference lines, and what they imply."""
    chosen = "student == 'Qwen2.5-0.5B' and domain == 'math' and task == 'average'"
    student = section.of("published").query(chosen)
    if not (student.query("method == 'fkl'")["teacher"] == "Qwen2.5-3B").any():
        return
    known = authors_tables.noise_results()
    (clean, noisy), by_method = known["accuracy"], student.set_index("method")["accuracy"]
    sft, base = float(by_method["sft"]), float(by_method["base"])
    alt = f"Accuracy {clean:.1f} percent at sigma 0 and about {noisy:.1f} at sigma 5; none known between."
    caption = "Qwen2.5-3B to 0.5B, SeqKD†, temperature 1: two known values, two reference lines."
    draw = partial(figures.known_noise, sft=sft, base=base)
    section.figure("noise_known", {"published": known}, draw, alt=alt, caption=caption)
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
    changes = section.in_view(item_gains.noise_changes(section.items.scored))
    for sigma, part in changes[changes["task"] == AVERAGE].groupby("noise_sigma"):
        found = by_domain(part, value="difference")
        text = f"{section.labels['live']}: sigma {sigma:g} changes the average accuracy by {found}"
        said.append(f"{text} (95% intervals over items).")
    return said or ["No run with noise was released, so the paper's noise study cannot be recomputed here."]


# --- 07: temperature ------------------------------------------------------------------------------------


def decoding_remark(section: Section) -> None:
    """What decoding has to do with the best temperature."""
    tables = swept(section, "temperature")
    texts = {}
    if "published" in tables:
        chosen = "method == 'revkd' and domain == 'commonsense' and temperature == 1"
        runs = section.of("published").query(chosen)
        swept_pairs = tables["published"][["teacher", "student"]].drop_duplicates()
        is_collapsed = cell_table.has_flag(runs, "collapsed")
        by_pair = is_collapsed.groupby([runs["teacher"], runs["student"]]).any()
        by_pair = by_pair[by_pair.index.isin(pd.MultiIndex.from_frame(swept_pairs))]
        texts["published"] = (
            f"of the {len(by_pair)} runs of reverse KL on commonsense, {int(by_pair.sum())} collapse at "
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


def best_temperature(section: Section) -> None:
    """How often each temperature is the best, by domain and method."""
    section.figure(
        "best_temperature",
        best_shares(section),
        figures.best_temperature,
        alt=sweeps.best_temperature_remark,
        caption="the best temperature, share of pairs x tasks, by domain and method.",
    )


class Chosen:
    """Temperatures chosen on one half of a task's items and measured on the other; live only."""

    def __init__(self, section: Section) -> None:
        self.section, self.halves = section, held_out_temperature.read(section.asked)
        rng = np.random.default_rng(2505)
        self.table = selection_optimism.table(self.halves, section.items, rng=rng)
        self.remark = selection_optimism.remark(self.table)

    def show(self) -> None:
        """Accuracy by how the temperature was chosen, as a table and by student and method."""
        if self.table.empty:
            return
        caption = "accuracy by how the temperature was chosen, mean over tasks and students, and optimism: "
        caption += "what the choice on test items gains over that on held-out ones; 95% interval, cut at 0."
        self.section.table("live", selection_optimism.readable(self.table), caption)
        self.section.run.remark(self.remark)
        students, draw = selection_optimism.of_students(self.halves), claim_figures.choice_of_temperature
        caption = "accuracy of each student and method, mean over tasks, by how its temperature was chosen. "
        caption += "From green to blue is what choosing on the test items buys; intervals are in the table."
        self.section.figure("choice", {"live": students}, draw, alt=self.remark, caption=caption)


def temperature_sentences(section: Section, chosen: Chosen) -> list[str]:
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
    if chosen.remark:
        said.append(f"{section.labels['live']}: {chosen.remark}")
    return said
