"""One optimiser step at Qwen2.5's shapes on a GPU, beside other programs: `python -m kdutils.bench.gpu`.

Weights are random, so nothing has to be downloaded. Weights of the student are float32 and its products
bfloat16; the teacher is bfloat16. The first half of each row is the prompt, the other half is scored. Every
contender makes the same steps in the same order in a process of its own; what is not begun in time is named.
The last thing printed is a table of steps; performance.csv has the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kdutils.bench import side_by_side
from kdutils.bench.gpu_contenders import CASES, CONTENDERS, KINDS, Setup, shapes
from kdutils.bench.workloads import SEED
from kdutils.runs.experiment import reason_of

BATCHES = [(4, 512), (16, 1_024)]  # rows, tokens of each
STEPS, WARM_UP = 5, 2
PROMPTS, NEW_TOKENS = 64, 128  # of the rollouts
SECONDS = 520.0  # after which nothing more is begun


def visit(case: str, name: str, device: str, batches: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """A row for each batch and method of one contender; of what fails, why."""
    contender, package = CONTENDERS[name]
    if package and importlib.util.find_spec(package) is None:
        yield {"case": case, "contender": name, "reason": f"{package} is not installed"}
        return
    setup = Setup(case, device)
    for rows, length in batches:
        what = {"case": case, "contender": name, "rows": rows, "length": length}
        try:
            with contender(setup, rows, length) as step:
                for method in KINDS:
                    yield what | {"method": method} | timed(setup, partial(step, method), rows, length, name)
        except Exception as error:  # of another program, or memory: the rest is measured all the same
            yield what | {"reason": reason_of(error)}


def timed(setup: Setup, gradients: Callable[[], float], rows: int, length: int, name: str) -> dict[str, Any]:
    """Median seconds of a step, its memory, its first loss and its share of the FLOPs that are possible."""
    import torch

    if setup.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, losses = [], []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        losses.append(gradients())
        setup.optimiser.step()
        setup.optimiser.zero_grad(set_to_none=True)
        if setup.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[WARM_UP:])
    flops = setup.flops(rows, length, is_cached="cached" in name)
    return {
        "seconds": median,
        "tokens_per_second": rows * length / median,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if setup.is_cuda else float("nan"),
        "share_of_products": flops / median / product_rate(setup),
        "loss": losses[0],
    }


def product_rate(setup: Setup) -> float:
    """FLOP/s of a large product on the device, measured once a process."""
    import torch

    if not hasattr(setup, "rate"):
        n = 8_192 if setup.is_cuda else 512
        a = torch.randn(n, n, device=setup.device, dtype=setup.low)
        for repeats in (2, 10):
            if setup.is_cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(repeats):
                a @ a
            if setup.is_cuda:
                torch.cuda.synchronize()
            setup.rate = 2 * n**3 * repeats / (time.perf_counter() - started)
    return setup.rate


def rollouts(case: str, device: str) -> Iterator[dict[str, Any]]:
    """New tokens a second of the student's samples: by kdutils and by transformers' continuous batching."""
    import torch

    from kdutils import generation

    setup = Setup(case, device)
    model, rng = setup.loaded("student"), torch.Generator().manual_seed(SEED)
    network = setup.student.to(setup.low).eval()
    lengths = torch.randint(32, 257, (PROMPTS,), generator=rng).tolist()
    prompts = [torch.randint(1, setup.shapes[0].rows, (n,), generator=rng).tolist() for n in lengths]
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
        what = {"case": case, "contender": f"rollouts: {name}", "rows": PROMPTS, "length": NEW_TOKENS}
        try:
            generate()
            started = time.perf_counter()
            n_tokens = generate()
            seconds = time.perf_counter() - started
            yield what | {"seconds": seconds, "tokens_per_second": n_tokens / seconds}
        except Exception as error:
            yield what | {"reason": reason_of(error)}


def run(cases: list[str], device: str, batches: list[tuple[int, int]], seconds: float) -> pd.DataFrame:
    """All rows; what the time does not allow is named."""
    started, rows = time.monotonic(), []
    jobs = [(case, name) for case in cases for name in [*CONTENDERS, "rollouts"]]
    for case, name in jobs:
        left = seconds - (time.monotonic() - started)
        if left <= 0:
            rows.append({"case": case, "contender": name, "reason": f"not begun: {seconds:.0f} s were over"})
            continue
        print(f"{case}: {name}", file=sys.stderr, flush=True)
        function, arguments = (rollouts, ()) if name == "rollouts" else (visit, (name,))
        arguments = (case, *arguments, device) + ((batches,) if arguments else ())
        found, reason = side_by_side.in_child(function, *arguments, env={}, timeout_seconds=left)
        rows += found
        if reason:
            rows.append({"case": case, "contender": name, "reason": reason})
    return compared(pd.DataFrame(rows))


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """With times_faster_than_trl, and how far the first loss is from the plain loop's, relative."""
    if "loss" not in table:
        return table
    keys = ["case", "rows", "length", "method"]
    for name, column in (("TRL GKDTrainer", "seconds"), ("plain loop", "loss")):
        base = table.loc[(table["contender"] == name) & table["loss"].notna(), [*keys, column]]
        table = table.merge(base.rename(columns={column: name}), on=keys, how="left")
    table["times_faster_than_trl"] = table["TRL GKDTrainer"] / table["seconds"]
    table["loss_apart"] = (table["loss"] / table.pop("plain loop") - 1).abs()
    return table.drop(columns="TRL GKDTrainer")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; with --plan, only what would be measured."""
    parser = argparse.ArgumentParser(prog="python -m kdutils.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=[name for name in CASES if name != "tiny"]
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--plan", action="store_true", help="print what would be measured, and end")
    asked = parser.parse_args(arguments)
    import torch

    batches = [(2, 16)] if asked.cases == ["tiny"] else BATCHES
    for case in asked.cases:
        student, teacher = shapes(case)
        held = (16 * student.parameters + 2 * teacher.parameters) / 1e9
        what = f"{', '.join(CONTENDERS)}, rollouts; {', '.join(KINDS)}; rows x tokens {batches}"
        print(f"{case}: {what}; weights, gradients and moments alone {held:.1f} GB", flush=True)

    if asked.plan:
        return 0
    if torch.device(asked.device).type == "cuda" and not torch.cuda.is_available():
        print(
            f"--device {asked.device}: no GPU here; use --plan, or --device cpu --cases tiny", file=sys.stderr
        )
        return 2
    table = run(asked.cases, asked.device, batches, asked.seconds)
    asked.out.mkdir(parents=True, exist_ok=True)
    is_cuda = torch.device(asked.device).type == "cuda"
    table["device"] = torch.cuda.get_device_name() if is_cuda else "CPU"
    table.to_csv(asked.out / "performance.csv", index=False)
    shown = ["case", "contender", "rows", "length", "method", "seconds", "tokens_per_second", "peak_gb"]
    shown += ["share_of_products", "times_faster_than_trl", "loss_apart", "reason"]
    table = table.reindex(columns=shown).round(4)
    print(table.to_string(index=False, na_rep=""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
