"""One of the processes that train a student together: `python -m kdutils.rank FOLDER RANK`.

What it is to do stands in the folder (kdutils.ranks). Rank 0 tells the training curve on its standard
output, an entry a line, and leaves the trained weights and then the outcome. All end with their starter.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

from kdutils import environment, models, ranks, running, sharded, train
from kdutils.material import load_items
from kdutils.runspec import RunSpec
from kdutils.teacher import Teacher


def main(scratch: Path, rank: int) -> int:
    """Exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    task = json.loads((scratch / ranks.TASK).read_text(encoding="utf-8"))
    logging.disable_progress_bar()
    torch.set_num_threads(task["n_threads"])
    torch.set_flush_denormal(True)
    train.CHECKPOINT_SECONDS = task["checkpoint_seconds"]  # as where we were started: tests save every step

    def tell(entry: dict[str, Any]) -> None:
        told.write(json.dumps(entry) + "\n")
        told.flush()

    try:
        world = sharded.joined(Path(task[ranks.RENDEZVOUS]), rank=rank, size=task["n_ranks"])
        _train(task, scratch, world, tell if rank == 0 else None)
    except Exception as error:  # whoever started us says it
        kind = ranks.MEMORY if train.is_out_of_memory(error) else type(error).__name__
        ranks.report_failure(scratch, rank, kind=kind, reason=running.reason_of(error))
        os._exit(1)  # at once: others may wait for us, and so may the end of torch for them
    return 0


def _train(
    task: dict[str, Any], scratch: Path, world: sharded.Sharded, tell: Callable[[dict[str, Any]], None] | None
) -> None:
    spec, out = RunSpec.from_dict(task["spec"]), Path(task["out"])
    items, teacher = load_items(spec, "train"), None
    if spec.method == "seqkd":
        items = running.teacher_texts(spec, items, out)  # they are there
    elif spec.teacher is not None:
        model = running.teacher_model(spec, out, stays_in_memory=True)
        model.network.requires_grad_(False)
        teacher = Teacher(sharded.shard(model), spec.noise_sigma, spec.seed)
    student = models.load(spec.student, trains_all=spec.adapter == "full", stays_in_memory=True)
    student = models.add_adapter(student, spec, seed=spec.seed)
    how = running.passes(spec, student)
    if task["micro_batch_size"] is not None:
        how["micro_batch_size"] = task["micro_batch_size"]
    student = sharded.shard(student)
    outcome = train.train(
        student,
        items,
        spec,
        rate=models.learning_rate(spec),
        teacher=teacher,
        validation=load_items(spec, "validation") if spec.validation_items else (),
        checkpoint=Path(task["checkpoint"]),
        progress=tell,
        world=world,
        **how,
    )
    whole = student.trained_weights()
    facts = {"peak_memory_gb": world.largest(environment.peak_memory_gb())}
    if world.rank == 0:
        save_file(whole, scratch / ranks.WEIGHTS)
        text = json.dumps({"outcome": asdict(outcome)} | facts)  # a loss may be NaN
        (scratch / ranks.OUTCOME).write_text(text, encoding="utf-8")
    world.largest(0.0)  # nobody leaves before all is written


def _end_with_parent() -> None:
    """Wait for the process that started this one to end, and end then too."""
    os.read(0, 1)  # nothing is ever written; not sys.stdin, whose lock the end of Python would wait for
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
