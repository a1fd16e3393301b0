"""What notebooks 04 to 07 show of what students take from their teacher, with its noise and temperature."""

import pandas as pd

from kdutils.constants import AVERAGE, DOMAIN_LABELS
from kdutils.grid import cell_table
from kdutils.inference import intervals
from kdutils.report import figures, teacher_figures
from kdutils.report.section import Section, Tables, by_domain, each, span
from kdutils.results import (
    agreement_fidelity,
    authors_tables,
    authors_tests,
    capa,
    gain_tables,
    item_gains,
    paradox,
    released_comparison,
    solution_steps,
    sweeps,
)

BLEU = "BLEU with the teacher's texts, %"
ONE_PAIR = {  # likeness -> its values, live next to released ones, what it is, title of its axis
    "agreement": (
        *(item_gains.agreements, released_comparison.agreements),
        *("agreement with the tuned teacher", "same answer as the teacher, % of items"),
    ),
    "fidelity": (
        *(item_gains.fidelities, released_comparison.fidelities),
        *("corpus BLEU with the tuned teacher's texts", BLEU),
    ),
}
SIGNED = dict.fromkeys(("rise", "rise_low", "rise_high", "low", "high", "above"), "+.1f")

# --- before and after KD --------------------------------------------------------------------------------


def rise_by_method(section: Section, measure: str, caption: str) -> None:
    """Table of a live likeness to the teacher before (sft) and after KD, by method."""
    table = authors_tests.rise_by_method(section.gains["live"], measure=measure)
    formats = SIGNED | {"sft": ".1f", "kd": ".1f"}
    section.table({"live": table}, f"{caption}; 95% interval over pairs.", formats)


def rise_of_one_pair(section: Section, measure: str = "agreement") -> None:
    """Agreement or fidelity of the one live pair by task and method, and its rise over SFT by item."""
    if section.items.beside.empty:
        return
    likeness, released, what, xlabel = ONE_PAIR[measure]
    table = section.in_view(likeness(section.items.beside))
    look = {"x": measure, "xlabel": xlabel, "value": f"{measure}, %"}
    caption = f"{what} by task and method, temperature 1, intervals over items."
    section.figure(f"{measure}_rise", {"live": table}, figures.by_task, caption, **look)
    average = table[table["task"] == AVERAGE]
    rises = average[["domain", "method", "n", measure, "rise", "rise_low", "rise_high", "p_value"]]
    caption = f"{what} on average over tasks, %, and its rise over SFT on the same items."
    section.table({"live": rises}, caption, SIGNED | {measure: ".1f"})
    section.pair_tables({f"{what} by task, %, with 95% intervals over items.": released})


def agreement_rise(section: Section) -> None:
    """Agreement with the teacher of the SFT and of the KD student, by pair; of one live pair by task."""
    tables = each(section.gains, agreement_fidelity.by_pair, measure="agreement")
    if len(section.items.beside):
        tables.pop("live", None)
    whom = {"published": "of the SFT and of the released KD student (EM1)."}
    whom["live"] = f"of the SFT student and, mean over its methods, of the KD students ({section.selection})."
    captions = {source: f"agreement with the teacher, mean over tasks, {whom[source]}" for source in tables}
    look = {"left": "sft", "right": "kd", "xlabel": "same answer as the teacher,\n% of items"}
    look |= {"draw": teacher_figures.before_and_after, "value": "rise, points"}
    section.figure("agreement_rise", tables, caption=captions, **look)
    if "live" in tables:
        caption = f"agreement, %, mean over tasks and pairs, by method, {section.selection}"
        rise_by_method(section, "agreement", caption)
    rise_of_one_pair(section)


def with_fidelity(section: Section, *sources: str) -> dict[str, pd.DataFrame]:
    """The gains of these sources whose fidelity is known, where there are any."""
    tables = {source: table.dropna(subset=["fidelity"]) for source, table in section.gains.items()}
    return {source: table for source, table in tables.items() if len(table) and source in sources}


def live_fidelity(section: Section) -> None:
    """Live BLEU of the SFT and of the KD students, by pair and by method; of one live pair by task."""
    rise_of_one_pair(section, "fidelity")
    tables = with_fidelity(section, "live")
    if len(tables) and section.items.beside.empty:
        pairs = each(tables, agreement_fidelity.by_pair, measure="fidelity")
        look = {"left": "sft", "right": "kd", "xlabel": BLEU, "value": "rise, points"}
        how = sweeps.decoding(section.of("live"))
        caption = f"BLEU with the teacher's texts, mean over tasks and over the methods of KD ({how})."
        section.figure("fidelity_rise", pairs, teacher_figures.before_and_after, caption, **look)
        rise_by_method(section, "fidelity", "BLEU before (sft) and after KD, %, and its rise")


def rise_sentences(section: Section, measure: str, what: str) -> list[str]:
    """How much KD raises a likeness to the teacher, mean over pairs with an interval over them.

    One sentence for all sources that have several pairs, all methods together.
    """
    found = {}
    for source, gains in gain_tables.several_pairs(section.gains).items():
        pairs = agreement_fidelity.by_pair(gains, measure=measure).groupby("domain", sort=False)["rise"]
        rows = [{"domain": domain} | vars(intervals.mean_interval(rise)) for domain, rise in pairs]
        found[source] = by_domain(pd.DataFrame(rows), value="value")
    said = "; ".join(section.named(found))
    return [f"KD changes {what}. {said} (95% intervals over pairs)."] if found else []


