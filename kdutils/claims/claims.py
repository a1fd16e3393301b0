"""The ledger of claims: the verdict on each of them by the authors' analysis and by a stricter one.

What the claims are and how each is judged is in `registry`. The ledger judges, it does not repair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kdutils.claims.evidence import Evidence
from kdutils.claims.finding import NOT_TESTABLE, VERDICTS, Finding, NotTestableError
from kdutils.claims.registry import (  # noqa: F401 - a notebook needs this module alone
    CLAIMS,
    FEEBLE,
    Claim,
    claims_of,
    declarations,
    rules,
    with_printed,
)
from kdutils.claims.students import Case, Judged, corrected
from kdutils.grid.study import SOURCES
from kdutils.io.cache import Keep, uncached
from kdutils.results.item_gains import Items

SEED = 20_261_126  # of simulations and of permutations that cannot be counted out


@dataclass(frozen=True)
class Judgement:
    """What both analyses say of the claims about one source and protocol, by claim id."""

    evidence: Evidence
    authors: dict[str, Finding]
    stricter: dict[str, Judged]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the claims ledger, each claim under both analyses; an undefined number is None."""
        strict = {claim: judged.finding for claim, judged in self.stricter.items()}
        return [
            _ledger_row(claim, found[claim.id], self.evidence, analysis=analysis)
            for claim in CLAIMS
            for analysis, found in (("authors", self.authors), ("strict", strict))
            if claim.id in found
        ]


def judgements(
    cells: pd.DataFrame, *, section: str | None = None, items: Items | None = None, kept: Keep = uncached
) -> list[Judgement]:
    """Both analyses of every claim of a section, or of all, for every source and protocol in `cells`.

    The authors' analysis compares pairs. The stricter one takes students as units, and where there is one
    live pair its `items`; what neither can be asked is not testable. `kept` may hold findings.
    """
    found = evidence_of(cells, items=items)
    return [_judgement(each, kept(findings, each, section=section)) for each in found]


def evidence_of(cells: pd.DataFrame, *, items: Items | None = None) -> list[Evidence]:
    """What there is to be judged: the cells of each source and protocol, live ones with their items."""
    groups = cells.groupby(["source", "protocol"], sort=False)
    return [Evidence(*key, part, items if key[0] == "live" else None) for key, part in groups]


def findings(evidence: Evidence, *, section: str | None = None) -> pd.DataFrame:
    """Both analyses of the claims of a section, or of all, as a table: a row a claim x analysis.

    Columns id, analysis, those of a Finding, and raw_p and minimum_detectable of the stricter analysis.
    """
    stricter = by_stricter_analysis(evidence, section=section)
    rows = []
    for claim in claims_of(section):
        judged = stricter[claim.id]
        own = {"raw_p": judged.raw_p, "minimum_detectable": judged.minimum_detectable}
        finding = by_authors(claim, evidence)
        if evidence.one_pair:
            reason = f"one pair only ({evidence.one_pair}): the authors' analysis compares pairs"
            finding = Finding(verdict=NOT_TESTABLE, reason=reason)
        rows.append({"id": claim.id, "analysis": "authors"} | asdict(finding))
        rows.append({"id": claim.id, "analysis": "strict"} | asdict(judged.finding) | own)
    return pd.DataFrame(rows).astype({"n": "Int64"})


def _judgement(evidence: Evidence, table: pd.DataFrame) -> Judgement:
    """What `findings` says, claim by claim."""
    found: dict[str, dict[str, Any]] = {"authors": {}, "strict": {}}
    for row in table.to_dict("records"):
        claim, analysis = row.pop("id"), row.pop("analysis")
        own = {name: row.pop(name) for name in ("raw_p", "minimum_detectable")}
        finding = Finding(**row | {"n": None if pd.isna(row["n"]) else int(row["n"])})
        found[analysis][claim] = Judged(finding=finding, **own) if analysis == "strict" else finding
    return Judgement(evidence, found["authors"], found["strict"])


def by_authors(claim: Claim, evidence: Evidence) -> Finding:
    """What the authors' rule says of one claim."""
    rule = claim.rules.authors
    try:
        finding = rule(evidence, **claim.arguments_of(rule))
    except NotTestableError as why:
        finding = Finding(verdict=NOT_TESTABLE, reason=str(why))
    return _within_reach(claim, evidence, finding)


