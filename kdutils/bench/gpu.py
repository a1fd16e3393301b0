"""One optimiser step at Qwen2.5's shapes on a GPU, beside other programs: `python -m kdutils.bench.gpu`.

Weights are random, so nothing has to be downloaded. Weights of the student are float32 and its products
bfloat16; the teacher is bfloat16. The first half of each row is the prompt, the other half is scored. Every
contender makes the same steps in the same order in a process of its own; what is not begun in time is named.
The last thing printed is a table of steps; performance.csv has the same.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.bench import kd_steps, peers, roofline, side_by_side
from kdutils.bench.kd_steps import Contender
from kdutils.bench.workloads import METHODS, SEED, Case, Step, Work
from kdutils.grid.machines import this_machine
from kdutils.grid.model_shapes import architecture_of
from kdutils.runs.experiment import reason_of

CASES = {"0.5B from 7B": ("0.5B", "7B"), "1.5B from 14B": ("1.5B", "14B")}
BATCHES = [(4, 512), (16, 1_024)]  # rows, tokens of each
STEPS = 5
PROMPTS, NEW_TOKENS = 64, 128  # of the rollouts
SECONDS = 520.0  # after which nothing more is begun


@contextlib.contextmanager
def liger(work: Work) -> Iterator[Step]:
    """Liger's fused linear JSD on the hidden states of plain bodies."""
    import torch
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    how = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0}
    losses = {method: LigerFusedLinearJSDLoss(beta=beta, **how) for method, (_, beta) in METHODS.items()}
    labels_BT = work.labels_BT[:, 1:]
    scored_BT = labels_BT != -100

    def hidden_NH(network: Any) -> torch.Tensor:
        return network.model(**work.inputs).last_hidden_state[:, :-1][scored_BT]

    def step(method: str) -> float:
        with work.computing():
            own_NH = hidden_NH(work.student)
            with torch.no_grad():
                other_NH = hidden_NH(work.teacher)
            own_VH, other_VH = (x.get_output_embeddings().weight for x in (work.student, work.teacher))
            own = own_NH.to(other_VH.dtype), own_VH.to(other_VH.dtype)
            loss = losses[method](*own, other_NH, other_VH, labels_BT[scored_BT])
        loss.backward()
        return float(loss.detach())

    yield step


_cached = Contender(partial(kd_steps.ours, is_cached=True, exact=False), is_cached=True)
TRL, PLAIN = kd_steps.TRL_GKD, kd_steps.PLAIN
CONTENDERS = {
    "kdutils": Contender(partial(kd_steps.ours, is_cached=False, exact=False)),
    "kdutils, cached states": _cached,
    "kdutils, cached and compiled": replace(_cached, compile_backend="inductor"),
    PLAIN: Contender(kd_steps.plain_loop),
    "Liger fused JSD": Contender(liger),
    TRL: Contender(peers.trl_gkd),
    "TRL DistillationTrainer": Contender(peers.trl_distillation),
}


def case_of(name: str, rows: int = 1, length: int = 2) -> Case:
    """One of CASES. Both heads have the student's rows, since not every program takes others."""
    student, teacher = (architecture_of(f"Qwen/Qwen2.5-{size}") for size in CASES[name])
    shapes = {"student": student, "teacher": replace(teacher, rows=student.rows)}
    return Case(name=name, rows=rows, length=length, scored=length // 2, **shapes)


def visit(cases: list[Case], name: str, device: str) -> Iterator[dict[str, Any]]:
    """A row for each batch and method of one contender; of what fails, why."""
    for case in cases:
        what = {"case": case.name, "contender": name, "rows": case.rows, "length": case.length}
        try:
            for row in measure(case, CONTENDERS[name], device):
                yield what | row
        except Exception as error:  # of another program, or memory: the rest is measured all the same
            yield what | {"reason": reason_of(error)}


def measure(case: Case, contender: Contender, device: str) -> Iterator[dict[str, Any]]:
    """Of each method median seconds of a step, its FLOPs, memory and first loss."""
    work = Work(case, device=device, methods=tuple(METHODS))
    how = {key: work.sizes[key] for key in ("padded_tokens", "length", "scored")}
    phases = roofline.phases(case.student, case.teacher, is_cached=contender.is_cached, **how)
    with contender.open(work) as step:
        optimiser = work.optimiser()
        for method in METHODS:
            found = kd_steps.timed(work, partial(step, method), optimiser, STEPS)
            seconds = statistics.median(found["seconds"])
            yield {
                "method": method,
                "seconds": seconds,
                "tokens_per_second": how["padded_tokens"] / seconds,
                "peak_gb": found["peak_gb"],
                "flops": sum(flops for _, flops, _ in phases),
                "loss": found["losses"][0],
            }


def rollouts(case: Case, device: str) -> Iterator[dict[str, Any]]:
    """New tokens a second of the student's samples: by kdutils and by transformers' continuous batching."""
    import torch

    from kdutils import generation

    model, rng = kd_steps.loaded(Work(case, device=device), "student", exact=False), torch.Generator()
    rng.manual_seed(SEED)
    network = model.network.bfloat16().eval()
    lengths = torch.randint(32, 257, (PROMPTS,), generator=rng).tolist()
    prompts = [torch.randint(1, case.student.rows, (n,), generator=rng).tolist() for n in lengths]
    keys = [f"prompt-{n}" for n in range(PROMPTS)]

    def by_kdutils() -> int:
        how = {"max_new_tokens": NEW_TOKENS, "temperature": 1.0, "keys": keys}
        return sum(len(text.token_ids) for text in generation.generate(model, prompts, **how))

    def by_transformers() -> int:
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=True, eos_token_id=-1, pad_token_id=0)
        found = network.generate_batch(inputs=prompts, generation_config=config)
        return sum(len(each.generated_tokens) for each in found.values())

    for name, generate in (("kdutils", by_kdutils), ("transformers, continuous", by_transformers)):
        what = {"case": case.name, "contender": f"rollouts: {name}", "rows": PROMPTS, "length": NEW_TOKENS}
        try:
            generate()
            started = time.perf_counter()
            n_tokens = generate()
            seconds = time.perf_counter() - started
            yield what | {"seconds": seconds, "tokens_per_second": n_tokens / seconds}
        except Exception as error:
            yield what | {"reason": reason_of(error)}


