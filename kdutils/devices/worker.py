"""One of the processes that work on a run together: `python -m kdutils.devices.worker FOLDER`.

What it is to do stands in the folder (kdutils.devices.launch). It is RANK of WORLD_SIZE; rank 0 writes the
training curve to its standard output, an entry a line, and leaves what was made and then the outcome. All
end with their starter.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

from kdutils import encoding, experiment, teacher_outputs, training
from kdutils.devices import fsdp, launch
from kdutils.devices.fsdp import Sharded, ShardedModel
from kdutils.inputs import Inputs
from kdutils.io import disk, environment
from kdutils.io.child_processes import messages_to_parent
from kdutils.spec import EvalSpec, RunSpec
from kdutils.store import Store

Tell = Callable[[dict[str, Any]], None]
Do = Callable[[dict[str, Any], Path, Sharded, Tell | None], dict[str, Any]]


def main(scratch: Path, do: Do) -> int:
    """Exit code, after `do(task, scratch, world, tell)`, whose result is the outcome."""
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    tell = messages_to_parent()
    task = json.loads((scratch / launch.TASK).read_text(encoding="utf-8"))
    logging.disable_progress_bar()
    torch.set_num_threads(task["n_threads"])
    torch.set_flush_denormal(True)

    try:
        world = fsdp.together(Path(task[launch.RENDEZVOUS]), scratch, rank=rank, size=size)
        outcome = do(task, scratch, world, tell if rank == 0 else None)
        if rank == 0:
            disk.write_text(scratch / launch.OUTCOME, json.dumps(outcome))  # a loss may be NaN
        world.largest(0.0)  # nobody leaves before all is written
    except Exception as error:  # whoever started us says it
        kind = launch.MEMORY if training.is_out_of_memory(error) else type(error).__name__
        launch.report_failure(scratch, rank, kind=kind, reason=experiment.reason_of(error))
        os._exit(1)  # at once: others may wait for us, and so may the end of torch for them
    torch.distributed.destroy_process_group()
    return 0


def do(task: dict[str, Any], scratch: Path, world: Sharded, tell: Tell | None) -> dict[str, Any]:
    """What became of a task: the states of a run's teacher, the training of its student, its evaluation."""
    kinds = {"states": write_states, "training": train_student, "evaluation": evaluate}
    return kinds[task["what"]](task, scratch, world, tell)


def write_states(task: dict[str, Any], scratch: Path, world: Sharded, tell: Tell | None) -> dict[str, Any]:
    """Nothing, when the teacher's hidden states are kept."""
    inputs, at = _given(task)
    teacher = _teacher(inputs, at, world)
    encoded = encoding.encode(inputs.items.train, teacher.tokenizer, **inputs.spec.encoding)
    teacher_outputs.states_of(inputs, at).write(teacher, encoded, world)
    return {}


def train_student(task: dict[str, Any], scratch: Path, world: Sharded, tell: Tell | None) -> dict[str, Any]:
    """Outcome of the training, and GB of the largest process; the weights are left in the folder."""
    inputs, at = _given(task)
    # As where we were started: tests save every step.
    training.CHECKPOINT_SECONDS = task["checkpoint_seconds"]
    spec, items, teacher = inputs.spec, inputs.items.train, None
    if spec.method == "seqkd":
        items = teacher_outputs.teacher_texts(inputs, at)  # they are there
    elif spec.teacher is not None:  # and so are its states
        teacher = teacher_outputs.teacher_signal(inputs, at, load=lambda: _teacher(inputs, at, world))

    def load() -> tuple[ShardedModel, float, dict[str, int]]:
        student, rate = experiment.student_to_train(inputs, stays_in_memory=True)
        limits = experiment.passes(student, inputs.student, batch_size=spec.batch_size)
        return fsdp.shard(student, world), rate, limits

    student, rate, limits = world.in_turn(load)
    if task["micro_batch_size"] is not None:
        limits["micro_batch_size"] = task["micro_batch_size"]
    outcome = training.train(
        student,
        items,
        spec,
        rate=rate,
        teacher=teacher,
        validation=inputs.items.validation,
        checkpoint=Path(task["checkpoint"]),
        progress=tell,
        world=world,
        **limits,
    )
    whole = student.trained_weights()
    peak_gb = world.largest(environment.peak_memory_gb())
    if world.rank == 0:
        save_file(whole, scratch / launch.WEIGHTS)
    return {"outcome": asdict(outcome), "peak_memory_gb": peak_gb}


def evaluate(task: dict[str, Any], scratch: Path, world: Sharded, tell: Tell | None) -> dict[str, Any]:
    """Facts about an evaluation, whose rows are left in the folder; every process computes all of it."""
    inputs, at = _given(task)
    spec = inputs.spec

    def load() -> ShardedModel:
        folder = at.folder(spec.run_id)
        student = teacher_outputs.load_trained(spec, folder, base=inputs.student, stays_in_memory=True)
        return fsdp.shard(student, world)

    student = world.in_turn(load)
    rows, facts = experiment.item_rows(student, inputs.items.test, inputs.evaluation, run_id=spec.run_id)
    if world.rank == 0:
        rows.to_parquet(scratch / launch.ROWS, index=False)
    return facts


def _given(task: dict[str, Any]) -> tuple[Inputs, Store]:
    evaluation = EvalSpec.from_dict(task["evaluation"]) if "evaluation" in task else None
    return Inputs.of(RunSpec.from_dict(task["spec"]), evaluation), Store(Path(task["out"]))


def _teacher(inputs: Inputs, at: Store, world: Sharded) -> ShardedModel:
    """The teacher of a run, which is there, frozen and divided."""
    return world.in_turn(
        lambda: fsdp.shard(teacher_outputs.teacher_model(inputs, at, stays_in_memory=True), world)
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), do))
