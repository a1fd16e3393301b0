"""How an estimate is written."""

import math

from kdutils.inference.estimate import Estimate


def test_an_estimate_is_written_with_its_interval():
    found = Estimate(1.25, -0.34, 2.08, p_value=0.2, n=7)
    assert found.text() == "+1.2 [-0.3, +2.1]"
    assert found.text(2, signed=False, unit=" %") == "1.25 [-0.34, 2.08] %"
    assert str(found) == found.text(2)
    assert found.bounds == (1.25, -0.34, 2.08)


def test_what_is_undefined_says_why():
    assert Estimate(1.0, reason="one item").text(unit=" points") == "+1.0 points"
    assert Estimate(math.nan, reason="no item").text() == "undefined (no item)"
    assert Estimate(math.nan).text() == "undefined"
