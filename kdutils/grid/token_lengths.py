"""How many tokens items have: counted where items and tokenizer are at hand, else as they were measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from kdutils.data import model_files, sources
from kdutils.items import Item, alpaca
from kdutils.spec import BENCHMARK, LLM_ADAPTERS, RunSpec

# Measured with the tokenizer of Qwen2.5 on 21,000 items: GSM8K and AQuA, the training sets of the
# commonsense tasks, instructions.
PROMPT_TOKENS = 29  # around the question
COUNTED_ITEMS = 250  # of those at hand, from the shortest to the longest
CHARACTERS_PER_TOKEN = {  # of questions, of responses
    "math": (3.9, 2.75),
    "commonsense": (4.5, 4.9),
    "instruction": (4.4, 4.3),
}
# Of a training item's prompt and response together: tokens that these shares of the items have at most.
SHARES = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1)
ASSUMED_TOTALS = {
    "math": (78, 121, 148, 173, 205, 260, 310, 351, 501),
    "commonsense": (61, 85, 89, 95, 110, 273, 296, 315, 355),
    "instruction": (39, 48, 51, 54, 59, 82, 134, 267, 1_362),
}
ASSUMED_RESPONSES = {"math": 94, "commonsense": 7, "instruction": 21}  # with EOS, mean


@dataclass(frozen=True)
class Lengths:
    """Tokens of the training items of a run. EOS counts as part of a response."""

    prompts: np.ndarray  # ascending by total, as the responses are
    responses: np.ndarray
    is_counted: bool  # by the tokenizer, or estimated from characters; False: assumed

    def of_batch(self, n_rows: int, *, at_most: int) -> tuple[float, float, float]:
        """Mean length, mean length after padding to the longest of `n_rows` random items, and longest.

        What is longer than `at_most` is cut.
        """
        totals = np.minimum(self.prompts + self.responses, at_most)
        below = np.arange(len(totals) + 1) / len(totals)
        padded = float(np.sum(totals * np.diff(below**n_rows)))  # expected maximum of n_rows draws
        return float(totals.mean()), padded, float(totals[-1])

    def scored(self, *, scores_prompt: bool, at_most: int) -> float:
        """Scored positions of an item, mean: all but the first with the prompt, else the response."""
        totals = np.minimum(self.prompts + self.responses, at_most)
        unscored = np.ones_like(totals) if scores_prompt else np.minimum(self.prompts, totals)
        return float((totals - unscored).mean())


def is_at_hand(spec: RunSpec) -> bool:
    """Whether the items of a run are certain to be read without any network."""
    if spec.data == BENCHMARK:
        return (Path(os.environ.get("KDUTILS_DATA") or os.devnull).expanduser() / "data").is_dir()
    return spec.data != LLM_ADAPTERS


def lengths_of(spec: RunSpec) -> Lengths:
    """Tokens of the items that a run trains on, counted where these are at hand, else assumed."""
    fields_read = ("data", "domain", "train_items", "validation_items", "max_item_characters")
    read = {name: getattr(spec, name) for name in (*fields_read, "wrong_rationale_share")}
    items_alone = RunSpec(student="mini-qwen-14k", method="sft", **read)  # one for all students
    return _lengths(items_alone, _tokenizer_file(spec.student, spec.student_source))


@cache
def _lengths(spec: RunSpec, tokenizer: Path | None) -> Lengths:
    try:
        found = sources.load_items(spec, "train") if is_at_hand(spec) else []
    except sources.DataError:  # reported when the run is to be made
        found = []
    if found:
        found = sorted(found, key=lambda item: len(item.question) + len(item.response))
        every = np.linspace(0, len(found) - 1, min(len(found), COUNTED_ITEMS)).round().astype(int)
        prompts, responses = _counts([found[i] for i in every], spec.domain, tokenizer)
    else:
        totals = np.interp((np.arange(1_000) + 0.5) / 1_000, SHARES, ASSUMED_TOTALS[spec.domain])
        if spec.max_item_characters is not None:
            per_token = sum(CHARACTERS_PER_TOKEN[spec.domain]) / 2
            totals = totals[(totals - PROMPT_TOKENS) * per_token <= spec.max_item_characters]
        responses = totals * (ASSUMED_RESPONSES[spec.domain] / totals.mean())
        prompts = totals - responses
    order = np.argsort(prompts + responses, kind="stable")
    return Lengths(prompts[order], responses[order], is_counted=bool(found))


def _counts(found: list[Item], domain: str, tokenizer: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of prompt and response of each item; from their characters without a tokenizer."""
    if tokenizer is None:
        question, response = CHARACTERS_PER_TOKEN[domain]
        prompts = [PROMPT_TOKENS + len(item.question) / question for item in found]
        return np.array(prompts), np.array([1 + len(item.response) / response for item in found])
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer)).encode_batch
    texts = [alpaca(item.question) for item in found], [item.response for item in found]
    prompts, responses = ([len(each) for each in encode(own, add_special_tokens=False)] for own in texts)
    return np.array(prompts, dtype=float), 1.0 + np.array(responses)


@cache
def _tokenizer_file(model: str, source: str) -> Path | None:
    """The tokenizer of a local folder; GGUF files and models of the hub go by their characters."""
    try:
        place = model_files.locate(model, source)
    except model_files.ModelError:  # an error only when it is to be trained
        return None
    path = Path(place.source) / "tokenizer.json"
    return path if place.gguf_file is None and path.is_file() else None
