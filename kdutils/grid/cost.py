"""What a run costs before it is made: tokens, FLOPs, memory, time and disk, from shapes and lengths alone.

The one cost model of the study: it prices a dry run, orders the jobs of a plan and guesses the time left.
Element-wise work is counted as memory traffic. A number that is an assumption is a constant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple

from kdutils.constants import CHOICE_TASKS, TEST_ITEMS
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import (
    LORA_MATRICES,
    Architecture,
    architecture_of,
    forward_flops,
    generation_flops,
    training_flops,
)
from kdutils.grid.token_lengths import lengths_of
from kdutils.spec import LOGIT_METHODS, EvalSpec, RunSpec

BUDGET_BYTES = 160 << 20  # losses.BUDGET_BYTES, which a test compares: torch is not loaded for it
LOGIT_CHUNKS = 3  # the logits that exist at one time and what is computed from them, in units of that
DECODING_ROWS = 64  # generation.BATCH_ROWS
LONGEST_TEXT = 2.4  # of 64 responses, in units of the mean; measured on the rationales of GSM8K and AQuA
FINISHED_SHARE = 0.25  # of decoding spent on rows that have ended; they leave a batch by halves
TOKENIZER_BYTES = 100  # of a saved tokenizer, an entry; 75 for Qwen2.5, 134 for Llama-3
# Times that the logits of a position are read or written in float32, counted in losses.py.
CROSS_ENTROPY_PASSES = 9
DIVERGENCE_PASSES = {"fkl": 30, "revkd": 33, "gkd": 45}  # of both models
NOISE_PASSES = 30


# --- costs --------------------------------------------------------------------------------------------------


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
        return Cost(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(getattr(self, each.name) * factor for each in fields(self)))

    @property
    def tokens(self) -> float:
        """Trained, scored and generated."""
        return self.trained_tokens + self.scored_tokens + self.generated_tokens


def _rank(spec: RunSpec) -> int:
    return spec.lora_rank if spec.adapter == "lora" else 0


def _forward(
    shape: Architecture, machine: Machine, rows: float, *, context: float, scored: float, rank: int = 0
) -> Cost:
    """A forward pass over rows of `context` tokens each, of which `scored` go through the head."""
    flops = forward_flops(shape, rows * context, context=context, scored=rows * scored, rank=rank)
    return Cost(flops=flops, seconds=flops / machine.rate(shape, machine.forward_share))


def is_cached(spec: RunSpec) -> bool:
    """Whether the teacher's hidden states on the gold sequences come from a cache."""
    return spec.method in LOGIT_METHODS and spec.reads_gold


def training_cost(spec: RunSpec, machine: Machine) -> Cost:
    """All steps, the validation of every epoch, and what is saved; nothing for a model as it is.

    Caches and texts of the teacher are apart (`teacher_cost`).
    """
    if spec.method == "base":
        return Cost()
    student, rank, found = architecture_of(spec.student), _rank(spec), lengths_of(spec)
    rows = micro_batch(spec, machine)
    mean, padded, _ = found.of_batch(rows, at_most=spec.max_tokens)
    scored = found.scored(scores_prompt=spec.scores_prompt, at_most=spec.max_tokens)
    n_rows = spec.train_items * spec.epochs
    n_steps = math.ceil(spec.train_items / spec.batch_size) * spec.epochs
    work = {"context": padded, "rank": rank}
    flops = training_flops(student, n_rows * padded, scored=n_rows * scored, **work)
    seconds = flops / machine.rate(student, machine.adapter_share if rank else machine.training_share)
    passes = DIVERGENCE_PASSES.get(spec.method, CROSS_ENTROPY_PASSES) + NOISE_PASSES * (spec.noise_sigma > 0)
    traffic = machine.bytes_share * machine.bytes_per_second
    seconds += 4 * passes * student.rows * n_rows * scored / traffic
    launches = 3 * student.layers * n_steps * math.ceil(spec.batch_size / rows) * machine.layer_seconds
    kept = 4 * (student.adapter(rank) if rank else student.parameters) + TOKENIZER_BYTES * student.rows
    cost = Cost(n_rows * mean, flops=flops, seconds=max(seconds, launches), disk_bytes=kept)
    if spec.method in LOGIT_METHODS:  # the teacher's head on every position, its body where no cache holds it
        teacher = architecture_of(spec.teacher)
        share = 1.0 if not is_cached(spec) else spec.on_policy_share if spec.method == "gkd" else 0.0
        cost += Cost(scored_tokens=share * n_rows * padded)
        cost += _forward(teacher, machine, share * n_rows, context=padded, scored=0)
        cost += _forward(teacher, machine, n_rows, context=0, scored=scored)
    if spec.method == "gkd":  # the student's own responses, as long as the gold ones
        prompt, new = float(found.prompts.mean()), float(found.responses.mean())
        texts = decoding(
            student, machine, spec.batch_size, prompt=prompt, new=new, limit=spec.max_new_tokens, rank=rank
        )
        cost += texts * (n_steps * spec.on_policy_share)
    n_validated = spec.validation_items * spec.epochs
    cost += Cost(scored_tokens=n_validated * mean)
    return cost + _forward(student, machine, n_validated, scored=scored, **work)


