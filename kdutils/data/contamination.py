"""Which test questions occur in what is trained on.

Three levels, the first that holds:
    exact   the same letters and digits
    masked  the same letters, once every number and number word is masked
    fuzzy   a Jaccard index of at least 0.6 between the sets of character trigrams of the masked texts
What is compared is the question with its options, without the words that all questions of a task share.
A test item is compared with the whole pool that train items are drawn from, not only with those that a run
uses: a flag then means the same in every run, and a model may have been trained on more than one run says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdutils.constants import CHOICE_TASKS
from kdutils.data.item_files import letters_and_digits
from kdutils.io import disk
from kdutils.items import Item

LEVELS = ("exact", "masked", "fuzzy")
LEAST_JACCARD = (3, 5)  # 0.6, in whole numbers so that nothing is decided by rounding
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
    *("hundred", "thousand", "million", "billion"),
)
MASK = "#"
_NUMBERS = re.compile(rf"\d+(?:[.,]\d+)*|(?<![^\W_])(?:{'|'.join(NUMBER_WORDS)})(?![^\W_])")
_WORD = re.compile(rf"[^\W_]+|{MASK}")
_TEMPLATE = re.compile(r"^Please (?:choose|answer)\b[^:]*:|\bAnswer format: \S+\s*$")
_OPTION_MARK = re.compile(r"\b(?:Answer|Solution|Ending|Option)\d:")
_AQUA_MARK = re.compile(r"\bAnswer Choices:|\([A-E]\)")


class Found(NamedTuple):
    """How a test question occurs in the training pool, and where."""

    level: str  # one of LEVELS
    train_id: str


def compared_text(item: Item) -> str:
    """The question and its options, without what all questions of the task share."""
    if item.task in CHOICE_TASKS:
        return _OPTION_MARK.sub(" ", _TEMPLATE.sub(" ", item.question))
    return _AQUA_MARK.sub(" ", item.question) if item.task == "aqua" else item.question


def masked_words(text: str) -> str:
    """The words of a text in lower case, one blank between them; MASK stands for numbers in a row."""
    words = _WORD.findall(_NUMBERS.sub(f" {MASK} ", text.replace(MASK, " ").lower()))
    return re.sub(f"{MASK}(?: {MASK})+", MASK, " ".join(words))


def trigrams(text: str) -> set[str]:
    """The sets of three characters that follow each other; a shorter text is its own."""
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))} if text else set()


def is_alike(common: int, left: int, right: int) -> bool:
    """Whether sets of these sizes that share so many elements have a Jaccard index of LEAST_JACCARD."""
    part, whole = LEAST_JACCARD
    return common * (part + whole) >= part * (left + right)


class TrigramIndex:
    """Texts, to be searched for one that is like another."""

    def __init__(self, texts: Sequence[str]) -> None:
        sets = [trigrams(text) for text in texts]
        self._sizes = np.array([len(each) for each in sets], dtype=np.int64)
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, each in enumerate(sets):
            for trigram in each:
                numbers[trigram].append(number)
        self._texts_with = {trigram: np.array(found, dtype=np.int32) for trigram, found in numbers.items()}

    def most_alike(self, text: str) -> int | None:
        """The number of the text with the highest Jaccard index, the first of equals; None below 0.6."""
        wanted = trigrams(text)
        found = [self._texts_with[trigram] for trigram in wanted if trigram in self._texts_with]
        if not found:
            return None
        common = np.bincount(np.concatenate(found), minlength=len(self._sizes))
        alike = np.flatnonzero(is_alike(common, self._sizes, len(wanted))).tolist()
        union = self._sizes + len(wanted) - common
        jaccard = {number: Fraction(int(common[number]), int(union[number])) for number in alike}
        return max(jaccard, key=jaccard.get, default=None)


def find(test: Sequence[Item], pool: Sequence[Item]) -> dict[str, Found]:
    """Test item id -> how its question occurs in the pool; items that do not occur there are left out."""
    texts = [compared_text(item) for item in pool]
    exact: dict[str, str] = {}
    masked: dict[str, str] = {}
    by_words = [masked_words(text) for text in texts]
    for item, text, words in zip(pool, texts, by_words, strict=True):
        exact.setdefault(letters_and_digits(text), item.id)
        masked.setdefault(words.replace(" ", ""), item.id)
    index, found = TrigramIndex(by_words), {}
    for item in test:
        text = compared_text(item)
        words = masked_words(text)
        if not words:  # no letter and no digit: nothing that could be the same
            continue
        if (key := letters_and_digits(text)) in exact:
            found[item.id] = Found("exact", exact[key])
        elif (key := words.replace(" ", "")) in masked:
            found[item.id] = Found("masked", masked[key])
        elif (number := index.most_alike(words)) is not None:
            found[item.id] = Found("fuzzy", pool[number].id)
    return found


def find_once(test: Sequence[Item], pool: Sequence[Item]) -> dict[str, Found]:
    """As `find`, kept in the user's cache under the digests of both and of this code."""
    key = hashlib.sha256(disk.sha256_once(Path(__file__)).encode())
    for items in (test, pool):
        key.update(json.dumps([[item.id, item.task, item.question] for item in items]).encode() + b"\n")
    path = disk.cache_path(f"contamination/{key.hexdigest()[:32]}.json")
    # Absent or damaged, it is made again.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {name: Found(*entry) for name, entry in json.loads(path.read_text("utf-8")).items()}
    found = find(test, pool)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, nothing else
        disk.write_json(path, found)
    return found


def flagged(test: Sequence[Item], pool: Sequence[Item]) -> list[Item]:
    """The test items, each with how its question occurs in the pool."""
    found = find_once(test, pool)
    return [replace(item, contaminated=found[item.id].level) if item.id in found else item for item in test]
