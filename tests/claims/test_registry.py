"""Every claim is declared whole."""

import dataclasses
import inspect

from kdutils.claims import claims

WHOLE = """
[rules.default]
inconclusive = "c"

[rules.loss_and_size]
authors = "p"
unit = "student"
procedure = "t"
scale = "points"
margin = "none"
reproduced = "a"
not_reproduced = "b"
not_testable = "d"

[claims.07.P3]
statement = "It does."
rule = "loss_and_size"
question = "Does it?"
arguments = { temperature = 5.0 }
"""


def read(tmp_path, text):
    path = tmp_path / "claims.toml"
    path.write_text(text)
    return claims.read(path)


def test_every_rule_judges_a_claim_and_every_question_is_one():
    assert {claim.rule for claim in claims.CLAIMS} == set(claims.RULES)
    assert len({claim.id for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    for claim in claims.CLAIMS:
        assert bool(claim.items) == bool(claim.rules.items)
        assert claim.question.endswith("?")
        assert "{" not in claim.question + claim.statement


def test_every_claim_says_all_and_has_the_arguments_of_its_rules():
    fields = dataclasses.fields(claims.Claim)
    needed = [each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING]
    for claim in claims.CLAIMS:
        assert all(getattr(claim, name) for name in needed), claim
        taken = {"evidence", "rng"}
        for rule in filter(None, claim.rules):
            parameters = inspect.signature(rule).parameters.values()
            lacking = {each.name for each in parameters if each.default is each.empty} - set(claim.arguments)
            assert lacking <= {"evidence", "rng"}, claim
            taken |= {each.name for each in parameters}
        assert set(claim.arguments) <= taken, claim


def test_margins_that_are_used_are_those_that_are_said():
    for claim in claims.CLAIMS:
        if "margin" in claim.arguments and claim.id != "P1":  # which says it in words: half of the tasks
            assert f"{claim.arguments['margin']:g}" in claim.margin, claim.id


def test_a_claim_may_say_a_verdict_in_its_own_words(tmp_path):
    (found,) = read(tmp_path, WHOLE + 'reproduced = "mine"\n')
    assert (found.id, found.section, found.arguments) == ("P3", "07", {"temperature": 5.0})
    assert (found.reproduced, found.not_reproduced, found.inconclusive) == ("mine", "b", "c")


def test_a_section_is_shown_alone():
    table = claims.declarations("03")
    assert table["id"].tolist() == ["T1", "T2", "T3"]
    of_tasks = [claim.id for claim in claims.CLAIMS if claim.id.startswith("S3.")]
    assert len(claims.declarations()) == len(claims.CLAIMS) - len(of_tasks) + 1


def test_what_is_asked_of_each_task_is_one_row_and_anything_else_its_own():
    table = claims.declarations("02").set_index("id")
    s1, s2, s3 = table.index
    assert (s1, s2) == ("S1", "S2")
    assert s3.startswith("S3: aqua, addsub, ") and s3.count(",") == 13
    assert (
        table.loc[s3, "question"]
        == "Does the gain on this task fall with size, beyond what headroom explains?"
    )
    changed = [
        dataclasses.replace(claim, margin="another") if claim.id == "S3.svamp" else claim
        for claim in claims.CLAIMS
    ]
    assert len(claims.declarations("02", changed)) == 4
