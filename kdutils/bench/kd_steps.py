"""One distillation step on the same work by several programs, each in a process of its own.

A step is forward, backward and AdamW. side_by_side calls `visit` in a fresh process, whose environment holds
ENVIRONMENT of the contender.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdutils.bench import peers
from kdutils.bench.peers import CannotError, Gradients
from kdutils.bench.workloads import BETA, Case, Work
from kdutils.io import environment

if TYPE_CHECKING:
    from kdutils.models import LoadedModel, Policy

WARM_UP = 1  # steps before any is timed; buffers are made in the first
SAMPLE_SECONDS = 0.002  # between two looks at the memory, where the system keeps no peak of its own


@contextlib.contextmanager
def plain_loop(work: Work) -> Iterator[Gradients]:
    """The obvious implementation: logits of every token, the textbook's formula, autograd."""
    import torch

    batch = work.batch
    scored_BT = batch.scored_BT[:, 1:]

    def step() -> float:
        how = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_BT}
        student_NV = work.student(**how).logits[:, :-1][scored_BT].log_softmax(-1)
        with torch.no_grad():
            teacher_NV = work.teacher(**how).logits[:, :-1][scored_BT].log_softmax(-1)
        mixed_NV = torch.logaddexp(student_NV, teacher_NV) + torch.tensor(BETA).log()
        of_teacher = (teacher_NV.exp() * (teacher_NV - mixed_NV)).sum(-1)
        of_student = (student_NV.exp() * (student_NV - mixed_NV)).sum(-1)
        loss = (BETA * of_teacher + (1 - BETA) * of_student).mean()
        loss.backward()
        return float(loss.detach())

    yield step


# --- kdutils -----------------------------------------------------------------------------------------------


class _Tokens:
    """A tokenizer where there are no texts: its length, and the ids of EOS and padding."""

    pad_token_id = eos_token_id = 0

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def policy_of(work: Work, *, exact: bool) -> Policy:
    """How kdutils computes with this student; `exact`: in float32 throughout."""
    from kdutils.compute import Compute
    from kdutils.models import policy_for

    compute = Compute.from_environment()  # ENVIRONMENT of the contender
    policy = policy_for(work.case.student.parameters, trains_all=True, compute=compute)
    return dataclasses.replace(policy, autocast=None) if exact else policy


def teacher_policy_of(work: Work, *, exact: bool) -> Policy:
    """How kdutils computes with this teacher, whose weights are in bfloat16 from some size on."""
    from kdutils.models import policy_for

    return policy_of(work, exact=True) if exact else policy_for(work.case.teacher.parameters)


def _loaded(work: Work, side: str, policy: Policy) -> LoadedModel:
    from kdutils.models import LoadedModel

    network = getattr(work, side).to(policy.weights)
    network.set_attn_implementation(policy.attention)
    return LoadedModel(side, network, _Tokens(getattr(work.case, side).rows), policy)


def _ours(work: Work, policy: Policy, teacher: Any) -> Gradients:
    """A step as kdutils.training makes it, on the whole batch at once."""
    from kdutils import losses

    student, batch = _loaded(work, "student", policy), work.batch

    def step() -> float:
        hidden_NH = student.scoring_states(batch)
        with student.policy.computing():
            loss = losses.divergence(
                hidden_NH,
                student.head,
                teacher.hidden_NH(batch),
                teacher.head,
                kind="jsd",
                beta=BETA,
                temperature=1.0,
                vocabulary_size=student.vocabulary_size,
                scale_by_temperature_squared=True,
                compile_backend=policy.compiled,
            )
        mean = loss.total / loss.n_tokens
        mean.backward()
        return float(mean.detach())

    return step


@contextlib.contextmanager
def _memory_as_in_runs(work: Work) -> Iterator[None]:
    """Freed memory is kept for large students, as kdutils.runs.experiment does it."""
    from kdutils.models import LARGE_PARAMETERS

    is_large = work.case.student.parameters >= LARGE_PARAMETERS
    with environment.keeping_freed_memory() if is_large else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def ours_online(work: Work) -> Iterator[Gradients]:
    """kdutils with the teacher's body run at every step."""
    from kdutils.teacher import Teacher

    teacher = Teacher(_loaded(work, "teacher", teacher_policy_of(work, exact=True)))
    with _memory_as_in_runs(work):
        yield _ours(work, policy_of(work, exact=True), teacher)


