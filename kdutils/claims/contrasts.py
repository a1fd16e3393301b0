"""Contrasts that this study declares itself: what is compared, which way it should go, and what it shows.

They are in claims.toml, [contrasts.SECTION.ID], each written before its value was computed. A contrast is a
number with an interval; `within` says that it is as good as none. `less 0.8` at the end of a unit says that
so much was taken from the number: it is shown whole, beside that bound.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from kdutils.claims.claims import PATH, ledger_row
from kdutils.claims.evidence import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, finding
from kdutils.inference.estimate import Estimate

LESS = ", less "  # in a unit


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison, its expected outcome and the smallest effect of interest."""

    id: str
    section: str  # that of its notebook
    statement: str
    expected: str  # above or below zero by more than the margin, or within the margin of zero
    margin: float
    unit: str  # of value and margin
    seen_before: str  # what was known of it when it was declared

    def __post_init__(self) -> None:
        assert self.expected in ("above", "below", "within") and self.margin >= 0, self

    @property
    def rule(self) -> str:
        """What makes it reproduced, in words."""
        unit = self.unit.partition(LESS)[0]
        unit = f"({unit})" if unit.startswith("% of") else re.sub("^of ", "in ", unit)
        if self.expected == "within":
            return f"within {self.margin:g} {unit} of 0"
        bound = self.less + (self.margin if self.expected == "above" else -self.margin)
        sign = "+" if bound and not self.less else ""
        return f"{self.expected} {bound + 0.0:{sign}g} {unit}"  # no −0

    @property
    def less(self) -> float:
        """What was taken from the value, so that zero decides."""
        return float(self.unit.partition(LESS)[2] or 0)

    def verdict(self, value: Estimate) -> str:
        """What an interval shows; not_testable where it has no bounds.

        reproduced: it lies beyond the margin on the expected side (of `within`: inside +-margin).
        not_reproduced: on the other side of zero, or inside +-margin (of `within`: outside of it).
        """
        if math.isnan(value.low) or math.isnan(value.high):
            return NOT_TESTABLE
        is_small = -self.margin <= value.low and value.high <= self.margin
        if self.expected == "within":
            is_large = value.low > self.margin or value.high < -self.margin
            return REPRODUCED if is_small else NOT_REPRODUCED if is_large else INCONCLUSIVE
        low, high = (value.low, value.high) if self.expected == "above" else (-value.high, -value.low)
        if low > self.margin:
            return REPRODUCED
        return NOT_REPRODUCED if high < 0 or is_small else INCONCLUSIVE


def read() -> tuple[Contrast, ...]:
    """All contrasts, in the order of claims.toml."""
    entries = tomllib.loads(PATH.read_text(encoding="utf-8"))
    return tuple(
        Contrast(id=name, section=section, **own)
        for section, contrasts in entries["contrasts"].items()
        for name, own in contrasts.items()
    )


CONTRASTS: tuple[Contrast, ...] = read()


def contrasts_of(section: str) -> tuple[Contrast, ...]:
    """The contrasts of a section, such as "12"; none if it has none."""
    return tuple(each for each in CONTRASTS if each.section == section)


def declarations(section: str) -> pd.DataFrame:
    """The contrasts of a section as they were declared: id, contrast, expected, seen before."""
    rows = [(each.id, each.statement, each.rule, each.seen_before) for each in contrasts_of(section)]
    return pd.DataFrame(rows, columns=["id", "contrast", "expected", "seen before"])


def judge(section: str, values: Mapping[str, Estimate | str]) -> list[dict[str, Any]]:
    """Rows of the claims ledger: each contrast of a section with its verdict.

    Args:
        values: id -> the value with its interval, in the unit of the contrast, or why there is none.

    Raises:
        ValueError: if the ids are not those of the section's contrasts.
    """
    contrasts = contrasts_of(section)
    if set(values) != {each.id for each in contrasts}:
        there_are = [each.id for each in contrasts]
        raise ValueError(f"values of {sorted(values)}: section {section!r} has the contrasts {there_are}")
    return [_row(each, values[each.id]) for each in contrasts]


def _row(contrast: Contrast, found: Estimate | str) -> dict[str, Any]:
    value = Estimate(reason=found) if isinstance(found, str) else found
    verdict = contrast.verdict(value)
    if verdict == NOT_TESTABLE:
        value = Estimate(value.value, n=value.n, reason=value.reason or "it has no interval")
    whole, low, high = (each + contrast.less for each in value.bounds)
    value = replace(value, value=whole, low=low, high=high)
    digits = 3 if contrast.unit.startswith("nats") else 2
    about = f" ({value.reason})" if value.reason else ""
    said = value.reason if verdict == NOT_TESTABLE else f"{value.text(digits)}, n = {value.n}{about}"
    reason, own = f"expected {contrast.rule}; {said}", {"p_value": value.p_value, "n": value.n or None}
    of = {"source": "live", "protocol": "careful", "analysis": "strict", "decoding": None}
    return ledger_row(contrast, finding(value, verdict=verdict, reason=reason, **own), **of, paper_value=None)
