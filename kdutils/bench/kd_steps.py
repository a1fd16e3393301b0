"""The programs that are compared, and what one distillation step of each takes.

A step is forward, backward and AdamW. side_by_side calls `visit` in a fresh process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdutils.bench import peers
from kdutils.bench.workloads import METHODS, Case, Step, Work
from kdutils.io import memory

if TYPE_CHECKING:
    from kdutils.models import LoadedModel

WARM_UP = 1  # steps before any is timed; buffers are made in the first


@contextlib.contextmanager
def plain_loop(work: Work) -> Iterator[Step]:
    """The obvious implementation: logits of every token, the textbook's formula in float32, autograd."""
    import torch

    scored_BT = (work.labels_BT != -100)[:, 1:]

    def log_probabilities(network: Any) -> torch.Tensor:
        with work.computing():
            logits_BTV = network(**work.inputs).logits
        return logits_BTV[:, :-1][scored_BT].float().log_softmax(-1)

    def step(method: str) -> float:
        student_NV = log_probabilities(work.student)
        with torch.no_grad():
            teacher_NV = log_probabilities(work.teacher)
        if method == "fkl":
            loss_NV = teacher_NV.exp() * (teacher_NV - student_NV)
        elif method == "revkd":
            loss_NV = student_NV.exp() * (student_NV - teacher_NV)
        else:
            mixed_NV = torch.logaddexp(student_NV, teacher_NV) - torch.tensor(2.0).log()
            loss_NV = teacher_NV.exp() * (teacher_NV - mixed_NV) + student_NV.exp() * (student_NV - mixed_NV)
            loss_NV = loss_NV / 2
        loss = loss_NV.sum(-1).mean()
        loss.backward()
        return float(loss.detach())

    yield step


class _Tokens:
    """A tokenizer where there are no texts: its length, and the ids of EOS and padding."""

    pad_token_id = eos_token_id = 0

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def loaded(work: Work, side: str, *, exact: bool) -> LoadedModel:
    """The student or the teacher as kdutils computes with it; `exact`: in float32 throughout."""
    from kdutils.compute import Compute
    from kdutils.models import LoadedModel, policy_for

    shape, network = getattr(work.case, side), getattr(work, side)
    trains_all = exact or side == "student"  # weights in float32
    compute = dataclasses.replace(Compute.from_environment(), device=work.device)
    policy = policy_for(shape.parameters, trains_all=trains_all, compute=compute)
    policy = dataclasses.replace(policy, autocast=None) if exact else policy
    network.set_attn_implementation(policy.attention)
    return LoadedModel(side, network.to(policy.weights), _Tokens(shape.rows), policy)


@contextlib.contextmanager
def ours(work: Work, *, is_cached: bool, exact: bool = True) -> Iterator[Step]:
    """A step as kdutils.training makes it, on the whole batch at once.

    Args:
        is_cached: the teacher's hidden states are on disk before the first step, and its body is freed. Its
            head is in memory, as it is for the other contenders. Else its body runs at every step.
    """
    from kdutils import losses
    from kdutils.models import LARGE_PARAMETERS
    from kdutils.teacher import CachedTeacher, Teacher, states_of

    is_large = work.case.student.parameters >= LARGE_PARAMETERS
    memory_as_in_runs = memory.keeping_freed_memory() if is_large else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder:
        student, teacher = (loaded(work, side, exact=exact) for side in ("student", "teacher"))
        frozen, batch, policy = Teacher(teacher), work.batch, student.policy
        if is_cached:
            states = states_of(Path(folder), dataclasses.asdict(work.case))
            states.write(teacher, work.encoded)
            frozen = CachedTeacher(states.open(), load=lambda: None, device=policy.device)
            del work.teacher, teacher
            memory.give_back_memory()
            frozen.head.weight_VH.sum()  # mapped from the file, it is in memory only once it is read

        def step(method: str) -> float:
            hidden_NH = student.scoring_states(batch)
            with policy.computing():
                loss = losses.divergence(
                    hidden_NH,
                    student.head,
                    frozen.hidden_NH(batch),
                    frozen.head,
                    kind=METHODS[method][0],
                    beta=0.5 if method == "gkd" else None,
                    temperature=1.0,
                    vocabulary_size=student.vocabulary_size,
                    scale_by_temperature_squared=True,
                    compile_backend=policy.compiled,
                )
            mean = loss.total / loss.n_tokens
            mean.backward()
            return float(mean.detach())

        with memory_as_in_runs:
            yield step