def teacher_key(spec: RunSpec) -> tuple | None:
    """What names the hidden states or texts that a run reads of its teacher; None if it reads none.

    Runs of one key share them: students, temperatures, noise levels, epochs and seeds have no part in it.
    """
    teacher = spec.teacher_spec or spec.teacher
    own = (spec.data, spec.domain, spec.train_items, spec.validation_items, spec.max_item_characters)
    if spec.method == "seqkd":
        return ("texts", teacher, own, spec.max_new_tokens)
    if is_cached(spec):
        return ("hidden", teacher, own, tuple(spec.encoding.items()))
    return None


def teacher_cost(spec: RunSpec, machine: Machine) -> Cost:
    """The hidden states or texts of `teacher_key`, made once: one pass over the items, no head.

    Disk: width x 2 bytes x scored positions. Texts are written greedily, as long as the gold ones.
    """
    shape, found = architecture_of(spec.teacher), lengths_of(spec)
    if spec.method == "seqkd":
        prompt, new = float(found.prompts.mean()), float(found.responses.mean())
        batch = decoding(shape, machine, DECODING_ROWS, prompt=prompt, new=new, limit=spec.max_new_tokens)
        return batch * (spec.train_items / DECODING_ROWS)
    mean, padded, _ = found.of_batch(spec.batch_size, at_most=spec.max_tokens)
    scored = spec.train_items * found.scored(scores_prompt=spec.scores_prompt, at_most=spec.max_tokens)
    kept = Cost(scored_tokens=spec.train_items * mean, disk_bytes=scored * shape.hidden * 2)
    return kept + _forward(shape, machine, spec.train_items, context=padded, scored=0)


def decoding(
    shape: Architecture, machine: Machine, rows: int, *, prompt: float, new: float, limit: int, rank: int = 0
) -> Cost:
    """One batch of texts of `new` tokens in the mean, until the longest has ended or reached the limit.

    Every step launches all layers and reads all weights, the head's among them, and the keys and values of
    what stands before: whichever of products, reads and launches takes longest is its time.
    """
    new = min(new, limit)
    size, launches = machine.number_bytes(shape), shape.layers * machine.layer_seconds
    rate = machine.rate(shape, machine.forward_share)
    computed = min(new * (1 + FINISHED_SHARE), limit)
    flops = generation_flops(shape, rows, prompt=prompt, new=computed, rank=rank)
    prefill = forward_flops(shape, rows * prompt, context=prompt, scored=rows, rank=rank)
    steps = min(math.ceil(LONGEST_TEXT * new), limit) if new < limit else limit
    read = (shape.body + shape.head) * size
    read += decoding_bytes(shape, rows * computed / steps, positions=prompt + new / 2, number_bytes=size)
    reading = read / (machine.decoding_share * machine.bytes_per_second)
    seconds = max(prefill / rate, launches) + steps * max((flops - prefill) / rate / steps, reading, launches)
    return Cost(scored_tokens=rows * prompt, generated_tokens=rows * new, flops=flops, seconds=seconds)


def decoding_bytes(shape: Architecture, rows: float, *, positions: float, number_bytes: int) -> float:
    """Bytes of the KV cache of `rows` texts, and of one step's logits with the noise that samples them."""
    cache_bytes = 2 * positions * shape.key_width * shape.layers * number_bytes
    return rows * (cache_bytes + 34 * shape.rows)


