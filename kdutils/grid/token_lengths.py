"""How many tokens items have: counted where items and tokenizer are at hand, else as they were measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from kdutils import items
from kdutils.constants import CHOICE_TASKS, TEST_ITEMS
from kdutils.data import sources
from kdutils.data.model_files import ModelError, locate
from kdutils.data.sources import DataError
from kdutils.spec import BENCHMARK, LLM_ADAPTERS, EvalSpec, RunSpec

# Measured with the tokenizer of Qwen2.5 on 21,000 items: GSM8K and AQuA, the training sets of the
# commonsense tasks, instructions.
PROMPT_TOKENS = 29  # around the question
CHARACTERS_PER_TOKEN = {  # of questions, of responses
    "math": (3.9, 2.75),
    "commonsense": (4.5, 4.9),
    "instruction": (4.4, 4.3),
}
# Of a training item's prompt and response together: (share of items, tokens that these have at most).
ASSUMED_TOTALS = {
    "math": ((0, 78), (0.1, 121), (0.3, 148), (0.5, 173), (0.7, 205), (0.9, 260), (0.99, 351), (1, 501)),
    "commonsense": ((0, 61), (0.1, 85), (0.3, 89), (0.5, 95), (0.7, 110), (0.9, 273), (0.99, 315), (1, 355)),
    "instruction": (
        (0, 39),
        (0.1, 48),
        (0.5, 54),
        (0.7, 59),
        (0.9, 82),
        (0.95, 134),
        (0.99, 267),
        (1, 1_362),
    ),
}
ASSUMED_RESPONSES = {"math": 94, "commonsense": 7, "instruction": 21}  # with EOS, mean
ASSUMED_PROMPTS = {  # of a test item, mean
    **{"aqua": 119, "addsub": 71, "gsm8k": 92, "multiarith": 69, "svamp": 71, "singleeq": 68},
    **{"arc_c": 115, "arc_e": 105, "boolq": 57, "hellaswag": 234, "obqa": 91, "piqa": 108, "siqa": 94},
    **{"winogrande": 83, "dolly": 172, "selfinst": 84, "vicuna": 48},
}
ASSUMED_TEST_ITEMS = TEST_ITEMS | {"dolly": 500, "selfinst": 252, "vicuna": 80}


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


@dataclass(frozen=True)
class TaskLengths:
    """Tokens of the test items of one task, means."""

    n_items: int
    prompt: float
    response: float  # the gold one, with EOS
    n_options: int  # to rank; 0 where the task has none


def is_at_hand(spec: RunSpec) -> bool:
    """Whether the items of a run are certain to be read without any network."""
    if spec.data == BENCHMARK:
        return (Path(os.environ.get("KDUTILS_DATA") or os.devnull).expanduser() / "data").is_dir()
    return spec.data != LLM_ADAPTERS


def of_training(spec: RunSpec) -> Lengths:
    """Tokens of the items that a run trains on."""
    return _of_training(
        spec.data, spec.domain, spec.train_items, spec.validation_items, spec.max_item_characters,
        spec.wrong_rationale_share, _tokenizer_file(spec.student),
    )  # fmt: skip


@cache
def _of_training(
    data, domain, train_items, validation_items, max_item_characters, share, tokenizer
) -> Lengths:
    spec = RunSpec(
        student="mini-qwen-14k", method="sft", domain=domain, data=data, train_items=train_items,
        validation_items=validation_items, max_item_characters=max_item_characters,
        wrong_rationale_share=share,
    )  # fmt: skip
    if is_at_hand(spec):
        try:
            found = sources.load_items(spec, "train")
        except DataError:
            found = []
        if found:
            return _ordered(*_counts(found, domain, tokenizer), is_counted=True)
    shares, totals = zip(*ASSUMED_TOTALS[domain], strict=True)
    many = np.interp((np.arange(1_000) + 0.5) / 1_000, shares, totals)
    if max_item_characters is not None:
        per_token = sum(CHARACTERS_PER_TOKEN[domain]) / 2
        many = many[(many - PROMPT_TOKENS) * per_token <= max_item_characters]
    response = many * (ASSUMED_RESPONSES[domain] / many.mean())
    return _ordered(many - response, response, is_counted=False)


def _ordered(prompts: np.ndarray, responses: np.ndarray, *, is_counted: bool) -> Lengths:
    order = np.argsort(prompts + responses, kind="stable")
    return Lengths(prompts[order], responses[order], is_counted)


def of_evaluation(spec: RunSpec, evaluation: EvalSpec) -> dict[str, TaskLengths]:
    """Tokens of the items that an evaluation asks, by task."""
    return _of_evaluation(spec.data, spec.domain, evaluation, _tokenizer_file(spec.student))


@cache
def _of_evaluation(
    data: str, domain: str, evaluation: EvalSpec, tokenizer: Path | None
) -> dict[str, TaskLengths]:
    spec = RunSpec(student="mini-qwen-14k", method="base", domain=domain, data=data)
    found = {}
    if is_at_hand(spec):
        try:
            for item in sources.test_items(spec, evaluation):
                found.setdefault(item.task, []).append(item)
        except DataError:
            found = {}
    lengths = {}
    for task in evaluation.tasks:
        n_options = 5 if task == "aqua" else len(CHOICE_TASKS.get(task, ()))
        if task in found:
            prompts, responses = _counts(found[task], domain, tokenizer)
            facts = (len(prompts), float(prompts.mean()), float(responses.mean()))
        else:
            n_items = min(evaluation.items_per_task, ASSUMED_TEST_ITEMS[task])
            facts = (n_items, ASSUMED_PROMPTS[task], ASSUMED_RESPONSES[domain])
        lengths[task] = TaskLengths(*facts, n_options)
    return lengths


def _counts(
    found: Sequence[items.Item], domain: str, tokenizer: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of prompt and response of each item."""
    if tokenizer is None:
        question, response = CHARACTERS_PER_TOKEN[domain]
        prompts = [PROMPT_TOKENS + len(item.question) / question for item in found]
        return np.array(prompts), np.array([1 + len(item.response) / response for item in found])
    count = _counter(tokenizer)
    prompts = count([items.prompt(item.question) for item in found])
    return prompts, 1 + count([item.response for item in found])


def _counter(path: Path) -> Callable[[list[str]], np.ndarray]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda texts: np.array(
        [float(len(one.ids)) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    )


@cache
def _tokenizer_file(model: str) -> Path | None:
    """The tokenizer of a local folder; GGUF files and models of the hub go by their characters."""
    try:
        place = locate(model)
    except ModelError:  # as in architecture_of
        return None
    path = Path(place.source) / "tokenizer.json"
    return path if place.gguf_file is None and path.is_file() else None
