"""What a run costs before it is made: tokens, FLOPs, memory, time and disk, from shapes and lengths alone.

The one cost model of the study: it prices a dry run, orders the jobs of a plan and guesses the time left.
Element-wise work is counted as memory traffic. A number that is an assumption is a constant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from functools import cache
from typing import NamedTuple

from kdutils.compute import BATCH_ROWS, BUDGET_BYTES
from kdutils.constants import ALL_TASKS, LORA_TARGETS, METHODS, TEST_ITEMS
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture, architecture_of, forward_flops, training_flops
from kdutils.grid.token_lengths import lengths_of
from kdutils.spec import LOGIT_METHODS, EvalSpec, RunSpec

LOGIT_CHUNKS = 3  # the logits that exist at one time and what is computed from them, in units of that
LONGEST_TEXT = 2.4  # of 64 responses, in units of the mean; measured on the rationales of GSM8K and AQuA
FINISHED_SHARE = 0.25  # of decoding spent on rows that have ended; they leave a batch by halves
TOKENIZER_BYTES = 100  # of a saved tokenizer, an entry; 75 for Qwen2.5, 134 for Llama-3
# Times that the logits of a position are read or written in float32, counted in losses.py.
CROSS_ENTROPY_PASSES = 9
DIVERGENCE_PASSES = {"forward_kl": 30, "reverse_kl": 33, "jsd": 45}  # of both models
NOISE_PASSES = 30


@dataclass(frozen=True)
class Cost:
    """What a piece of work takes; costs add up."""

    trained_tokens: float = 0.0  # of the student's training sequences, without padding
    scored_tokens: float = 0.0  # that go through a model forward only
    generated_tokens: float = 0.0
    flops: float = 0.0  # with padding
    seconds: float = 0.0  # on one machine
    disk_bytes: float = 0.0  # that stay

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * each for each in astuple(self)))

    @property
    def tokens(self) -> float:
        """Trained, scored and generated."""
        return self.trained_tokens + self.scored_tokens + self.generated_tokens


def is_cached(spec: RunSpec) -> bool:
    """Whether the teacher's hidden states on the gold sequences come from a cache."""
    return spec.method in LOGIT_METHODS and spec.reads_gold


def teacher_key(spec: RunSpec) -> tuple | None:
    """What names the hidden states or texts that a run reads of its teacher; None if it reads none.

    Runs of one key share them: students, temperatures, noise levels, epochs and seeds have no part in it.
    """
    teacher = spec.teacher_spec or spec.teacher
    own = (spec.data, spec.domain, spec.train_items, spec.validation_items, spec.max_item_characters)
    if spec.method == "seqkd":
        return ("texts", teacher, own, spec.max_new_tokens)
    return ("hidden", teacher, own, tuple(spec.encoding.items())) if is_cached(spec) else None


