"""Two processes that train one student, for tests: one case after another in one pair of processes."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from kdutils import material, models, sharded, train
from kdutils.runspec import RunSpec
from kdutils.teacher import Teacher
from kdutils.world import ALONE, World

SIZE = 2


class Case(NamedTuple):
    """What is trained, and what happens meanwhile."""

    spec: RunSpec
    how: dict[str, Any] = {}  # arguments of train.train
    stops_at: int | None = None  # step after which all are interrupted, to go on from the checkpoint
    damages: str = ""  # file of the checkpoint that loses a bit meanwhile


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


def fit(case: Case, world: World, root: Path) -> tuple[Any, train.Outcome, list[dict[str, Any]]]:
    """(student, outcome, warnings) of a training from its beginning, or from a checkpoint under `root`."""
    spec, teacher, warnings = case.spec, None, []

    def divided(model):
        return model if world is ALONE else sharded.shard(model)

    if spec.method in train.KINDS:
        model = models.load(spec.teacher)
        with torch.no_grad():
            model.head_VH.mul_(8)  # far from flat, so that noise and temperature matter
        model.network.requires_grad_(False)
        teacher = Teacher(divided(model), spec.noise_sigma, spec.seed)
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    student = divided(models.add_adapter(student, spec, seed=spec.seed))
    checkpoint = root / "checkpoint" if case.stops_at else None

    def progress(entry):
        warnings.extend([entry] * ("warning" in entry))
        if checkpoint and not checkpoint.exists() and entry.get("step", 0) > 1:
            raise AssertionError("nothing was saved")
        if "step" in entry and entry["step"] == case.stops_at and not (root / "stopped").exists():
            raise Interrupt

    how = {"rate": models.learning_rate(spec), "teacher": teacher, "world": world} | case.how
    items, validation = material.load_items(spec, "train"), material.load_items(spec, "validation")
    outcome = train.train(
        student, items, spec, validation=validation, checkpoint=checkpoint, progress=progress, **how
    )
    return student, outcome, warnings


def whole_weights(student: Any, world: World) -> dict[str, torch.Tensor]:
    """Of what was trained; empty on all ranks but the first."""
    if world is not ALONE:
        return student.trained_weights()
    return {name: w.detach() for name, w in student.network.named_parameters() if w.requires_grad}


def main(rank: int, root: Path, cases: dict[str, Case]) -> None:
    """A process: every case, its weights and outcome left under `root` by rank 0."""
    torch.set_num_threads(1)
    train.CHECKPOINT_SECONDS = 0.0  # after every step
    world = sharded.joined(root / "rendezvous", rank=rank, size=SIZE)
    for name, case in cases.items():
        folder, started = root / name, time.monotonic()
        if case.stops_at:
            try:
                fit(case, world, folder)
                raise AssertionError("it was not interrupted")
            except Interrupt:
                world.largest(0.0)
            if rank == 0:
                (folder / "stopped").touch()
                if case.damages:
                    file = folder / "checkpoint" / case.damages
                    content = file.read_bytes()
                    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            world.largest(0.0)
        student, outcome, warnings = fit(case, world, folder)
        weights = whole_weights(student, world)
        if rank == 0:
            folder.mkdir(exist_ok=True)
            save_file(weights, folder / "weights.safetensors")
            told = {"outcome": asdict(outcome), "warnings": warnings, "seconds": time.monotonic() - started}
            (folder / "told.json").write_text(json.dumps(told))


def run(root: Path, cases: dict[str, Case]) -> None:
    """All cases, in SIZE processes.

    Raises:
        RuntimeError: if one of them ends badly.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=main, args=(rank, root, cases)) for rank in range(SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        if process.exitcode != 0:
            for each in processes:
                each.kill()
            raise RuntimeError(f"a process ended with {process.exitcode}")
