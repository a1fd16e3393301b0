"""Beyond one step: how it grows with its sizes, evaluation by three programs, and whole grids of runs.

Evaluations and grids are measured in a process of their own, `python -m kdutils.bench.scaling FUNCTION JSON`,
which `in_own_process` starts.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdutils.bench import side_by_side
from kdutils.bench.kd_steps import CACHED, ONLINE, PLAIN
from kdutils.bench.side_by_side import Progress
from kdutils.bench.workloads import MINI_STUDENT, MINI_TEACHER, SEED, Case, network_of
from kdutils.grid.model_shapes import Architecture
from kdutils.io import child_processes
from kdutils.runs import store
from kdutils.spec import EvalSpec, PlannedRun, RunSpec


def in_own_process(function: str, *arguments: Any, env: dict[str, str]) -> Any:
    """What `evaluation_rates` or `grid_seconds` returns for these arguments, in a process of its own.

    Raises:
        ChildError: with the reason, if the process fails.
    """
    program = ["-m", __name__, function, json.dumps(arguments)]
    return child_processes.run_program(program, env={"HF_HUB_OFFLINE": "1"} | env)[-1]


# --- growth of a step --------------------------------------------------------------------------------------

# One number changes at a time; the other two stay at the second of their values. Half of each row is scored.
AXES = {
    "vocabulary": (8_192, 16_384, 32_768, 65_536),
    "length": (32, 64, 128, 256),
    "batch": (2, 4, 8, 16),
}
_SHAPE = {"heads": 4, "key_heads": 2, "is_tied": True, "has_bias": True, "rows": AXES["vocabulary"][1]}
STUDENT = Architecture(hidden=128, layers=2, intermediate=256, **_SHAPE)
TEACHER = Architecture(hidden=256, layers=4, intermediate=512, **_SHAPE)


def growth_cases() -> dict[tuple[str, int], Case]:
    """The case at each value of each axis."""
    found = {}
    for axis, values in AXES.items():
        for value in values:
            at = {name: others[1] for name, others in AXES.items()} | {axis: value}
            found[axis, value] = Case(
                name=f"{axis}={value}",
                student=replace(STUDENT, rows=at["vocabulary"]),
                teacher=replace(TEACHER, rows=at["vocabulary"]),
                rows=at["batch"],
                length=at["length"],
                scored=at["length"] // 2,
            )
    return found


def measure_growth(*, repeats: int, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Rows of side_by_side.measure with columns axis and value; a program does all in one process a round."""
    cases = growth_cases()
    places = {case.name: {"axis": axis, "value": value} for (axis, value), case in cases.items()}
    names = (PLAIN, ONLINE, CACHED)
    rows = side_by_side.measure(list(cases.values()), names, repeats=repeats, progress=progress)
    return [row | places[row["case"]] for row in rows]


# --- evaluation --------------------------------------------------------------------------------------------

MAX_NEW_TOKENS, BATCH_ROWS = 96, 64
AUTHORS = "as the authors: one text at a time, no KV cache"
BATCHED = "transformers generate, batches of 64"
OURS = "kdutils"
Texts = list[list[int]]


def compare_evaluation(model: str, *, n_items: int, repeats: int) -> list[dict[str, Any]]:
    """`evaluation_rates` on one thread, in a process of its own.

    Raises:
        ChildError: if the process fails.
    """
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return in_own_process("evaluation_rates", model, n_items, repeats, env=env)


