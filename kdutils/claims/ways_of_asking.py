"""Which verdicts hang on how the student is asked: the claims that could move, judged under each way.

A way is how the answers behind the cells came about, their column `decoding`: texts decoded greedily or
sampled, the likeliest label, and that without the model's label prior. Labels exist where there are options:
claims about math can be asked of texts alone, and those about both domains are asked of commonsense alone
under every way, so that ways differ in nothing else. P values are corrected as in the ledger, within all
claims of a section that these cells can be asked.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, product

import pandas as pd

from kdutils.claims import claims
from kdutils.claims.claims import CLAIMS, Claim, Judgement
from kdutils.claims.evidence import NOT_TESTABLE, Evidence, Finding
from kdutils.constants import ALL_TASKS, COMMONSENSE, DOMAINS, MATH
from kdutils.io.cache import Keep, uncached
from kdutils.results.item_gains import Items

RELEASED = "released"  # in the column `choice`, beside the decodings of live results
MOVABLE = ("E1", "E2", "E7", "E8", "S2", "S3.boolq", "A1", "A2", "A3", "A4", "F1", "P1", "P2", "P3")


def judgements(evidence: Iterable[Evidence], *, kept: Keep = uncached) -> list[Judgement]:
    """The findings on MOVABLE claims by each evidence, as this module asks them."""
    return [_judged(each, kept) for each in evidence]


def _judged(evidence: Evidence, kept: Keep) -> Judgement:
    of_domains = {domain: _of_domain(evidence, domain) for domain in (MATH, COMMONSENSE)}
    of_domains = {domain: part for domain, part in of_domains.items() if len(part.all_cells)}
    sections = {claim.section for claim in CLAIMS if claim.id in MOVABLE}
    asked = [claim for claim in CLAIMS if claim.section in sections and _domain_of(claim) in of_domains]
    if not asked:  # a study of other domains
        return Judgement(evidence, {}, {})
    parts = {claim.id: of_domains[_domain_of(claim)] for claim in asked}
    found = claims.judged(
        evidence, tuple(_within(claim, _domain_of(claim)) for claim in asked), parts, kept=kept
    )
    movable = (
        {name: each[name] for name in MOVABLE if name in each} for each in (found.authors, found.stricter)
    )
    return Judgement(evidence, *movable)


def _domain_of(claim: Claim) -> str:
    """Where a claim is asked: commonsense if it is about that, too."""
    own = claim.arguments
    named = own.get("domains", [own["domain"]] if "domain" in own else DOMAINS)
    named = [ALL_TASKS[own["task"]].domain] if own.get("task") in ALL_TASKS else named
    return COMMONSENSE if COMMONSENSE in named else named[0]


def _within(claim: Claim, domain: str) -> Claim:
    arguments = claim.arguments | ({"domains": [domain]} if "domains" in claim.arguments else {})
    return replace(claim, arguments=arguments)


def _of_domain(evidence: Evidence, domain: str) -> Evidence:
    items, cells = evidence.items, evidence.all_cells
    if items:
        items = Items(*(each[each["domain"] == domain] for each in (items.scored, items.beside)))
    return replace(evidence, all_cells=cells[cells["domain"] == domain], items=items, _tests={})


def table(judged: Iterable[Judgement]) -> pd.DataFrame:
    """Verdicts as sensitivity.table has them, which figures.verdicts_by_choice draws; and `analysis`.

    A row a claim x analysis x way (`choice`); `bears` is False where a claim cannot be asked so.
    """
    rows = []
    for each in judged:
        way = each.evidence.decoding.replace("_", " ") if each.evidence.source == "live" else RELEASED
        for claim in (claim for claim in CLAIMS if claim.id in MOVABLE):
            for analysis, found in (("authors", each.authors), ("strict", each.stricter)):
                finding = found.get(claim.id, Finding(verdict=NOT_TESTABLE, reason="it cannot be asked so"))
                row = {"id": claim.id, "section": claim.section, "claim": claim.statement}
                row |= {"analysis": analysis, "choice": way, "verdict": finding.verdict}
                rows.append(row | {"estimate": finding.estimate, "bears": claim.id in found})
    return pd.DataFrame(rows)


def changing(long: pd.DataFrame) -> pd.DataFrame:
    """How many verdicts of `table` are not the same under several live ways, by analysis.

    Columns analysis, ways (`every way`, or two: `greedy, sampled`), judged (claims that at least two of them
    can test), differ (how many), ids, and their verdicts in words.
    """
    tested, rows = long[(long["choice"] != RELEASED) & (long["verdict"] != NOT_TESTABLE)], []
    ways = list(dict.fromkeys(tested["choice"]))
    for analysis, names in product(("authors", "strict"), [ways, *combinations(ways, 2)]):
        part = tested[(tested["analysis"] == analysis) & tested["choice"].isin(names)]
        wide = part.pivot(index="id", columns="choice", values="verdict").reindex(part["id"].unique())
        is_other, n_judged = wide.nunique(axis=1) > 1, int((wide.count(axis=1) > 1).sum())
        said = [
            f"{name}: "
            + ", ".join(f"{way} {verdict.replace('_', ' ')}" for way, verdict in own.dropna().items())
            for name, own in wide[is_other].reindex(columns=list(names)).iterrows()
        ]
        label = "every way" if names is ways else " against ".join(names)
        ids = ", ".join(wide.index[is_other])
        rows.append((analysis, label, n_judged, int(is_other.sum()), ids, "; ".join(said)))
    return pd.DataFrame(rows, columns=["analysis", "ways", "judged", "differ", "ids", "verdicts"])
