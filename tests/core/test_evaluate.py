"""Reading answers, and comparing two models: by hand, and against other code."""

import math

import numpy as np
import pandas as pd
import pytest
import sacrebleu
import scipy.stats
from sklearn.metrics import cohen_kappa_score

from kdutils.constants import ALL_TASKS
from kdutils.data import evaluate, options
from kdutils.data.answers import parse_robust
from kdutils.items import Item
from kdutils.runs import comparison


@pytest.mark.parametrize(
    ("task", "text", "lenient", "strict"),
    [
        ("gsm8k", "He has 3 + 4 = 7 apples. The answer is 7.", "7.", "7"),
        ("gsm8k", "The answer is 1,200.", "1200.", "1200"),
        ("gsm8k", "The answer is -2.5", "-2.5", "-2.5"),
        ("gsm8k", "It is 5 of 10", "10", None),
        ("gsm8k", "no number", None, None),
        ("gsm8k", "The answer is 7. Next question: 9", "9", None),
        ("aqua", "A car drives 3 miles. The answer is C.", "A", "C"),
        ("aqua", "so the answer is (B)", "B", "B"),
        ("aqua", "unknown", None, None),
        ("boolq", "the correct answer is true", "true", "true"),
        ("boolq", "false, not true", "false", None),
        ("arc_c", "the correct answer is answer5", "answer5", "answer5"),
        ("piqa", "the correct answer is solution2.", "solution2", "solution2"),
        ("piqa", "the correct answer is solution3", None, None),
        ("piqa", "Wood floats. the correct answer is solution2", "solution2", None),
        ("winogrande", "option2 option1", "option2", None),
        ("dolly", " a text ", "a text", "a text"),
        ("dolly", " ", None, None),
    ],
)
def test_answers_are_read_as_the_authors_do_and_strictly(task, text, lenient, strict):
    assert evaluate.parse(task, text) == lenient
    assert evaluate.parse_strict(task, text) == strict


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("gsm8k", "The total is $1,234.50.", "1234.5"),
        ("gsm8k", "The answer is \u22125", "-5"),
        ("gsm8k", "The answer is 1/2", "0.5"),
        ("gsm8k", "So that is 50%.", "50"),
        ("gsm8k", "Therefore \\boxed{72}", "72"),
        ("gsm8k", "The answer is \\boxed{9{,}500}", "9500"),
        ("gsm8k", "\\boxed{\\frac{1}{2}}, from 2 of 4", "0.5"),
        ("gsm8k", "\\(\\boxed{\\text{-3 }}\\)", "-3"),
        ("gsm8k", "#### 72", "72"),
        ("gsm8k", "So it is 3-5", "5"),
        ("gsm8k", "-1 1/2", "-1.5"),
        ("gsm8k", "**Answer:** $5\u00bd dollars", "5.5"),
        ("gsm8k", "She has .5 left", "0.5"),
        ("gsm8k", "The answer is 3 + 4 = 7. We checked: 8 = 8", "7"),
        ("gsm8k", "The answer is 12 of the 20 apples", "12"),
        ("gsm8k", "in 2020 500 people came", "500"),
        ("gsm8k", "no number", None),
        ("gsm8k", "\\boxed{-\\frac{\\text{1}}{2}}", "-0.5"),
        ("gsm8k", "so 7*2, 14", "14"),
        ("gsm8k", "Answer: 7*2 = 14", "14"),
        ("gsm8k", "it is 7*2", "2"),
        ("gsm8k", "The area is \\(18 \\text{ m}^2\\), or 18 m^{2}", "18"),
        ("gsm8k", "<think>The answer is 5? No.</think>\nTom has 6 apples.", "6"),
        ("gsm8k", "It takes 2 hours.\nShe earned **\\$10** for 50 minutes.", "10"),
        ("gsm8k", "She eats **3** eggs. So she sells 16 - 3 = 13.", "13"),
        ("gsm8k", "**1.** 18", "18"),
        ("gsm8k", "The answer is 18, because 2x = 36.", "18"),
        ("gsm8k", "The answer is 18 (since 2x = 36).", "18"),
        ("gsm8k", "The answer is 18, as 2x = 36.", "18"),
        ("gsm8k", "The answer is \\boxed{\\frac34}", "0.75"),
        ("gsm8k", "The answer will be 18, of 20", "18"),
        ("aqua", "Option A is correct, not C", "A"),
        ("aqua", "Option A is incorrect. (B) is the correct answer. Option C is not.", "B"),
        ("aqua", "It is (C), from B's share", "C"),
        ("aqua", "**c**", "C"),
        ("aqua", "The answer is b) 12", "B"),
        ("winogrande", "Option 1 is correct, because option2 does not fit", "option1"),
        ("aqua", "Based on this, the answer is C", "C"),
        ("aqua", "the answer is option B because A is wrong", "B"),
        ("aqua", "**Answer:** (d)", "D"),
        ("aqua", "\\boxed{\\text{D}}", "D"),
        ("aqua", "A train leaves", None),
        ("boolq", "the correct answer is True", "true"),
        ("boolq", "It is FALSE.", "false"),
        ("arc_e", "the correct answer is answer12", None),
        ("arc_e", "the correct answer is Answer 2, not answer1", "answer2"),
        ("dolly", " a text ", "a text"),
    ],
)
def test_the_robust_reading_finds_the_answer_however_it_is_written(task, text, answer):
    found = parse_robust(task, text)
    assert found is None if answer is None else evaluate.is_correct(task, found, answer)