class Estimate:
    """What one run takes on a machine.

    Raises:
        ModelError: for a model whose shape is not known.
    """

    def __init__(self, spec: RunSpec, machine: Machine) -> None:
        self.spec, self.machine, self.lengths = spec, machine, lengths_of(spec)
        self.student = architecture_of(spec.student, spec.student_source)
        self.teacher = architecture_of(spec.teacher, spec.teacher_source) if spec.teacher else None
        self.rank = spec.lora_rank if spec.adapter == "lora" else 0
        self.scored = self.lengths.scored(scores_prompt=spec.scores_prompt, at_most=spec.max_tokens)
        self.prompt, self.response = float(self.lengths.prompts.mean()), float(self.lengths.responses.mean())

    def training(self) -> Cost:
        """All steps, the validation of every epoch, and what is saved; nothing for a model as it is.

        Caches and texts of the teacher are apart (`teacher_cost`).
        """
        spec, machine, student, rank = self.spec, self.machine, self.student, self.rank
        if spec.method == "base":
            return Cost()
        rows = self.micro_batch()
        mean, padded, _ = self.lengths.of_batch(rows, at_most=spec.max_tokens)
        n_rows = spec.train_items * spec.epochs
        n_steps = math.ceil(spec.train_items / spec.batch_size) * spec.epochs
        tokens, scored = n_rows * padded, n_rows * self.scored
        flops = training_flops(student, tokens, context=padded, scored=scored, rank=rank)
        share = machine.adapter_share if rank else machine.training_share
        divergence = METHODS[spec.method].divergence
        passes = DIVERGENCE_PASSES[divergence] if divergence else CROSS_ENTROPY_PASSES
        passes += NOISE_PASSES * (spec.noise_sigma > 0)
        traffic = 4 * passes * student.rows * scored / (machine.bytes_share * machine.bytes_per_second)
        launches = 3 * student.layers * n_steps * math.ceil(spec.batch_size / rows) * machine.layer_seconds
        seconds = max(flops / machine.rate(student, share) + traffic, launches)
        kept = 4 * (student.adapter(rank) if rank else student.parameters) + TOKENIZER_BYTES * student.rows
        cost = Cost(n_rows * mean, flops=flops, seconds=seconds, disk_bytes=kept)
        n_validated = spec.validation_items * spec.epochs
        scored_validated = n_validated * self.scored
        cost += forward(student, machine, n_validated * padded, context=padded, scored=scored_validated)
        if spec.method in LOGIT_METHODS:  # the teacher's head on every position, its body without a cache
            share = 1.0 if not is_cached(spec) else spec.on_policy_share if spec.method == "gkd" else 0.0
            cost += forward(self.teacher, machine, share * tokens, context=padded, scored=scored)
        if spec.method == "gkd":  # the student's own responses
            n_texts = n_steps * spec.on_policy_share * spec.batch_size
            cost += self._texts(student, n_texts, rows=spec.batch_size, limit=spec.max_new_tokens)
        return cost

    def teacher_cost(self) -> Cost:
        """The hidden states or texts of `teacher_key`, made once; nothing for a run that reads none.

        States take one pass over the items, without head, and width x 2 bytes x scored positions of disk.
        """
        spec = self.spec
        if spec.method == "seqkd":
            return self._texts(self.teacher, spec.train_items, limit=spec.max_new_tokens)
        if not is_cached(spec):
            return Cost()
        padded = self.lengths.of_batch(spec.batch_size, at_most=spec.max_tokens)[1]
        kept = Cost(disk_bytes=spec.train_items * self.scored * self.teacher.hidden * 2)
        return kept + forward(self.teacher, self.machine, spec.train_items * padded, context=padded)

    def evaluation(self, asked: EvalSpec) -> Cost:
        """All texts of an evaluation with the pass over the gold responses, or the ranking of all options.

        Test items are taken to be as long as training items. A model that was trained writes as much as it
        was taught to; one that was not is taken to go on to the limit.
        """
        sizes = {task: min(asked.items_per_task, TEST_ITEMS.get(task, math.inf)) for task in asked.tasks}
        n_items = n_responses = sum(sizes.values())
        if asked.scoring == "likelihood":
            n_responses = sum(size * len(ALL_TASKS[task].options) for task, size in sizes.items())
        prompts, responses = n_items * self.prompt, n_responses * self.response
        context = self.prompt + self.response
        passes = forward(self.student, self.machine, prompts + responses, context=context, scored=responses)
        if asked.scoring == "likelihood":
            return passes
        limit = asked.max_new_tokens
        new = limit if self.spec.method == "base" else self.response
        texts = self._texts(self.student, n_items * asked.samples, limit=limit, new=new)
        return passes + texts + Cost(disk_bytes=4 * (texts.generated_tokens + responses))

    def _texts(
        self, shape: Architecture, n_texts: float, *, limit: int, new: float = 0, rows: int = BATCH_ROWS
    ) -> Cost:
        """Texts as long as the gold responses, or `new` tokens, as `decoding`."""
        new = new or self.response
        return decoding(shape, self.machine, n_texts, prompt=self.prompt, new=new, limit=limit, rows=rows)

    # --- memory of one of the `devices` that share a run, GB of 10^9 bytes ----------------------------------

    def training_memory_gb(self, *, rows: int) -> float:
        """Peak of a device that trains micro-batches of `rows` of the longest items."""
        spec, student, rank = self.spec, self.student, self.rank
        size = self.machine.number_bytes(student)
        longest = self.lengths.of_batch(1, at_most=spec.max_tokens)[2]
        if spec.method == "gkd":
            longest = min(spec.max_tokens, longest + spec.max_new_tokens)
        total = rows * longest * _activation_bytes(student, rank) * size / 2
        total += LOGIT_CHUNKS * min(BUDGET_BYTES, 8 * rows * longest * student.rows)
        # Of what is trained the weight, its gradient and Adam's two moments, all in float32.
        if rank:
            total += self._weight_bytes(student) + 16 * student.adapter(rank) / spec.devices
        else:  # the head's gradient is summed in float32
            total += _part_bytes(student, 16, gathered_bytes=8, devices=spec.devices) + 6 * student.head
        if spec.method == "gkd" or (spec.method in LOGIT_METHODS and not is_cached(spec)):
            total += self._weight_bytes(self.teacher)
        return total / 1e9 + self.machine.runtime_gb

    def micro_batch(self) -> int:
        """Rows of a device at once: its share of the batch, halved as training does until it fits, or one."""
        rows = math.ceil(self.spec.batch_size / self.spec.devices)
        while rows > 1 and self.training_memory_gb(rows=rows) > self.machine.memory_gb:
            rows = math.ceil(rows / 2)
        return rows

    def memory_gb(self, evaluations: Iterable[EvalSpec]) -> float:
        """Peak of training, of the teacher's cache, of evaluation and, in float32 on CPUs, of loading.

        Several `devices` share all of it but the teacher's texts in seqkd, and an evaluation that fits one.
        """
        spec, machine, student = self.spec, self.machine, self.student
        peaks = [0.0]  # bytes
        for each in evaluations:
            positions = self.prompt + each.max_new_tokens * (each.scoring == "generation")
            batch = _decoding_bytes(student, machine, BATCH_ROWS, positions=positions)
            batch += BATCH_ROWS * self.prompt * 8 * student.intermediate  # of the prefill's widest layer
            whole = self._weight_bytes(student, devices=1) + batch
            fits = whole / 1e9 + machine.runtime_gb <= machine.memory_gb
            peaks.append(whole if fits else self._weight_bytes(student) + batch)
        if teacher_key(spec) is not None:
            peaks.append(self._weight_bytes(self.teacher, devices=1 if spec.method == "seqkd" else None))
        if machine.flops_float32 is not None:
            peaks += [4 * shape.parameters for shape in (student, self.teacher) if shape]
        trained = 0.0 if spec.method == "base" else self.training_memory_gb(rows=self.micro_batch())
        return max(trained, max(peaks) / 1e9 + machine.runtime_gb)

    def _weight_bytes(self, shape: Architecture, devices: int | None = None) -> float:
        """Of a model that is only read."""
        size = self.machine.number_bytes(shape)
        return _part_bytes(shape, size, gathered_bytes=size, devices=devices or self.spec.devices)


