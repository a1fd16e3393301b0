"""What a run costs before it is made: tokens, FLOPs, memory, time and disk, from shapes and lengths alone.

Element-wise work is counted as memory traffic. Where a number is an assumption it is a constant here, in
lengths or in machines, and says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kdutils.grid import token_lengths
from kdutils.grid.flops import (
    activation_bytes,
    decoding_bytes,
    forward_flops,
    generation_flops,
    part_bytes,
    state_bytes,
    training_flops,
)
from kdutils.grid.machines import Machine
from kdutils.grid.model_shapes import Architecture, architecture_of
from kdutils.spec import LOGIT_METHODS, EvalSpec, RunSpec

BUDGET_BYTES = 160 << 20  # losses.BUDGET_BYTES, which a test compares: torch is not loaded for it
LOGIT_CHUNKS = 3  # the logits that exist at one time and what is computed from them, in units of that
SMALL_PARAMETERS = 20_000_000  # models.LARGE_PARAMETERS: on a CPU, smaller models compute in float32
DECODING_ROWS = 64  # generate.BATCH_ROWS
LONGEST_TEXT = 2.4  # of 64 responses, in units of the mean; measured on the rationales of GSM8K and AQuA
FINISHED_SHARE = 0.25  # of decoding spent on rows that have ended; they leave a batch by halves
TOKENIZER_BYTES = 100  # of a saved tokenizer, an entry; 75 for Qwen2.5, 134 for Llama-3
# Times that the logits of a position are read or written in float32, counted in losses.py.
CROSS_ENTROPY_PASSES = 9
DIVERGENCE_PASSES = {"fkl": 30, "revkd": 33, "gkd": 45}  # of both models
NOISE_PASSES = 30


@dataclass(frozen=True)
class Cost:
    """What a piece of work comes to; costs add up."""

    trained_tokens: float = 0.0  # of the student's training sequences, without padding
    scored_tokens: float = 0.0  # that go through a model forward only
    generated_tokens: float = 0.0
    flops: float = 0.0  # with padding
    seconds: float = 0.0  # on one machine
    disk_bytes: float = 0.0  # that stay

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + theirs for mine, theirs in zip(self._values, other._values, strict=True)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(value * factor for value in self._values))

    @property
    def _values(self) -> tuple[float, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    @property
    def tokens(self) -> float:
        """Trained, scored and generated."""
        return self.trained_tokens + self.scored_tokens + self.generated_tokens


def is_cached(spec: RunSpec) -> bool:
    """Whether the teacher's hidden states on the gold sequences come from a cache."""
    return spec.method in LOGIT_METHODS and spec.reads_gold


