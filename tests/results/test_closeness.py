"""Likeness of many pairs at once: against sacrebleu and rouge-score, and by hand."""

import numpy as np
import pytest
import sacrebleu

from kdutils import answers
from kdutils.results import text_similarity

ODD = [
    ("", ""),
    ("", "a word"),
    ("a word", ""),
    ("a", "a"),
    ("the the the the", "the cat"),
    ("He has 3 + 4 = 7 apples. The answer is 7.", "He has 3 + 5 = 8 apples. The answer is 8."),
    ("It cost $1,200.50, not 1.5-2 &quot;pounds&quot;...", "It cost $1,200.5 ,not 1.5 - 2 pounds ."),
    ("well-\nknown <skipped> thing", "wellknown thing"),
    ("a , . , b ., c", "a, . b,. c"),
    ("naïve Ünïcode — text!", "naïve unicode - text?"),
    ("  many   blanks\tand\nlines  ", "many blanks and lines"),
]


def random_pairs(rng, n=300):
    words = np.array(["a", "b", "c", "7", "7.5", "the", "x,", "is.", "(b)", "8-9"])
    texts = [" ".join(rng.choice(words, rng.integers(0, 15))) for _ in range(2 * n)]
    return list(zip(texts[:n], texts[n:], strict=True))


@pytest.mark.parametrize("pairs", [ODD, random_pairs(np.random.default_rng(0))], ids=["odd", "random"])
def test_as_the_packages_have_it(pairs):
    texts, references = zip(*pairs, strict=True)
    metric = sacrebleu.BLEU(effective_order=True)
    expected = [metric.sentence_score(text, [other]).score for text, other in pairs]
    assert text_similarity.sentence_bleu(texts, references) == pytest.approx(expected, abs=1e-9)
    expected = [100 * answers.rouge_l(text, other) for text, other in pairs]
    assert text_similarity.rouge_l(texts, references) == pytest.approx(expected, abs=1e-9)


def test_nothing_gives_nothing():
    assert len(text_similarity.sentence_bleu([], [])) == 0
    assert len(text_similarity.rouge_l([], [])) == 0


def test_common_subsequence_by_hand():
    assert text_similarity.longest_common_subsequence("abcbdab", "bdcaba") == 4
    assert text_similarity.longest_common_subsequence("", "abc") == 0
    assert text_similarity.longest_common_subsequence("aaa", "aa") == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("They have 24 + 10 = 34 pens in all. The answer is 34.", "They have 0 + 0 = 0 pens in all."),
        ("It is 1,200.5 or -3. the answer is C. More", "It is 0 or -0."),
        ("no number", "no number"),
    ],
)
def test_words_are_left_without_numbers_and_answer(text, words):
    assert text_similarity.wording(text) == words