@pytest.mark.parametrize(
    ("task", "parsed", "answer", "right"),
    [
        ("svamp", "7.", "7", True),
        ("svamp", "7.0005", "7", True),
        ("svamp", "7.002", "7", False),
        ("svamp", None, "7", False),
        ("svamp", "0.8333", "0.8333333333333334", True),
        ("aqua", "A", "A", True),
        ("aqua", "A", "B", False),
        ("obqa", "answer1", "answer1", True),
        ("dolly", "the cat sat", "the cat sat down", True),
        ("dolly", "dogs", "the cat sat down", False),
    ],
)
def test_right_or_wrong(task, parsed, answer, right):
    assert evaluate.is_correct(task, parsed, answer) is right


def test_every_task_can_be_read():
    for task in ALL_TASKS:
        text = "anything 1 (A) true answer1 solution1 ending1 option1"
        assert all(read(task, text) for read in (evaluate.parse, parse_robust))
        assert 0 <= comparison.chance_accuracy(task) <= 50


def rows(correct, texts=None, parsed=None, task="obqa"):
    n = len(correct)
    return pd.DataFrame(
        {
            "task": task,
            "item_id": [f"{task}-{i}" for i in range(n)],
            "sample": 0,
            "text": texts or ["a b c d"] * n,
            "parsed": parsed or ["answer1"] * n,
            "correct": correct,
            "correct_strict": correct,
            "truncated": False,
            "unparsed": False,
        }
    )


def test_agreement_by_hand():
    student = rows([True, True, False, False], parsed=["answer1", "answer2", "answer3", None])
    teacher = rows([True, False, True, False], parsed=["answer1", "answer3", "answer3", None])
    found = comparison.agreement(comparison.paired(student, teacher))
    assert found["agreement"] == 50.0  # unparsed answers agree with nothing, not even with each other
    assert [found[key] for key in ("both_right", "only_student", "only_teacher", "other_wrong")] == [25.0] * 4
    assert found["same_wrong"] == 0.0
    assert found["error_consistency"] == 0.0


def test_error_consistency_is_cohens_kappa():
    rng = np.random.default_rng(0)
    left, right = (rng.random(200) < share for share in (0.7, 0.5))
    found = comparison.agreement(comparison.paired(rows(left.tolist()), rows(right.tolist())))
    assert found["error_consistency"] == pytest.approx(cohen_kappa_score(left, right))


def test_two_good_independent_models_agree_without_consistency():
    """Raw agreement follows accuracy by arithmetic; error consistency does not."""
    rng = np.random.default_rng(1)
    left, right = ((rng.random(4000) < 0.9).tolist() for _ in range(2))
    answers = [[f"answer{1 if hit else 2 + side}" for hit in hits] for side, hits in enumerate((left, right))]
    both = comparison.paired(rows(left, parsed=answers[0]), rows(right, parsed=answers[1]))
    found = comparison.agreement(both)
    assert found["agreement"] > 80
    assert abs(found["error_consistency"]) < 0.05


