"""The declaration of the stricter analysis is whole, and a damaged one is refused by name."""

import dataclasses

import pytest

from kdutils.claims import claims, declared, strict

SECTIONS = {claim.id: claim.section for claim in claims.CLAIMS}
ONE = {"E1": "01"}
WHOLE = """
[tests.t]
unit = "student"
procedure = "t"
scale = "points"
margin = "none"
reproduced = "a"
not_reproduced = "b"
inconclusive = "c"
not_testable = "d"

[claims.E1]
family = "01"
test = "t"
question = "Does it?"
"""


def read(tmp_path, text):
    path = tmp_path / "declared.toml"
    path.write_text(text)
    return declared.read(ONE, path)


def test_every_claim_is_declared_and_every_test_has_a_judge():
    found = declared.read(SECTIONS)
    assert list(found) == list(SECTIONS)
    assert {one.test for one in found.values()} == set(strict.JUDGES)
    for claim, one in found.items():
        assert one.family == SECTIONS[claim]
        assert one.question.endswith("?")


def test_margins_that_are_used_are_those_that_are_said():
    for claim, one in declared.read(SECTIONS).items():
        if "margin" in one.arguments and claim != "P1":  # which says it in words: half of the tasks
            assert f"{one.arguments['margin']:g}" in one.margin, claim


def test_a_claim_may_say_a_verdict_in_its_own_words(tmp_path):
    found = read(tmp_path, WHOLE + 'reproduced = "mine"\n')["E1"]
    assert (found.reproduced, found.not_reproduced, dict(found.arguments)) == ("mine", "b", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WHOLE + '[claims.E9]\ntest = "t"', "unknown claim 'E9'"),
        (WHOLE.split("[claims")[0], "declares nothing for claim 'E1'"),
        (WHOLE.replace('test = "t"', 'test = "u"'), "'E1' has unknown test 'u'"),
        (WHOLE.replace('margin = "none"', ""), "'E1' lacks 'margin'"),
        (WHOLE.replace('question = "Does it?"', 'question = ""'), "'E1' lacks 'question'"),
        (WHOLE + "colour = 1", "'E1' has unknown field 'colour'"),
        (WHOLE.replace('family = "01"', 'family = "02"'), "'E1' has family '02'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(declared.DeclarationError, match=message):
        read(tmp_path, text)


def test_a_section_is_shown_alone():
    table = declared.table(claims.DECLARED, "03")
    assert table["id"].tolist() == ["T1", "T2", "T3"]
    of_tasks = [claim.id for claim in claims.CLAIMS if claim.id.startswith("S3.")]
    assert len(declared.table(claims.DECLARED)) == len(claims.CLAIMS) - len(of_tasks) + 1


def test_what_is_asked_of_each_task_is_one_row_and_anything_else_its_own():
    table = declared.table(claims.DECLARED, "02").set_index("id")
    s1, s2, s3 = table.index
    assert (s1, s2) == ("S1", "S2")
    assert s3.startswith("S3: aqua, addsub, ") and s3.count(",") == 13
    assert (
        table.loc[s3, "question"]
        == "Does the gain on this task fall with size, beyond what headroom explains?"
    )
    changed = dict(claims.DECLARED)
    changed["S3.svamp"] = dataclasses.replace(changed["S3.svamp"], margin="another")
    assert len(declared.table(changed, "02")) == 4