def run(cases: list[Case], device: str, seconds: float) -> pd.DataFrame:
    """All rows, for each name of a case its batches together; what the time does not allow is named."""
    started, rows = time.monotonic(), []
    for case in dict.fromkeys(each.name for each in cases):
        batches = [each for each in cases if each.name == case]
        for name in [*CONTENDERS, "rollouts"]:
            left, reason = seconds - (time.monotonic() - started), f"not begun: {seconds:.0f} s were over"
            if left > 0:
                print(f"{case}: {name}", file=sys.stderr, flush=True)
                what, backend = (rollouts, batches[0]), ""
                if name != "rollouts":
                    what, backend = (visit, batches, name), CONTENDERS[name].compile_backend
                how = {"env": {"KDUTILS_COMPILE": backend}, "timeout_seconds": left}
                found, reason = side_by_side.in_child(*what, device, **how)
                rows += found
            if reason:
                rows.append({"case": case, "contender": name, "reason": reason})
    return compared(pd.DataFrame(rows))


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """With times_faster_than_trl, and how far the first loss is from the plain loop's, relative."""
    if "loss" not in table:
        return table
    keys = ["case", "rows", "length", "method"]
    for name, column in ((TRL, "seconds"), (PLAIN, "loss")):
        base = table.loc[(table["contender"] == name) & table["loss"].notna(), [*keys, column]]
        table = table.merge(base.rename(columns={column: name}), on=keys, how="left")
    table["times_faster_than_trl"] = table[TRL] / table["seconds"]
    table["loss_apart"] = (table["loss"] / table.pop(PLAIN) - 1).abs()
    return table.drop(columns=TRL)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; with --plan, only what would be measured."""
    parser = argparse.ArgumentParser(prog="python -m kdutils.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--plan", action="store_true", help="print what would be measured, and end")
    asked = parser.parse_args(arguments)
    for name in asked.cases:
        case = case_of(name)
        held = (16 * case.student.parameters + 2 * case.teacher.parameters) / 1e9
        what = f"{', '.join(CONTENDERS)}, rollouts; {', '.join(METHODS)}; rows x tokens {BATCHES}"
        print(f"{name}: {what}; weights, gradients and moments alone {held:.1f} GB", flush=True)
    if asked.plan:
        return 0
    import torch

    if not torch.cuda.is_available():
        print("no GPU here; use --plan", file=sys.stderr)
        return 2
    table = run([case_of(name, *batch) for name in asked.cases for batch in BATCHES], "cuda", asked.seconds)
    if "flops" in table:
        table["share_of_products"] = table["flops"] / table["seconds"] / this_machine().flops
    asked.out.mkdir(parents=True, exist_ok=True)
    table["device"] = torch.cuda.get_device_name()
    table.to_csv(asked.out / "performance.csv", index=False)
    shown = ["case", "contender", "rows", "length", "method", "seconds", "tokens_per_second", "peak_gb"]
    shown += ["share_of_products", "times_faster_than_trl", "loss_apart", "reason"]
    table = table.reindex(columns=shown).round(4)
    print(table.to_string(index=False, na_rep=""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
