"""One of the processes (ranks) that work on a run together: `python -m kdutils.devices.worker FOLDER`.

Its task is a file in the folder (kdutils.devices.launch). Rank 0 prints the training curve, an entry a line,
and writes the results and then the outcome. All ranks end with the process that started them.
"""

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

from kdutils import encoding, training
from kdutils.compute import Compute
from kdutils.devices import fsdp, launch
from kdutils.devices.fsdp import Sharded, ShardedModel
from kdutils.devices.launch import Progress
from kdutils.io import disk, memory
from kdutils.io.child_processes import messages_to_parent
from kdutils.models import LoadedModel
from kdutils.runs import answers, experiment, students, teacher_outputs
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import Store
from kdutils.spec import EvalSpec, RunSpec

Do = Callable[[dict[str, Any], Path, Sharded, Progress | None], dict[str, Any]]


def main(scratch: Path, do: Do) -> int:
    """Exit code, after `do(task, scratch, world, progress)`, whose result is the outcome."""
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    progress = messages_to_parent()
    task = json.loads((scratch / launch.TASK).read_text(encoding="utf-8"))
    logging.disable_progress_bar()
    torch.set_num_threads(task["n_threads"])
    torch.set_flush_denormal(True)

    try:
        world = fsdp.together(Path(task[launch.RENDEZVOUS]), scratch, rank=rank, size=size)
        outcome = do(task, scratch, world, progress if rank == 0 else None)
        if rank == 0:
            disk.write_text(scratch / launch.OUTCOME, json.dumps(outcome))  # a loss may be NaN
        world.largest(0.0)  # no rank leaves before all is written
    except Exception as error:
        kind = launch.MEMORY if training.is_out_of_memory(error) else type(error).__name__
        launch.report_failure(scratch, rank, kind=kind, reason=experiment.reason_of(error))
        os._exit(1)  # at once: torch would wait for the other ranks, which may wait for this one
    torch.distributed.destroy_process_group()
    return 0


def do(task: dict[str, Any], scratch: Path, world: Sharded, progress: Progress | None) -> dict[str, Any]:
    """The outcome of a task: the states of a run's teacher, the training of its student, its evaluation."""
    evaluation = EvalSpec.from_dict(task["evaluation"]) if "evaluation" in task else None
    inputs = Inputs.of(RunSpec.from_dict(task["spec"]), evaluation)
    at = Store(Path(task["out"]), compute=Compute(**task["compute"]))
    spec, items = inputs.spec, inputs.items

    def divided(load: Callable[[], LoadedModel]) -> ShardedModel:
        return world.in_turn(lambda: fsdp.shard(load(), world))

    def teacher() -> ShardedModel:
        return divided(lambda: teacher_outputs.teacher_model(inputs, at, stays_in_memory=True))

    if task["what"] == "states":
        model = teacher()
        encoded = encoding.encode(
            teacher_outputs.training_items(inputs, at), model.tokenizer, **spec.encoding
        )
        teacher_outputs.states_of(inputs, at).write(model, encoded, world)
        return {}
    if task["what"] == "training":
        trained_on, signal = teacher_outputs.training_items(inputs, at), None  # texts were written before
        if spec.recipe.divergence:  # the teacher's states were written before
            signal = teacher_outputs.teacher_signal(inputs, at, load=teacher)
        with memory.peak_memory(at.compute.device) as held:
            model = divided(lambda: students.student_to_train(inputs, at, stays_in_memory=True))
            outcome = training.train(
                model,
                trained_on,
                spec,
                rate=spec.peak_rate,
                teacher=signal,
                validation=items.validation,
                checkpoint=Path(task["checkpoint"]),
                progress=progress,
                compute=experiment.passes(model, inputs, at.compute),
                world=world,
            )
        weights, held["peak_gb"] = model.trained_weights(), world.largest(held["peak_gb"])
        if world.rank == 0:
            save_file(weights, scratch / launch.WEIGHTS)
        return {"outcome": asdict(outcome), "memory": held}
    folder, how = at.folder(spec.run_id), {"compute": at.compute, "stays_in_memory": True}
    model = divided(lambda: students.load_trained(spec, folder, base=inputs.student, **how))
    ((rows, facts),) = answers.rows_of(model, items.test, [evaluation], spec)
    if world.rank == 0:
        rows.to_parquet(scratch / launch.ROWS, index=False)
    return facts


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), do))