def forward(
    shape: Architecture, machine: Machine, tokens: float, *, context: float, scored: float = 0
) -> Cost:
    """A forward pass over so many tokens in rows of `context`, of which `scored` go through the head."""
    flops = forward_flops(shape, tokens, context=context, scored=scored)
    return Cost(scored_tokens=tokens, flops=flops, seconds=flops / machine.rate(shape, machine.forward_share))


def decoding(
    shape: Architecture,
    machine: Machine,
    n_texts: float,
    *,
    prompt: float,
    new: float,
    limit: int,
    rows: int = BATCH_ROWS,
) -> Cost:
    """Texts of `new` tokens in the mean, `rows` at a time, until the longest has ended or reached the limit.

    Every step launches all layers and reads all weights, the head's among them, and the keys and values of
    what stands before: whichever of products, reads and launches takes longest is its time.
    """
    rows, new = min(rows, n_texts), min(new, limit)
    n_steps = min(math.ceil(LONGEST_TEXT * new), limit)
    n_computed = min(new * (1 + FINISHED_SHARE), limit)  # a row
    prefill = forward(shape, machine, rows * prompt, context=prompt, scored=rows)  # gives the first token
    later = rows * (n_computed - 1)
    flops = forward_flops(shape, later, context=prompt + n_computed / 2, scored=later)
    read = (shape.body + shape.head) * machine.number_bytes(shape)
    read += _decoding_bytes(shape, machine, rows * n_computed / n_steps, positions=prompt + new / 2)
    reading = read / (machine.decoding_share * machine.bytes_per_second)
    step = max(reading, shape.layers * machine.layer_seconds)
    seconds = max(flops / machine.rate(shape, machine.forward_share), n_steps * step)
    return (prefill + Cost(generated_tokens=rows * new, flops=flops, seconds=seconds)) * (n_texts / rows)


