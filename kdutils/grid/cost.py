"""What a run costs before it is made: tokens, FLOPs, memory, time and disk, from shapes and lengths alone.

The one cost model of the study: it prices a dry run, orders the jobs of a plan and guesses the time left.
A number that is an assumption is a constant here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdutils.compute import BATCH_ROWS, BUDGET_BYTES
from kdutils.constants import ALL_TASKS, BENCHMARK, LLM_ADAPTERS, LORA_TARGETS, MASKS, TEST_ITEMS
from kdutils.data import sources
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture, architecture_of, local_file
from kdutils.items import alpaca
from kdutils.spec import EvalSpec, RunSpec

ALIGNED_ITEMS = 3_200  # of each stage of `student_build="hybrid"` (kdutils.builds.hybrid)
LONGEST_TEXT = 2.7  # of 128 responses, in units of the mean; measured on the rationales of GSM8K and AQuA
TOKENIZER_BYTES = 100  # of a saved tokenizer, an entry; 75 for Qwen2.5, 134 for Llama-3
SAMPLE = 64  # items that are counted at most, from the shortest to the longest
CHARACTERS_PER_TOKEN = 4  # where no tokenizer is at hand


class Lengths(NamedTuple):
    """Tokens of the items that a run trains on."""

    prompt: float  # mean
    response: float  # mean, with EOS
    padded: float  # 95 % of the items are no longer; a batch is padded to about that
    longest: float
    how: str = "assumed"


# Measured with the tokenizer of Qwen2.5 on 21,000 items: GSM8K and AQuA, the training sets of the commonsense
# tasks, instructions.
ASSUMED = {
    "math": Lengths(91, 94, 310, 501),
    "commonsense": Lengths(125, 7, 296, 355),
    "instruction": Lengths(51, 21, 134, 1_362),
}


def is_at_hand(spec: RunSpec) -> bool:
    """Whether the items of a run are certain to be read without any network."""
    if spec.data == BENCHMARK:
        return (Path(os.environ.get("KDUTILS_DATA") or os.devnull).expanduser() / "data").is_dir()
    return spec.data != LLM_ADAPTERS


def lengths_of(spec: RunSpec) -> Lengths:
    """How long the items of a run are, from a sample of them where they are at hand."""
    read = ("data", "domain", "train_items", "validation_items", "max_item_characters")
    read += ("wrong_rationale_share", "study_file", "data_digest")
    fields = {name: getattr(spec, name) for name in read}
    items_alone = RunSpec(student="mini-qwen-0.5B", method="sft", **fields)  # one for all students
    return _lengths(items_alone, local_file(spec.student, spec.student_source, "tokenizer.json"))


@cache
def _lengths(spec: RunSpec, tokenizer: Path | None) -> Lengths:
    try:
        found = sources.load_items(spec, "train") if is_at_hand(spec) else []
    except sources.DataError:  # reported when the run is to be made
        found = []
    if not found:
        return ASSUMED.get(spec.domain, ASSUMED["math"])
    found = sorted(found, key=lambda item: len(item.question) + len(item.response))
    sample = [found[i] for i in np.linspace(0, len(found) - 1, min(len(found), SAMPLE)).round().astype(int)]
    texts = [alpaca(item.question) for item in sample], [item.response for item in sample]
    if tokenizer is None:
        counts = np.array([[len(text) / CHARACTERS_PER_TOKEN for text in own] for own in texts])
        how = f"at {CHARACTERS_PER_TOKEN} characters a token"
    else:
        from tokenizers import Tokenizer

        encode = Tokenizer.from_file(str(tokenizer)).encode_batch
        counts = np.array([[len(each) for each in encode(own, add_special_tokens=False)] for own in texts])
        how = "counted"
    prompts, responses = counts
    totals = prompts + responses + 1
    return Lengths(prompts.mean(), responses.mean() + 1, np.quantile(totals, 0.95), totals.max(), how)


class Cost(NamedTuple):
    """What a piece of work takes. Costs add up, unlike other tuples."""

    tokens: float = 0.0  # trained, scored and generated, without padding
    flops: float = 0.0  # with padding
    seconds: float = 0.0  # on one machine
    disk_bytes: float = 0.0  # that stay

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(self, other, strict=True)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * each for each in self))


def teacher_keys(spec: RunSpec) -> list[tuple]:
    """What names the texts, and what the hidden states, that a run reads of its teacher.

    Runs of one key share them: students, temperatures, noise levels, epochs and seeds have no part in it.
    """
    recipe, teacher = spec.recipe, spec.teacher_spec or spec.teacher
    found = [("texts",)] if recipe.prefix == "teacher" else []
    if recipe.divergence and spec.sampled_share < 1:
        found.append(("states", recipe.prefix == "teacher"))
    return [(*each, teacher, spec.domain, tuple(spec.encoding.items())) for each in found]


class Estimate:
    """What one run takes on a machine.

    Raises:
        ModelError, ValueError: for a model whose shape is not known.
    """

    def __init__(self, spec: RunSpec, machine: Machine) -> None:
        self.spec, self.machine = spec, machine
        self.student = architecture_of(spec.student, spec.student_source)
        self.teacher = architecture_of(spec.teacher, spec.teacher_source) if spec.teacher else None
        self.prompt, self.response, padded, self.longest, _ = lengths_of(spec)
        self.mean = min(self.prompt + self.response, spec.max_tokens)
        self.scored = self.mean if spec.scores_prompt else self.response  # positions of an item
        self.padding = min(padded, spec.max_tokens) / self.mean
        self.kind = "full" if spec.adapter in ("full", *MASKS) else "lora"  # whether weights have gradients
        self.n_adapted = spec.adapter_parameters or self.student.adapter(spec.lora_rank)

    def training(self) -> Cost:
        """All steps, the validation of every epoch, and what is saved; nothing for a model as it is.

        Caches and texts of the teacher are apart (`teacher_cost`).
        """
        spec, student, teacher = self.spec, self.student, self.teacher
        if spec.method == "base":
            return Cost()
        n_texts, padding = spec.train_items * spec.epochs, self.padding
        tokens, n_steps = n_texts * self.mean, n_texts / spec.batch_size
        cost = self._work(student, tokens, padding=padding, n_passes=n_steps, kind=self.kind)
        cost += self._work(student, spec.validation_items * spec.epochs * self.mean, padding=padding)
        if spec.recipe.divergence:  # the teacher's head on all that is scored
            cost += self._work(teacher, n_texts * self.scored, weights=teacher.head)._replace(tokens=0.0)
        if spec.sampled_share:  # the student's own responses, of which no states are cached
            share, rows = spec.sampled_share, min(BATCH_ROWS, spec.batch_size * spec.rollout_steps)
            cost += self._work(teacher, share * tokens, padding=padding, weights=teacher.body)
            cost += self.texts(student, share * n_texts, limit=spec.max_new_tokens, rows=rows)
        stages = {"hybrid": 1, "hybrid_distilled": 2}.get(spec.student_build, 0)
        cost += self._work(student, stages * ALIGNED_ITEMS * self.mean, padding=padding, kind=self.kind)
        kept = student.parameters if spec.adapter == "full" else self.n_adapted
        return cost + Cost(disk_bytes=4 * kept + TOKENIZER_BYTES * student.rows)

    def teacher_cost(self, key: tuple) -> Cost:
        """What one of `teacher_keys` names, made once."""
        spec, teacher = self.spec, self.teacher
        if key[0] == "texts":
            return self.texts(teacher, spec.train_items, limit=spec.max_new_tokens)
        kept = Cost(disk_bytes=spec.train_items * self.scored * teacher.hidden * 2)
        tokens = spec.train_items * self.mean
        return kept + self._work(teacher, tokens, padding=self.padding, weights=teacher.body)

    def evaluations(self, asked: Iterable[EvalSpec]) -> Cost:
        """All evaluations of the student, as the same passes make several of them."""
        groups: dict[EvalSpec, list[EvalSpec]] = {}
        for each in asked:
            groups.setdefault(each.same_passes(), []).append(each)
        return sum(map(self._evaluation, groups.values()), Cost())

    def _evaluation(self, group: Sequence[EvalSpec]) -> Cost:
        """All texts of each item, whose prompt and gold response are read once; or all options ranked.

        Test items are taken to be as long as training items. A model that was trained writes as much as it
        was taught to; one that was not is taken to go on to the limit.
        """
        asked, n_samples = group[0], sum(each.samples for each in group)
        sizes = {task: min(asked.items_per_task, TEST_ITEMS.get(task, math.inf)) for task in asked.tasks}
        n_items = sum(sizes.values())
        if asked.scoring != "generation":
            n_options = sum(size * len(ALL_TASKS[task].options) for task, size in sizes.items())
            n_prompts = 1 + ("cloze_pmi" in {each.scoring for each in group})  # one without a question
            return self._work(self.student, n_items * self.prompt + n_options * self.response) * n_prompts
        gold = self._work(self.student, n_items * self.response)
        new = asked.max_new_tokens if self.spec.method == "base" else self.response
        how = {"limit": asked.max_new_tokens, "new": new, "n_prompts": n_items}
        texts = self.texts(self.student, n_items * n_samples, **how)
        return gold + texts + Cost(disk_bytes=4 * n_items * n_samples * (new + self.response))

    def texts(
        self,
        shape: Architecture,
        n_texts: float,
        *,
        limit: int,
        new: float = 0.0,
        rows: int = BATCH_ROWS,
        n_prompts: float | None = None,
    ) -> Cost:
        """Texts as long as the gold responses, or `new` tokens, until the longest of `rows` has ended.

        Args:
            n_prompts: which they follow; None: each has its own.
        """
        new = min(new or self.response, limit)
        n_steps = math.ceil(n_texts / rows) * min(math.ceil(LONGEST_TEXT * new), limit)
        read = self._work(shape, (n_texts if n_prompts is None else n_prompts) * self.prompt)
        return read + self._work(shape, n_texts * new, n_passes=n_steps)

    def _work(
        self,
        shape: Architecture,
        tokens: float,
        *,
        kind: str = "forward",
        weights: float | None = None,
        padding: float = 1.0,
        n_passes: float = 0.0,
    ) -> Cost:
        """Tokens through the `weights` of a model, by default all that multiply.

        FLOPs a weight and token: 2 forward, 6 in `full` training, 4 in that of `lora`. The time is that of
        the products, or of `n_passes` that each launch every layer and read every weight.
        """
        machine, size = self.machine, self.machine.number_bytes(shape)
        n_products, n_launches, share = {
            "forward": (1, 1, machine.forward_share),
            "full": (3, 3, machine.full_share),
            "lora": (2, 3, machine.lora_share),
        }[kind]
        multiplied = shape.body + shape.head
        flops = 2 * n_products * (weights or multiplied) * tokens * padding
        rate = share * (machine.flops_float32 if size == 4 else machine.flops)
        reading = size * multiplied / (machine.bytes_share * machine.bytes_per_second)
        launching = n_launches * shape.layers * machine.layer_seconds
        return Cost(tokens, flops, max(flops / rate, n_passes * max(reading, launching)))

    def memory_gb(self, evaluations: Collection[EvalSpec]) -> float:
        """Peak of training, of the teacher alone, of decoding and of loading, on each of its `devices`.

        These share all of it but where the teacher writes texts. A GB is 10^9 bytes.
        """
        spec, machine, student, teacher = self.spec, self.machine, self.student, self.teacher
        size = machine.number_bytes(student)
        positions = self.prompt + max((each.max_new_tokens for each in evaluations), default=0)
        a_text = student.cached(positions) * size + 34 * student.rows  # logits, noise
        peaks = [size * self._held(student) + BATCH_ROWS * a_text]
        if teacher:
            held = teacher.parameters if spec.recipe.prefix == "teacher" else self._held(teacher)
            peaks.append(machine.number_bytes(teacher) * held)
        if machine.flops_float32 is not None:  # a CPU loads in float32
            peaks += [4 * shape.parameters for shape in (student, teacher) if shape]
        peak_gb = max(peaks) / 1e9 + machine.runtime_gb
        return peak_gb if spec.method == "base" else max(peak_gb, self.training_gb(self.micro_batch()))

    def micro_batch(self) -> int:
        """Rows of a device at once: its share of the batch, halved as training does until it fits, or one."""
        rows = math.ceil(self.spec.batch_size / self.spec.devices)
        while rows > 1 and self.training_gb(rows) > self.machine.memory_gb:
            rows = math.ceil(rows / 2)
        return rows

    def training_gb(self, rows: int) -> float:
        """Peak of a device that trains micro-batches of `rows` of the longest items.

        Activations, logits, weights, gradients and Adam's moments; where the student samples, the teacher.
        """
        spec, machine, student = self.spec, self.machine, self.student
        size, is_adapted = machine.number_bytes(student), spec.adapter != "full"
        longest = self.longest + (spec.max_new_tokens if spec.sampled_share else 0)
        tokens = rows * min(longest, spec.max_tokens)
        # Bytes a token and layer, counted in transformers' Qwen2 and peft, an upper estimate: norms and
        # residuals, q, k and v twice, the MLP; for LoRA each input in float32 twice and a mask.
        activations = 26 * student.hidden + 8 * student.key_width + 8 * student.intermediate
        if is_adapted:
            activations += 9 * sum(student.matrices[name][0] for name in LORA_TARGETS)
            total = size * self._held(student) + 16 * self.n_adapted / spec.devices
            total += size * student.body * (self.kind == "full")  # a mask's gradient is dense
        else:
            total = 16 * self._held(student)
        total += tokens * student.layers * activations * size / 2
        total += 3 * min(BUDGET_BYTES, 8 * tokens * student.rows)  # logits, and what is computed from them
        if spec.sampled_share:
            total += machine.number_bytes(self.teacher) * self._held(self.teacher)
        return total / 1e9 + machine.runtime_gb

    def _held(self, shape: Architecture) -> float:
        """Weights on a device: its part, and gathered at a time all but the blocks, and two of these."""
        if self.spec.devices == 1:
            return shape.parameters
        return shape.parameters / self.spec.devices + shape.parameters - shape.body * (1 - 2 / shape.layers)


def devices_for(
    runs: Sequence[tuple[RunSpec, Collection[EvalSpec]]], machine: Machine
) -> tuple[int, float] | None:
    """The fewest such machines for each of these runs, so that all can be made, and the most GB on one.

    None if a batch has not the rows for so many.
    """
    for n in range(1, min(spec.batch_size for spec, _ in runs) + 1):
        peak = max(Estimate(replace(spec, devices=n), machine).memory_gb(asked) for spec, asked in runs)
        if peak <= machine.memory_gb:
            return n, peak
    return None
