"""The answer sheet: each claim with every column of results that judges it, and what a difference comes from.

A column is a source, protocol and analysis, or the ledger of another profile. All sentences are put together
from the findings; nothing is said that no column holds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from kdutils.claims import sensitivity
from kdutils.claims.claims import CLAIMS, Judgement
from kdutils.claims.evidence import NOT_TESTABLE, VERDICTS
from kdutils.claims.sensitivity import AS_AUTHORS
from kdutils.grid.study import SOURCE_LABELS, SOURCES

Row = Mapping[str, Any]
Columns = dict[str, dict[str, Row]]  # what a column is called -> claim id -> row of the ledger
ANALYSES = ("authors", "strict")


def columns(rows: Sequence[Row], *, labels: Mapping[str, str] = SOURCE_LABELS) -> Columns:
    """The columns that ledger rows fill: released results first, the authors' analysis before the stricter.

    Called `Released, authors`; protocol and decoding are named where a source has several.
    """
    found: Columns = {}
    for source in SOURCES:
        of_source = [row for row in rows if row["source"] == source]
        ways = list(dict.fromkeys((row["protocol"], row.get("decoding", "")) for row in of_source))
        for way, analysis in product(ways, ANALYSES):
            own = [row for row in of_source if row["analysis"] == analysis]
            own = {row["id"]: row for row in own if (row["protocol"], row.get("decoding", "")) == way}
            if own:
                found[", ".join([labels[source], *distinct(way, ways), analysis])] = own
    return found


def distinct(way: Sequence[str], ways: Sequence[Sequence[str]]) -> list[str]:
    """Those parts of a way, such as a protocol and a decoding, in which the ways differ."""
    return [part for place, part in enumerate(way) if any(other[place] != part for other in ways)]


def of_profile(rows: Sequence[Row], *, label: str) -> Columns:
    """The live columns of another profile's ledger that judge any claim of the paper, under its label."""
    known = {claim.id for claim in CLAIMS}
    live = [row for row in rows if row["source"] == "live" and row["id"] in known]
    found = columns(live, labels=SOURCE_LABELS | {"live": label}).items()
    return {name: part for name, part in found if {row["verdict"] for row in part.values()} - {NOT_TESTABLE}}


def table(found: Columns) -> pd.DataFrame:
    """Every claim with what the paper says and a column each: `estimate [interval]: verdict`."""
    said = [(claim.id, claim.statement, printed_text(claim.paper_value)) for claim in CLAIMS]
    table = pd.DataFrame(said, columns=["id", "claim", "paper"])
    for name, part in found.items():
        table[name] = [answer(part[claim]) if claim in part else "—" for claim in table["id"]]
    return table


def answer(row: Row) -> str:
    """Estimate, interval and verdict of a ledger row, in a table cell."""
    words = row["verdict"].replace("_", " ")
    return words if row["estimate"] is None else f"{estimate_text(row)}: {words}"


def counts_remark(found: Columns) -> str:
    """How many claims have which verdict, a paragraph of Markdown a column; why none can be tested."""
    texts = []
    for name, part in found.items():
        verdicts = [row["verdict"] for row in part.values()]
        reproduced, not_reproduced, inconclusive, not_testable = map(verdicts.count, VERDICTS)
        reasons = {row["reason"] for row in part.values()}
        why = f": {reasons.pop()}" if len(reasons) == 1 and not_testable == len(part) else ""
        texts.append(
            f"{name}: of **{len(verdicts)} claims**, **{reproduced}** are reproduced, **{not_reproduced}** "
            f"are not, **{inconclusive}** are inconclusive and **{not_testable}** cannot be tested there"
            f"{why}."
        )
    return "\n\n".join(texts)


def changes(rows: Sequence[Row], *, labels: Mapping[str, str] = SOURCE_LABELS) -> pd.DataFrame:
    """Claims whose verdict the stricter analysis changes: id, results, authors, strict, why.

    `why` is what the stricter analysis found, in numbers.
    """
    found = columns(rows, labels=labels)
    table = []
    for name, part in found.items():
        results, _, analysis = name.rpartition(", ")
        stricter = found.get(f"{results}, strict", {}) if analysis == "authors" else {}
        for claim, other in stricter.items():
            if other["verdict"] != part[claim]["verdict"]:
                verdicts = [each["verdict"].replace("_", " ") for each in (part[claim], other)]
                table.append((claim, results, *verdicts, other["reason"]))
    return pd.DataFrame(table, columns=["id", "results", "authors", "strict", "why"])


