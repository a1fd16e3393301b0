"""What notebook 10 shows: how often tests and intervals of the study err where the truth is known.

The rule of `recommended` was written before any of it was computed.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdutils.inference import intervals
from kdutils.inference.simulations import PARTS
from kdutils.io import disk
from kdutils.io.cache import Record

TOLERANCE = 0.02  # how much more often than it says a procedure may err
NEVER = 500  # studies without a rejection that say it cannot: of 1 in 100, fewer say nothing
RECORD, TABLE = "calibration.json", "calibration.csv"
COLUMNS = ["procedure", "null", "quantity", "nominal", "actual", "n_simulations", "recommended"]
PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "pingouin")
RULE = (
    "Recommended under a null: a test that rejects at most in its nominal share of studies plus "
    f"{TOLERANCE:g} and two Monte Carlo standard errors; an interval that holds the truth in its nominal "
    f"share less as much, or more. A test without a rejection in {NEVER} studies or more has no use."
)
FIGURES = {  # name -> its parts, and what they are about
    "means": (("means", "comparisons"), "mean gains, methods and tasks"),
    "correlations": (("correlations", "many tests", "points"), "gain and size"),
    "items": (("shares", "paired items", "shared items", "texts"), "test items"),
}
SAID = {  # procedures that notebook 10 names with their numbers
    "t-test > 0 over cells (authors)": "size",
    "t-test of students": "size",
    "Spearman of gain and size over cells (authors)": "size",
    "orders of students": "size",
    "orders of students within families": "size",
    "ANOVA of methods over cells (authors)": "size",
    "any of 14 Spearman over cells (authors)": "size",
    "any of 14 Spearman over cells (authors), Holm": "size",
    "any of 14 orders of students, Holm": "size",
    "size at the same SFT accuracy, logit": "size",
    "t interval over cells": "coverage",
    "bootstrap of students and runs": "coverage",
    "Spearman interval over cells": "coverage",
}
NULLS = {
    "4 students": "4 students of one teacher; each has a gain of its own around 0, and one on each task",
    "11 students": "the same of 11 students",
    "shared baselines": "the 11 released pairs, 3 methods; KD and SFT students are equally good",
    "student effects": "the 11 released pairs; gains vary around 0 by student, task, teacher and run",
    "equal logit gains": "the 11 released pairs; every student gains as much on the logit scale",
    "independent points": "11 independent normal points",
    "independent points, r = 0.5": "the same, with that correlation",
    "half right": "254 items (AQuA), each right with that probability",
    "1 in 20 right": "the same",
    "1 in 200 right": "the same",
    "math items": "two equally good runs that differ on one in five items of the six math tasks",
    "8 items a task, near the ceiling": "6 tasks of 8 items, 97 % right; runs differ on 4 % of them",
    "math items, seeds vary": "as math items, but training seeds move the true difference by 1.5 points",
    "100 texts alike": "two runs whose texts are equally like the teacher's",
}


class Calibration:
    """The simulations of one profile, kept with what they hang on."""

    def __init__(self, folder: Path, *, n_simulations: int, seed: int) -> None:
        if n_simulations < 100:
            raise ValueError(f"n_simulations={n_simulations} says too little: at least 100")
        self.folder, self.n_simulations, self.seed = Path(folder), n_simulations, seed
        self.record = Record(self.folder / RECORD, __name__, of_machine=False, packages=PACKAGES)

    def table(self) -> pd.DataFrame:
        """A row a procedure, null and quantity: part, COLUMNS, and the Monte Carlo interval of `actual`."""
        rows: list[dict[str, Any]] = []
        for part in PARTS:
            settings = {"n_simulations": self.n_simulations, "seed": self.seed}
            rows += self.record.part(part, settings, lambda part=part: self._simulated(part))
        return judged(pd.DataFrame(rows))

    def write(self, table: pd.DataFrame) -> Path:
        """calibration.csv, in `folder`."""
        return disk.write_csv(self.folder / TABLE, table[COLUMNS])

    def _simulated(self, part: str) -> list[dict[str, Any]]:
        rng = np.random.default_rng([self.seed, zlib.crc32(part.encode())])  # whatever ran before it
        return [{"part": part} | outcome._asdict() for outcome in PARTS[part](self.n_simulations, rng)]


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with `actual`, its exact 95 % interval `low` to `high`, and `recommended` by RULE."""
    shares = [intervals.share_interval(row.hits, row.n_simulations) for row in rows.itertuples()]
    table = rows.assign(actual=0.0, low=0.0, high=0.0)
    table[["actual", "low", "high"]] = np.array([each.bounds for each in shares]).reshape(-1, 3) / 100
    table["recommended"] = [
        recommended(row.quantity, row.nominal, actual=row.actual, n_simulations=row.n_simulations)
        for row in table.itertuples()
    ]
    return table


def recommended(quantity: str, nominal: float, *, actual: float, n_simulations: int) -> str:
    """yes or no, by RULE; no where nothing was defined."""
    if n_simulations < 1:
        return "no"
    slack = TOLERANCE + 2 * math.sqrt(nominal * (1 - nominal) / n_simulations)
    if quantity == "coverage":
        return "yes" if actual >= nominal - slack else "no"
    is_idle = actual == 0 and n_simulations >= NEVER
    return "yes" if actual <= nominal + slack and not is_idle else "no"


def nulls_table() -> pd.DataFrame:
    """What each null is: columns null, truth."""
    return pd.DataFrame(NULLS.items(), columns=["null", "truth"])


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what size and coverage have in common: the share of studies in which a procedure errs.

    Columns nominal, actual, low, high become error rates, and `row` names procedure and quantity.
    """
    is_interval = table["quantity"] == "coverage"
    flipped = table[["nominal", "actual"]].where(~is_interval, 1 - table[["nominal", "actual"]])
    low = table["low"].where(~is_interval, 1 - table["high"])
    high = table["high"].where(~is_interval, 1 - table["low"])
    is_plain = is_interval & ~table["procedure"].str.contains("interval")
    kinds = np.where(is_plain, " (interval)", "")
    return table.assign(**flipped, low=low, high=high, row=table["procedure"] + kinds)


def drawn(table: pd.DataFrame, figure: str) -> pd.DataFrame:
    """`errors` of the parts of one of FIGURES."""
    parts, _ = FIGURES[figure]
    return errors(table[table["part"].isin(parts)]).reset_index(drop=True)


def caption(figure: str) -> str:
    """What one of FIGURES shows."""
    text = f"How often tests reject a true null, and intervals miss the truth: {FIGURES[figure][1]}. A row a "
    return f"{text}procedure, a dot a null, with its Monte Carlo interval; the stroke is what it says."


def remark(table: pd.DataFrame, *, procedure: str, quantity: str = "size") -> str:
    """How often one procedure errs under each null, in a sentence."""
    rows = table[(table["procedure"] == procedure) & (table["quantity"] == quantity)]
    verb = "rejects a true null in" if quantity == "size" else "holds the truth in"
    parts = [f"{row.actual:.1%} ({row.null})" for row in rows.itertuples()]
    nominal = f"{rows['nominal'].iloc[0]:.0%}"
    return f"**{procedure}** {verb} {', '.join(parts)} of studies; it says {nominal}."


def alt(table: pd.DataFrame) -> str:
    """Error rates (`errors`) in words: the lowest and highest of each procedure."""
    shares = table.groupby("row", sort=False)["actual"]
    parts = [f"{name}: {share.min():.3f} to {share.max():.3f}" for name, share in shares]
    return "Share of studies with an error. " + "; ".join(parts) + "."