def evaluation_cost(spec: RunSpec, evaluation: EvalSpec, machine: Machine) -> Cost:
    """All texts of an evaluation with the pass over the gold responses, or the ranking of all options.

    Test items are taken to be as long as training items. A model that was trained writes as much as it was
    taught to; one that was not is taken to go on to the limit. An option of a ranking is a pass over prompt
    and option.
    """
    shape, rank, found = architecture_of(spec.student), _rank(spec), lengths_of(spec)
    prompt, response = float(found.prompts.mean()), float(found.responses.mean())
    total = Cost()
    for task in evaluation.tasks:
        n_items = n_passes = min(evaluation.items_per_task, TEST_ITEMS.get(task, evaluation.items_per_task))
        if evaluation.scoring == "likelihood":
            n_passes *= 5 if task == "aqua" else len(CHOICE_TASKS.get(task, ()))
        passes = _forward(shape, machine, n_passes, context=prompt + response, scored=response, rank=rank)
        launches = shape.layers * machine.layer_seconds * n_passes / DECODING_ROWS
        passes = replace(passes, seconds=max(passes.seconds, launches))
        total += passes + Cost(scored_tokens=n_passes * (prompt + response))
        if evaluation.scoring == "generation":
            limit, n_texts = evaluation.max_new_tokens, n_items * evaluation.samples
            new, rows = limit if spec.method == "base" else response, min(DECODING_ROWS, n_texts)
            texts = decoding(shape, machine, rows, prompt=prompt, new=new, limit=limit, rank=rank)
            texts *= n_texts / rows
            total += texts + Cost(disk_bytes=4 * (texts.generated_tokens + n_items * response))
    return total


def alike(spec: RunSpec) -> RunSpec:
    """One spec for all that cost the same: whatever their seed, temperature and level of noise."""
    same = {"seed": 0, "teacher_seed": 0} if spec.method != "base" else {}
    return replace(spec, temperature=1.0, noise_sigma=float(spec.noise_sigma > 0), **same)


class Priced(NamedTuple):
    """What a run takes."""

    training: Cost
    states: Cost  # the hidden states or texts of its teacher, which many runs share
    evaluation: Cost
    memory_gb: float


def priced(spec: RunSpec, evaluations: tuple[EvalSpec, ...], machine: Machine) -> Priced:
    """What a run takes, computed once for all that are `alike`.

    Raises:
        ModelError: for a model whose shape is not known.
    """
    return _priced(alike(spec), spec.devices, evaluations, machine)


@cache
def _priced(spec: RunSpec, devices: int, evaluations: tuple[EvalSpec, ...], machine: Machine) -> Priced:
    """`devices` as well, since equal specs may differ in it."""
    states = teacher_cost(spec, machine) if teacher_key(spec) else Cost()
    evaluation = sum((evaluation_cost(spec, each, machine) for each in evaluations), Cost())
    return Priced(training_cost(spec, machine), states, evaluation, memory_gb(spec, evaluations, machine))


# --- memory -------------------------------------------------------------------------------------------------


def _activation_bytes(shape: Architecture, tokens: float, *, context: float, rank: int, eager: bool) -> float:
    """Bytes that the forward pass keeps for the backward one, in bf16; twice as many in float32.

    A token and layer: two norms with their float32 copies (16 x width), q, k, v before and after rotation,
    attention's output and two residuals (10 x width + 8 x key width), four products in the MLP (8 x
    intermediate). LoRA keeps a float32 copy of each of its inputs, that copy after dropout, and a mask (9
    bytes each). Eager attention keeps scores and softmax too (10 bytes a pair of positions and head).
    Counted in transformers' Qwen2 and peft; an upper estimate, since some are shared.
    """
    layer = 26 * shape.hidden + 8 * shape.key_width + 8 * shape.intermediate
    if rank:
        layer += 9 * sum(shape.matrices[name][0] for name in LORA_MATRICES)
    return tokens * shape.layers * (layer + 10 * shape.heads * context * eager)


def _part_bytes(shape: Architecture, whole: float, *, gathered_bytes: int, devices: int) -> float:
    """Bytes on one of `devices` that divide the `whole` of a model among them (kdutils.devices.fsdp).

    Gathered at a time, `gathered_bytes` a weight: embedding, head and norms, and two layers, of which one is
    on its way.
    """
    if devices == 1:
        return whole
    return whole / devices + gathered_bytes * (shape.parameters - shape.body * (1 - 2 / shape.layers))