def test_undefined_agreement_is_nan():
    always = comparison.paired(rows([True, True]), rows([True, True]))
    assert math.isnan(comparison.agreement(always)["error_consistency"])
    assert all(math.isnan(value) for value in comparison.agreement(always.iloc[:0]).values())


def test_different_items_are_refused():
    with pytest.raises(ValueError, match="different items .1, such as"):
        comparison.paired(rows([True]), rows([True, False]))


TEXTS = ["the sum of 1 and 2 is 3", "4 plus 4 gives 8 apples", "so the answer is 9", "no idea at all here"]
REFERENCES = [
    "the sum of 1 and 2 = 3",
    "4 plus 4 gives 8 pears",
    "the answer is 9 then",
    "10 - 3 = 7 eggs left over",
]


def test_bleu_of_nothing_is_nan():
    assert math.isnan(comparison.corpus_bleu([], []))


def test_likeness_of_a_text_to_itself_is_whole():
    both = pd.DataFrame({"text": ["a b c d e", "x y"], "text_teacher": ["a b c d e", "a b c"]})
    assert comparison.sentence_bleu(both).tolist() == pytest.approx([100.0, 0.0])


def test_right_and_alike_correlate_as_scipy_says():
    right = [True, True, False, False]
    both = comparison.paired(rows(right, texts=TEXTS), rows([True] * 4, texts=REFERENCES))
    bleu = [
        sacrebleu.sentence_bleu(text, [reference], use_effective_order=True).score
        for text, reference in zip(TEXTS, REFERENCES, strict=True)
    ]
    expected = scipy.stats.pointbiserialr(right, bleu).statistic
    assert comparison.fidelity_correct_r(both) == pytest.approx(expected)
    turned = both.assign(correct=~both["correct"])
    assert comparison.fidelity_correct_r(turned) == pytest.approx(-expected)


def test_undefined_link_of_right_and_alike_is_nan():
    student, teacher = rows([True, True, False], texts=TEXTS[:3]), rows([True] * 3, texts=REFERENCES[:3])
    both = comparison.paired(student, teacher)
    assert math.isfinite(comparison.fidelity_correct_r(both))
    for undefined in (both.iloc[:0], both.iloc[1:], both.assign(correct=True), both.assign(text="")):
        assert math.isnan(comparison.fidelity_correct_r(undefined))


def test_accuracy_averages_samples_within_an_item():
    table = pd.concat([rows([True, False]), rows([False, False]).assign(sample=1)])
    found = comparison.accuracies(table).iloc[0]
    assert (found["n"], found["accuracy"], found["chance"]) == (2, 25.0, 25.0)
    assert found["accuracy_se"] == pytest.approx(100 * np.std([0.5, 0.0], ddof=1) / math.sqrt(2))
    assert math.isnan(comparison.accuracies(rows([True])).iloc[0]["accuracy_se"])


def test_a_scored_row_keeps_both_readings():
    item = Item(id="x", task="svamp", question="q", answer="7")
    row = evaluate.score(item, "The answer is 7. Or 8", n_tokens=9, ended=False)
    assert (row["parsed"], row["correct"], row["parsed_strict"]) == ("8", False, None)
    assert (row["truncated"], row["unparsed"], row["n_tokens"]) == (True, False, 9)


def test_rouge_l_of_a_known_pair():
    assert evaluate.rouge_l("the cat sat", "the cat sat") == 1.0
    assert evaluate.rouge_l("the cat", "the cat sat down") == pytest.approx(2 * (1.0 * 0.5) / 1.5)


def test_agreement_of_the_likeliest_tokens_counts_tokens_not_items():
    rows = {"task": "addsub", "parsed": "1", "correct": True, "answer": "1", "sample": 0}
    student = pd.DataFrame([rows | {"item_id": "a", "top1": [1, 2, 3]}, rows | {"item_id": "b", "top1": [4]}])
    teacher = pd.DataFrame([rows | {"item_id": "a", "top1": [1, 9, 3]}, rows | {"item_id": "b", "top1": [5]}])
    both = comparison.paired(student, teacher)
    assert comparison.agreement(both)["top1_agreement"] == 50.0
    teacher.at[0, "top1"] = [1, 2]
    assert np.isnan(comparison.agreement(comparison.paired(student, teacher))["top1_agreement"])


