"""What notebooks 00, 08 and 11 show: what is there, all verdicts, and the protocol."""

from collections.abc import Iterator

import pandas as pd

from kdutils.claims import answer_sheet, claims, sensitivity
from kdutils.constants import AVERAGE, DOMAIN_LABELS, METHOD_NAMES
from kdutils.grid import cell_table, fill
from kdutils.grid.plan import Plan
from kdutils.grid.study import SECTIONS
from kdutils.report import figures, ledger
from kdutils.report.section import Section, each
from kdutils.results import (
    authors_tests,
    gain_tables,
    held_out_temperature,
    item_gains,
    protocols,
    response_format,
)
from kdutils.results.gain_tables import interval_text

# --- 00: what there is ----------------------------------------------------------------------------------


def coverage(section: Section) -> None:
    """How many runs there are by pair, method and temperature, of every source."""

    def alt(grid: pd.DataFrame) -> str:
        return f"{len(grid)} pairs: {int((grid == 0).to_numpy().sum())} of {grid.size} fields empty."

    tables = each(section.parts, gain_tables.coverage)
    caption = "runs by pair, method and temperature, counted over domains, seeds and noise levels; empty "
    caption += "means none."
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
    table = fill.costs(section.asked.runs, section.asked.out)
    if table.empty:
        return
    columns = {"training, s": "sum", "evaluation, s": "sum", "peak memory, GB": "max"}
    by = table.groupby(["domain", "method", "status"], sort=False)
    sums = by.agg(columns).assign(runs=by.size()).reset_index()
    formats = dict.fromkeys(columns, ".0f") | {"peak memory, GB": ".2f"}
    section.table({"live": sums}, "seconds of the runs in all, and the largest worker.", formats)
    hours = table[["training, s", "evaluation, s"]].sum().sum() / 3600
    print(f"{len(table)} runs of the comparisons, {hours:.2f} hours of one worker in all")
    columns = ["domain", "student", "teacher", "method", "temperature"]
    columns += ["noise_sigma", "seed", "status", "reason"]
    failed = table.loc[table["status"].isin(["failed", "missing", "diverged"])].reindex(columns=columns)
    section.run.table(failed, caption="Live runs that failed, are missing or diverged, and why.")


# --- 00 and 08: the verdicts ----------------------------------------------------------------------------


