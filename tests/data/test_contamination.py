"""Test questions that occur in what is trained on: each level by hand, the index against brute force."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdutils.data import contamination
from kdutils.data.contamination import TrigramIndex, compared_text, masked_words, trigrams
from kdutils.io import disk
from kdutils.items import Item

WORDS = [
    "anna",
    "bought",
    "sold",
    "red",
    "blue",
    "marbles",
    "tickets",
    "each",
    "how",
    "many",
    "left",
    "in",
    "all",
]


def item(question, *, name="t", task="gsm8k"):
    return Item(id=name, task=task, question=question, answer="1")


def level(test, train, task="gsm8k"):
    (found,) = contamination.find([item(test, task=task)], [item(train, name="train", task=task)])
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, for this test alone."""
    monkeypatch.setattr(disk, "cache_path", lambda name: tmp_path / name)
    return tmp_path


QUESTION = "Anna had 12 apples, and she sold 5 of them. How many apples does she have left?"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (QUESTION, "exact"),
        ("ANNA had 12 apples -- and she sold 5 of them ; how many apples does she have left", "exact"),
        (QUESTION.replace("12", "1,200.50"), "masked"),
        (QUESTION.replace("12", "twelve").replace("5", "twenty-five"), "masked"),
        (QUESTION.replace("Anna", "Emma"), "fuzzy"),
        (QUESTION.replace("12", "7").replace("apples", "pears"), "fuzzy"),
        ("Tom is 3 years older than his sister, who is 15. How old will Tom be in 4 years?", ""),
        ("Weigh twelve", ""),
    ],
)
def test_the_first_level_that_holds_is_the_flag(other, expected):
    assert level(QUESTION, other) == level(other, QUESTION) == expected


def test_number_words_are_masked_only_as_words():
    assert masked_words("Someone gave seventeen tents, 3.5 kg and 1,000; a hundred two") == (
        "someone gave # tents # kg and # a #"
    )
    assert masked_words("# ?") == ""


def choice(stem, options, task="obqa", name="t"):
    marks = " ".join(f"Answer{place}: {option}" for place, option in enumerate(options, start=1))
    form = "/".join(f"answer{place}" for place in range(1, len(options) + 1))
    question = f"Please choose the correct answer to the question: {stem}\n\n{marks}\n\nAnswer format: {form}"
    return Item(id=name, task=task, question=question, answer="answer1")


def test_what_all_questions_of_a_task_share_is_not_compared():
    one = choice("Ice is?", ["cold", "hot", "sweet", "loud"])
    other = choice("Why do cats purr?", ["joy", "age", "rain", "tea"], name="train")
    assert compared_text(one).split() == ["Ice", "is?", "cold", "hot", "sweet", "loud"]
    assert contamination.find([one], [other]) == [""]
    same = choice("Ice is?", ["cold", "hot", "sweet", "loud"], name="train")
    assert contamination.find([one], [same]) == ["exact"]


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("boolq", "Please answer the following question with true or false, question: X\n\n"
         "Answer format: true/false"),
        ("winogrande", "Please choose the correct answer to fill in the blank to complete the given "
         "sentence: X\n\nOption1:  Option2: Answer format: option1/option2"),
        ("hellaswag", "Please choose the correct ending to complete the given sentence: X\n\nEnding1: "
         "Ending2: \n\nAnswer format: ending1/ending2/ending3/ending4"),
        ("piqa", "Please choose the correct solution to the question: X\n\nSolution1: \n\nSolution2: \n\n"
         "Answer format: solution1/solution2"),
        ("aqua", "X Answer Choices: (A) (B) (C) (D) (E)"),
    ],
)  # fmt: skip
def test_every_template_is_taken_off(task, question):
    assert compared_text(item(question, task=task)).strip() == "X"


def test_a_colon_in_the_question_itself_stays():
    shared = "Please choose the correct answer to the question: "
    assert compared_text(item(f"{shared}Pick: a or b", task="siqa")).strip() == "Pick: a or b"


def test_texts_without_letters_match_nothing():
    assert contamination.find([item("?!")], [item("...", name="a"), item("", name="b")]) == [""]
    assert contamination.find([item(QUESTION)], []) == [""]


def test_items_of_two_tasks_that_share_an_id_are_flagged_each_for_itself(cache):
    own = [item(QUESTION, name="0"), item("Why is the sky blue?", name="0", task="arc_e")]
    found = contamination.flagged(own, [item(QUESTION, name="train")])
    assert [each.contaminated for each in found] == ["exact", ""]


