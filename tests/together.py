"""Two processes that train one student, for tests: one case after another in one pair of processes.

A program that kdutils.devices.launch starts in the place of kdutils.devices.worker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kdutils import encoding, models, training
from kdutils.adapters import trainable
from kdutils.compute import Compute
from kdutils.constants import LOGIT_METHODS
from kdutils.data import sources
from kdutils.devices import fsdp, launch, worker
from kdutils.process_group import ALONE, World
from kdutils.runs import answers, ranking
from kdutils.spec import EvalSpec, RunSpec
from kdutils.teacher import CachedTeacher, States, Teacher

SIZE = 2


@dataclass(frozen=True)
class Case:
    """What is trained, and what happens meanwhile."""

    spec: RunSpec
    how: dict[str, Any] = field(default_factory=dict)  # fields of Compute
    reads_states: bool = False  # the teacher is asked once, and what it says is kept
    stops_at: int | None = None  # step after which all are interrupted
    goes_on: bool = True  # from there, in new models
    damages: str = ""  # file of the checkpoint that loses a bit meanwhile
    answers: bool = False  # the student is evaluated
    dies_at: int | None = None  # step after which the second process is killed


class Interrupt(Exception):  # noqa: N818 - stands for Ctrl-C
    pass


def fit(case: Case, world: World, root: Path) -> tuple[Any, training.Outcome, list[dict[str, Any]]]:
    """(student, outcome, warnings) of a training from its beginning, or from a checkpoint under `root`."""
    spec, warnings, stopped = case.spec, [], root / "stopped"
    student = models.load(spec.student, trains_all=spec.adapter == "full")
    student = divided(trainable.make_trainable(student, spec, seed=spec.seed), world)
    checkpoint = root / "checkpoint" if case.stops_at else None

    def progress(entry):
        warnings.extend([entry] * ("warning" in entry))
        if checkpoint and not checkpoint.exists() and entry.get("step", 0) > 1:
            raise AssertionError("nothing was saved")
        if "step" in entry and entry["step"] == case.stops_at and not stopped.exists():
            raise Interrupt
        if "step" in entry and entry["step"] == case.dies_at and world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    how = {"rate": spec.peak_rate, "teacher": teacher_of(case, world, root), "world": world}
    items, validation = sources.load_items(spec, "train"), sources.load_items(spec, "validation")
    outcome = training.train(
        student,
        items,
        spec,
        validation=validation,
        checkpoint=checkpoint,
        progress=progress,
        compute=Compute(checkpoint_seconds=0.0, **case.how),  # after every step
        **how,
    )
    return student, outcome, warnings


def divided(model: models.LoadedModel, world: World) -> models.LoadedModel:
    return model if world is ALONE else fsdp.shard(model, world)


def teacher_of(case: Case, world: World, root: Path) -> Teacher | CachedTeacher | None:
    """Frozen, and divided like the student."""
    spec = case.spec
    if spec.method not in LOGIT_METHODS:
        return None

    def load():
        model = models.load(spec.teacher)
        with torch.no_grad():
            model.head.weight_VH.mul_(8)  # far from flat, so that noise and temperature matter
        model.network.requires_grad_(False)
        return divided(model, world)

    if not case.reads_states:
        return Teacher(load(), spec.noise_sigma, spec.seed)
    kept = States(root / "states")
    if not world.sum(kept.are_there()):
        asked = load()
        encoded = encoding.encode(sources.load_items(spec, "train"), asked.tokenizer, **spec.encoding)
        kept.write(asked, encoded, world)
        world.sum(0.0)  # the first has written
    return CachedTeacher(kept.open(), load, "cpu", spec.noise_sigma, spec.seed)


def whole_weights(student: Any, world: World) -> dict[str, torch.Tensor]:
    """Of what was trained; empty on all ranks but the first."""
    if world is not ALONE:
        return student.trained_weights()
    return {name: w.detach() for name, w in student.network.named_parameters() if w.requires_grad}


def answered(student: models.LoadedModel, spec: RunSpec) -> list[Any]:
    """Texts, likeliest tokens, and log-probabilities of two options."""
    evaluation = EvalSpec(tasks=("addsub",), max_new_tokens=12)
    items = sources.test_items(spec, evaluation)
    ((rows, _),) = answers.rows_of(student, items, [evaluation], spec)
    prompts = encoding.prompt_ids(["What is 1 plus 2 ?", "What ?"], student.tokenizer)
    options = [encoding.token_ids(["3", "The answer is 4 ."], student.tokenizer)] * len(prompts)
    ranked = ranking.option_logprobs(student, prompts, options)
    return [rows["text"].tolist(), [list(map(int, ids)) for ids in rows["top1"]], ranked]


def stop(case: Case, world: World, folder: Path) -> None:
    """A training that is interrupted."""
    try:
        fit(case, world, folder)
        raise AssertionError("it was not interrupted")
    except Interrupt:
        world.sum(0.0)
    if world.rank == 0:
        (folder / "stopped").touch()
        if case.damages:
            file = folder / "checkpoint" / case.damages
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    world.sum(0.0)


def do(task: dict[str, Any], scratch: Path, world: World, progress: launch.Progress | None) -> dict[str, Any]:
    """Every case; weights and outcome are left in its folder by rank 0."""
    root = Path(task["root"])
    for name, own in task["cases"].items():
        case, folder = Case(**own | {"spec": RunSpec.from_dict(own["spec"])}), root / name
        if case.stops_at and not (folder / "stopped").exists():
            stop(case, world, folder)
        if not case.goes_on:
            continue
        student, outcome, warnings = fit(case, world, folder)
        weights = whole_weights(student, world)
        said = answered(student, case.spec) if case.answers else None
        if world.rank == 0:
            folder.mkdir(exist_ok=True)
            save_file(weights, folder / "weights.safetensors")
            told = {"outcome": asdict(outcome), "warnings": warnings, "said": said}
            (folder / "told.json").write_text(json.dumps(told))
    return {}


def run(root: Path, cases: dict[str, Case]) -> None:
    """Train all cases in SIZE processes.

    Raises:
        RankError: if one of them ends badly.
    """
    named = {name: vars(case) | {"spec": case.spec.to_dict()} for name, case in cases.items()}
    how = {"n_ranks": SIZE, "n_threads": SIZE, "program": (str(Path(__file__)),)}
    launch.run(
        {"root": str(root), "cases": named}, scratch=root / "scratch", progress=lambda entry: None, **how
    )


if __name__ == "__main__":
    sys.exit(worker.main(Path(sys.argv[1]), do))