def evaluation_rates(name: str, n_items: int, repeats: int) -> list[dict[str, Any]]:
    """Greedy texts of a model by three programs in turns, to math questions of the mini world.

    Returns:
        contender, items, items_per_second (median), times_faster than the authors' way, same_texts (as
        theirs), tokens_per_second, repeats.
    """
    from kdutils import encoding, models
    from kdutils.constants import DOMAIN_TASKS
    from kdutils.data import sources

    model = models.load(name)
    spec = sources.resolved(RunSpec(student=name, method="base", domain="math"))
    per_task = -(-n_items // len(DOMAIN_TASKS["math"]))
    items = sources.load_items(spec, "test", per_task=per_task)[:n_items]
    prompts = encoding.prompt_ids([item.question for item in items], model.tokenizer)
    seconds: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    texts: dict[str, Texts] = {}
    for generate in PROGRAMS.values():
        generate(model, prompts[:2])  # warm-up
    for _ in range(repeats):
        for program, generate in PROGRAMS.items():
            started = time.perf_counter()
            texts[program] = generate(model, prompts)
            seconds[program].append(time.perf_counter() - started)
    median = {program: statistics.median(own) for program, own in seconds.items()}
    return [
        {
            "contender": program,
            "items": len(items),
            "items_per_second": len(items) / median[program],
            "times_faster": median[AUTHORS] / median[program],
            "same_texts": sum(a == b for a, b in zip(texts[program], texts[AUTHORS], strict=True)),
            "tokens_per_second": sum(map(len, texts[program])) / median[program],
            "repeats": repeats,
        }
        for program in PROGRAMS
    ]


def evaluation_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of performance.csv: a step is the evaluation of all items."""
    return {
        "case": f"evaluation of {row['items']} items",
        "contender": row["contender"],
        "seconds_per_step": row["items"] / row["items_per_second"],
        "tokens_per_second": row["tokens_per_second"],
        "repeats": row["repeats"],
    }


def _by_kdutils(model: Any, prompts: Sequence[list[int]]) -> Texts:
    from kdutils.generation import generate

    return [text.token_ids for text in generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS)]


def _by_transformers(model: Any, prompts: Sequence[list[int]], *, rows: int, use_cache: bool) -> Texts:
    """By transformers' own generate, `rows` prompts at a time; EOS and what follows it cut off."""
    import torch
    from transformers import GenerationConfig

    eos, texts = model.tokenizer.eos_token_id, []
    settings = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=eos,
        pad_token_id=model.pad_id,
    )
    for first in range(0, len(prompts), rows):
        batch = prompts[first : first + rows]
        width = max(map(len, batch))
        ids_BT = torch.tensor([[model.pad_id] * (width - len(prompt)) + list(prompt) for prompt in batch])
        real_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        made_BT = model.causal.generate(ids_BT, attention_mask=real_BT, generation_config=settings)
        texts += made_BT[:, width:].tolist()
    return [text[: text.index(eos)] if eos in text else text for text in texts]


PROGRAMS: dict[str, Callable[[Any, Sequence[list[int]]], Texts]] = {
    AUTHORS: lambda model, prompts: _by_transformers(model, prompts, rows=1, use_cache=False),
    BATCHED: lambda model, prompts: _by_transformers(model, prompts, rows=BATCH_ROWS, use_cache=True),
    OURS: _by_kdutils,
}


# --- whole grids -------------------------------------------------------------------------------------------

# The deep teacher has 16 layers of random weights. Its forward pass takes 5 to 13 times the FLOPs of training
# one of its students; that of Qwen2.5-14B takes 10 times those of Qwen2.5-0.5B (see performance.regimes).
STUDENTS = {  # by family of models; a grid of two students has the first two
    "mini": (MINI_STUDENT, "mini-qwen-66k", "mini-qwen-36k", "mini-qwen-14k"),
    "deep teacher": (MINI_STUDENT, "mini-qwen-66k", "mini-llama-66k", "mini-llama-140k"),
}
METHODS = ("fkl", "revkd", "gkd")
TEMPERATURES = (1.0, 2.0, 5.0)
MODES = ("always", "never")  # of KDUTILS_TEACHER_STATES: whether the teacher's states are cached
DEEP = Architecture(
    layers=16, hidden=128, heads=8, key_heads=2, intermediate=256, rows=544, is_tied=True, has_bias=True
)
SETTINGS = {"train_items": 256, "epochs": 3, "validation_items": 0, "max_new_tokens": 32}
EVALUATION = EvalSpec(tasks=("addsub",), items_per_task=1, max_new_tokens=4)  # next to nothing