# --- 04: agreement --------------------------------------------------------------------------------------


def against_accuracy(section: Section) -> None:
    """Agreement against accuracy, every run and task a point, and their rank correlation by task.

    Of the released results reverse KL at temperature 1, which most of the released agreement values fit.
    """
    which = {"published": "RevKD, temperature 1", "live": f"all methods, {section.selection}"}
    released = gain_tables.gains(section.of("published"), selection="temperature_1")
    tables = section.gains | {"published": released[released["method"] == "revkd"]}
    look = {"x": "accuracy", "xlabel": "student accuracy, %", "has_equal": True}
    look |= {"y": "agreement", "ylabel": "same answer as the teacher, %", "value": "agreement, %"}
    for source, table in tables.items():
        shown, by = {source: table.dropna(subset=["agreement"])}, "method" if source == "live" else "domain"
        caption = f"agreement against accuracy of the student ({which[source]}); dashed: equal."
        section.figure("agreement_by_accuracy", shown, figures.against, caption, **look, by=by)
    for source, table in tables.items():
        several = gain_tables.several_pairs({source: table.dropna(subset=["agreement"])})
        rhos = each(several, authors_tests.correlation_by_task, x="accuracy", y="agreement")
        section.table(rhos, f"Spearman rho over pairs of agreement and accuracy ({which[source]}).")


def agreement_sentences(section: Section, adjusted: pd.DataFrame) -> list[str]:
    """How far agreement rises, whether it goes with the gain, and whether it rises beyond accuracy."""
    said = rise_sentences(section, "agreement", "the share of answers that are the teacher's")
    said += section.correlation_sentences("spearman_gain_agreement")
    if len(adjusted):
        said += section.named({"live": f"given accuracy: {capa.remark(adjusted)}"})
    return said


# --- 05: fidelity ---------------------------------------------------------------------------------------


def readable_contrasts(contrasts: pd.DataFrame) -> pd.DataFrame:
    """paradox.contrasts for people."""
    names = {"label": "method", "than_label": "became right, less", "measure": "measure"}
    names |= {"estimate": "difference, points", "low": "low", "high": "high", "reason": "reason"}
    table = contrasts.assign(measure=contrasts["measure"].map(paradox.MEASURES))
    names |= {"n": "n", "n_than": "n of the others"}
    return table[list(names)].rename(columns=names)


def readable_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """solution_steps.errors for people."""
    names = {"label": "student", "category": "category", "estimate": "share, %", "low": "low"}
    names |= {"high": "high", "n": "texts", "n_pairs": "pairs", "n_without": "left out"}
    table = errors.assign(category=errors["category"].map(solution_steps.CATEGORIES))
    return table[list(names)].rename(columns=names)


def fidelity_sentences(section: Section, contrasts: pd.DataFrame) -> list[str]:
    """How far fidelity rises, and whether it goes with the gain and, by method, with becoming right."""
    said = rise_sentences(section, "fidelity", "the likeness to the teacher's texts")
    said += section.correlation_sentences("spearman_gain_fidelity")
    rows = contrasts[contrasts["than"] == "stayed_wrong"].set_index("measure")
    if rows["estimate"].isna().all():
        return said
    above = {name: int((rows.loc[[name], "low"] > 0).sum()) for name in ("bleu", "wording")}
    n_methods, bleu = rows["method"].nunique(), rows.loc[["bleu"]].query("low > 0")["estimate"]
    size = f" ({span(bleu, '+.1f')} points, 95% interval above 0)" if len(bleu) else ""
    return [
        *said,
        f"{section.labels['live']}, item by item: sentence BLEU with the teacher rises more where "
        f"items became right than where they stayed wrong in {above['bleu']} of {n_methods} methods"
        f"{size}, in the words alone in {above['wording']}.",
    ]


# --- 06 and 07: what is varied -----------------------------------------------------------------------------


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
    captions = {source: f"{caption} ({sweeps.decoding(section.of(source))})." for source in tables}

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
    """What each sigma costs, and how many runs collapse; of one live pair its `changes`, by items."""
    said = []
    for source, table in costs.items():
        for sigma, part in table.groupby("sigma", sort=False):
            said.append(
                f"{section.labels[source]}: sigma {sigma:g} costs {by_domain(part, value='loss')} (95% "
                f"intervals over pairs and methods); {part['collapsed'].sum()} of {part['runs'].sum()} "
                "runs collapse, a run being a pair, method and domain."
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
            "temperature 1 in whole or in part. The authors decode by "
            "sampling at temperature 1: a student that was matched to its teacher at temperature 2 is "
            "decoded sharper than it was trained, so part of the advantage of 2 may be the sharper decoding."
        )
    live = section.of("live")
    if "live" in averages and set(live["decoding"]) == {"greedy"}:
        texts["live"] = (
            f"{sweeps.decoding(live)}. The likeliest token does not depend on how sharp a "
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
