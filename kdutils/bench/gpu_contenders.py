"""The programs that gpu.py compares, and what each of them makes a step from.

A contender is a context that yields a step: from a method (a key of KINDS) to its mean loss, whose gradient
has been added to the student's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kdutils.bench import kd_steps, workloads
from kdutils.bench.workloads import RATE, SEED
from kdutils.grid.model_shapes import Architecture, architecture_of, forward_flops, training_flops

KINDS = {"fkl": ("forward_kl", 0.0), "revkd": ("reverse_kl", 1.0), "gkd": ("jsd", 0.5)}  # ours, others' beta
CASES = {"0.5B from 7B": ("0.5B", "7B"), "1.5B from 14B": ("1.5B", "14B"), "tiny": None}
Step = Callable[[str], float]


def shapes(case: str) -> tuple[Architecture, Architecture]:
    """Student and teacher. Their heads have equal rows, since not every program takes others."""
    if case == "tiny":  # to try this file without a GPU
        own = {"heads": 2, "key_heads": 2, "rows": 512, "is_tied": True, "has_bias": True}
        return tuple(Architecture(layers=2, hidden=h, intermediate=2 * h, **own) for h in (32, 48))
    student, teacher = (architecture_of(f"Qwen/Qwen2.5-{size}") for size in CASES[case])
    return student, dataclasses.replace(teacher, rows=student.rows)


class Setup:
    """Networks, batches and the optimiser of a case on a device."""

    def __init__(self, case: str, device: str) -> None:
        import torch

        self.shapes, self.device, self.is_cuda = shapes(case), device, torch.device(device).type == "cuda"
        self.low = torch.bfloat16 if self.is_cuda else torch.float32
        with torch.device(device):
            self.student = workloads.network_of(self.shapes[0], seed=SEED).train()
        self.optimiser = torch.optim.AdamW(self.student.parameters(), lr=RATE, fused=True)

    @cached_property
    def teacher(self) -> Any:
        """Frozen; made again, the same, if it was deleted."""
        import torch

        with torch.device(self.device):
            network = workloads.network_of(self.shapes[1], seed=SEED + 1)
        return network.to(self.low).eval().requires_grad_(False)

    def encoded(self, rows: int, length: int) -> Any:
        """Random rows as kdutils.encoding.encode gives items."""
        import datasets
        import torch

        rng = torch.Generator().manual_seed(SEED)
        ids = torch.randint(1, self.shapes[0].rows, (rows, length), generator=rng).tolist()
        names = [f"row-{n}" for n in range(rows)]
        return datasets.Dataset.from_dict({"id": names, "input_ids": ids, "n_unscored": [length // 2] * rows})

    def batch(self, rows: int, length: int) -> Any:
        """`encoded` as a batch."""
        from kdutils import encoding

        return encoding.collate(self.encoded(rows, length), range(rows), pad_id=0)

    def computing(self) -> Any:
        """Autocast to bfloat16 on a GPU."""
        import torch

        return torch.autocast("cuda", dtype=torch.bfloat16) if self.is_cuda else contextlib.nullcontext()

    def loaded(self, side: str) -> Any:
        """The student or the teacher as kdutils computes with it."""
        import torch

        from kdutils.models import LoadedModel, Policy

        network = getattr(self, side)
        weights = torch.float32 if side == "student" else self.low
        autocast = torch.bfloat16 if side == "student" and self.is_cuda else None
        tokens = kd_steps._Tokens(self.shapes[0].rows)
        return LoadedModel(side, network, tokens, Policy(self.device, weights, autocast, "sdpa"))

    def flops(self, rows: int, length: int, *, is_cached: bool) -> float:
        """Of a step."""
        student, teacher = self.shapes
        how = {"context": length, "scored": rows * length // 2}
        of_teacher = 2 * how["scored"] * teacher.head
        if not is_cached:
            of_teacher = forward_flops(teacher, rows * length, **how)
        return training_flops(student, rows * length, **how) + of_teacher


@contextlib.contextmanager
def ours(setup: Setup, rows: int, length: int, *, is_cached: bool, compiled: str = "") -> Iterator[Step]:
    """As kdutils.training makes a step."""
    from kdutils import losses
    from kdutils.teacher import CachedTeacher, Teacher, states_of

    student, batch = setup.loaded("student"), setup.batch(rows, length)
    with tempfile.TemporaryDirectory() as folder:
        if is_cached:
            states = states_of(Path(folder), {"rows": rows, "length": length})
            states.write(setup.loaded("teacher"), setup.encoded(rows, length))
            del setup.teacher  # as in a run, where its body is not in memory while the student trains
            teacher = CachedTeacher(states.open(), lambda: None, setup.device)
        else:
            teacher = Teacher(setup.loaded("teacher"))

        def step(method: str) -> float:
            hidden_NH = student.scoring_states(batch)
            with student.policy.computing():
                loss = losses.divergence(
                    hidden_NH,
                    student.head,
                    teacher.hidden_NH(batch),
                    teacher.head,
                    kind=KINDS[method][0],
                    beta=0.5 if method == "gkd" else None,
                    temperature=1.0,
                    vocabulary_size=student.vocabulary_size,
                    scale_by_temperature_squared=True,
                    compile_backend=compiled,
                )
            mean = loss.total / loss.n_tokens
            mean.backward()
            return float(mean.detach())

        yield step


def _ids_and_labels(setup: Setup, rows: int, length: int) -> tuple[Any, Any, Any]:
    batch = setup.batch(rows, length)
    ids, attention = (x.to(setup.device) for x in (batch.input_ids_BT, batch.attention_BT))
    return ids, attention, ids.masked_fill(~batch.scored_BT.to(setup.device), -100)


@contextlib.contextmanager
def plain_loop(setup: Setup, rows: int, length: int) -> Iterator[Step]:
    """Logits of every token, the textbook's formula in float32, autograd."""
    import torch

    ids, attention, labels = _ids_and_labels(setup, rows, length)
    scored = labels[:, 1:] != -100

    def logits(network: Any) -> Any:
        with setup.computing():
            found = network(input_ids=ids, attention_mask=attention).logits
        return found[:, :-1][scored].float().log_softmax(-1)

    def step(method: str) -> float:
        log_s = logits(setup.student)
        with torch.no_grad():
            log_t = logits(setup.teacher)
        if method == "fkl":
            rows_N = (log_t.exp() * (log_t - log_s)).sum(-1)
        elif method == "revkd":
            rows_N = (log_s.exp() * (log_s - log_t)).sum(-1)
        else:
            log_m = torch.logaddexp(log_s, log_t) - torch.tensor(2.0).log()
            both = log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m)
            rows_N = both.sum(-1) / 2
        loss = rows_N.mean()
        loss.backward()
        return float(loss.detach())

    yield step


