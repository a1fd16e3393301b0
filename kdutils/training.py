"""The training loop of every method: count, forward, divide once, step.

Everything random in a step is keyed by (seed, epoch) or (seed, step), so a run that was interrupted continues
exactly as it would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdutils import encoding, losses, optimisers
from kdutils.checkpoint import TrainingState
from kdutils.compute import DEFAULT, Compute
from kdutils.encoding import Batch
from kdutils.items import Item
from kdutils.losses import TokenSum
from kdutils.models import LoadedModel, is_out_of_memory
from kdutils.noise import generator, key_of, seeded
from kdutils.process_group import ALONE, World
from kdutils.rollouts import Rollouts
from kdutils.spec import RunSpec
from kdutils.teacher import Teacher

Progress = Callable[[dict[str, Any]], None]
ROWS_READ = 4  # rows of a pass without gradients, which needs far less memory, for one of a pass with them
# RunSpec.shadow_loss -> weight and divergence ("": cross-entropy) of the side network's own loss, see there
SHADOW_LOSSES = {"cross_entropy": (0.05, ""), "cross_entropy_full": (1.0, ""), "teacher": (1.0, "forward_kl")}


@dataclass
class Outcome:
    """The result of a training, beside the student's weights."""

    status: str  # trained | diverged
    steps: int
    seconds: float
    curve: list[dict[str, Any]] = field(default_factory=list)  # one entry a step, and one an epoch
    micro_batch_size: int = 0  # the smallest that memory made necessary
    reason: str = ""


def train(
    student: LoadedModel,
    items: Sequence[Item],
    spec: RunSpec,
    *,
    rate: float,
    teacher: Teacher | None = None,
    validation: Sequence[Item] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    compute: Compute = DEFAULT,
    world: World = ALONE,
) -> Outcome:
    """Train `student` in place, as `spec` says.

    Args:
        items: with the responses to train on (for prefix `teacher` those that it wrote).
        rate: peak learning rate.
        checkpoint: a folder; training continues from its checkpoint and saves one every
            `compute.checkpoint_seconds`.
        progress: called with every entry of the curve.
        compute: micro-batches change results by rounding only (and which units LoRA's dropout drops).
        world: the processes that train this student; each calls this with the same arguments.

    Raises:
        ValueError: if the teacher is missing or superfluous.
        MemoryError: if a single row does not fit; with several processes, if a pass does not fit one of them.
    """
    if (teacher is not None) != bool(spec.recipe.divergence):
        needs = "needs" if teacher is None else "takes no"
        raise ValueError(f"method {spec.method!r} {needs} teacher: give train what its spec asks for")
    run = _Training(
        student, items, spec, rate=rate, teacher=teacher, validation=validation, compute=compute, world=world
    )
    return run.run(checkpoint, progress or (lambda entry: None))


