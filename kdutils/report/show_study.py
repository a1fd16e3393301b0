"""What notebooks 00, 08 and 11 show of the whole study: what is there, all verdicts, and the protocol."""

from __future__ import annotations

import pandas as pd

from kdutils import constants
from kdutils.claims import answer_sheet, claims, sensitivity
from kdutils.grid import cell_table, study
from kdutils.io import environment
from kdutils.report import claim_figures, figures, ledger
from kdutils.report.section import Section, signed, span
from kdutils.results import (
    authors_tables,
    gain_tables,
    held_out_temperature,
    model_provenance,
    protocols,
)

# --- 00: what there is ----------------------------------------------------------------------------------


def coverage(section: Section) -> None:
    """How many runs there are by pair, method and temperature, of every source."""
    section.figure(
        "coverage",
        {source: gain_tables.coverage(part) for source, part in section.parts.items()},
        figures.coverage,
        alt=lambda grid: (
            f"{len(grid)} pairs: {int((grid == 0).to_numpy().sum())} of {grid.size} fields empty."
        ),
        caption="runs by pair, method and temperature, counted over domains and seeds; empty means none.",
    )


def models(section: Section) -> None:
    """Which weights the live results are of."""
    exact = model_provenance.table(section.asked)
    section.run.table(exact, caption="The models of the live results, and what they really are.")
    if exact.empty:
        print("Nothing runs live in this profile.")


def oddities(section: Section) -> None:
    """How many released cells carry each flag, and which runs collapsed."""
    released = section.parts.get("published")
    if released is None:
        return
    flags = pd.DataFrame({"flag": cell_table.FLAGS.keys(), "meaning": cell_table.FLAGS.values()})
    flags["cells"] = [int(cell_table.has_flag(released, key).sum()) for key in flags["flag"]]
    section.run.table(flags, caption=f"Flags on the {len(released)} released cells.")
    averages = released[released["task"] == constants.AVERAGE]
    is_collapsed = cell_table.has_flag(averages, "collapsed") & averages["teacher_tuned"].fillna(False)
    collapsed = averages.loc[is_collapsed & (averages["temperature"] == 1.0)]
    columns = ["domain", "teacher", "student", "method", "accuracy"]
    caption = "Released, temperature 1, tuned teacher: domain average below half of the SFT student's."
    section.run.table(collapsed[columns], caption=caption)


def costs(section: Section) -> None:
    """What ran live, what it cost, and what failed."""
    table = gain_tables.costs(section.asked)
    if table.empty:
        return
    columns = {"training, s": "sum", "evaluation, s": "sum", "peak memory, GB": "max"}
    by = table.groupby(["domain", "method", "status"], sort=False)
    sums = by.agg(columns).assign(runs=by.size()).reset_index()
    formats = dict.fromkeys(columns, ".0f") | {"peak memory, GB": ".2f"}
    section.table("live", sums, "seconds of the runs in all, and the largest worker.", formats)
    hours = table[["training, s", "evaluation, s"]].sum().sum() / 3600
    print(f"{len(table)} runs, {hours:.2f} hours of one worker in all")
    columns = ["domain", "student", "teacher", "method", "temperature"]
    columns += ["noise_sigma", "seed", "status", "reason"]
    failed = table.loc[table["status"].isin(["failed", "missing", "diverged"])].reindex(columns=columns)
    section.run.table(failed, caption="Live runs that failed, are missing or diverged, and why.")


def provenance(section: Section) -> None:
    """What made this report: versions, commit, machine, the released tables."""
    facts = environment.provenance()
    facts |= facts.pop("git", {}) | facts.pop("packages", {})
    n_files, commit = len(authors_tables.SHA256), authors_tables.COMMIT[:12]
    facts["released tables"] = f"commit {commit}, {n_files} files, SHA-256 checked"
    made_by = pd.DataFrame({"what": facts.keys(), "value": [str(value) for value in facts.values()]})
    section.run.table(made_by, caption="What made this report.")


# --- 00 and 08: the verdicts ----------------------------------------------------------------------------


