"""What a computation finds: a value with its interval, or a statistic with its test."""

import math
from dataclasses import dataclass

CONFIDENCE = 0.95  # of an interval, unless it says otherwise


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, in the unit of the value; NaN where undefined, and then the reason."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan  # two-sided, of a value of zero, where that was tested
    n: int = 0  # units behind it
    reason: str = ""  # why value, interval or p are undefined; or of what alone it speaks
    p_greater: float = math.nan  # one-sided, of a value above zero
    minimum_detectable: float = math.nan  # found at 5 % in 80 % of studies of this n and spread

    @property
    def bounds(self) -> tuple[float, float, float]:
        """value, low, high: the columns of a table."""
        return self.value, self.low, self.high

    def text(self, digits: int = 1, *, signed: bool = True, unit: str = "") -> str:
        """`+1.2 [+0.3, +2.1]`, then the unit; without bounds that are undefined, and why it is undefined."""
        if math.isnan(self.value):
            return f"undefined ({self.reason})" if self.reason else "undefined"
        form = f"{'+' if signed else ''}.{digits}f"
        bounds = "" if math.isnan(self.low) else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{bounds}{unit}"

    def __str__(self) -> str:
        return self.text(2)


@dataclass(frozen=True)
class Tested:
    """A statistic with its p-value, and the smallest p that these data could have given.

    Where `smallest_p` is above the level of a test, no effect of any size could have been found.
    """

    statistic: float = math.nan
    p_value: float = math.nan  # two-sided
    n: int = 0  # units behind it
    smallest_p: float = math.nan
    p_greater: float = math.nan  # one-sided, of a statistic that large
    reason: str = ""  # why it is undefined
