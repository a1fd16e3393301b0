"""Items and the prompt: one schema for the mini world, for benchmark files and for a reader's own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

# The authors' evaluation prompt, whitespace included (their training prompt differs by two blanks).
PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request. "
    "\n\n                ### Instruction:\n                {instruction}\n\n"
    "                ### Response:\n                "
)
SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Items that cannot be used. The message is one line and names file, line and remedy."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question with its answer."""

    id: str  # unique within a data set
    task: str  # a key of constants.ALL_TASKS
    question: str
    answer: str  # a number, a letter, a keyword, or for instructions the reference text
    response: str = ""  # what SFT trains on; may be empty in a test set
    rationale: str = ""  # the reasoning within the response, if there is any
    ended: bool = True  # False: the response was cut, so EOS must not follow it
    contaminated: str = ""  # how the question occurs in the training set: exact, masked, fuzzy; "" if not


def alpaca(question: str) -> str:
    """The Alpaca prompt of a question, up to where the response begins."""
    return PROMPT.format(instruction=question)


def fingerprint(items: Sequence[Item]) -> str:
    """16 hexadecimal digits of the SHA-256 of the items: equal exactly if every character is.

    Contamination is left out: it is about the training set, not the item.
    """
    names = [entry.name for entry in fields(Item) if entry.name != "contaminated"]
    records = ({name: getattr(item, name) for name in names} for item in items)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
