"""What notebooks 00, 08 and 11 show: what is there, all verdicts, and the protocol."""

from __future__ import annotations

import pandas as pd

from kdutils.claims import answer_sheet, claims, sensitivity
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES
from kdutils.grid import cell_table
from kdutils.grid.study import SECTIONS
from kdutils.report import figures, ledger
from kdutils.report.section import Section, each, signed
from kdutils.results import gain_tables, held_out_temperature, protocols

# --- 00: what there is ----------------------------------------------------------------------------------


def coverage(section: Section) -> None:
    """How many runs there are by pair, method and temperature, of every source."""

    def alt(grid: pd.DataFrame) -> str:
        return f"{len(grid)} pairs: {int((grid == 0).to_numpy().sum())} of {grid.size} fields empty."

    tables = each(section.parts, gain_tables.coverage)
    caption = "runs by pair, method and temperature, counted over domains and seeds; empty means none."
    section.figure("coverage", tables, figures.coverage, caption, alt=alt)


def oddities(section: Section) -> None:
    """How many released cells carry each flag, and which runs collapsed."""
    released = section.parts.get("published")
    if released is None:
        return
    flags = pd.DataFrame({"flag": cell_table.FLAGS.keys(), "meaning": cell_table.FLAGS.values()})
    flags["cells"] = [int(cell_table.has_flag(released, key).sum()) for key in flags["flag"]]
    section.run.table(flags, caption=f"Flags on the {len(released)} released cells.")
    averages = released[(released["task"] == AVERAGE) & (released["temperature"] == 1.0)]
    is_collapsed = cell_table.has_flag(averages, "collapsed") & averages["teacher_tuned"].fillna(False)
    collapsed = averages.loc[is_collapsed, ["domain", "teacher", "student", "method", "accuracy"]]
    caption = "Released, temperature 1, tuned teacher: domain average below half of the SFT student's."
    section.run.table(collapsed, caption=caption)


def costs(section: Section) -> None:
    """What ran live, what it cost, and what failed."""
    table = gain_tables.costs(section.asked)
    if table.empty:
        return
    columns = {"training, s": "sum", "evaluation, s": "sum", "peak memory, GB": "max"}
    by = table.groupby(["domain", "method", "status"], sort=False)
    sums = by.agg(columns).assign(runs=by.size()).reset_index()
    formats = dict.fromkeys(columns, ".0f") | {"peak memory, GB": ".2f"}
    section.table({"live": sums}, "seconds of the runs in all, and the largest worker.", formats)
    hours = table[["training, s", "evaluation, s"]].sum().sum() / 3600
    print(f"{len(table)} runs, {hours:.2f} hours of one worker in all")
    columns = ["domain", "student", "teacher", "method", "temperature"]
    columns += ["noise_sigma", "seed", "status", "reason"]
    failed = table.loc[table["status"].isin(["failed", "missing", "diverged"])].reindex(columns=columns)
    section.run.table(failed, caption="Live runs that failed, are missing or diverged, and why.")


# --- 00 and 08: the verdicts ----------------------------------------------------------------------------


class Verdicts:
    """All claims under both analyses: `rows` of the ledger, and the `columns` of the answer sheet.

    Args:
        other: profile whose live claims are further columns, if it has been run; "" for none.
    """

    def __init__(self, section: Section, *, other: str = "") -> None:
        self.section = section
        self.judged = claims.judgements(section.cells, items=section.items, kept=section.run.kept)
        self.rows = claims.ledger_rows(self.judged)
        self.columns = answer_sheet.columns(self.rows, labels=section.labels)
        if other and section.asked.profile.name != other:
            found, where = ledger.claims_of(other, section.run.folder)
            self.columns |= answer_sheet.of_profile(found, label=f"Live, profile {other}")
            print(f"{len(found)} rows of the claims of profile {other}, from {where}.")

    def bars(self) -> None:
        """Verdicts of each source and analysis, by section."""
        sections = {key: name.replace("_", " ") for key, name in SECTIONS.items()}
        for judged in self.judged:
            for analysis, name in (("authors", "verdicts"), ("strict", "verdicts_strict")):
                part = [row for row in judged.rows if row["analysis"] == analysis]
                counts = answer_sheet.verdict_counts(part).rename(sections)
                alt = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counts.sum().items())
                look = {"of": "verdicts", "alt": f"{alt}."}
                caption = f"verdicts on {len(part)} claims, analysis: {analysis}."
                tables = {judged.evidence.source: counts}
                self.section.figure(name, tables, figures.shares, caption, **look)

    def sensitivity(self) -> dict[str, pd.DataFrame]:
        """Verdicts by claim and choice of the analysis, of every source: shown, and returned as tables."""
        halves, kept = held_out_temperature.read(self.section.asked), self.section.run.kept
        found = {one.evidence.source: kept(sensitivity.table, one, halves) for one in self.judged}
        tables = {source: table for source, table in found.items() if len(table)}
        holds = each(tables, sensitivity.holds)
        for source, table in tables.items():
            said, cannot = sensitivity.holds_remark(holds[source]), sensitivity.cannot_remark(table)
            caption = f"verdicts by claim and choice of the analysis. {said} {cannot}".strip()
            draw = figures.verdicts_by_choice
            self.section.figure("sensitivity", {source: table}, draw, caption, alt=said)
        self.section.table(holds, "under how many of the choices that bear on it a claim is reproduced.")
        return tables


# --- 11: the protocol -----------------------------------------------------------------------------------


def protocol_sentences(section: Section, changes: pd.DataFrame) -> list[str]:
    """How many factors change the gain for certain, a sentence a domain and method."""
    said = []
    own = changes[(changes["quantity"] == "gain") & ~changes["arm"].isin(protocols.CONTROLS)]
    for (domain, method), part in own.groupby(["domain", "method"], sort=False):
        counts = ", ".join(f"{n} {verdict}" for verdict, n in part["verdict"].value_counts().items())
        largest = part.loc[part["change"].abs().idxmax()]
        factors = f"{len(part)} factor{'s' * (len(part) > 1)}"
        by = signed(largest["change"], largest["low"], largest["high"])
        where = f"{section.labels['live']}, {DOMAIN_LABELS[domain].lower()}, {METHOD_NAMES[method]}"
        said.append(
            f"{where}: the gain under careful is {signed(part['careful'].iloc[0])} points; of {factors}: "
            f"{counts}; the largest change ({largest['label']}) is {by}."
        )
    return said
