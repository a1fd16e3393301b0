"""What notebooks 06 and 07 show: accuracy over the noise on the teacher's logits and over the temperature."""

from __future__ import annotations

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS
from kdutils.grid import cell_table
from kdutils.report import teacher_figures
from kdutils.report.section import Section, Tables, by_domain, each
from kdutils.results import authors_tables, authors_tests, gain_tables, item_gains, sweeps


def averages(section: Section, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Domain averages of runs that differ in one quantity, of every source, with intervals from the items."""
    tables, scored = each(gain_tables.by_source(runs), gain_tables.averages), section.items.scored
    return {
        source: item_gains.with_intervals(table, scored if source == "live" else scored.head(0))
        for source, table in tables.items()
    }


def curves(section: Section, name: str, tables: Tables, *, varied: str, symbol: str, words: str) -> None:
    """Average accuracy over what is varied (a column), a panel a pair, and the same as a table."""
    caption = f"average accuracy over {words}, by pair and domain; 95% intervals from the items"
    captions = {source: f"{caption} ({sweeps.decoding(table)})." for source, table in tables.items()}

    def alt(table: pd.DataFrame) -> str:
        means = table.groupby(varied)["accuracy"].mean().items()
        return f"Mean accuracy {', '.join(f'{mean:.1f} % at {symbol} = {x:g}' for x, mean in means)}."

    section.figure(name, tables, teacher_figures.sweep_curves, captions, x=varied, alt=alt)
    wide = each(tables, sweeps.by_column, varied=varied, symbol=symbol)
    section.table(wide, f"average accuracy, %, by {symbol}.", ".1f")


# --- 06: noise ------------------------------------------------------------------------------------------


def noise_costs(averages: Tables) -> dict[str, pd.DataFrame]:
    """What noise costs by domain and sigma, of every source with at least two pairs."""
    losses = each(gain_tables.several_pairs(averages, least=2), sweeps.noise_losses)
    return {source: authors_tests.noise_costs(table) for source, table in losses.items()}


def known_values(section: Section) -> None:
    """The two known values of the paper's noise study between its reference lines, and what they imply."""
    chosen = "student == 'Qwen2.5-0.5B' and domain == 'math' and task == 'average'"
    student = section.of("published").query(chosen)
    if not (student.query("method == 'fkl'")["teacher"] == "Qwen2.5-3B").any():
        return
    known, by_method = authors_tables.noise_results(), student.set_index("method")["accuracy"]
    sft, base, noisy = float(by_method["sft"]), float(by_method["base"]), known["accuracy"].iloc[1]
    caption = "Qwen2.5-3B to 0.5B, SeqKD†, temperature 1: two known values, two reference lines."
    look = {"sft": sft, "base": base, "value": "accuracy, %"}
    section.figure("noise_known", {"published": known}, teacher_figures.known_noise, caption, **look)
    text = f"at sigma 5 the student would end {base - noisy:.1f} points below its untrained base model: "
    text += "noise does not merely drown the teacher, it teaches something wrong. Of 151,936 independent "
    text += "draws with sigma 5 the largest is expected to exceed 20, more than the lead of most top tokens."
    section.remarks({"published": text})


def noise_sentences(section: Section, costs: Tables, changes: pd.DataFrame) -> list[str]:
    """What each sigma costs, and how many students collapse; of one live pair its `changes`, by items."""
    said = []
    for source, table in costs.items():
        for sigma, part in table.groupby("sigma", sort=False):
            said.append(
                f"{section.labels[source]}: sigma {sigma:g} costs {by_domain(part, value='loss')} (95% "
                f"intervals over pairs and methods); {part['collapsed'].sum()} of {part['runs'].sum()} "
                "students collapse."
            )
    for sigma, part in changes[changes["task"] == AVERAGE].groupby("noise_sigma"):
        text = f"{section.labels['live']}: sigma {sigma:g} changes the average accuracy by "
        said.append(f"{text}{by_domain(part, value='difference')} (95% intervals over items).")
    return said or ["No run with noise was released, so the paper's noise study cannot be recomputed here."]


# --- 07: temperature ------------------------------------------------------------------------------------


def decoding_remark(section: Section, averages: Tables) -> None:
    """What decoding has to do with the best temperature."""
    texts = {}
    if "published" in averages:
        chosen = "method == 'revkd' and domain == 'commonsense' and temperature == 1"
        runs, swept = section.of("published").query(chosen), averages["published"][["teacher", "student"]]
        runs = runs.assign(is_collapsed=cell_table.has_flag(runs, "collapsed")).merge(swept.drop_duplicates())
        by_pair = runs.groupby(["teacher", "student"])["is_collapsed"].any()
        texts["published"] = (
            f"of the {len(by_pair)} runs of reverse KL on commonsense, {by_pair.sum()} collapse at "
            "temperature 1 in whole or in part, and a higher temperature repairs them. The authors decode by "
            "sampling at temperature 1: a student that was matched to its teacher at temperature 2 is "
            "decoded sharper than it was trained, so part of the advantage of 2 may be the sharper decoding."
        )
    if "live" in averages:
        texts["live"] = (
            f"{sweeps.decoding(averages['live'])}. The likeliest token does not depend on how sharp a "
            "distribution is, so what a temperature gains or loses here is not a matter of decoding."
        )
    section.remarks(texts)


def temperature_sentences(section: Section, averages: Tables, shares: Tables, chosen: str) -> list[str]:
    """Which temperature is best on the average, and what choosing it on the test items buys."""
    said = []
    for source, table in averages.items():
        parts = []
        for domain, part in table.groupby("domain", sort=False):
            means = part.groupby("temperature")["accuracy"].mean()
            at = ", ".join(f"{mean:.1f} % at T = {value:g}" for value, mean in means.items())
            parts.append(f"{DOMAIN_LABELS[domain].lower()} {at}")
        best = sweeps.best_temperature_remark(shares[source])
        said += section.named({source: f"mean accuracy, {'; '.join(parts)}. {best}"})
    return said + section.named({"live": chosen})
