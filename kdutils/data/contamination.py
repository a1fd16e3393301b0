"""Which test questions occur in what is trained on.

Three levels, the first that holds:
    exact   the same letters and digits
    masked  the same letters, once every number and number word is masked
    fuzzy   a Jaccard index of at least 0.6 between the sets of character trigrams of the masked texts
What is compared is the question with its options, without the words that all questions of a task share.
A test item is compared with the whole pool that train items are drawn from, not only with those that a run
uses: a flag then means the same in every run, and a model may have been trained on more than one run says.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdutils.constants import CHOICE_TASKS
from kdutils.data.item_files import letters_and_digits
from kdutils.io import disk
from kdutils.items import Item

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

    def has_alike(self, text: str) -> bool:
        """Whether a text has a Jaccard index with it of at least 0.6."""
        wanted = trigrams(text)
        found = [self._texts_with[trigram] for trigram in wanted if trigram in self._texts_with]
        if not found:
            return False
        common = np.bincount(np.concatenate(found), minlength=len(self._sizes))
        return bool(is_alike(common, self._sizes, len(wanted)).any())


def find(test: Sequence[Item], pool: Sequence[Item]) -> list[str]:
    """Of each test item the level at which its question occurs in the pool; "" if it does not."""
    texts = [compared_text(item) for item in pool]
    by_words = [masked_words(text) for text in texts]
    exact = {letters_and_digits(text) for text in texts}
    masked = {words.replace(" ", "") for words in by_words}
    index, found = TrigramIndex(by_words), [""] * len(test)  # by place: tasks may share an id
    for place, item in enumerate(test):
        text = compared_text(item)
        words = masked_words(text)
        if not words:  # no letter and no digit: nothing that could be the same
            continue
        if letters_and_digits(text) in exact:
            found[place] = "exact"
        elif words.replace(" ", "") in masked:
            found[place] = "masked"
        elif index.has_alike(words):
            found[place] = "fuzzy"
    return found


def flagged(test: Sequence[Item], pool: Sequence[Item]) -> list[Item]:
    """The test items, each with how its question occurs in the pool (`find`).

    What is found is kept in the user's cache under the digests of both and of this code.
    """
    key = hashlib.sha256(disk.sha256_once(Path(__file__)).encode())
    for items in (test, pool):
        key.update(json.dumps([[item.id, item.task, item.question] for item in items]).encode() + b"\n")
    path = disk.cache_path(f"contamination/{key.hexdigest()[:32]}.json")
    found = disk.kept(path, lambda: find(test, pool))
    both = zip(test, found, strict=True)
    return [replace(item, contaminated=level) if level else item for item, level in both]