@contextlib.contextmanager
def ours_cached(work: Work, *, exact: bool = True) -> Iterator[Gradients]:
    """kdutils with the teacher's cached hidden states, which are on disk before the first step.

    By then the teacher's body is freed. Its head is in memory, as it is for the other contenders.
    """
    from kdutils.teacher import CachedTeacher, states_of

    policy = policy_of(work, exact=exact)
    with tempfile.TemporaryDirectory() as folder:
        kept = states_of(Path(folder), dataclasses.asdict(work.case))
        kept.write(_loaded(work, "teacher", teacher_policy_of(work, exact=exact)), work.encoded)
        del work.teacher
        environment.give_back_memory()
        teacher = CachedTeacher(kept.open(), load=lambda: None, device=policy.device)
        teacher.head.weight_VH.sum()  # mapped from the file, it is in memory only once it is read
        with _memory_as_in_runs(work):
            yield _ours(work, policy, teacher)


TRL_GKD, PLAIN, ONLINE, CACHED = "TRL GKDTrainer", "plain loop", "kdutils", "kdutils, cached states"
BFLOAT16, COMPILED = "kdutils, cached states, bfloat16", "kdutils, cached and compiled"
CONTENDERS: dict[str, Callable[[Work], AbstractContextManager[Gradients]]] = {
    TRL_GKD: peers.trl_gkd,
    "TRL DistillationTrainer": peers.trl_distillation,
    "llm-distil": peers.llm_distil,
    PLAIN: plain_loop,
    ONLINE: ours_online,
    CACHED: ours_cached,
    BFLOAT16: functools.partial(ours_cached, exact=False),
    COMPILED: ours_cached,
}
ENVIRONMENT = {name: {"KDUTILS_COMPILE": "inductor" if name == COMPILED else ""} for name in CONTENDERS}


def hindrance(case: Case, contender: str) -> str:
    """Why this contender cannot do the case here, as far as that is known beforehand; "" if it can."""
    from kdutils.models import policy_for

    if remedy := peers.missing().get(peers.PACKAGE_OF.get(contender, "")):
        return f"not installed: {remedy}"
    if contender == BFLOAT16 and policy_for(case.student.parameters, trains_all=True).autocast is None:
        return "kdutils computes with models this small in float32 alone, see the other rows"
    return ""


# --- measuring ---------------------------------------------------------------------------------------------


def measure(case: Case, contender: str, steps: int) -> dict[str, Any]:
    """Seconds and CPU seconds of each of `steps` steps after a warm-up, all losses, and the peak of memory.

    The start is when networks, batch, trainer and the moments of the optimiser are there. The first loss is
    that of the warm-up, so the others are after one, two, ... updates.

    Raises:
        CannotError: if this contender cannot do the work here.
    """
    if why := hindrance(case, contender):
        raise CannotError(why)
    work = Work(case)
    assert work.batch.ids
    with CONTENDERS[contender](work) as gradients:
        optimiser = work.optimiser()
        losses, seconds, busy = [], [], []
        with Peak() as peak:
            for _ in range(WARM_UP + steps):
                started, used = time.perf_counter(), time.process_time()
                losses.append(gradients())
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                seconds.append(time.perf_counter() - started)
                busy.append(time.process_time() - used)
    return {
        "case": case.name,
        "seconds": seconds[WARM_UP:],
        "cpu_seconds": busy[WARM_UP:],
        "losses": losses,
        "start_gb": peak.start_gb,
        "peak_gb": peak.peak_gb,
        "memory_by": peak.by,
        **work.sizes,
    }


class Peak:
    """The most memory that this process holds within the context, GB of 10^9 bytes."""

    def __init__(self) -> None:
        self.start_gb = self.peak_gb = 0.0
        self.by = "VmHWM"  # the system's own peak, else that of samples
        self._ends = threading.Event()

    def __enter__(self) -> Peak:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is counted anew from here
            self.start_gb = environment.status_gb("VmHWM")
        except OSError:
            self.by, self.start_gb = "samples", _held_gb()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ends.wait(SAMPLE_SECONDS):
            self.peak_gb = max(self.peak_gb, _held_gb())

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        if self.by == "VmHWM":
            self.peak_gb = environment.status_gb("VmHWM")
        else:
            self._thread.join()
            self.peak_gb = max(self.peak_gb, self.start_gb)


def _held_gb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e9


def visit(send: Callable[[Any], None], cases: list[Case], contender: str, steps: int, n_threads: int) -> None:
    """Send `measure` of each case, or why it cannot be measured; what a process of its own does."""
    import torch

    torch.set_num_threads(n_threads)
    torch.set_flush_denormal(True)
    for case in cases:
        try:
            send(measure(case, contender, steps))
        except CannotError as error:
            send({"case": case.name, "cannot": str(error)})