def grid_runs(teacher: str, students: Sequence[str], **settings: Any) -> list[PlannedRun]:
    """Every student by every method at every temperature, from an untuned teacher."""
    gkd = {"teacher": teacher, "teacher_tuned": False, "domain": "math"} | SETTINGS | settings
    others = {name: value for name, value in gkd.items() if name != "max_new_tokens"}  # only GKD generates
    fields = dict.fromkeys(METHODS, others) | {"gkd": gkd}
    return [
        PlannedRun(RunSpec(student=student, method=method, temperature=t, **fields[method]), EVALUATION)
        for student in students
        for method in METHODS
        for t in TEMPERATURES
    ]


def teacher_of(family: str, folder: Path) -> str:
    """Name of a family's teacher; the deep one is written to `folder`, with the mini tokenizer.

    Raises:
        ValueError: for another family.
    """
    if family not in STUDENTS:
        raise ValueError(f"unknown family {family!r}; choose one of {list(STUDENTS)}")
    if family == "mini":
        return MINI_TEACHER
    from kdutils import models

    path = folder / "deep-teacher"
    network_of(DEEP, seed=SEED).save_pretrained(path)
    models.load_tokenizer(STUDENTS[family][0]).save_pretrained(path)
    return str(path)


def grid_seconds(family: str, n_students: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the whole grid and, summed over its runs, of training by method; peak memory of a worker.

    Raises:
        RuntimeError: if a run failed.
    """
    from kdutils.grid import fill

    with tempfile.TemporaryDirectory(prefix="kdutils-grid-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        planned = grid_runs(teacher_of(family, scratch), STUDENTS[family][:n_students], **settings)
        out, started = scratch / "out", time.perf_counter()
        state = fill.fill(planned, out)
        seconds = time.perf_counter() - started
        if state.failures:
            raise RuntimeError(f"{len(state.failures)} runs failed: {next(iter(state.failures.values()))}")
        table = fill.costs(planned, out)
        made = [store.folder_of(out, each.name).result() for each in (out / "runs").iterdir()]
    return {
        "family": family,
        "students": n_students,
        "seconds": seconds,
        "training_seconds": table.groupby("method")["training, s"].sum().to_dict(),
        "peak_gb": float(table["peak memory, GB"].max()),
        "runs": len(table),
        "steps": sum(result.get("steps", 0) for result in made),
    }


def compare_grids(
    family: str, n_students: Sequence[int], *, progress: Progress | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """`grid_seconds` for each number of students in both `mode`s, each in a process of its own.

    Args:
        settings: of the runs, where they differ from SETTINGS.

    Raises:
        ChildError: if a grid could not be made, with the last line of its log.
    """
    rows = []
    for number in n_students:
        for mode in MODES:
            if progress:
                progress(f"grid, {family}: {number} students, teacher states {mode}")
            env = {"KDUTILS_TEACHER_STATES": mode}
            found = in_own_process("grid_seconds", family, number, settings, env=env)
            rows.append({"mode": mode} | found)
    return rows


def grid_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of performance.csv: seconds of the whole grid over the steps of all its runs."""
    return {
        "case": f"grid, {row['family']}, {row['students']} students",
        "contender": f"kdutils, teacher states {row['mode']}",
        "seconds_per_step": row["seconds"] / row["steps"],
        "repeats": 1,
    }


def main(function: str, arguments: str) -> None:
    """The process that `in_own_process` starts."""
    send = child_processes.messages_to_parent()
    import torch

    torch.set_flush_denormal(True)
    measured = {"evaluation_rates": evaluation_rates, "grid_seconds": grid_seconds}[function]
    send(measured(*json.loads(arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