class _Training:
    """One training: what is fixed, and in `state` what changes."""

    def __init__(
        self,
        student: LoadedModel,
        items: Sequence[Item],
        spec: RunSpec,
        *,
        rate: float,
        teacher: Teacher | None = None,
        validation: Sequence[Item] = (),
        compute: Compute = DEFAULT,
        world: World = ALONE,
    ) -> None:
        self.student, self.spec, self.rate, self.teacher, self.compute = student, spec, rate, teacher, compute
        self.world, self.parameters, tokenizer = world, list(student.network.parameters()), student.tokenizer
        self.encoded = encoding.encode(items, tokenizer, **spec.encoding)[:]  # lists: read faster than Arrow
        self.validation = encoding.encode(validation, tokenizer, **spec.encoding) if validation else None
        self.steps_per_epoch = math.ceil(len(items) / spec.batch_size)
        self.n_steps = self.steps_per_epoch * spec.epochs
        prompts = encoding.prompt_ids([item.question for item in items], tokenizer, spec.prompt)
        self.rollouts = Rollouts(student, spec, self.encoded["id"], prompts, self.rows, self.n_steps)
        optimiser = optimisers.make(student, spec, rate)
        self.state = TrainingState(student.trained(), optimiser, compute.micro_batch_rows or spec.batch_size)

    def run(self, checkpoint: Path | None, progress: Progress) -> Outcome:
        """Train from the beginning or the checkpoint to the end, or to a loss that is not finite."""
        state, run_id, reason = self.state, self.spec.run_id, ""
        self.progress = progress
        self.student.network.train()
        if checkpoint is not None:
            state.resume(checkpoint, run_id, self.world, progress)
            self.student.after_update()
        saved = time.monotonic()
        started = saved - state.seconds
        while state.done_steps < self.n_steps:
            before = {} if state.done_steps else self._norms()
            entry = self._step(state.done_steps) | before
            state.done_steps += 1
            self._log(entry)
            if not math.isfinite(entry["loss"]):
                reason = f"the loss is {entry['loss']} at step {entry['step']}"
                break
            if state.done_steps % self.steps_per_epoch == 0:
                self._end_epoch(state.done_steps // self.steps_per_epoch)
            since = time.monotonic() - saved
            if checkpoint is not None and self.world.largest(since) > self.compute.checkpoint_seconds:
                state.seconds = time.monotonic() - started
                state.save(checkpoint, run_id, self.world)
                saved = time.monotonic()
        if state.best is not None and not reason:
            state.restore(state.best[1])
            self.student.after_update()
        self.student.network.eval()
        status, seconds = "diverged" if reason else "trained", time.monotonic() - started
        return Outcome(status, state.done_steps, seconds, state.curve, state.micro_batch_rows, reason)

    def _step(self, step: int) -> dict[str, Any]:
        """One optimiser step, and its entry of the curve."""
        batch, is_on_policy = self.batch(step)
        loss = self._accumulated(batch, step)
        self.student.before_update(step, self.n_steps)
        norm = self.world.clip(self.state.weights.values(), self.spec.max_grad_norm)
        rate = self.rate * self._schedule(step)
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate * group["rate_factor"]
        if math.isfinite(loss) and torch.isfinite(norm):
            self.state.optimiser.step()
            self.student.after_update()
        for w in self.parameters:
            w.grad = None
        return {
            "step": step + 1,
            "loss": loss if torch.isfinite(norm) else math.nan,
            "grad_norm": float(norm),
            "learning_rate": rate,
            "n_tokens": int(batch.scored_BT.sum()),
            "on_policy": is_on_policy,
        }

    def _accumulated(self, batch: Batch, step: int) -> float:
        """As `gradients`, repeated with half the rows in a pass whenever memory runs out."""
        while True:
            try:
                return self.gradients(batch, step)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.world.size > 1:
                    raise  # with several processes, which wait for this one, all have to start again
                self.student.network.zero_grad(set_to_none=True)  # of the passes that still fitted
                if self.state.micro_batch_rows == 1:
                    raise MemoryError(no_room(self.spec, error)) from error
                self.state.micro_batch_rows = math.ceil(self.state.micro_batch_rows / 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def gradients(self, batch: Batch, step: int) -> float:
        """Accumulate the gradient of the mean loss over the whole batch; returns that mean, nats."""
        denominator = self._denominator(batch)  # of all processes, counted before any backward
        rank = (self.world.rank,) if self.world.size > 1 else ()
        total, rows = 0.0, self.state.micro_batch_rows
        passes = self.world.passes(batch, max_rows=rows, pass_tokens=self.compute.pass_tokens)
        for number, part in enumerate(passes):
            with seeded(key_of(self.spec.seed, "dropout", step, number, *rank)):
                loss = self._loss(part)
            share = loss.total / denominator  # the only division
            share.backward()
            total += float(share.detach())
        return self.world.sum(total)

    def _denominator(self, batch: Batch) -> float:
        """Scored tokens of the batch, or its sequences if each has the same weight."""
        scored = batch.scored_BT.any(1) if self.spec.weighs_sequences else batch.scored_BT
        return float(max(int(scored.sum()), 1))

    def _loss(self, batch: Batch) -> TokenSum:
        spec, states_NH = self.spec, self.student.scoring_states(batch)
        found = self._loss_of(batch, states_NH, spec.recipe.divergence, kd_weight=spec.kd_weight)
        if (side_NH := self.student.side_states(batch)) is not None:
            weight, kind = SHADOW_LOSSES[spec.shadow_loss]
            found = found._replace(total=found.total + weight * self._loss_of(batch, side_NH, kind).total)
        if (penalty := self.student.penalty(batch)) is not None:
            found = found._replace(total=found.total + self._denominator(batch) * penalty)
        return found

    def _loss_of(self, batch: Batch, hidden_NH: Tensor, kind: str, *, kd_weight: float = 1.0) -> TokenSum:
        """Cross-entropy if `kind` is empty; else kd_weight x divergence + (1 - kd_weight) x cross-entropy."""
        spec = self.spec
        scored_BT = batch.scored_BT.to(self.student.policy.device)
        weights_N = losses.sequence_mean_weights(scored_BT) if spec.weighs_sequences else None
        with self.student.policy.computing():
            if not kind:
                return self._cross_entropy(batch, hidden_NH, weights_N)
            found = losses.divergence(
                hidden_NH,
                self.student.head,
                self.teacher.hidden_NH(batch),
                self.teacher.head,
                kind=kind,
                beta=spec.beta if kind == "jsd" else None,
                temperature=spec.temperature,
                vocabulary_size=self.student.vocabulary_size,
                scale_by_temperature_squared=True,
                teacher_noise=self.teacher.noise(batch),
                weights_N=weights_N,
                compile_backend=self.student.policy.compiled,
            )
            if kd_weight == 1:
                return found
            of_gold = self._cross_entropy(batch, hidden_NH, weights_N)
        return found._replace(total=kd_weight * found.total + (1 - kd_weight) * of_gold.total)

    def _cross_entropy(self, batch: Batch, hidden_NH: Tensor, weights_N: Tensor | None = None) -> TokenSum:
        return losses.cross_entropy(
            hidden_NH,
            self.student.head,
            batch.input_ids_BT[batch.scored_BT].to(hidden_NH.device),
            vocabulary_size=self.student.vocabulary_size,
            weights_N=weights_N,
        )

    def batch(self, step: int) -> tuple[Batch, bool]:
        """The sequences of a step, and whether the student wrote their responses."""
        if self.rollouts.is_due(step):
            return self.rollouts.batch(step, self.state.rollouts), True
        rows = self.rows(step)
        columns = ([column[row] for row in rows] for column in self.encoded.values())
        return encoding.batch_of(*columns, pad_id=self.student.pad_id), False

    def rows(self, step: int) -> list[int]:
        """The items of a step: every epoch is a permutation of all of them."""
        epoch, place = divmod(step, self.steps_per_epoch)
        seed = self.spec.seed if self.spec.order_seed is None else self.spec.order_seed
        order_N = torch.randperm(len(self.encoded["id"]), generator=generator(seed, "order", epoch))
        return order_N[place * self.spec.batch_size : (place + 1) * self.spec.batch_size].tolist()

    def _schedule(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then linear decay to zero."""
        n_warmup = round(self.spec.warmup_share * self.n_steps)
        if step < n_warmup:
            return (step + 1) / n_warmup
        return (self.n_steps - step) / max(1, self.n_steps - n_warmup)

    def _end_epoch(self, epoch: int) -> None:
        if self.validation is None:
            return
        loss, best = self.validation_loss(), self.state.best
        self._log({"epoch": epoch, "validation_loss": loss} | self._norms())
        if self.spec.select_best and (best is None or loss < best[0]):
            self.state.best = (loss, {name: w.detach().clone() for name, w in self.state.weights.items()})

    def _norms(self) -> dict[str, float]:
        is_whole = self.spec.adapter == "full" and self.world.size == 1 and self.validation is not None
        return optimisers.norm_band(self.student) if is_whole else {}

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Cross-entropy of the gold responses, nats a token: the authors' criterion for the best epoch."""
        self.student.network.eval()
        batch = encoding.collate(self.validation, range(len(self.validation)), pad_id=self.student.pad_id)
        total, n_tokens, max_rows = 0.0, 0, ROWS_READ * self.state.micro_batch_rows
        for own in self.world.passes(batch, max_rows=max_rows, pass_tokens=self.compute.pass_tokens):
            states_NH = self.student.scoring_states(own)
            if self.spec.detached:  # the side network is what is kept
                states_NH = self.student.side_states(own)
            loss = self._cross_entropy(own, states_NH)
            total, n_tokens = total + float(loss.total), n_tokens + int(loss.n_tokens)
        self.student.network.train()
        return self.world.sum(total) / max(self.world.sum(n_tokens), 1)

    def _log(self, entry: dict[str, Any]) -> None:
        self.state.curve.append(entry)
        self.progress(entry | {"n_steps": self.n_steps})


def no_room(spec: RunSpec, error: object) -> str:
    """The message when not even one row fits."""
    return (
        f"one sequence of up to {spec.max_tokens} tokens does not fit into memory ({error}); "
        "lower max_tokens, use adapter='lora', or a machine with more"
    )