def paragraphs(found: Columns, tables: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    """One paragraph of Markdown a claim: statement, paper, the columns' answers, what a change comes from.

    `tables` are those of `sensitivity`, by what the results are called.
    """
    for claim in CLAIMS:
        text = f"**{claim.id}** {claim.statement} (paper: {printed_text(claim.paper_value)})."
        for name, part in found.items():
            if claim.id in part:
                text += f" *{name}*: {answer(part[claim.id])}."
        for results, long in tables.items():
            part = long[long["id"] == claim.id]
            if part.empty:
                continue
            single = sensitivity.changes(part).itertuples()
            named = ", ".join(f"{row.choice} ({row.verdict.replace('_', ' ')})" for row in single)
            text += f" {results}, a single choice that changes the verdict: {named}." if named else ""
            base = part.loc[part["choice"] == AS_AUTHORS, "verdict"].iloc[0]
            strict = found.get(f"{results}, strict", {}).get(claim.id)
            if strict is not None and strict["verdict"] != base:
                text += f" {results}, the stricter analysis: {strict['reason']}."
        yield text


def readable(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ledger rows for people to read: id, claim, analysis, paper, ours, verdict, why."""
    names = {"id": "id", "statement": "claim", "analysis": "analysis", "paper_value": "paper"}
    names |= {"estimate": "ours", "verdict": "verdict", "reason": "why"}
    shown = [
        row
        | {"paper_value": printed_text(row["paper_value"]), "estimate": estimate_text(row)}
        | {"verdict": row["verdict"].replace("_", " ")}
        for row in rows
    ]
    return pd.DataFrame(shown, columns=list(names)).rename(columns=names)


def printed_text(value: float | str | None) -> str:
    """What the paper prints, as text; a dash for nothing."""
    if value is None:
        return "—"
    return f"{value:g}" if isinstance(value, float) else value


def estimate_text(row: Mapping[str, Any]) -> str:
    """Estimate and 95% interval of a ledger row, small ones with three digits; a dash for nothing."""
    if row["estimate"] is None:
        return "—"
    known = [row[name] for name in ("estimate", "ci_low", "ci_high") if row[name] is not None]
    value, *bounds = (f"{each:.{3 if max(map(abs, known)) < 0.1 else 2}f}" for each in known)
    return f"{value} [{', '.join(bounds)}]" if bounds else value


def verdict_counts(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Claims by section and verdict: a row a section, a column a verdict."""
    frame = pd.DataFrame(rows)
    return pd.crosstab(frame["section"], frame["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)


def stricter_table(judgement: Judgement) -> pd.DataFrame:
    """What the stricter analysis comes to, a row a claim.

    Estimate, interval, both p, what was detectable, n, both verdicts, and why.
    """
    rows = []
    for claim in (claim for claim in CLAIMS if claim.id in judgement.stricter):
        found = judgement.stricter[claim.id]
        row = {"id": claim.id, "claim": claim.statement}
        row |= {"estimate": found.estimate, "low": found.ci_low, "high": found.ci_high}
        row |= {"raw p": found.raw_p, "p after Holm": found.p_value}
        row |= {"detectable": found.minimum_detectable, "n": math.nan if found.n is None else found.n}
        row["authors"] = judgement.authors[claim.id].verdict.replace("_", " ")
        row |= {"strict": found.verdict.replace("_", " "), "why": found.reason}
        rows.append(row)
    return pd.DataFrame(rows)


STRICTER_FORMATS = dict.fromkeys(["estimate", "low", "high"], "+.2f")
STRICTER_FORMATS |= dict.fromkeys(["raw p", "p after Holm", "detectable"], ".2g")
STRICTER_CAPTION = (
    "the stricter analysis: estimate with 95% interval, p of the test against the claim, raw and after Holm "
    "within the section, and the effect that 80 % of such studies would find before Holm: in the claim's "
    "unit, a difference of methods for E7 and E8, none for rank correlations. No p where intervals decide."
)