@dataclass(frozen=True)
class Training:
    """A run's training on a machine."""

    spec: RunSpec
    machine: Machine

    @property
    def student(self) -> Architecture:
        return architecture_of(self.spec.student)

    @property
    def teacher(self) -> Architecture:
        return architecture_of(self.spec.teacher)

    @property
    def rank(self) -> int:
        return self.spec.lora_rank if self.spec.adapter == "lora" else 0

    @property
    def is_teacher_online(self) -> bool:
        """Whether the teacher is resident while the student is trained."""
        return self.spec.method == "gkd" or (self.spec.method in LOGIT_METHODS and not is_cached(self.spec))

    def memory_gb(self, *, rows: int) -> float:
        """Peak of a device with micro-batches of `rows` of the longest items, GB of 10^9 bytes."""
        how, spec = _Numbers.of(self.student, self.machine), self.spec
        _, _, longest = token_lengths.of_training(spec).of_batch(1, at_most=spec.max_tokens)
        if spec.method == "gkd":
            longest = max(longest, min(spec.max_tokens, longest + spec.max_new_tokens))
        activations = activation_bytes(
            self.student, rows * longest, context=longest, rank=self.rank, eager=how.is_eager
        )
        state = state_bytes(self.student, rank=self.rank, weight_bytes=how.weight_bytes)
        gathered_bytes = how.weight_bytes if self.rank else 8  # a weight and its gradient in float32
        total = part_bytes(self.student, state, gathered_bytes=gathered_bytes, devices=spec.devices)
        total += activations * how.weight_bytes / 2
        total += LOGIT_CHUNKS * min(BUDGET_BYTES, 8 * rows * longest * self.student.rows)
        total += 6 * self.student.head * (self.rank == 0)  # the head's gradient, summed in float32
        if self.is_teacher_online:
            total += self.teacher_bytes()
        return total / 1e9 + self.machine.runtime_gb

    def teacher_bytes(self) -> float:
        """Of the frozen teacher on a device."""
        each = _Numbers.of(self.teacher, self.machine).weight_bytes
        whole = each * self.teacher.parameters
        return part_bytes(self.teacher, whole, gathered_bytes=each, devices=self.spec.devices)

    def peak_gb(self) -> float:
        """Of a device, in training and when the teacher's states are made, GB; none for a model as it is."""
        if self.spec.method == "base":
            return 0.0
        peak = self.memory_gb(rows=self.micro_batch)
        if teacher_key(self.spec) is None:
            return peak
        if self.spec.method == "seqkd":  # it writes on one device
            alone = Training(replace(self.spec, devices=1), self.machine)
            return max(peak, alone.teacher_bytes() / 1e9 + self.machine.runtime_gb)
        return max(peak, self.teacher_bytes() / 1e9 + self.machine.runtime_gb)

    @property
    def micro_batch(self) -> int:
        """Rows of a device at once: its share of the batch, halved as train does until it fits, or one."""
        rows = math.ceil(self.spec.batch_size / self.spec.devices)
        while rows > 1 and self.memory_gb(rows=rows) > self.machine.memory_gb:
            rows = math.ceil(rows / 2)
        return rows

    def cost(self) -> Cost:
        """All steps, the validation of every epoch, and what is saved; nothing for a model as it is.

        Caches and texts of the teacher are apart (`teacher_cost`).
        """
        spec = self.spec
        if spec.method == "base":
            return Cost()
        items, rows = token_lengths.of_training(spec), self.micro_batch
        mean, padded, _ = items.of_batch(rows, at_most=spec.max_tokens)
        scored = items.scored(scores_prompt=spec.scores_prompt, at_most=spec.max_tokens)
        n_rows = spec.train_items * spec.epochs
        n_passes = math.ceil(spec.train_items / spec.batch_size) * spec.epochs
        n_passes *= math.ceil(spec.batch_size / rows)
        flops = training_flops(
            self.student, n_rows * padded, context=padded, scored=n_rows * scored, rank=self.rank
        )
        numbers = _Numbers.of(self.student, self.machine)
        share = self.machine.adapter_share if self.rank else self.machine.training_share
        seconds = flops / numbers.rate(share)
        passes = DIVERGENCE_PASSES.get(spec.method, CROSS_ENTROPY_PASSES)
        passes += NOISE_PASSES * (spec.noise_sigma > 0)
        seconds += 4 * passes * self.student.rows * n_rows * scored / numbers.traffic
        seconds = max(seconds, 3 * self.student.layers * n_passes * self.machine.layer_seconds)
        cost = Cost(trained_tokens=n_rows * mean, flops=flops, seconds=seconds)
        cost += self._signal(n_rows, padded, scored)
        if spec.method == "gkd":
            cost += self._samples(items)
        if spec.validation_items:
            cost += self._validation(mean, padded, scored)
        kept = 4 * (self.student.adapter(self.rank) if self.rank else self.student.parameters)
        return cost + Cost(disk_bytes=kept + TOKENIZER_BYTES * self.student.rows)

    def _signal(self, n_rows: float, padded: float, scored: float) -> Cost:
        """The teacher's head on every scored position, and its body on what no cache holds."""
        spec = self.spec
        if spec.method not in LOGIT_METHODS:
            return Cost()
        share = 1.0 if not is_cached(spec) else spec.on_policy_share if spec.method == "gkd" else 0.0
        tokens = share * n_rows * padded
        flops = forward_flops(self.teacher, tokens, context=padded, scored=n_rows * scored)
        rate = _Numbers.of(self.teacher, self.machine).rate(self.machine.forward_share)
        return Cost(scored_tokens=tokens, flops=flops, seconds=flops / rate)

    def _samples(self, items: token_lengths.Lengths) -> Cost:
        """The student's own responses, as long as the gold ones, on the on-policy share of steps."""
        spec, steps = self.spec, math.ceil(self.spec.train_items / self.spec.batch_size) * self.spec.epochs
        new = min(float(items.responses.mean()), spec.max_new_tokens)
        how = {"prompt": float(items.prompts.mean()), "new": new, "rank": self.rank}
        batch = decoding(self.student, self.machine, spec.batch_size, limit=spec.max_new_tokens, **how)
        return batch * (steps * spec.on_policy_share)

    def _validation(self, mean: float, padded: float, scored: float) -> Cost:
        n_rows = self.spec.validation_items * self.spec.epochs
        flops = forward_flops(
            self.student, n_rows * padded, context=padded, scored=n_rows * scored, rank=self.rank
        )
        rate = _Numbers.of(self.student, self.machine).rate(self.machine.forward_share)
        return Cost(scored_tokens=n_rows * mean, flops=flops, seconds=flops / rate)


