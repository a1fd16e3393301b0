"""What steps come to: equations, answers that follow, and where a solution goes wrong, on real texts."""

import pytest

from kdutils.data import sources
from kdutils.mini import items as mini_items
from kdutils.results import solution_steps
from kdutils.spec import EvalSpec, RunSpec


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He has 3 + 4 = 7 apples.", ["3 + 4 = 7"]),
        ("In total 150+150=300 miles\nSo he drove for 300/75=4 hours", ["150 + 150 = 300", "300 / 75 = 4"]),
        ("It costs 3*$2=$6, or 1,200 - 1,000 = 200 cents.", ["3 * 2 = 6", "1200 - 1000 = 200"]),
        ("2 + 3 * 4 = 14 and 3 x 4 = 12 and 9 ÷ 3 = 3", ["2 + 3 * 4 = 14", "3 * 4 = 12", "9 / 3 = 3"]),
        ("Let 6 * x = 36, so x is 36 / 6 = 6.", ["36 / 6 = 6"]),  # with an unknown: no step
        ("Let x + 3 * 4 = 20", []),  # a side goes on
        ("15 - (-13) = 28", []),
        ("3 * 4 = 10 + 2 = 12", ["10 + 2 = 12"]),
        ("so now there are 21 - 34 = -13 roses", ["21 - 34 = -13"]),
        ("no equation, 5 books", []),
        ("100 * 20% = 20", ["100 * 0.2 = 20"]),
        ("12.5% × 80 = 10", ["0.125 * 80 = 10"]),
        ("(30 - 20) / 20 * 100 = 50%, 20% + 30% = 50%", ["20 + 30 = 50"]),  # of one whole: percents stay
    ],
)  # fmt: skip
def test_steps_of_a_text(text, found):
    assert [written(step) for step in solution_steps.steps(text)] == found


def written(step):
    rest = (f" {sign} {number:g}" for sign, number in zip(step.signs, step.numbers[1:], strict=True))
    return f"{step.numbers[0]:g}{''.join(rest)} = {step.result:g}"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("24 + 10 = 34", True),
        ("24 + 10 = 36", False),
        ("2 + 3 * 4 = 14", True),
        ("2 + 3 * 4 = 20", False),
        ("10 / 3 = 3.33", True),
        ("10 / 3 = 3.43", False),
        ("10 / 4 = 2", False),
        ("5 / 0 = 0", False),
    ],
)
def test_a_step_is_right_if_its_result_is(text, right):
    assert solution_steps.steps(text)[0].is_right is right


@pytest.mark.parametrize(
    ("text", "follows", "n_right"),
    [
        ("Paul has 34 - 17 = 17 dollars left. The answer is 17.", True, 1),
        ("Paul has 34 - 17 = 19 dollars left. The answer is 19.", True, 0),  # a wrong step, and it follows
        ("Lily has 33 - 19 = 14 dollars left. The answer is 2.", False, 1),
        ("Lee has 30 - 6 = 24 coins. In each bag are 24 / 6 = 4 coins. The answer is 4.", True, 2),
        ("Omar has 40 - 9 = 30 shells in all.", None, 0),  # states no answer
        ("The answer is 5.", None, 0),  # computes nothing
        ("He earned 16 + 74 = 90 dollars. The answer is: 90.0", True, 1),
        ("They hold 6 * 6 = 36. The answer is C.", None, 1),
    ],
)
def test_an_answer_follows_from_the_last_step(text, follows, n_right):
    found = solution_steps.read(text)
    assert found.follows is follows
    assert found.n_right_steps == n_right


QUESTION = "Nina has 38 coins and 12 pens. Omar gives Nina 5 more coins. How many coins does Nina have now?"
GOLD = "Nina has 38 + 5 = 43 coins now. The answer is 43."
TWO = "Marco has 30 pens. He puts them equally into 5 bags and gets 2 more in each. How many are in a bag?"
TWO_GOLD = "In a bag are 30 / 5 = 6 pens. Then there are 6 + 2 = 8 pens. The answer is 8."


@pytest.mark.parametrize(
    ("text", "parsed", "expected"),
    [
        (GOLD, "43", "right"),
        ("No step at all. The answer is 43.", "43", "right"),
        ("Nina has", None, "cut"),
        ("The answer is 40.", "40", "no_step"),
        ("Nina has 38 + 5 = 43 coins now. The answer is 45.", "45", "not_followed"),
        ("Nina has 38 + 5 = 44 coins now. The answer is 44.", "44", "arithmetic"),
        ("Nina has 5 + 38 = 44 coins now. The answer is 44.", "44", "arithmetic"),  # any order
        ("Nina has 38 - 5 = 33 coins now. The answer is 33.", "33", "operation"),
        ("Nina has 38 + 12 = 50 coins now. The answer is 50.", "50", "irrelevant"),
        ("Nina has 38 + 6 = 44 coins now. The answer is 44.", "44", "foreign"),
        ("She has 38 + 5 = 43 coins. Then 43 + 5 = 48 coins. The answer is 48.", "48", "other"),
    ],
)
def test_categories_of_one_step(text, parsed, expected):
    known = {"correct": parsed == "43", "truncated": False, "question": QUESTION, "rationale": GOLD}
    assert solution_steps.category(text, parsed=parsed, **known) == expected


@pytest.mark.parametrize(
    ("text", "parsed", "expected"),
    [
        ("In a bag are 30 / 5 = 7 pens. Then there are 7 + 2 = 9 pens. The answer is 9.", "9", "arithmetic"),
        ("In a bag are 30 / 5 = 6 pens. Then there are 6 - 2 = 4 pens. The answer is 4.", "4", "operation"),
        ("In a bag are 30 / 5 = 6 pens. The answer is 6.", "6", "other"),
        ("In a bag are 5 / 30 = 6 pens. Then there are 6 + 2 = 9 pens. The answer is 9.", "9", "operation"),
    ],
)
def test_a_slip_is_counted_once(text, parsed, expected):
    known = {"correct": False, "truncated": False, "question": TWO, "rationale": TWO_GOLD}
    assert solution_steps.category(text, parsed=parsed, **known) == expected


def test_a_text_that_was_cut_is_no_attempt_and_gold_is_needed():
    known = {"parsed": "38", "correct": False, "question": QUESTION}
    assert solution_steps.category("Nina has 38 + 5 =", truncated=True, rationale=GOLD, **known) == "cut"
    assert solution_steps.category(GOLD, truncated=False, rationale="", **known) == solution_steps.NO_GOLD


def test_solutions_of_the_mini_world_follow_and_are_right():
    for item in mini_items.build_data(split="test", n_per_task=40, domain="math"):
        found = solution_steps.read(item.rationale)
        assert found.n_right_steps == found.n_steps > 0
        assert found.follows is (None if item.task == "aqua" else True)


def test_most_solutions_of_real_svamp_items_can_be_compared_with(benchmark_files):
    spec = sources.resolved(
        RunSpec(student="Qwen/Qwen2.5-0.5B", method="sft", domain="math", data="benchmark")
    )
    items = sources.test_items(spec, EvalSpec(tasks=("svamp",), items_per_task=250))
    read = [solution_steps.read(item.rationale) for item in items if item.rationale]
    assert len(read) > 150
    assert sum(found.n_steps > 0 for found in read) > 0.9 * len(read)
    right = sum(found.n_right_steps for found in read) / sum(found.n_steps for found in read)
    assert right > 0.95
