"""Claims under each way of asking: like with like, and what a label cannot answer is not asked of it."""

import pandas as pd
import pytest
from itemrows import arm, cells, scored

from kdutils.claims import claims, ways_of_asking
from kdutils.claims.evidence import Evidence
from kdutils.results import authors_tables, label_cells


def of(task, domain, kd, **columns):
    rows = scored((arm("sft"), {task: [1, 0] * 50}), (arm("fkl"), {task: kd}))
    return cells(rows.assign(domain=domain), agreement=60.0, agreement_sft=50.0, **columns)


def evidence(decoding, *parts):
    own = pd.concat(parts, ignore_index=True).assign(decoding=decoding)
    other = own[own["method"] != "sft"].assign(student="Qwen2.5-3B", student_parameters=3_000_000_000)
    sft = own[own["method"] == "sft"].assign(student="Qwen2.5-3B", student_parameters=3_000_000_000)
    return Evidence("live", "careful", pd.concat([own, other, sft], ignore_index=True))


def test_a_verdict_is_that_of_commonsense_under_every_way_and_math_is_not_asked_of_labels():
    better, worse = [1] * 70 + [0] * 30, [1] * 30 + [0] * 70
    texts = evidence("greedy", of("svamp", "math", worse), of("piqa", "commonsense", better))
    labels = evidence("label", of("piqa", "commonsense", worse))
    judged = ways_of_asking.judgements([texts, labels])
    long = ways_of_asking.table(judged)
    assert set(long["id"]) == set(ways_of_asking.MOVABLE)
    authors = long[long["analysis"] == "authors"].set_index(["id", "choice"])
    assert authors.loc[("E1", "label"), "bears"] == False  # noqa: E712, the value of a table
    assert authors.loc[("E1", "greedy"), "estimate"] == pytest.approx(-20)
    assert authors.loc[("E2", "greedy"), "estimate"] == pytest.approx(20)
    assert authors.loc[("A1", "greedy"), "estimate"] == authors.loc[("A1", "label"), "estimate"] == 10
    changing = ways_of_asking.changing(long).set_index(["analysis", "ways"])
    assert set(changing.index.unique("ways")) == {"every way", "greedy against label"}
    found = changing.loc[("authors", "every way")]
    assert (found["judged"], found["differ"]) == (2, 1)  # E2 and A1: there is one method
    assert found["verdicts"] == "E2: greedy inconclusive, label not reproduced"
    assert {row["decoding"] for row in claims.ledger_rows(judged)} == {"greedy", "label"}
    assert "label" in label_cells.WAYS


def test_p_of_a_claim_about_math_is_corrected_with_those_about_commonsense_as_in_the_ledger():
    (released,) = claims.evidence_of(authors_tables.cells())
    (asked,) = ways_of_asking.judgements([released])
    ledger = claims.judged(released, claims.claims_of("01"))
    for claim in ("E1", "E7"):
        assert asked.stricter[claim] == ledger.stricter[claim] and ledger.stricter[claim].p_value > 0


def test_a_study_of_other_domains_is_asked_nothing():
    other = evidence("greedy", of("piqa", "legs", [1, 0] * 50))
    (asked,) = ways_of_asking.judgements([other])
    assert asked.authors == asked.stricter == {}