@dataclass(frozen=True)
class _Numbers:
    """In which numbers a model computes on a machine (models.policy_for), and how fast."""

    machine: Machine
    weight_bytes: int
    flops: float
    is_eager: bool

    @classmethod
    def of(cls, shape: Architecture, machine: Machine) -> _Numbers:
        is_cpu = machine.flops_float32 is not None
        if is_cpu and shape.parameters < SMALL_PARAMETERS:
            return cls(machine, 4, machine.flops_float32, False)
        return cls(machine, 2, machine.flops, is_cpu)

    def rate(self, share: float) -> float:
        """FLOPs a second."""
        return share * self.flops

    @property
    def traffic(self) -> float:
        """Bytes a second."""
        return self.machine.bytes_share * self.machine.bytes_per_second


def teacher_key(spec: RunSpec) -> tuple | None:
    """What names the hidden states or texts that a run reads of its teacher; None if it reads none.

    Runs of one key share them: students, temperatures, noise levels, epochs and seeds have no part in it.
    """
    teacher = spec.teacher_spec() or spec.teacher
    items = (spec.data, spec.domain, spec.train_items, spec.validation_items, spec.max_item_characters)
    if spec.method == "seqkd":
        return ("texts", teacher, items, spec.max_new_tokens)
    if is_cached(spec):
        return ("hidden", teacher, items, tuple(spec.encoding.items()))
    return None


def teacher_cost(spec: RunSpec, machine: Machine) -> Cost:
    """The hidden states or texts of `teacher_key`, made once: one pass over the items, no head.

    Disk: width x 2 bytes x scored positions. Texts are written greedily, as long as the gold ones.
    """
    shape, items = architecture_of(spec.teacher), token_lengths.of_training(spec)
    if spec.method == "seqkd":
        how = {"prompt": float(items.prompts.mean()), "new": float(items.responses.mean()), "rank": 0}
        batch = decoding(shape, machine, DECODING_ROWS, limit=spec.max_new_tokens, **how)
        return batch * (spec.train_items / DECODING_ROWS)
    mean, padded, _ = items.of_batch(spec.batch_size, at_most=spec.max_tokens)
    scored = spec.train_items * items.scored(scores_prompt=spec.scores_prompt, at_most=spec.max_tokens)
    flops = forward_flops(shape, spec.train_items * padded, context=padded, scored=0)
    seconds = flops / _Numbers.of(shape, machine).rate(machine.forward_share)
    kept = scored * shape.hidden * 2
    return Cost(scored_tokens=spec.train_items * mean, flops=flops, seconds=seconds, disk_bytes=kept)


def decoding(
    shape: Architecture, machine: Machine, rows: int, *, prompt: float, new: float, limit: int, rank: int
) -> Cost:
    """One batch of texts of `new` tokens in the mean, until the longest has ended or reached the limit.

    Every step launches all layers and reads all weights, the head's among them, and the keys and values of
    what stands before: whichever of products, reads and launches takes longest is its time.
    """
    new = min(new, limit)
    numbers = _Numbers.of(shape, machine)
    computed = min(new * (1 + FINISHED_SHARE), limit)
    flops = generation_flops(shape, rows, prompt=prompt, new=computed, rank=rank)
    prefill = forward_flops(shape, rows * prompt, context=prompt, scored=rows, rank=rank)
    steps = min(math.ceil(LONGEST_TEXT * new), limit) if new < limit else limit
    alive = rows * computed / steps
    read = (shape.body + shape.head) * numbers.weight_bytes
    read += decoding_bytes(shape, 1, positions=prompt + new / 2, weight_bytes=numbers.weight_bytes) * alive
    step = max(
        (flops - prefill) / numbers.rate(machine.forward_share) / steps,
        read / (machine.decoding_share * machine.bytes_per_second),
        shape.layers * machine.layer_seconds,
    )
    first = max(prefill / numbers.rate(machine.forward_share), shape.layers * machine.layer_seconds)
    return Cost(
        scored_tokens=rows * prompt, generated_tokens=rows * new, flops=flops, seconds=first + steps * step
    )