class Verdicts:
    """All claims under both analyses, live ones under every decoding: `rows` of the ledger, `columns`.

    Live results are also judged without the students that have not learned the response format, in columns
    alone. The authors' tests under decodings that the other sections do not show go into the ledger, too.

    Args:
        other: profile whose live claims are further columns, if it has been run; "" for none.
    """

    def __init__(self, section: Section, *, other: str = "") -> None:
        self.section, kept = section, section.run.kept
        read = [(section.asked, section.cells, section.items)]
        for plan in section.asked.others:  # live results alone, under another decoding
            read.append((plan, gain_tables.live_cells(plan), item_gains.read(plan)))
            tests = kept(authors_tests.ledger, read[-1][1]).assign(source=plan.statistics_source)
            section.run.statistics(tests)
        self.judged, self.plans, without = [], [], []
        for plan, cells, items in read:
            own = claims.judgements(cells, items=items, kept=kept)
            self.judged, self.plans = self.judged + own, self.plans + [plan] * len(own)
            left, items = response_format.without(cells, items)
            if len(left) < len(cells):
                live = left[left["source"] == "live"]
                without += claims.ledger_rows(claims.judgements(live, items=items, kept=kept))
        self.rows = claims.ledger_rows(self.judged)
        self.columns = answer_sheet.columns(self.rows, labels=section.labels)
        named = {"live": f"{section.labels['live']} without unformatted cells"}
        self.columns |= answer_sheet.columns(without, labels=named)  # not of the ledger
        if other and section.asked.profile.name != other:
            found, where = ledger.claims_of(other, section.run.folder)
            self.columns |= answer_sheet.of_profile(found, label=f"Live, profile {other}")
            print(f"{len(found)} rows of the claims of profile {other}, from {where}.")

    def format_remark(self) -> str:
        """How many live runs have not learned the response format, in a sentence; "" without live runs."""
        cells = self.section.cells
        runs = cells[(cells["source"] == "live") & (cells["task"] == AVERAGE) & cells["in_format"].notna()]
        runs = runs[runs["method"] != "base"]
        n = int(cell_table.has_flag(runs, response_format.FLAG).sum())
        text = f"{self.section.labels['live']}: {n or 'none'} of {len(runs)} trained models, teachers among "
        text += f"them, keep the response format in fewer than {cell_table.LEAST_IN_FORMAT:g} % of their "
        rest = "columns without unformatted cells" if n else "no columns without such cells"
        return f"{text}greedy texts, so there are {rest}." if len(runs) else ""

    def bars(self) -> None:
        """Verdicts of each source and analysis, by section."""
        sections = {key: name.replace("_", " ") for key, name in SECTIONS.items()}
        for judged, _, way in self._ways():
            for analysis, name in (("authors", "verdicts"), ("strict", "verdicts_strict")):
                part = [row for row in judged.rows if row["analysis"] == analysis]
                counts = answer_sheet.verdict_counts(part).rename(sections)
                alt = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counts.sum().items())
                look = {"of": "verdicts", "alt": f"{alt}."}
                caption = ", ".join([*way, f"verdicts on {len(part)} claims, analysis: {analysis}."])
                tables = {judged.evidence.source: counts}
                self.section.figure("_".join([name, *way]), tables, figures.shares, caption, **look)

    def _ways(self) -> Iterator[tuple[claims.Judgement, Plan, list[str]]]:
        """Each judgement, its plan, and the protocol and decoding that tell it from others of its source."""
        for judged, plan in zip(self.judged, self.plans, strict=True):
            alike = [one.evidence for one in self.judged if one.evidence.source == judged.evidence.source]
            ways = [(one.protocol, one.decoding) for one in alike]
            own = judged.evidence.protocol, judged.evidence.decoding
            yield judged, plan, answer_sheet.distinct(own, ways)

    def sensitivity(self) -> dict[str, pd.DataFrame]:
        """Verdicts by claim and choice of the analysis, by the name of the results: shown, and returned."""
        section, found = self.section, {}
        for judged, plan, way in self._ways():
            source = judged.evidence.source
            halves = held_out_temperature.read(plan) if source == "live" else None
            table = section.run.kept(sensitivity.table, judged, halves)
            if table.empty:
                continue
            holds, cannot = sensitivity.holds(table), sensitivity.cannot_remark(table)
            said = sensitivity.holds_remark(holds)
            caption = f"verdicts by claim and choice of the analysis. {said} {cannot}".strip()
            caption = ", ".join([*way, caption])
            draw, name = figures.verdicts_by_choice, "_".join(["sensitivity", *way])
            section.figure(name, {source: table}, draw, caption, alt=said)
            caption = "under how many of the single choices that bear on it a claim is reproduced."
            section.table({source: holds}, ", ".join([*way, caption]))
            found[", ".join([section.labels[source], *way])] = table
        return found


# --- 11: the protocol -----------------------------------------------------------------------------------


def protocol_sentences(section: Section, changes: pd.DataFrame) -> list[str]:
    """How many factors change the gain for certain, a sentence a domain and method."""
    said = []
    own = changes[(changes["quantity"] == "gain") & ~changes["arm"].isin(protocols.CONTROLS)]
    for (domain, method), part in own.groupby(["domain", "method"], sort=False):
        counts = ", ".join(f"{n} {verdict}" for verdict, n in part["verdict"].value_counts().items())
        largest = part.loc[part["change"].abs().idxmax()]
        factors = f"{len(part)} factor{'s' * (len(part) > 1)}"
        by, careful = interval_text(*largest[["change", "low", "high"]]), part["careful"].iloc[0]
        where = f"{section.labels['live']}, {DOMAIN_LABELS[domain].lower()}, {METHOD_NAMES[method]}"
        said.append(
            f"{where}: the gain under careful is {interval_text(careful)} points; of {factors}: "
            f"{counts}; the largest change ({largest['label']}) is {by}."
        )
    return said