def jaccard(left, right):
    left, right = trigrams(left), trigrams(right)
    return Fraction(len(left & right), len(left | right)) if left | right else Fraction(0)


def brute_force(texts, text):
    return any(jaccard(text, other) >= Fraction(3, 5) for other in texts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("abc ", max_size=14), max_size=12), st.text("abcd ", max_size=14))
def test_the_index_finds_what_brute_force_finds_in_short_texts(texts, text):
    assert TrigramIndex(texts).has_alike(text) == brute_force(texts, text)


def test_the_index_finds_what_brute_force_finds_in_sentences():
    rng = np.random.default_rng(0)

    def altered(words):
        keep = [word for word in words if rng.random() > 0.08]
        return " ".join(str(rng.choice(WORDS)) if rng.random() < 0.12 else word for word in keep)

    sentences = [list(rng.choice(WORDS, size=rng.integers(6, 40))) for _ in range(150)]
    index = TrigramIndex(texts := [" ".join(words) for words in sentences])
    asked = [altered(words) for words in sentences] + [
        " ".join(rng.choice(WORDS, size=20)) for _ in range(50)
    ]
    found = [index.has_alike(text) for text in asked]
    assert found == [brute_force(texts, text) for text in asked]
    assert 50 < sum(found) < 190  # neither all nor none


def test_a_jaccard_index_of_exactly_the_threshold_counts():
    text = "abcdefghij"  # eight trigrams
    for other, common, both in [("abcdefgh", 6, 8), ("abcdefgxy", 5, 10), ("abcdefghxyz", 6, 11)]:
        assert jaccard(text, other) == Fraction(common, both)
        assert TrigramIndex([other]).has_alike(text) == (5 * common >= 3 * both)
    one, other = "abcde", "abcdefg"  # 3 of 5
    assert jaccard(one, other) == Fraction(3, 5)
    assert TrigramIndex([other]).has_alike(one)


def test_ten_thousand_questions_are_searched_in_seconds():
    rng = np.random.default_rng(1)
    vocabulary = [
        "".join(rng.choice(list("abcdefghijklmnopqrst"), size=rng.integers(2, 9))) for _ in range(2_000)
    ]
    weights = 1 / np.arange(1, 2_001)
    weights /= weights.sum()
    texts = [" ".join(rng.choice(vocabulary, size=40, p=weights)) for _ in range(10_500)]
    pool = [item(text, name=f"p{number}") for number, text in enumerate(texts[:10_000])]
    test = [item(text, name=f"t{number}") for number, text in enumerate(texts[10_000:])]
    test += [item(texts[number] + " and more", name=f"copy{number}") for number in range(100)]
    started = time.process_time()
    found = contamination.find(test, pool)
    seconds = time.process_time() - started
    assert all(level for one, level in zip(test, found, strict=True) if one.id.startswith("copy"))
    assert seconds < 30


def test_what_was_found_is_kept_and_found_again(cache, monkeypatch):
    pool = [item(QUESTION, name="train")]
    first = contamination.flagged([item(QUESTION), item("Why?", name="u")], pool)
    assert [each.contaminated for each in first] == ["exact", ""]
    (kept,) = (cache / "contamination").iterdir()
    searched = []
    monkeypatch.setattr(contamination, "find", lambda test, _: searched.append(len(test)) or ["", ""])
    assert contamination.flagged([item(QUESTION), item("Why?", name="u")], pool) == first
    assert searched == []
    contamination.flagged([item(QUESTION), item("Why not?", name="u")], pool)
    contamination.flagged([item(QUESTION), item("Why?", name="u")], [item(QUESTION, name="other")])
    assert searched == [2, 2]  # another question, and another id in the pool
    kept.write_text(kept.read_text()[:-9])
    contamination.flagged([item(QUESTION), item("Why?", name="u")], pool)
    assert searched == [2, 2, 2]  # a damaged file is made again


def test_other_code_finds_anew(cache, monkeypatch):
    contamination.flagged([item(QUESTION)], [])
    monkeypatch.setattr(contamination.disk, "sha256_once", lambda path: "other code")
    contamination.flagged([item(QUESTION)], [])
    assert len(list((cache / "contamination").iterdir())) == 2


def test_a_cache_that_cannot_be_written_stops_nothing(cache):
    (cache / "contamination").write_text("a file where the folder should be")
    (found,) = contamination.flagged([item(QUESTION)], [item(QUESTION, name="train")])
    assert found.contaminated == "exact"
