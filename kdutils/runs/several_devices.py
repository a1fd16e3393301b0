"""A run on several devices: what its processes do together, and its student put together again."""

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from kdutils import training
from kdutils.devices import launch
from kdutils.models import LoadedModel
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import Progress, RunFolder, Store
from kdutils.runs.students import student_to_train
from kdutils.spec import EvalSpec


def run(inputs: Inputs, at: Store, scratch: Path, task: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a task (kdutils.devices.worker) that the processes of a run do together."""
    return launch.run(
        task | {"spec": inputs.spec.to_dict(), "out": str(at.out), "compute": asdict(at.compute)},
        scratch=scratch,
        progress=at.progress or (lambda entry: None),
        n_ranks=inputs.spec.devices,
        n_threads=torch.get_num_threads(),
    )


@contextlib.contextmanager
def scratch_folder(folder: RunFolder) -> Iterator[Path]:
    """For what processes leave each other; if they are killed, it goes when the run is begun again."""
    with tempfile.TemporaryDirectory(prefix=".ranks.", suffix=".partial", dir=folder.path) as name:
        yield Path(name) / "scratch"


def evaluated(
    inputs: Inputs, folder: RunFolder, at: Store, evaluation: EvalSpec
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of an evaluation of the student, and the seconds and items it took."""
    with scratch_folder(folder) as scratch:
        facts = run(inputs, at, scratch, {"what": "evaluation", "evaluation": evaluation.to_dict()})
        return pd.read_parquet(scratch / launch.ROWS), facts


def trained(
    inputs: Inputs, folder: RunFolder, at: Store, progress: Progress
) -> tuple[LoadedModel, training.Outcome, float]:
    """The student trained on several devices; outcome; GB of the largest process.

    If a pass does not fit one of them, all begin again with half the rows, from the last checkpoint.
    """
    rows = at.compute.micro_batch_rows
    task = {"what": "training", "checkpoint": str(folder.checkpoint)}
    with scratch_folder(folder) as scratch:
        while True:
            own = replace(at, progress=progress, compute=replace(at.compute, micro_batch_rows=rows))
            try:
                found = run(inputs, own, scratch, task)
                break
            except MemoryError as error:
                if rows == 1:
                    raise MemoryError(training.no_room(inputs.spec, error)) from error
                rows = math.ceil((rows or math.ceil(inputs.spec.batch_size / inputs.spec.devices)) / 2)
        student = student_to_train(inputs, at, stays_in_memory=True)
        weights = load_file(scratch / launch.WEIGHTS)
        with torch.no_grad():
            for name, w in student.network.named_parameters():
                if w.requires_grad:
                    w.copy_(weights[name])
    return student, training.Outcome(**found["outcome"]), found["memory"]
