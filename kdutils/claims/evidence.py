"""What a rule looks at and what it gives: evidence in, a finding with its verdict out."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import pandas as pd

from kdutils.constants import AVERAGE, DOMAINS, METHOD_NAMES, TASK_LABELS, is_text
from kdutils.grid import cell_table as cell_rows
from kdutils.grid.study import place_of
from kdutils.inference import size_effects
from kdutils.inference.estimate import Estimate
from kdutils.results import authors_tests, gain_tables, sweeps
from kdutils.results.item_gains import Items

ALPHA = 0.05
REPRODUCED, NOT_REPRODUCED = "reproduced", "not_reproduced"
INCONCLUSIVE, NOT_TESTABLE = "inconclusive", "not_testable"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTABLE)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule finds on a claim: an estimate in the claim's unit, its interval, p and n, the verdict."""

    verdict: str
    reason: str
    estimate: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    p_value: float = math.nan  # of the stricter analysis that after Holm
    n: int | None = None
    raw_p: float = math.nan  # of the stricter analysis, before Holm
    minimum_detectable: float = math.nan  # in the claim's unit, found in 80 % of such studies, before Holm

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is not one of {list(VERDICTS)}")


class NotTestableError(Exception):
    """The results lack what a claim is about; the message is the reason in the ledger."""


def lacking(what: str) -> NotTestableError:
    """To be raised where the results have no such thing."""
    return NotTestableError(f"there are no {what} in these results")


def present(table, what: str):
    """The table or column itself.

    Raises:
        NotTestableError: if it is empty: the results have no such thing.
    """
    if table.empty:
        raise lacking(what)
    return table


def finding(interval: Estimate, **fields) -> Finding:
    """A finding whose estimate, bounds and n are those of an interval."""
    bounds = {"estimate": interval.value, "ci_low": interval.low, "ci_high": interval.high}
    return Finding(**{"n": interval.n} | bounds | fields)


def decide(is_so: bool, is_not: bool | None = None) -> str:
    """reproduced if `is_so`, else not_reproduced if `is_not` (by default always), else inconclusive."""
    if is_so:
        return REPRODUCED
    return NOT_REPRODUCED if is_not or is_not is None else INCONCLUSIVE


class Rules(NamedTuple):
    """The functions that judge a kind of claim, called with the evidence and the claim's arguments.

    A function gets those arguments that it has parameters for. Without `items` a claim is about several pairs
    and cannot be tested on one.
    """

    authors: Callable[..., Finding]  # as the authors did
    stricter: Callable  # students as units, gives a students.Case; may take `rng`
    items: Callable[..., Finding] | None = None  # the stricter analysis of one live pair, over its items