class Verdicts:
    """All claims under both analyses: `rows` of the ledger, and the `columns` of the answer sheet.

    Args:
        beside: profile whose live claims are further columns, if it has been run; "" for none.
    """

    def __init__(self, section: Section, *, beside: str = "") -> None:
        self.section = section
        self.judged = claims.judgements(section.cells, items=section.items, kept=section.run.kept)
        self.rows = claims.ledger_rows(self.judged)
        self.columns = answer_sheet.columns(self.rows, labels=section.labels)
        if beside and section.asked.profile.name != beside:
            found, where = ledger.claims_of(beside, section.run.folder)
            self.columns |= answer_sheet.of_profile(found, label=f"Live, profile {beside}")
            print(f"{len(found)} rows of the claims of profile {beside}, from {where}.")

    def counts_by_section(self) -> None:
        """Claims by section and verdict, a table a column of the answer sheet."""
        for column, part in self.columns.items():
            counts = _by_section(list(part.values())).reset_index()
            self.section.run.table(counts, caption=f"{column}: claims by section and verdict.")

    def bars(self) -> None:
        """Verdicts of each source and analysis, by section."""
        for each in self.judged:
            for analysis in answer_sheet.ANALYSES:
                part = [row for row in each.rows if row["analysis"] == analysis]
                counts = _by_section(part).rename(index=lambda name: name.replace("_", " "))
                alt = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counts.sum().items())
                caption = f"verdicts on {len(part)} claims, analysis: {analysis}."
                name = "verdicts" if analysis == "authors" else "verdicts_strict"
                tables = {each.evidence.source: counts}
                self.section.figure(name, tables, figures.verdict_bars, alt=f"{alt}.", caption=caption)

    def changed(self) -> None:
        """Verdicts that the stricter analysis changes."""
        table = answer_sheet.changes(self.rows, labels=self.section.labels)
        self.section.run.table(table, caption="Verdicts that the stricter analysis changes, and its numbers.")

    def sensitivity(self) -> dict[str, pd.DataFrame]:
        """Verdicts by claim and choice of the analysis, of every source: shown, and returned as tables."""
        halves, kept = held_out_temperature.read(self.section.asked), self.section.run.kept
        found = {each.evidence.source: kept(sensitivity.table, each, halves) for each in self.judged}
        tables = {source: table for source, table in found.items() if len(table)}
        holds = {source: sensitivity.holds(table) for source, table in tables.items()}
        for source, table in tables.items():
            said = sensitivity.holds_remark(holds[source])
            caption = f"verdicts by claim and choice of the analysis. {said} "
            caption = (caption + sensitivity.cannot_remark(table)).strip()
            draw = claim_figures.verdicts_by_choice
            self.section.figure("sensitivity", {source: table}, draw, alt=said, caption=caption)
        self.section.tables(holds, "under how many of the choices that bear on it a claim is reproduced.")
        return tables

    def paragraphs(self, tables: dict[str, pd.DataFrame]) -> None:
        """A paragraph a claim: what each column says, and what a difference comes from."""
        labelled = {self.section.labels[source]: table for source, table in tables.items()}
        for text in answer_sheet.paragraphs(self.columns, labelled):
            self.section.run.remark(text)

    def sentences(self) -> list[str]:
        """How many claims hold, a sentence a column."""
        return answer_sheet.counts_remark(self.columns).split("\n\n")


def _by_section(rows: list) -> pd.DataFrame:
    counts = claims.verdict_counts(rows)
    counts.index = counts.index.map(study.SECTIONS)
    return counts


# --- 11: the protocol -----------------------------------------------------------------------------------


class Protocol:
    """What each factor of the protocol changes in the live runs of `section`."""

    def __init__(self, section: Section) -> None:
        self.section, kept = section, section.run.kept
        rows = protocols.read(section.asked)
        self.changes, self.noise = kept(protocols.changes, rows), kept(protocols.decoding_noise, rows)
        settings, n_arms = len(rows[protocols.SETTING].drop_duplicates()), self.changes["arm"].nunique()
        print(f"{len(rows)} texts of {settings} students; {n_arms} comparisons with careful")

    def figures(self) -> None:
        """What each factor changes in the accuracies and in the gain, a figure a method."""
        for method, part in protocols.worth_drawing(self.changes).groupby("method", sort=False):
            name = constants.METHOD_NAMES[method]
            by = span(part.loc[part["quantity"] == "gain", "change"], "+.1f")
            alt = f"{name}: one at a time the factors change the gain over SFT by {by} points."
            caption = f"what each factor changes against careful, in accuracy and in the gain of {name}; 95% "
            caption += "intervals over the questions of these tasks, for these runs. Seeds are luck alone."
            draw = figures.protocol_changes
            self.section.figure(f"changes_{method}", {"live": part}, draw, alt=alt, caption=caption)

    def table(self) -> None:
        """Levels under careful, and the change by each factor with its verdict."""
        if self.changes.empty:
            return
        caption = "levels under careful, and the change by each factor in points with its 95% interval; the "
        caption += "rule of the last column (kdutils.results.protocols) was written before a value was seen."
        self.section.table("live", protocols.table_of(self.changes), caption)
        self.section.run.remark(protocols.remark(self.changes))
        self.section.run.remark(protocols.noise_remark(self.noise))

    def sentences(self) -> list[str]:
        """How many factors change the gain for certain, a sentence a domain and method."""
        said, changes = [], self.changes[self.changes["quantity"] == "gain"]
        own = changes[~changes["arm"].isin(protocols.CONTROLS)]
        for (domain, method), part in own.groupby(["domain", "method"], sort=False):
            counts = ", ".join(f"{n} {verdict}" for verdict, n in part["verdict"].value_counts().items())
            largest = part.loc[part["change"].abs().idxmax()]
            careful = signed(part["careful"].iloc[0])
            factors = f"{len(part)} factor{'s' * (len(part) > 1)}"
            said.append(
                f"{self.section.labels['live']}, {constants.DOMAIN_LABELS[domain].lower()}, "
                f"{constants.METHOD_NAMES[method]}: the gain under careful is {careful} points; of "
                f"{factors}: {counts}; the largest change ({largest['label']}) is "
                f"{signed(largest['change'], largest['low'], largest['high'])}."
            )
        return said