def evaluation_cost(spec: RunSpec, evaluation: EvalSpec, machine: Machine) -> Cost:
    """All texts of an evaluation with the pass over the gold responses, or the ranking of all options.

    A model that was trained writes as much as it was taught to; one that was not is taken to go on to the
    limit. An option of a ranking is a pass over prompt and option.
    """
    shape, rank = architecture_of(spec.student), spec.lora_rank if spec.adapter == "lora" else 0
    rate = _Numbers.of(shape, machine).rate(machine.forward_share)
    learned = float(token_lengths.of_training(spec).responses.mean())
    total = Cost()
    for task in token_lengths.of_evaluation(spec, evaluation).values():
        length = task.prompt + task.response
        n_passes = task.n_items * (task.n_options if evaluation.scoring == "likelihood" else 1)
        flops = forward_flops(
            shape, n_passes * length, context=length, scored=n_passes * task.response, rank=rank
        )
        launches = shape.layers * machine.layer_seconds * n_passes / DECODING_ROWS
        total += Cost(scored_tokens=n_passes * length, flops=flops, seconds=max(flops / rate, launches))
        if evaluation.scoring == "generation":
            new = evaluation.max_new_tokens if spec.method == "base" else learned
            n_texts = task.n_items * evaluation.samples
            how = {"prompt": task.prompt, "new": new, "limit": evaluation.max_new_tokens, "rank": rank}
            rows = min(DECODING_ROWS, n_texts)
            texts = decoding(shape, machine, rows, **how) * (n_texts / rows)
            total += texts + Cost(disk_bytes=4 * (texts.generated_tokens + task.n_items * task.response))
    return total


def evaluation_memory_gb(spec: RunSpec, evaluation: EvalSpec, machine: Machine) -> float:
    """Peak of an evaluation, GB of 10^9 bytes: weights, KV cache of one batch, logits of one step.

    Several devices divide the weights alone, and only where these do not fit one.
    """
    shape = architecture_of(spec.student)
    numbers = _Numbers.of(shape, machine)
    prompt = max(task.prompt for task in token_lengths.of_evaluation(spec, evaluation).values())
    positions = prompt + evaluation.max_new_tokens * (evaluation.scoring == "generation")
    weights = numbers.weight_bytes * shape.parameters
    total = decoding_bytes(shape, DECODING_ROWS, positions=positions, weight_bytes=numbers.weight_bytes)
    total += DECODING_ROWS * prompt * 8 * shape.intermediate  # of the prefill's widest layer
    if (weights + total) / 1e9 + machine.runtime_gb > machine.memory_gb:
        weights = part_bytes(shape, weights, gathered_bytes=numbers.weight_bytes, devices=spec.devices)
    return (weights + total) / 1e9 + machine.runtime_gb


def memory_gb(spec: RunSpec, evaluations: list[EvalSpec], machine: Machine) -> float:
    """Peak of training, of the teacher's cache, of evaluation and of loading, GB of 10^9 bytes, on one GPU.

    Several `devices` share all of it but the teacher's texts in seqkd.
    Models are loaded in float32 on the CPU, so that loading counts there alone.
    """
    peaks = [evaluation_memory_gb(spec, each, machine) for each in evaluations]
    peaks.append(Training(spec, machine).peak_gb())
    if machine.flops_float32 is not None:
        named = [name for name in (spec.student, spec.teacher) if name is not None]
        peaks += [4 * architecture_of(name).parameters / 1e9 + machine.runtime_gb for name in named]
    return max(peaks)


def devices_for(spec: RunSpec, evaluations: list[EvalSpec], machine: Machine) -> int | None:
    """The fewest such machines that can make a run together; None if a batch has not the rows for them."""
    for devices in range(1, spec.batch_size + 1):
        if memory_gb(replace(spec, devices=devices), evaluations, machine) <= machine.memory_gb:
            return devices
    return None
