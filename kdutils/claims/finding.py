"""What a rule says of a claim: estimate, interval, p, n and verdict, or why the results cannot be asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdutils.inference.estimate import Estimate

ALPHA = 0.05
REPRODUCED, NOT_REPRODUCED = "reproduced", "not_reproduced"
INCONCLUSIVE, NOT_TESTABLE = "inconclusive", "not_testable"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTABLE)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a claim comes to: an estimate in the claim's unit, its interval, p and n, and the verdict."""

    verdict: str
    reason: str
    estimate: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan
    n: int | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is not one of {list(VERDICTS)}")


class NotTestableError(Exception):
    """The results lack what a claim is about; the message is the reason in the ledger."""


def lacking(what: str) -> NotTestableError:
    """To be raised where the results have no such thing."""
    return NotTestableError(f"there are no {what} in these results")


def finding(interval: Estimate, **fields) -> Finding:
    """A finding whose estimate, bounds and n are those of an interval."""
    bounds = {"estimate": interval.value, "ci_low": interval.low, "ci_high": interval.high}
    return Finding(**{"n": interval.n} | bounds | fields)


def present(table, what: str):
    """The table or column itself.

    Raises:
        NotTestableError: if it is empty: the results have no such thing.
    """
    if table.empty:
        raise lacking(what)
    return table


def decide(is_so: bool, is_not: bool | None = None) -> str:
    """reproduced if `is_so`, else not_reproduced if `is_not` (by default always), else inconclusive."""
    if is_so:
        return REPRODUCED
    return NOT_REPRODUCED if is_not or is_not is None else INCONCLUSIVE
