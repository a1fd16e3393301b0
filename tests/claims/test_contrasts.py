"""A contrast has the verdict that its declaration says, and goes into the ledger like a claim."""

import pytest

from kdutils.claims import answer_sheet, contrasts
from kdutils.inference.estimate import Estimate
from kdutils.report import ledger

OWN = {"id": "X1", "section": "12", "statement": "it rises", "margin": 1.0, "unit": "points"}
OWN |= {"seen_before": "nothing"}


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("above", 1.1, 3.0, "reproduced"),
        ("above", 0.2, 3.0, "inconclusive"),  # above zero, and not for sure of interest
        ("above", -0.5, 0.9, "not_reproduced"),  # for sure of no interest
        ("above", -3.0, -0.1, "not_reproduced"),
        ("above", -3.0, 3.0, "inconclusive"),
        ("below", -3.0, -1.1, "reproduced"),
        ("below", -3.0, -0.2, "inconclusive"),
        ("below", 0.1, 3.0, "not_reproduced"),
        ("within", -0.9, 0.9, "reproduced"),
        ("within", 1.1, 3.0, "not_reproduced"),
        ("within", 0.5, 3.0, "inconclusive"),
        ("within", float("nan"), float("nan"), "not_testable"),
    ],
)
def test_the_interval_decides(expected, low, high, verdict):
    contrast = contrasts.Contrast(expected=expected, **OWN)
    assert contrast.verdict(Estimate((low + high) / 2, low, high)) == verdict


def test_contrasts_are_rows_of_the_ledger_and_a_reason_stands_for_a_value():
    asked = contrasts.contrasts_of("12")
    values = {each.id: Estimate(3.0, 2.0, 4.0, n=50) for each in asked} | {"H4": "one model alone"}
    rows = contrasts.judge("12", values)
    assert list(ledger.checked_claims(rows))[0] == ("H1", "live", "careful", None, "strict")
    by_id = {row["id"]: row for row in rows}
    assert by_id["H1"]["reason"] == "expected above +1 points; +3.00 [+2.00, +4.00], n = 50"
    assert (by_id["H4"]["verdict"], by_id["H4"]["estimate"]) == ("not_testable", None)
    assert by_id["H4"]["reason"].endswith("one model alone")
    with pytest.raises(ValueError, match="has the contrasts"):
        contrasts.judge("12", {"H1": "nothing"})


def test_a_value_is_shown_whole_beside_what_was_expected_of_it():
    asked = contrasts.contrasts_of("13")
    rows = contrasts.judge("13", {each.id: Estimate(-0.1, -0.3, 0.1, n=50) for each in asked})
    (tau,) = (row for row in rows if row["id"] == "G2")
    assert tau["reason"] == "expected below 0.8 in tau; +0.70 [+0.50, +0.90], n = 50"
    assert answer_sheet.answer(tau) == "0.70 [0.50, 0.90]: inconclusive"


@pytest.mark.parametrize(
    ("unit", "margin", "rule"),
    [
        ("of Kendall's tau", 0.5, "below -0.5 in Kendall's tau"),
        ("% of the pairs", 0.0, "below 0 (% of the pairs)"),
        ("octaves, less 1", 0.0, "below 1 octaves"),
        ("nats a token, less 0.01", 0.005, "below 0.005 nats a token"),
    ],
)
def test_what_is_expected_is_said_in_words(unit, margin, rule):
    own = OWN | {"unit": unit, "margin": margin}
    assert contrasts.Contrast(expected="below", **own).rule == rule


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ((0.0014, -0.004, 0.006), "0.001 [-0.004, 0.006]"),
        ((0.0014, -0.2, 0.006), "0.00 [-0.20, 0.01]"),
        ((12.3456, None, None), "12.35"),
        ((None, None, None), "—"),
    ],
)
def test_a_value_of_thousandths_keeps_a_digit_that_says_something(bounds, text):
    row = dict(zip(("estimate", "ci_low", "ci_high"), bounds, strict=True))
    assert answer_sheet.estimate_text(row) == text
