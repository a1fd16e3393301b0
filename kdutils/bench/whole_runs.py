"""Beyond one step: evaluation by three programs, and whole grids of runs, each in a process of its own."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdutils.bench.side_by_side import in_child
from kdutils.bench.workloads import MINI_STUDENT, MINI_TEACHER, SEED, network_of
from kdutils.compute import BATCH_ROWS
from kdutils.grid.model_shapes import Architecture
from kdutils.grid.study import PlannedRun
from kdutils.mini.family import ROWS
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

Texts = list[list[int]]


def in_own_process(
    function: Callable[..., list[dict[str, Any]]], *arguments: Any, env: dict[str, str]
) -> list[dict[str, Any]]:
    """What `evaluation_rates` or `grid_seconds` returns, with these environment variables.

    Raises:
        RuntimeError: with the reason, if the process fails.
    """
    rows, reason = in_child(function, *arguments, env=env)
    if reason:
        raise RuntimeError(reason)
    return rows


# --- evaluation --------------------------------------------------------------------------------------------

MAX_NEW_TOKENS = 96
AUTHORS = "as the authors: one text at a time, no KV cache"
BATCHED = f"transformers generate, batches of {BATCH_ROWS}"
OURS = "kdutils"


def compare_evaluation(n_items: int, *, repeats: int, model: str = MINI_STUDENT) -> list[dict[str, Any]]:
    """`evaluation_rates` on one thread."""
    return in_own_process(evaluation_rates, model, n_items, repeats, env={"OMP_NUM_THREADS": "1"})


def evaluation_rates(name: str, n_items: int, repeats: int) -> list[dict[str, Any]]:
    """Greedy texts of a model by three programs in turns, to math questions of the mini world.

    Returns:
        Rows of performance.csv, where a step is the evaluation of all items (its median), with columns
        times_faster than the authors' way and same_texts (as theirs).
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
            "case": f"evaluation of {len(items)} items",
            "contender": program,
            "seconds_per_step": median[program],
            "times_faster": median[AUTHORS] / median[program],
            "same_texts": sum(a == b for a, b in zip(texts[program], texts[AUTHORS], strict=True)),
            "tokens_per_second": sum(map(len, texts[program])) / median[program],
            "repeats": repeats,
        }
        for program in PROGRAMS
    ]


def _by_kdutils(model: Any, prompts: Sequence[list[int]]) -> Texts:
    from kdutils.generation import generate

    return [text.token_ids for text in generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS)]


def _by_transformers(model: Any, prompts: Sequence[list[int]], *, rows: int, use_cache: bool) -> Texts:
    """By transformers' own generate, `rows` prompts at a time; EOS and what follows it cut off."""
    from transformers import GenerationConfig

    from kdutils.generation import padded

    eos, texts = model.tokenizer.eos_token_id, []
    settings = GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
        eos_token_id=eos,
        pad_token_id=model.pad_id,
    )
    for first in range(0, len(prompts), rows):
        ids_BT, real_BT = padded(prompts[first : first + rows], model.pad_id, "cpu", on_left=True)
        made_BT = model.causal.generate(ids_BT, attention_mask=real_BT, generation_config=settings)
        texts += made_BT[:, ids_BT.shape[1] :].tolist()
    return [text[: text.index(eos)] if eos in text else text for text in texts]


PROGRAMS: dict[str, Callable[[Any, Sequence[list[int]]], Texts]] = {
    AUTHORS: partial(_by_transformers, rows=1, use_cache=False),
    BATCHED: partial(_by_transformers, rows=BATCH_ROWS, use_cache=True),
    OURS: _by_kdutils,
}


# --- whole grids -------------------------------------------------------------------------------------------

# The deep teacher has 16 layers of random weights. Its forward pass takes 4 to 7 times the FLOPs of training
# one of its students; that of Qwen2.5-14B takes 10 times those of Qwen2.5-0.5B (see performance.regimes).
STUDENTS = {  # by family of models; a grid of two students has the first two
    "mini": (MINI_STUDENT, "mini-qwen-3B", "mini-qwen-0.5B", "mini-qwen-7B"),
    "deep teacher": (MINI_STUDENT, "mini-qwen-0.5B", "mini-llama-1B", "mini-llama-3B"),
}
METHODS = ("fkl", "revkd", "gkd")
TEMPERATURES = (1.0, 2.0, 5.0)
MODES = ("always", "never")  # of KDUTILS_TEACHER_STATES: whether the teacher's states are cached
DEEP = Architecture(
    layers=16, hidden=128, heads=8, key_heads=2, intermediate=256, rows=ROWS, is_tied=True, has_bias=True
)
SETTINGS = {"train_items": 256, "epochs": 3, "validation_items": 0, "max_new_tokens": 32}
EVALUATION = EvalSpec(tasks=("addsub",), items_per_task=1, max_new_tokens=4)  # next to nothing


def grid_runs(teacher: str, students: Sequence[str], **settings: Any) -> list[PlannedRun]:
    """Every student by every method at every temperature, from an untuned teacher."""
    gkd = {"teacher": teacher, "teacher_tuned": False, "domain": "math"} | SETTINGS | settings
    others = {name: value for name, value in gkd.items() if name != "max_new_tokens"}  # only GKD generates
    return [
        PlannedRun(
            RunSpec(student=student, method=method, temperature=t, **(gkd if method == "gkd" else others)),
            EVALUATION,
        )
        for student in students
        for method in METHODS
        for t in TEMPERATURES
    ]


def teacher_of(family: str, folder: Path) -> str:
    """Name of a family's teacher; the deep one is written to `folder`, with the mini tokenizer."""
    from kdutils import models

    if family not in STUDENTS:
        raise ValueError(f"unknown family {family!r}; choose one of {list(STUDENTS)}")
    if family == "mini":
        return MINI_TEACHER

    path = folder / "deep-teacher"
    network_of(DEEP, seed=SEED).save_pretrained(path)
    models.load_tokenizer(STUDENTS[family][0]).save_pretrained(path)
    return str(path)


def grid_seconds(family: str, n_students: int, mode: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of performance.csv, where a step is the mean over the steps of all runs of a grid.

    Further columns: family, students, mode, seconds of the whole grid, training_seconds by method (summed
    over runs), peak_gb of a worker, runs, steps.
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
        costs = fill.costs(planned, out)
        made = [store.folder_of(out, each.name).result() for each in (out / "runs").iterdir()]
    steps = sum(result.get("steps", 0) for result in made)
    row = {
        "case": f"grid, {family}, {n_students} students",
        "contender": f"kdutils, teacher states {mode}",
        "seconds_per_step": seconds / steps,
        "repeats": 1,
        "family": family,
        "students": n_students,
        "mode": mode,
        "seconds": seconds,
        "training_seconds": costs.groupby("method")["training, s"].sum().to_dict(),
        "peak_gb": float(costs["peak memory, GB"].max()),
        "runs": len(costs),
        "steps": steps,
    }
    return [row]


def compare_grids(family: str, n_students: Sequence[int], **settings: Any) -> list[dict[str, Any]]:
    """`grid_seconds` for each number of students in both `mode`s; `settings` of runs go over SETTINGS."""
    rows = []
    for number in n_students:
        for mode in MODES:
            print(f"grid, {family}: {number} students, teacher states {mode}")
            arguments = (family, number, mode, settings)
            rows += in_own_process(grid_seconds, *arguments, env={"KDUTILS_TEACHER_STATES": mode})
    return rows