@dataclass(frozen=True)
class Evidence:
    """Cells of one source, protocol and decoding, and what the authors' analysis makes of them."""

    source: str  # published | live
    protocol: str  # paper | careful
    all_cells: pd.DataFrame
    items: Items | None = None  # of the one live pair there is (item_gains.read)
    selection: str = "best_on_test"  # which temperature stands for a method; this is the authors' rule
    of_gains: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # what else is done to gains (sensitivity)
    is_altered: bool = False  # whether a choice was made otherwise than the authors did
    _tests: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)  # each run once

    @property
    def decoding(self) -> str:
        """`greedy` or `sampled`: how the texts behind the cells were written."""
        return self.all_cells["decoding"].iloc[0]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Those of the 14 reasoning tasks: instruction following has another unit (ROUGE-L)."""
        return self.all_cells[self.all_cells["domain"].isin(DOMAINS)]

    @property
    def domains(self) -> list[str]:
        """All whose tasks have right answers, with those of a study file."""
        has_answers = ~self.all_cells["task"].map(is_text).astype(bool) & (self.all_cells["task"] != AVERAGE)
        return sorted({*self.all_cells.loc[has_answers, "domain"]}, key=place_of)

    @cached_property
    def gains(self) -> pd.DataFrame:
        """On the reasoning tasks, under the selection of the temperature."""
        return self._gains(self.cells)

    def _gains(self, cells: pd.DataFrame) -> pd.DataFrame:
        gains = gain_tables.gains(cells, selection=self.selection)
        return gains if self.of_gains is None else self.of_gains(gains)

    @cached_property
    def plain_gains(self) -> pd.DataFrame:
        """In every domain at temperature 1, where nothing is picked on test items: points and log odds.

        With `n_items` of the task and `logit_gain`, NaN in instruction following: ROUGE-L is no share.
        """
        gains = gain_tables.gains(self.all_cells, selection="temperature_1")
        n_items = self.all_cells.groupby(["domain", "task"])["n"].max()
        where = pd.MultiIndex.from_frame(gains[["domain", "task"]])
        gains["n_items"] = n_items.reindex(where).to_numpy(float)
        items = gains["n_items"].where(gains["domain"].isin(self.domains), 0)
        gains["logit_gain"] = size_effects.logit_gain(gains["accuracy"], gains["sft_accuracy"], items)
        return gains

    @cached_property
    def temperature_runs(self) -> pd.DataFrame:
        """sweeps.temperature_runs of the cells."""
        return sweeps.temperature_runs(self.cells)

    @cached_property
    def noise_losses(self) -> pd.DataFrame:
        """sweeps.noise_losses of the cells."""
        return sweeps.noise_losses(sweeps.noise_runs(self.cells))

    def average_gains(self, domain: str) -> pd.DataFrame:
        """Gains on the average of a domain."""
        is_asked = self.all_cells["domain"] == domain
        gains = self.gains if domain in DOMAINS else self._gains(self.all_cells[is_asked])
        return gains[(gains["domain"] == domain) & (gains["task"] == AVERAGE)].dropna(subset=["gain"])

    @property
    def can_equal_print(self) -> bool:
        """Whether a value can be the printed one to the digit: released, and analysed as the authors did."""
        return self.source == "published" and not self.is_altered

    @cached_property
    def one_pair(self) -> str:
        """The only pair of live results in words; "" if there are several, or none."""
        kd = self.all_cells[self.all_cells["teacher"] != ""]
        is_one = self.source == "live" and gain_tables.n_pairs(kd) == 1
        return gain_tables.pair_label(kd).iloc[0] if is_one else ""

    @property
    def is_model_world(self) -> bool:
        """Whether these are results of the mini family."""
        return cell_rows.is_model_world(self.all_cells)

    @cached_property
    def contaminated(self) -> set[str]:
        """Tasks whose test questions occur in the training set of these cells."""
        return set(self.cells.loc[cell_rows.has_flag(self.cells, "contaminated"), "task"])

    def of(self, test: str, **where: str) -> pd.DataFrame:
        """Rows of one of the authors' tests for all methods together, where the columns have these values."""
        if test not in self._tests:
            self._tests[test] = authors_tests.authors_tests(self.gains, tests=[test], alone=False)
        table = self._tests[test]
        for column, value in where.items():
            table = table[table[column] == value]
        return table

    def on_tasks(self, test: str, domains: Iterable[str]) -> pd.DataFrame:
        """Defined rows of one of the authors' tests on single tasks, math before commonsense."""
        table = self.of(test)
        table = table[table["domain"].isin(domains) & (table["task"] != AVERAGE)].dropna(subset=["statistic"])
        return gain_tables.in_domain_order(present(table, "tasks with this correlation"))


def named(values: Mapping[str, float] | pd.Series, form: str) -> str:
    """`math 1.2, commonsense 0.3`, of values by name, each in this format."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def who(row: pd.Series) -> str:
    """The run behind a row of gains, in words."""
    pair = f"{row['teacher']} to {row['student']}"
    return f"{pair}, {METHOD_NAMES[row['method']]}, {TASK_LABELS[row['task']]} ({row['domain']})"