def _frozen_bytes(name: str, machine: Machine, devices: int) -> float:
    """Bytes on a device of a model that is only read."""
    shape = architecture_of(name)
    size = machine.number_bytes(shape)
    return _part_bytes(shape, size * shape.parameters, gathered_bytes=size, devices=devices)


def training_memory_gb(spec: RunSpec, machine: Machine, *, rows: int) -> float:
    """Peak of a device that trains micro-batches of `rows` of the longest items, GB of 10^9 bytes."""
    shape, rank = architecture_of(spec.student), _rank(spec)
    size = machine.number_bytes(shape)
    longest = lengths_of(spec).of_batch(1, at_most=spec.max_tokens)[2]
    if spec.method == "gkd":
        longest = max(longest, min(spec.max_tokens, longest + spec.max_new_tokens))
    eager = machine.flops_float32 is not None and size == 2
    total = _activation_bytes(shape, rows * longest, context=longest, rank=rank, eager=eager) * size / 2
    # Of what is trained the weight, its gradient and Adam's two moments, all in float32.
    state = size * shape.parameters + 16 * shape.adapter(rank) if rank else 16 * shape.parameters
    total += _part_bytes(shape, state, gathered_bytes=size if rank else 8, devices=spec.devices)
    total += LOGIT_CHUNKS * min(BUDGET_BYTES, 8 * rows * longest * shape.rows)
    total += 6 * shape.head * (rank == 0)  # the head's gradient, summed in float32
    if spec.method == "gkd" or (spec.method in LOGIT_METHODS and not is_cached(spec)):
        total += _frozen_bytes(spec.teacher, machine, spec.devices)
    return total / 1e9 + machine.runtime_gb


def micro_batch(spec: RunSpec, machine: Machine) -> int:
    """Rows of a device at once: its share of the batch, halved as training does until it fits, or one."""
    rows = math.ceil(spec.batch_size / spec.devices)
    while rows > 1 and training_memory_gb(spec, machine, rows=rows) > machine.memory_gb:
        rows = math.ceil(rows / 2)
    return rows


def _evaluation_memory_gb(spec: RunSpec, evaluation: EvalSpec, machine: Machine) -> float:
    """Weights, KV cache of one batch and logits of one step; devices divide weights that do not fit one."""
    shape = architecture_of(spec.student)
    size, prompt = machine.number_bytes(shape), float(lengths_of(spec).prompts.mean())
    positions = prompt + evaluation.max_new_tokens * (evaluation.scoring == "generation")
    total = decoding_bytes(shape, DECODING_ROWS, positions=positions, number_bytes=size)
    total += DECODING_ROWS * prompt * 8 * shape.intermediate  # of the prefill's widest layer
    own, shared = (_frozen_bytes(spec.student, machine, n) for n in (1, spec.devices))
    whole, part = ((weights + total) / 1e9 + machine.runtime_gb for weights in (own, shared))
    return whole if whole <= machine.memory_gb else part


def memory_gb(spec: RunSpec, evaluations: Iterable[EvalSpec], machine: Machine) -> float:
    """Peak of training, of the teacher's cache, of evaluation and of loading, GB of 10^9 bytes, on one GPU.

    Several `devices` share all of it but the teacher's texts in seqkd.
    Models are loaded in float32 on the CPU, so that loading counts there alone.
    """
    peaks = [_evaluation_memory_gb(spec, each, machine) for each in evaluations]
    if spec.method != "base":
        peaks.append(training_memory_gb(spec, machine, rows=micro_batch(spec, machine)))
    if teacher_key(spec) is not None:
        devices = 1 if spec.method == "seqkd" else spec.devices
        peaks.append(_frozen_bytes(spec.teacher, machine, devices) / 1e9 + machine.runtime_gb)
    if machine.flops_float32 is not None:
        named = [name for name in (spec.student, spec.teacher) if name is not None]
        peaks += [4 * architecture_of(name).parameters / 1e9 + machine.runtime_gb for name in named]
    return max(peaks)


def devices_for(spec: RunSpec, evaluations: Iterable[EvalSpec], machine: Machine) -> int | None:
    """The fewest such machines that can make a run together; None if a batch has not the rows for them."""
    for devices in range(1, spec.batch_size + 1):
        if memory_gb(replace(spec, devices=devices), evaluations, machine) <= machine.memory_gb:
            return devices
    return None