@dataclasses.dataclass(frozen=True)
class Contender:
    """A program, and what decides where it can run and what its step costs at least."""

    open: Callable[[Work], AbstractContextManager[Step]]
    package: str = ""  # of peers.PACKAGES, that has to be installed
    is_cached: bool = False  # the teacher's body does not run
    product_bytes: int = 4  # of a number in a product and of a logit
    compile_backend: str = ""


TRL_GKD, PLAIN, ONLINE, CACHED = "TRL GKDTrainer", "plain loop", "kdutils", "kdutils, cached states"
BFLOAT16, COMPILED = "kdutils, cached states, bfloat16", "kdutils, cached and compiled"
_cached = partial(ours, is_cached=True)
CONTENDERS = {
    TRL_GKD: Contender(peers.trl_gkd, package="trl"),
    "TRL DistillationTrainer": Contender(peers.trl_distillation, package="trl"),
    "llm-distil": Contender(peers.llm_distil, package="llm_distil"),
    PLAIN: Contender(plain_loop),
    ONLINE: Contender(partial(ours, is_cached=False)),
    CACHED: Contender(_cached, is_cached=True),
    BFLOAT16: Contender(partial(_cached, exact=False), is_cached=True, product_bytes=2),
    COMPILED: Contender(_cached, is_cached=True, compile_backend="inductor"),
}


def hindrance(case: Case, contender: str) -> str:
    """Why this contender cannot do the case here; "" if nothing is known to be in its way."""
    from kdutils.compute import Compute
    from kdutils.models import policy_for

    if remedy := peers.missing().get(CONTENDERS[contender].package):
        return f"not installed: {remedy}"
    compute, parameters = Compute.from_environment(), case.student.parameters
    if contender == BFLOAT16 and policy_for(parameters, trains_all=True, compute=compute).autocast is None:
        return (
            "kdutils computes with this in float32 alone here, see the other rows; KDUTILS_CPU_BFLOAT16=1 "
            "makes models of 20 million parameters or more compute in bfloat16"
        )
    return ""


# --- measuring ---------------------------------------------------------------------------------------------


def visit(cases: Sequence[Case], contender: str, steps: int, n_threads: int) -> Iterator[dict[str, Any]]:
    """`measure` of each case, or why it cannot be measured (`cannot`)."""
    import torch

    torch.set_num_threads(n_threads)
    for case in cases:
        why = hindrance(case, contender)
        yield {"case": case.name, "cannot": why} if why else measure(case, contender, steps)


def measure(case: Case, contender: str, steps: int) -> dict[str, Any]:
    """`timed` GKD steps of a contender on the CPU, and the sizes of their batch."""
    work = Work(case)
    assert work.batch.ids
    with CONTENDERS[contender].open(work) as step:
        return {"case": case.name} | timed(work, partial(step, "gkd"), work.optimiser(), steps) | work.sizes


def timed(work: Work, step: Callable[[], float], optimiser: Any, steps: int) -> dict[str, Any]:
    """Seconds and CPU seconds of each of `steps` steps after a warm-up, all losses, and the peak of memory.

    The start is when networks, batch, trainer and the moments of the optimiser are there. The first loss is
    that of the warm-up, so the others are after one, two, ... updates.
    """
    import torch

    losses, seconds, busy = [], [], []
    with memory.peak_memory("cuda" if work.is_cuda else "cpu") as held:
        for _ in range(WARM_UP + steps):
            started, used = time.perf_counter(), time.process_time()
            losses.append(step())
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            if work.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            busy.append(time.process_time() - used)
    return {"seconds": seconds[WARM_UP:], "cpu_seconds": busy[WARM_UP:], "losses": losses} | held