def test_instructions_are_scored_by_their_mean_rouge():
    rows = pd.DataFrame(
        {
            "task": "dolly",
            "item_id": ["a", "b"],
            "correct": [True, False],
            "rouge_l": [0.9, 0.3],
            "truncated": False,
            "unparsed": False,
        }
    )
    (row,) = comparison.accuracies(rows).to_dict("records")
    assert row["accuracy"] == pytest.approx(60.0)
    assert row["accuracy_se"] == pytest.approx(30.0)


# --- options -----------------------------------------------------------------------------------------------

ARC = "Which? Answer1: a Answer2: b Answer3: c Answer4: d Answer5: e Answer format: answer1/answer2"


@pytest.mark.parametrize(
    ("task", "question", "answer", "expected"),
    [
        ("aqua", "A) 1 B) 2", "B", ["A", "B", "C", "D", "E"]),
        ("arc_c", ARC, "answer5", ["answer1", "answer2", "answer3", "answer4", "answer5"]),
        ("arc_e", "Answer1: a Answer2: b Answer3: c", "answer3", ["answer1", "answer2", "answer3"]),
        ("arc_e", "no options are named", "answer3", ["answer1", "answer2", "answer3", "answer4"]),
        ("boolq", "is it true? Answer format: true/false", "false", ["false", "true"]),
        ("piqa", "Solution1: x Solution2: y", "solution1", ["solution1", "solution2"]),
    ],
)
def test_options_are_those_that_the_question_offers(task, question, answer, expected):
    item = Item(id="x", task=task, question=question, answer=answer)
    assert list(options.options(item)) == expected
    for option, response in options.options(item).items():
        assert evaluate.parse_strict(task, response) == option


def test_the_likeliest_option_and_the_likeliest_by_character():
    item = Item(id="x", task="boolq", question="true/false?", answer="true", contaminated="fuzzy")
    # "the correct answer is false" has 27 characters, "... true" 26: -2.70 and -2.65 by sum, but by character
    # -0.1 and -0.1019.
    row = options.rank(item, [-2.70, -2.65])
    assert (row["parsed"], row["correct"]) == ("true", True)
    assert (row["parsed_normalised"], row["correct_normalised"]) == ("false", False)
    assert (row["options"], row["logprobs"], row["contaminated"]) == (
        ["false", "true"],
        [-2.70, -2.65],
        "fuzzy",
    )
    tie = options.rank(item, [-1.0, -1.0])
    assert tie["parsed"] == "false"


def test_tasks_without_options_cannot_be_ranked():
    with pytest.raises(ValueError, match="'gsm8k' has no options to rank"):
        options.options(Item(id="x", task="gsm8k", question="q", answer="1"))


def test_accuracy_is_also_that_of_items_that_are_not_contaminated():
    table = rows([True, True, False, False]).assign(contaminated=["", "exact", "", "fuzzy"])
    found = comparison.accuracies(table).iloc[0]
    assert (found["n"], found["accuracy"], found["n_clean"], found["accuracy_clean"]) == (4, 50.0, 2, 50.0)
    assert math.isnan(comparison.accuracies(table.assign(contaminated="masked")).iloc[0]["accuracy_clean"])
    unknown = comparison.accuracies(rows([True])).iloc[0]
    assert math.isnan(unknown["n_clean"]) and math.isnan(unknown["accuracy_clean"])


def test_ranked_accuracy_by_task():
    table = pd.DataFrame(
        {
            "task": ["aqua", "aqua", "boolq"],
            "correct": [True, False, True],
            "correct_normalised": [False, False, True],
        }
    )
    found = comparison.ranked_accuracies(table).set_index("task")
    assert found.loc["aqua"].tolist() == [50.0, 0.0] and found.loc["boolq"].tolist() == [100.0, 100.0]