@contextlib.contextmanager
def liger(setup: Setup, rows: int, length: int) -> Iterator[Step]:
    """Liger's fused linear JSD on the hidden states of plain bodies."""
    import torch
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    ids, attention, labels = _ids_and_labels(setup, rows, length)
    scored = labels[:, 1:] != -100
    losses = {
        method: LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
        for method, (_, beta) in KINDS.items()
    }

    def hidden(network: Any) -> Any:
        states = network.model(input_ids=ids, attention_mask=attention).last_hidden_state
        return states[:, :-1][scored]

    def step(method: str) -> float:
        with setup.computing():
            own = hidden(setup.student)
            with torch.no_grad():
                other = hidden(setup.teacher)
            heads = [x.get_output_embeddings().weight for x in (setup.student, setup.teacher)]
            loss = losses[method](
                own.to(setup.low), heads[0].to(setup.low), other, heads[1], labels[:, 1:][scored]
            )
        loss.backward()
        return float(loss.detach())

    yield step


@contextlib.contextmanager
def trl(setup: Setup, rows: int, length: int, *, trainer: str) -> Iterator[Step]:
    """TRL's trainer of that name, on responses that are given; a trainer for each method."""
    from kdutils.bench import peers

    batch = setup.batch(rows, length)
    labels = batch.input_ids_BT.masked_fill(~batch.scored_BT, -100)
    encoded = setup.encoded(rows, length)
    networks = {"student": setup.student, "teacher": setup.teacher}
    work = SimpleNamespace(**networks, batch=batch, encoded=encoded, labels_BT=labels)
    options = {"use_cpu": not setup.is_cuda, "bf16": setup.is_cuda}
    with contextlib.ExitStack() as stack:
        steps = {
            method: stack.enter_context(getattr(peers, trainer)(work, beta=beta, **options))
            for method, (_, beta) in KINDS.items()
        }
        yield lambda method: steps[method]()


CONTENDERS = {
    "kdutils": (partial(ours, is_cached=False), ""),
    "kdutils, cached states": (partial(ours, is_cached=True), ""),
    "kdutils, cached and compiled": (partial(ours, is_cached=True, compiled="inductor"), ""),
    "plain loop": (plain_loop, ""),
    "Liger fused JSD": (liger, "liger_kernel"),
    "TRL GKDTrainer": (partial(trl, trainer="trl_gkd"), "trl"),
    "TRL DistillationTrainer": (partial(trl, trainer="trl_distillation"), "trl"),
}
