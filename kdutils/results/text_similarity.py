"""Sentence BLEU and ROUGE-L of many pairs of texts at once, as sacrebleu and rouge-score give them.

Those packages take a good part of a millisecond a pair, and one hundred students have sixty thousand. Here a
word is cut into tokens once, by their tokenizers, and n-grams are counted for all pairs together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import pandas as pd

from kdutils.inference.crossed_bootstrap import ratio

MAX_ORDER = 4
ROUGE_TOKEN = re.compile(r"[a-z0-9]+")  # rouge-score's tokens, of the text in lower case
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
STATED = re.compile(r"\s*[Tt]he answer is\b.*$", re.DOTALL)


def sentence_bleu(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Sentence BLEU of each text against its reference, percent.

    As sacrebleu's sentence_score with effective order: exponential smoothing of orders without a match,
    brevity penalty, and only as many orders as the text has words.
    """
    return _of_pairs(texts, references, _sentence_bleu)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-L F1 of each text against its reference, percent, as rouge-score without stemming."""
    return 100 * _of_pairs(texts, references, _rouge_l)


def wording(text: str) -> str:
    """The text without the sentence that states the answer, every number as 0: what is left is words."""
    return NUMBER.sub("0", STATED.sub("", text))


def _of_pairs(
    texts: Sequence[str],
    references: Sequence[str],
    measure: Callable[[list[str], list[str]], np.ndarray],
) -> np.ndarray:
    """A measure of pairs, each computed once, however often it occurs."""
    if not len(texts):
        return np.empty(0)
    pairs = pd.DataFrame({"text": list(texts), "reference": list(references)}, dtype=object)
    place = pairs.groupby(["text", "reference"], sort=False).ngroup().to_numpy()
    first = pairs.drop_duplicates(ignore_index=True)
    return measure(first["text"].tolist(), first["reference"].tolist())[place]


# --- BLEU -------------------------------------------------------------------------------------------------


def _sentence_bleu(texts: list[str], references: list[str]) -> np.ndarray:
    lengths, ids = _token_ids([*texts, *references])
    n, base = len(texts), int(ids.max(initial=0)) + 1
    own, other = lengths[:n], lengths[n:]
    of_text = np.repeat(np.arange(2 * n), lengths)  # which text a token is of
    ends = np.cumsum(lengths)[of_text]  # where that text ends
    grams, matches, totals = np.zeros_like(ids), [], []  # of the n-gram that starts at each token, its number
    for order in range(1, MAX_ORDER + 1):
        starts = np.flatnonzero(np.arange(len(ids)) + order <= ends)
        longer = grams[starts] * base + ids[starts + order - 1]  # the one before and one more token
        grams[starts] = pd.factorize(longer)[0]  # small numbers again
        matches.append(_matches(of_text[starts], grams[starts], n))
        totals.append(np.maximum(own - order + 1, 0))
    return _score(np.stack(matches, axis=1), np.stack(totals, axis=1), own, other)


def _token_ids(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens each text has (sacrebleu's 13a), and all of them, numbered, text after text."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    cut, numbers = Tokenizer13a(), {}
    known: dict[str, list[int]] = {}  # by word: its rules look no further than to the next blank
    lists = []
    for text in texts:
        of_text = []
        for word in text.replace("<skipped>", "").replace("-\n", "").split():
            if word not in known:
                known[word] = [numbers.setdefault(token, len(numbers)) for token in cut(word).split()]
            of_text += known[word]
        lists.append(of_text)
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return lengths, np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=lengths.sum())


def _matches(of_text: np.ndarray, grams: np.ndarray, n: int) -> np.ndarray:
    """How many n-grams of each of the first `n` texts its reference has, each at most as often as there."""
    size = int(grams.max(initial=0)) + 1
    keys, counts = np.unique(of_text * size + grams, return_counts=True)  # references stand behind the texts
    is_reference = keys >= n * size
    own, own_counts = keys[~is_reference], counts[~is_reference]
    other, other_counts = keys[is_reference] - n * size, counts[is_reference]
    both, in_own, in_other = np.intersect1d(own, other, assume_unique=True, return_indices=True)
    fewer = np.minimum(own_counts[in_own], other_counts[in_other])
    return np.bincount(both // size, weights=fewer, minlength=n)


def _score(matches: np.ndarray, totals: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    has_order = totals > 0
    is_empty = (matches == 0) & has_order
    smoothed = 1.0 / np.power(2.0, np.cumsum(is_empty, axis=1))
    precisions = ratio(np.where(is_empty, smoothed, matches), np.where(has_order, totals, 0))
    logs = np.log(np.where(has_order, precisions, 1.0)).sum(axis=1)
    mean = logs / np.maximum(has_order.sum(axis=1), 1)
    brevity = np.exp(np.minimum(0.0, 1.0 - ratio(other, own)))
    return np.where((matches > 0).any(axis=1), 100 * np.nan_to_num(brevity) * np.exp(mean), 0.0)


# --- ROUGE ------------------------------------------------------------------------------------------------


def _rouge_l(texts: list[str], references: list[str]) -> np.ndarray:
    known = {text: ROUGE_TOKEN.findall(text.lower()) for text in {*texts, *references}}
    pairs = [(known[text], known[reference]) for text, reference in zip(texts, references, strict=True)]
    common = np.array([longest_common_subsequence(*pair) for pair in pairs], dtype=float)
    lengths = np.array([len(text) + len(reference) for text, reference in pairs], dtype=float)
    return np.nan_to_num(ratio(2 * common, lengths))


def longest_common_subsequence(left: Sequence[str], right: Iterable[str]) -> int:
    """How many tokens the longest common subsequence has.

    One bit a token of `left`, so that a token of `right` takes one addition.
    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << place
    everywhere = (1 << len(left)) - 1
    row = everywhere
    for token in right:
        found = row & places.get(token, 0)
        row = ((row + found) | (row - found)) & everywhere
    return len(left) - row.bit_count()
