"""One distillation step on the same work by several programs, each in a process of its own.

A step is forward, backward and AdamW. By hand:
`python -m kdutils.bench.kd_steps CASE CONTENDER STEPS THREADS` prints what it took, a line of JSON; CASE is
a name of work.CASES or a list of cases as JSON. Without arguments it serves requests, see `serve`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kdutils.bench import peers
from kdutils.bench.peers import CannotError, Gradients
from kdutils.bench.workloads import BETA, Case, Work, case_of
from kdutils.io import environment
from kdutils.io.environment import FORKS

if TYPE_CHECKING:
    from kdutils.models import LoadedModel, Policy

WARM_UP = 1  # steps before any is timed; buffers are made in the first
SAMPLE_SECONDS = 0.002  # between two looks at the memory, where the system keeps no peak of its own


@contextlib.contextmanager
def plain_loop(work: Work) -> Iterator[Gradients]:
    """What one writes at first: logits of every token, the textbook's formula, autograd."""
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
    """What kdutils asks of a tokenizer where there are no texts."""

    pad_token_id = eos_token_id = 0

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n


def policy_of(work: Work, *, exact: bool) -> Policy:
    """How kdutils computes with this student; `exact`: in float32 throughout."""
    from kdutils.models import policy_for

    policy = policy_for(work.case.student.parameters, trains_all=True)
    return dataclasses.replace(policy, autocast=None) if exact else policy


def teacher_policy_of(work: Work, *, exact: bool) -> Policy:
    """Likewise with the teacher, whose weights are in bfloat16 from some size on."""
    from kdutils.models import policy_for

    return policy_of(work, exact=True) if exact else policy_for(work.case.teacher.parameters)


def _loaded(work: Work, side: str, policy: Policy) -> LoadedModel:
    from kdutils.models import LoadedModel

    network = getattr(work, side).to(policy.weights)
    network.set_attn_implementation(policy.attention)
    return LoadedModel(side, network, _Tokens(getattr(work.case, side).rows), policy)


def _ours(work: Work, policy: Policy, teacher: Any) -> Gradients:
    """A step as train._Training makes it, on the whole batch at once."""
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
    """Freed memory is kept for large students, as kdutils.experiment does it."""
    from kdutils.models import LARGE_PARAMETERS

    is_large = work.case.student.parameters >= LARGE_PARAMETERS
    with environment.keeping_freed_memory() if is_large else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def ours_online(work: Work, *, exact: bool = True) -> Iterator[Gradients]:
    """kdutils with the teacher's body run at every step."""
    from kdutils.teacher import Teacher

    policy = policy_of(work, exact=exact)
    teacher = Teacher(_loaded(work, "teacher", teacher_policy_of(work, exact=exact)))
    with _memory_as_in_runs(work):
        yield _ours(work, policy, teacher)


@contextlib.contextmanager
def ours_cached(work: Work, *, exact: bool = True, backend: str = "") -> Iterator[Gradients]:
    """kdutils with the teacher's states from disk, written before the first step; its body is gone by then.

    Its head is not: that is read before the first step, as everyone else has it then.
    """
    from kdutils.teacher import CachedTeacher, states_of

    policy = dataclasses.replace(policy_of(work, exact=exact), compiled=backend)
    with tempfile.TemporaryDirectory() as folder:
        kept = states_of(Path(folder), json.loads(work.case.to_json()))
        kept.write(_loaded(work, "teacher", teacher_policy_of(work, exact=exact)), work.encoded)
        del work.teacher
        environment.give_back_memory()
        teacher = CachedTeacher("teacher", kept.open(), load=lambda: None, device=policy.device)
        teacher.head.weight_VH.sum()  # mapped from the file, it is in memory only once it is read
        with _memory_as_in_runs(work):
            yield _ours(work, policy, teacher)


def _in_bfloat16(work: Work) -> AbstractContextManager[Gradients]:
    return ours_cached(work, exact=False)


def _compiled(work: Work) -> AbstractContextManager[Gradients]:
    return ours_cached(work, backend="inductor")


TRL_GKD, PLAIN, ONLINE, CACHED = "TRL GKDTrainer", "plain loop", "kdutils", "kdutils, cached states"
BFLOAT16, COMPILED = "kdutils, cached states, bfloat16", "kdutils, cached and compiled"
CONTENDERS: dict[str, Callable[[Work], AbstractContextManager[Gradients]]] = {
    TRL_GKD: peers.trl_gkd,
    "TRL DistillationTrainer": peers.trl_distillation,
    "llm-distil": peers.llm_distil,
    PLAIN: plain_loop,
    ONLINE: ours_online,
    CACHED: ours_cached,
    BFLOAT16: _in_bfloat16,
    COMPILED: _compiled,
}


def hindrance(case: Case, contender: str) -> str:
    """Why this contender cannot do the case here, known without a try; "" for no reason."""
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


def main(arguments: list[str]) -> int:
    """Exit code: 0 if each case was measured, or it is said why it cannot be."""
    import torch

    cases, contender, steps, n_threads = arguments
    torch.set_num_threads(int(n_threads))
    torch.set_flush_denormal(True)
    asked = [Case.from_json(text) for text in json.loads(cases)] if cases[0] == "[" else [case_of(cases)]
    for case in asked:
        try:
            found = measure(case, contender, int(steps))
        except CannotError as error:
            found = {"case": case.name, "cannot": str(error)}
        print(json.dumps(found), flush=True)
    return 0


def serve() -> int:
    """Exit code 0 when standard input ends: a request a line, JSON with arguments and limit_seconds.

    Each is answered by a process of its own, forked from this one, which has imported what all need and
    computed nothing: half a visit would be imports. Where a fork is not safe it is started anew. What `main`
    prints comes first, then a line with the exit code (of a signal, less than 0) and the last line it said.
    """
    import kdutils.encoding
    import kdutils.models
    import kdutils.teacher

    assert kdutils.encoding and kdutils.models and kdutils.teacher
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as said:
            run = _forked if FORKS else _started
            code = run(request["arguments"], request["limit_seconds"], said)
            said.seek(0)
            lines = [each.strip() for each in said if each.strip()]
        print(json.dumps({"code": code, "said": lines[-1] if lines else ""}), flush=True)
    return 0


def _forked(arguments: list[str], limit_seconds: float, said: IO[str]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.dup2(said.fileno(), 2)
    signal.setitimer(signal.ITIMER_REAL, limit_seconds)  # its signal ends the process
    code = 1
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc(file=said)
    finally:
        for stream in (sys.stdout, sys.stderr, said):
            stream.flush()
        os._exit(code)


def _started(arguments: list[str], limit_seconds: float, said: IO[str]) -> int:
    command = [sys.executable, "-W", "ignore", "-P", "-m", "kdutils.bench.kd_steps", *arguments]
    try:
        return subprocess.run(command, stderr=said, check=False, timeout=limit_seconds).returncode
    except subprocess.TimeoutExpired:
        return -signal.SIGALRM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else serve())
