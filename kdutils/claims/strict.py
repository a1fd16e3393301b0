"""The stricter analysis: each claim by the test that `declared.toml` names, p values corrected by Holm.

A claim is reproduced where p after Holm is below 0.05 and all else holds that was declared; not reproduced
where its opposite is shown; inconclusive between, which is what few students often come to. Holm counts the
claims of the section that have a p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdutils.claims import strict_gains, strict_links, strict_sweeps
from kdutils.claims.declared import Declared
from kdutils.claims.evidence import (
    ALPHA,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Evidence,
    Finding,
)
from kdutils.claims.student_units import Case
from kdutils.inference import student_tests

SEED = 20_261_126  # of simulations and of permutations that cannot be counted out
JUDGES: Mapping[str, Callable[..., Case]] = {  # by the names of declared.toml
    "gain_of_students": strict_gains.gain_of_students,
    "largest_gain": strict_gains.largest_gain,
    "largest_student": strict_gains.gain_of_largest_student,
    "methods_alike": strict_gains.methods_alike,
    "size_effect": strict_gains.size_effect,
    "better_teacher": strict_links.better_teacher,
    "untuned_teacher": strict_links.untuned_teacher,
    "likeness_rise": strict_links.likeness_rise,
    "likeness_and_gain": strict_links.likeness_and_gain,
    "agreement_as_printed": strict_links.agreement_as_printed,
    "feeble_link": strict_links.feeble_link,
    "little_loss": strict_sweeps.little_loss,
    "collapse": strict_sweeps.collapse,
    "best_temperature": strict_sweeps.best_temperature,
    "severe_loss": strict_sweeps.severe_loss,
    "loss_and_size": strict_sweeps.loss_and_size,
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A finding of the stricter analysis, and what the ledger has no column for."""

    finding: Finding  # its p is the corrected one
    raw_p: float
    minimum_detectable: float


def judge(evidence: Evidence, declarations: Mapping[str, Declared]) -> dict[str, Judged]:
    """Claim id -> what the stricter analysis says, of whole sections: Holm needs all of one.

    Random numbers are those of the claim, whichever others are asked for.
    """
    cases = {claim: _case(evidence, claim, one) for claim, one in declarations.items()}
    p_values = pd.Series({claim: case.p_value for claim, case in cases.items()}, dtype=float)
    families = pd.Series({claim: one.family for claim, one in declarations.items()}, dtype=object)
    corrected = p_values.groupby(families, sort=False).transform(student_tests.holm)
    return {claim: _judged(case, float(corrected[claim])) for claim, case in cases.items()}


def _case(evidence: Evidence, claim: str, declared: Declared) -> Case:
    rng = np.random.default_rng([SEED, *claim.encode()])
    return JUDGES[declared.test](evidence, rng=rng, **declared.arguments)


def _judged(case: Case, corrected: float) -> Judged:
    if case.is_undefined:
        finding = Finding(verdict=NOT_TESTABLE, reason=case.reason)
        return Judged(finding=finding, raw_p=math.nan, minimum_detectable=math.nan)
    is_shown = case.by_interval or corrected < ALPHA
    verdict = REPRODUCED if is_shown and case.holds else INCONCLUSIVE
    if case.is_against:
        verdict = NOT_REPRODUCED
    reason = case.reason
    if not case.by_interval:
        reason += f"; p = {case.p_value:.2g}, {corrected:.2g} after Holm"
    if verdict == INCONCLUSIVE and not math.isnan(case.minimum_detectable):
        reason += f"; detectable in 80 % of such studies: {case.minimum_detectable:.2g}"
    finding = Finding(
        verdict=verdict,
        reason=reason,
        estimate=case.estimate,
        ci_low=case.low,
        ci_high=case.high,
        p_value=corrected,
        n=case.n,
    )
    return Judged(finding=finding, raw_p=case.p_value, minimum_detectable=case.minimum_detectable)


def without_correction(finding: Finding) -> Judged:
    """A finding that intervals over items decide, which have no p to be corrected."""
    return Judged(finding=finding, raw_p=finding.p_value, minimum_detectable=math.nan)