def _decoding_bytes(shape: Architecture, machine: Machine, rows: float, *, positions: float) -> float:
    """Of the KV cache of `rows` texts, and of one step's logits with the noise that samples them."""
    cache_bytes = 2 * positions * shape.key_width * shape.layers * machine.number_bytes(shape)
    return rows * (cache_bytes + 34 * shape.rows)


def _activation_bytes(shape: Architecture, rank: int) -> float:
    """Bytes a token that the forward pass keeps for the backward one, in bf16; twice as many in float32.

    Of a layer: two norms with their float32 copies (16 x width), q, k, v before and after rotation,
    attention's output and two residuals (10 x width + 8 x key width), four products in the MLP (8 x
    intermediate). LoRA keeps a float32 copy of each of its inputs, that copy after dropout, and a mask (9
    bytes each). Counted in transformers' Qwen2 and peft; an upper estimate, since some are shared.
    """
    layer = 26 * shape.hidden + 8 * shape.key_width + 8 * shape.intermediate
    if rank:
        layer += 9 * sum(shape.matrices[name][0] for name in LORA_TARGETS)
    return shape.layers * layer


def _part_bytes(shape: Architecture, weight_bytes: int, *, gathered_bytes: int, devices: int) -> float:
    """On one of `devices` that divide a model's weights among them (kdutils.devices.fsdp).

    Gathered at a time: embedding, head and norms, and two layers, of which one is on its way.
    """
    if devices == 1:
        return weight_bytes * shape.parameters
    gathered = shape.parameters - shape.body * (1 - 2 / shape.layers)
    return weight_bytes * shape.parameters / devices + gathered_bytes * gathered


# --- many runs ----------------------------------------------------------------------------------------------


class Priced(NamedTuple):
    """What a run takes."""

    training: Cost
    states: Cost  # the hidden states or texts of its teacher, which many runs share
    evaluation: Cost
    memory_gb: float


def alike(spec: RunSpec) -> RunSpec:
    """One spec for all that cost the same: whatever their seed, temperature and level of noise."""
    same = {"seed": 0, "teacher_seed": 0} if spec.method != "base" else {}
    return replace(spec, temperature=1.0, noise_sigma=float(spec.noise_sigma > 0), **same)


def priced(spec: RunSpec, evaluations: tuple[EvalSpec, ...], machine: Machine) -> Priced:
    """What a run takes, computed once for all that are `alike`."""
    return _priced(alike(spec), spec.apart, evaluations, machine)


@cache
def _priced(spec: RunSpec, apart: tuple, evaluations: tuple[EvalSpec, ...], machine: Machine) -> Priced:
    """Cached also by the fields that equality leaves out."""
    own = Estimate(spec, machine)
    evaluation = sum(map(own.evaluation, evaluations), Cost())
    return Priced(own.training(), own.teacher_cost(), evaluation, own.memory_gb(evaluations))


def devices_for(spec: RunSpec, evaluations: Iterable[EvalSpec], machine: Machine) -> int | None:
    """The fewest such machines that can make a run together; None if a batch has not the rows for them."""
    for devices in range(1, spec.batch_size + 1):
        if Estimate(replace(spec, devices=devices), machine).memory_gb(evaluations) <= machine.memory_gb:
            return devices
    return None
