"""The training loop of every method: count, forward, divide once, step.

Everything random in a step is keyed by (seed, epoch) or (seed, step), so a run that was interrupted goes on
exactly as it would have.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from kdutils import encoding, losses
from kdutils.encoding import Batch
from kdutils.generation import Text, generate
from kdutils.io import disk
from kdutils.items import Item
from kdutils.losses import TokenSum
from kdutils.models import LoadedModel, seeded
from kdutils.process_group import ALONE, World
from kdutils.spec import RunSpec
from kdutils.teacher import CachedTeacher, Teacher

CHECKPOINT_SECONDS = 60.0
KINDS = {"fkl": "forward_kl", "revkd": "reverse_kl", "gkd": "jsd"}
Progress = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """What training came to."""

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
    teacher: Teacher | CachedTeacher | None = None,
    validation: Sequence[Item] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    micro_batch_size: int | None = None,
    pass_tokens: int = encoding.ONE_PASS,
    world: World = ALONE,
) -> Outcome:
    """Train `student` in place, as `spec` says.

    Args:
        items: with the responses to train on (for `seqkd` those that the teacher wrote).
        rate: peak learning rate.
        checkpoint: a folder; training goes on from what is there and saves there about once a minute.
        progress: called with every entry of the curve.
        micro_batch_size: rows that go through the model at once; halved when memory runs out. Changes
            results by rounding only (and which units LoRA's dropout drops).
        pass_tokens: how much padding a pass through the model less is worth, see `Batch.passes`.
        world: the processes that train this student; every one of them calls this with the same arguments.

    Raises:
        ValueError: if the teacher is missing or superfluous.
        MemoryError: if a single row does not fit; with several processes, if a pass does not fit one of them.
    """
    if (teacher is not None) != (spec.method in KINDS):
        raise ValueError(
            f"method {spec.method!r} with teacher={teacher and teacher.name!r} cannot be trained"
        )
    how = (checkpoint, progress, micro_batch_size, pass_tokens, world)
    return _Training(student, items, spec, rate, teacher, validation, *how).run()


class _Training:
    """State of one training run."""

    def __init__(
        self,
        student,
        items,
        spec,
        rate,
        teacher,
        validation,
        checkpoint,
        progress,
        rows,
        pass_tokens=encoding.ONE_PASS,
        world=ALONE,
    ):
        self.world: World = world
        self.student, self.spec, self.rate, self.teacher = student, spec, rate, teacher
        how = {"tokenizer": student.tokenizer} | spec.encoding
        encoded = encoding.encode(items, **how)
        self.encoded: datasets.Dataset = encoded.with_format("arrow")
        self.validation = encoding.encode(validation, **how).with_format("arrow") if validation else None
        self.encoded_ids: list[str] = encoded["id"][:]
        self.rollouts: dict[int, list[Text]] = {}  # step -> samples drawn for it in advance
        self.prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer)
        self.checkpoint, self.progress = checkpoint, progress or (lambda entry: None)
        self.pass_tokens = pass_tokens
        self.steps_per_epoch = math.ceil(len(items) / spec.batch_size)
        self.n_steps = self.steps_per_epoch * spec.epochs
        self.weights = {name: w for name, w in student.network.named_parameters() if w.requires_grad}
        self.optimiser = torch.optim.AdamW(
            _groups(self.weights, spec.weight_decay), lr=rate, betas=(0.9, 0.999), fused=True
        )
        self.outcome = Outcome("trained", 0, 0.0, micro_batch_size=rows or spec.batch_size)
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.done_steps = 0
        self.seconds_before = 0.0

    def run(self) -> Outcome:
        self.student.network.train()
        self._resume()
        started = saved = time.monotonic()
        while self.done_steps < self.n_steps:
            entry = self._step(self.done_steps)
            self.done_steps += 1
            self._log(entry)
            if not math.isfinite(entry["loss"]):
                self.outcome.status = "diverged"
                self.outcome.reason = f"the loss is {entry['loss']} at step {entry['step']}"
                break
            if self.done_steps % self.steps_per_epoch == 0:
                self._end_epoch(self.done_steps // self.steps_per_epoch)
            if self.checkpoint and self.world.largest(time.monotonic() - saved) > CHECKPOINT_SECONDS:
                self._save(time.monotonic() - started)
                saved = time.monotonic()
        if self.best is not None and self.outcome.status == "trained":
            self._restore(self.best[1])
        self.student.network.eval()
        self.outcome.steps = self.done_steps
        self.outcome.seconds = self.seconds_before + time.monotonic() - started
        return self.outcome

    def _step(self, step: int) -> dict[str, Any]:
        """One optimiser step; the whole of it is repeated with smaller micro-batches if memory runs out."""
        batch, is_on_policy = self._batch(step)
        while True:
            try:
                loss = self._gradients(batch, step)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.world.size > 1:
                    raise  # other processes wait in the midst of this pass: whoever started all begins anew
                self._halve(error)
        norm = self.world.clip(self.weights.values(), self.spec.max_grad_norm)
        rate = self.rate * self._schedule(step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if math.isfinite(loss) and torch.isfinite(norm):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        n_tokens = int(batch.scored_BT.sum())
        return {
            "step": step + 1,
            "loss": loss if torch.isfinite(norm) else math.nan,
            "grad_norm": float(norm),
            "learning_rate": rate,
            "n_tokens": n_tokens,
            "on_policy": is_on_policy,
        }

    def _gradients(self, batch: Batch, step: int) -> float:
        """Accumulate the gradient of the mean loss over the whole batch; returns that mean, nats."""
        denominator = self._denominator(batch)  # of all processes, counted before any backward
        own = (self.world.rank,) if self.world.size > 1 else ()
        total = 0.0
        for number, part in enumerate(self._passes(batch)):
            with seeded(_key(self.spec.seed, "dropout", step, number, *own)):
                loss = self._loss(part)
            share = loss.total / denominator  # the only division
            share.backward()
            total += float(share.detach())
        return self.world.sum(total)

    def _passes(self, batch: Batch) -> list[Batch]:
        """What this process computes of a batch, pass by pass; all processes make equally many."""
        how = {"max_rows": self.outcome.micro_batch_size, "pass_tokens": self.pass_tokens}
        parts = self.world.share(batch).passes(**how)
        n_missing = int(self.world.largest(len(parts))) - len(parts)
        return parts + [batch.unscored()] * n_missing

    def _denominator(self, batch: Batch) -> float:
        """Scored tokens of the batch, or its sequences where these are weighed alike."""
        if self.spec.weighs_sequences:
            return float(batch.scored_BT.any(1).sum())
        return float(max(int(batch.scored_BT.sum()), 1))

    def _loss(self, batch: Batch) -> TokenSum:
        device = self.student.policy.device
        scored_BT = batch.scored_BT.to(device)
        hidden_NH = self.student.scoring_states(batch)
        head, size = self.student.head, self.student.vocabulary_size
        with self.student.policy.computing():
            if self.teacher is None:
                targets_N = batch.input_ids_BT.to(device)[scored_BT]
                return losses.cross_entropy(hidden_NH, head, targets_N, vocabulary_size=size)
            return losses.divergence(
                hidden_NH,
                head,
                self.teacher.hidden_NH(batch),
                self.teacher.head,
                kind=KINDS[self.spec.method],
                beta=self.spec.beta if self.spec.method == "gkd" else None,
                temperature=self.spec.temperature,
                vocabulary_size=size,
                scale_by_temperature_squared=True,
                teacher_noise=self.teacher.noise(batch),
                weights_N=losses.sequence_mean_weights(scored_BT) if self.spec.weighs_sequences else None,
                compile_backend=self.student.policy.compiled,
            )

    def _batch(self, step: int) -> tuple[Batch, bool]:
        """The rows of a step; for gkd, on its share of steps, with the student's own responses."""
        if self.spec.method == "gkd" and self._is_on_policy(step):
            return self._own_samples(step), True
        return encoding.collate(self.encoded, self._rows(step), pad_id=self.student.pad_id), False

    def _rows(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = encoding.epoch_order(len(self.encoded), _generator(self.spec.seed, "order", epoch))
        return order[place * self.spec.batch_size : (place + 1) * self.spec.batch_size]

    def _is_on_policy(self, step: int) -> bool:
        coin = torch.rand((), generator=_generator(self.spec.seed, "policy", step))
        return float(coin) < self.spec.on_policy_share

    def _own_samples(self, step: int) -> Batch:
        """Prompts of the step's rows with responses sampled from the student; EOS is kept where it came."""
        if step not in self.rollouts:
            self.rollouts = self._sampled(step)
        spec, rows, texts = self.spec, self._rows(step), self.rollouts.pop(step)
        eos = self.student.tokenizer.eos_token_id
        prompts, responses = (
            [self.prompts[row] for row in rows],
            [ids + [eos] * ended for ids, ended in texts],
        )
        token_ids = [(p + r)[: spec.max_tokens] for p, r in zip(prompts, responses, strict=True)]
        n_unscored = [1 if spec.scores_prompt else len(prompt) for prompt in prompts]
        return encoding.batch_of(self._keys(step), token_ids, n_unscored, pad_id=self.student.pad_id)

    def _sampled(self, first: int) -> dict[int, list[Text]]:
        """Responses for this on-policy step and for the next ones, `rollout_steps` in all, drawn at once."""
        upcoming = (step for step in range(first, self.n_steps) if self._is_on_policy(step))
        steps = list(itertools.islice(upcoming, self.spec.rollout_steps))
        texts = iter(
            generate(
                self.student,
                [self.prompts[row] for step in steps for row in self._rows(step)],
                max_new_tokens=self.spec.max_new_tokens,
                temperature=self.spec.sampling_temperature,
                keys=[key for step in steps for key in self._keys(step)],
                seed=self.spec.seed,
            )
        )
        return {step: list(itertools.islice(texts, len(self._rows(step)))) for step in steps}

    def _keys(self, step: int) -> list[str]:
        """What the step's samples are told apart by: item and step."""
        return [f"{self.encoded_ids[row]}@{step}" for row in self._rows(step)]

    def _schedule(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then linear decay to zero."""
        n_warmup = round(self.spec.warmup_share * self.n_steps)
        if step < n_warmup:
            return (step + 1) / n_warmup
        return (self.n_steps - step) / max(1, self.n_steps - n_warmup)

    def _halve(self, error: BaseException) -> None:
        self.optimiser.zero_grad(set_to_none=True)  # of the micro-batches that still fitted
        if self.outcome.micro_batch_size == 1:
            raise MemoryError(no_room(self.spec, error)) from error
        self.outcome.micro_batch_size = math.ceil(self.outcome.micro_batch_size / 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _end_epoch(self, epoch: int) -> None:
        if self.validation is None:
            return
        loss = self.validation_loss()
        self._log({"epoch": epoch, "validation_loss": loss})
        if self.spec.select_best and (self.best is None or loss < self.best[0]):
            self.best = (loss, {name: w.detach().clone() for name, w in self.weights.items()})

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Cross-entropy of the gold responses, nats a token: what the authors select checkpoints by."""
        self.student.network.eval()
        total, n_tokens = 0.0, 0
        for start in range(0, len(self.validation), self.spec.batch_size):
            rows = range(start, min(start + self.spec.batch_size, len(self.validation)))
            batch = self.world.share(encoding.collate(self.validation, rows, pad_id=self.student.pad_id))
            scored_BT = batch.scored_BT.to(self.student.policy.device)
            loss = losses.cross_entropy(
                self.student.scoring_states(batch),
                self.student.head,
                batch.input_ids_BT.to(scored_BT.device)[scored_BT],
                vocabulary_size=self.student.vocabulary_size,
            )
            total, n_tokens = total + float(loss.total), n_tokens + int(loss.n_tokens)
        self.student.network.train()
        return self.world.sum(total) / max(self.world.sum(n_tokens), 1)

    def _log(self, entry: dict[str, Any]) -> None:
        self.outcome.curve.append(entry)
        self.progress(entry | {"n_steps": self.n_steps})

    def _restore(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, values in weights.items():
                self.weights[name].copy_(values)

    # --- checkpoints --------------------------------------------------------------------------------

    def _save(self, seconds: float) -> None:
        tensors = {f"weight/{name}": w for name, w in self.weights.items()}
        for name, w in self.weights.items():
            tensors |= {f"optimiser/{key}/{name}": value for key, value in self.optimiser.state[w].items()}
        if self.best is not None:
            tensors |= {f"best/{name}": w for name, w in self.best[1].items()}
        state = {
            "run_id": self.spec.run_id,
            "done_steps": self.done_steps,
            "seconds": self.seconds_before + seconds,
            "micro_batch_size": self.outcome.micro_batch_size,
            "best_loss": None if self.best is None else self.best[0],
            "curve": self.outcome.curve,
            "rollouts": self.rollouts,
        }
        own = {key: self.world.local(tensor.detach()) for key, tensor in tensors.items()}
        self.world.write(self.checkpoint, own, state)

    def _resume(self) -> None:
        """Go on from a checkpoint of this very run; one that cannot be read is set aside."""
        if self.checkpoint is None or not self.checkpoint.is_dir():
            return
        reason = ""
        try:
            state, tensors = self._read()
        except Exception as error:  # whatever is wrong with it, training anew is right and nothing is lost
            reason = str(error) or type(error).__name__
        if not self.world.largest(reason != ""):
            self._apply(state, tensors)
        elif self.world.rank == 0:
            aside, reason = disk.set_aside(self.checkpoint), reason or "another process cannot read its part"
            self.progress(
                {"warning": f"checkpoint set aside as {aside.name} ({reason}); training starts anew"}
            )

    def _read(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """State, and tensors by kind and name, of a checkpoint of this run; raises whatever is wrong."""
        state, tensors = self.world.read(self.checkpoint)
        if state["run_id"] != self.spec.run_id:
            raise ValueError(f"it is of run {state['run_id']}")
        kinds = ["weight", "optimiser/exp_avg", "optimiser/exp_avg_sq"]
        kinds += ["best"] * (state["best_loss"] is not None)
        found = {
            kind: {name: self.world.like(tensors[f"{kind}/{name}"], w) for name, w in self.weights.items()}
            for kind in kinds
        }
        steps = {name: tensors[f"optimiser/step/{name}"].to(w.device) for name, w in self.weights.items()}
        rollouts = {int(step): [Text(*text) for text in texts] for step, texts in state["rollouts"].items()}
        wanted = ("done_steps", "seconds", "micro_batch_size", "best_loss", "curve")
        return {key: state[key] for key in wanted} | {"rollouts": rollouts}, found | {"step": steps}

    def _apply(self, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
        self._restore(tensors["weight"])
        for name, w in self.weights.items():
            moments = {key: tensors[f"optimiser/{key}"][name] for key in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[w] = {"step": tensors["step"][name]} | moments
        self.best = None if state["best_loss"] is None else (state["best_loss"], tensors["best"])
        self.done_steps, self.seconds_before = state["done_steps"], state["seconds"]
        self.outcome.micro_batch_size = min(self.outcome.micro_batch_size, state["micro_batch_size"])
        self.outcome.curve, self.rollouts = state["curve"], state["rollouts"]


def _groups(weights: dict[str, Tensor], decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    matrices = [w for w in weights.values() if w.ndim > 1]
    vectors = [w for w in weights.values() if w.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def no_room(spec: RunSpec, error: object) -> str:
    """What to say when not even one row fits."""
    return (
        f"one sequence of up to {spec.max_tokens} tokens does not fit into memory ({error}); "
        "lower max_tokens, use adapter='lora', or a machine with more"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA has a class for it, the CPU allocator a RuntimeError that says so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _key(seed: int, *parts: object) -> int:
    """A seed for one use, the same on every machine."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def _generator(seed: int, *parts: object) -> torch.Generator:
    return torch.Generator().manual_seed(_key(seed, *parts))