def by_stricter_analysis(evidence: Evidence, *, section: str | None = None) -> dict[str, Judged]:
    """Claim id -> what the stricter analysis says of it, of a section or of all, in the order of CLAIMS."""
    chosen = claims_of(section)
    if evidence.one_pair:
        found = {claim.id: _by_items(claim, evidence) for claim in chosen}
    else:
        cases = {claim.id: stricter_case(claim, evidence) for claim in chosen}
        found = corrected(cases, {claim.id: claim.section for claim in chosen})
    return {
        claim.id: replace(found[claim.id], finding=_within_reach(claim, evidence, found[claim.id].finding))
        for claim in chosen
    }


def stricter_case(claim: Claim, evidence: Evidence) -> Case | NotTestableError:
    """What the stricter rule says of one claim, before Holm's correction.

    Random numbers are those of the claim, whichever others are asked for.
    """
    rule = claim.rules.stricter
    arguments = claim.arguments_of(rule)
    if "rng" in rule.__annotations__:
        arguments["rng"] = np.random.default_rng([SEED, *claim.id.encode()])
    try:
        return rule(evidence, **arguments)
    except NotTestableError as why:
        return why


def _by_items(claim: Claim, evidence: Evidence) -> Judged:
    """What intervals over the items of the one pair decide; their p is not corrected."""
    rule = claim.rules.items
    try:
        if rule is None or not evidence.items:
            why = "its items are not at hand" if rule else "the claim is about several"
            raise NotTestableError(f"one pair only ({evidence.one_pair}): {why}")
        finding = rule(evidence, **claim.arguments_of(rule))
    except NotTestableError as why:
        finding = Finding(verdict=NOT_TESTABLE, reason=str(why))
    return Judged(finding=finding, raw_p=finding.p_value)


def _within_reach(claim: Claim, evidence: Evidence, finding: Finding) -> Finding:
    """The finding; not testable where it is about sizes that a model world cannot bear on.

    Where the authors' results have nothing, the claim says why.
    """
    if finding.verdict == NOT_TESTABLE:
        absent = claim.absent if evidence.source != "live" else ""
        return replace(finding, reason=absent or finding.reason)
    if claim.is_magnitude and evidence.is_model_world:
        reason = "the size of an effect on Qwen and Llama, on which a model world has no bearing"
        return replace(finding, verdict=NOT_TESTABLE, reason=f"{reason}; {finding.reason}")
    return finding


def ledger_rows(found: Iterable[Judgement]) -> list[dict[str, Any]]:
    """Rows of the claims ledger, one after the other."""
    return [row for each in found for row in each.rows]


def _ledger_row(claim: Claim, finding: Finding, evidence: Evidence, *, analysis: str) -> dict[str, Any]:
    row = {"id": claim.id, "section": claim.section, "statement": claim.statement}
    row |= {"source": evidence.source, "protocol": evidence.protocol, "analysis": analysis}
    row |= {"estimate": finding.estimate, "ci_low": finding.ci_low, "ci_high": finding.ci_high}
    row |= {"p_value": finding.p_value, "n": finding.n, "paper_value": claim.paper_value}
    row |= {"verdict": finding.verdict, "reason": finding.reason}
    undefined = {name for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
    return row | dict.fromkeys(undefined)


def by_source(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Ledger rows of each source there is, released results first."""
    found = {source: [row for row in rows if row["source"] == source] for source in SOURCES}
    return {source: part for source, part in found.items() if part}


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ledger rows for people to read: id, claim, analysis, paper, ours, verdict, why."""
    return pd.DataFrame(
        {
            "id": [row["id"] for row in rows],
            "claim": [row["statement"] for row in rows],
            "analysis": [row["analysis"] for row in rows],
            "paper": [printed_text(row["paper_value"]) for row in rows],
            "ours": [estimate_text(row) for row in rows],
            "verdict": [row["verdict"].replace("_", " ") for row in rows],
            "why": [row["reason"] for row in rows],
        }
    )


def printed_text(value: float | str | None) -> str:
    """What the paper prints, as text; a dash for nothing."""
    if value is None:
        return "—"
    return f"{value:g}" if isinstance(value, float) else value


def estimate_text(row: Mapping[str, Any]) -> str:
    """Estimate and 95% interval of a ledger row, as text; a dash for nothing."""
    if row["estimate"] is None:
        return "—"
    text = f"{row['estimate']:.2f}"
    return text if row["ci_low"] is None else f"{text} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def verdict_counts(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Claims by section and verdict: a row a section, a column a verdict."""
    frame = pd.DataFrame(rows)
    counts = pd.crosstab(frame["section"], frame["verdict"])
    return counts.reindex(columns=list(VERDICTS), fill_value=0)
