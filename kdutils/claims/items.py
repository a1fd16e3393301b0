"""The stricter analysis of one pair: intervals over the items of its test set.

The authors' analysis compares pairs. One pair leaves its items, and most claims can be asked of them: a claim
is reproduced where the whole 95% interval lies on the side that the claim names, not_reproduced where all of
it lies on the other, inconclusive between. Nothing is selected on the test items: temperature 1 stands for a
method. A finding speaks of other items of these tasks, not of other pairs or training seeds. Rules and
thresholds were written before any run of real models was seen.
"""

from math import nan

import pandas as pd

from kdutils.claims.evidence import Evidence, Finding, decide, finding
from kdutils.constants import AVERAGE, METHOD_NAMES
from kdutils.inference.estimate import Estimate

WHOLE = ["domain", "teacher", "student"]  # groups of these hold all methods


def item_finding(
    evidence: Evidence,
    table: pd.DataFrame | Estimate,
    *,
    text: str,
    above: float | None = None,
    below: float | None = None,
    unit: str = "items",
    holds: bool = True,
) -> Finding:
    """The finding on rows of difference, low, high, n, a row a domain, on the claim's side of a number.

    Its estimate is the row that is least on that side. `holds` is all else that `reproduced` asks for.
    """
    if isinstance(table, Estimate):
        table = pd.DataFrame([table.bounds], columns=["difference", "low", "high"]).assign(n=table.n)
    if above is not None:
        is_so, is_not, least = table["low"] > above, table["high"] < above, table["difference"].idxmin()
    else:
        is_so, is_not, least = table["high"] < below, table["low"] > below, table["difference"].idxmax()
    row = table.loc[least]
    is_against_zero = 0.0 in (above, below)  # p is that of no difference: of other numbers it says nothing
    p_value = row.get("p_value", nan) if is_against_zero else nan
    verdict = decide(is_so.all() and holds, is_not.all())
    return of_row(evidence, row, verdict, text, p_value=p_value, unit=unit)


def of_row(
    evidence: Evidence, row: pd.Series, verdict: str, text: str, *, p_value: float = nan, unit: str = "items"
) -> Finding:
    """The finding whose estimate and interval are those of a row of difference, low, high, n."""
    interval = Estimate(float(row["difference"]), float(row["low"]), float(row["high"]), n=int(row["n"]))
    reason = f"one pair ({evidence.one_pair}), {interval.n} {unit}: {text}"
    return finding(interval, verdict=verdict, reason=reason, p_value=float(p_value))


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the averages of domains."""
    return table[table["task"] == AVERAGE]


def losses(changes: pd.DataFrame) -> pd.DataFrame:
    """Changes on the averages of domains as losses: the other sign."""
    table = averages(changes)
    return table.assign(difference=-table["difference"], low=-table["high"], high=-table["low"])


def by_method(table: pd.DataFrame) -> str:
    """Difference and interval of each row by its method, in words."""
    several = table["domain"].nunique() > 1
    return ", ".join(
        f"{METHOD_NAMES[row.method]} {range_words(row)}" + (f" ({row.domain})" if several else "")
        for row in table.itertuples()
    )


def range_words(row) -> str:
    """`+1.2 [−0.3, +2.7]`, of a row of difference, low and high."""
    return Estimate(row.difference, row.low, row.high).text()
