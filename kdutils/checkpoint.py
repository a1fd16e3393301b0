"""The state of a training, and how it is saved and resumed: safetensors and JSON, whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdutils.generation import Text
from kdutils.io import disk
from kdutils.optimisers import Parts
from kdutils.process_group import World


@dataclass
class TrainingState:
    """All that a training of one spec needs to continue exactly as if it had not been interrupted."""

    weights: dict[str, Tensor]  # LoadedModel.trained, changed in place
    optimiser: torch.optim.Optimizer | Parts
    micro_batch_rows: int
    done_steps: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[float, dict[str, Tensor]] | None = None  # lowest validation loss, and weights at it
    rollouts: dict[int, list[Text]] = field(default_factory=dict)  # step -> responses sampled in advance

    def restore(self, values: dict[str, Tensor]) -> None:
        """Overwrite the trained weights."""
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)

    def save(self, folder: Path, run_id: str, world: World) -> None:
        """Write a checkpoint; every process calls this."""
        tensors = {f"weight/{name}": w for name, w in self.weights.items()}
        for name, w in self.weights.items():
            tensors |= {f"optimiser/{key}/{name}": value for key, value in self.optimiser.state[w].items()}
        if self.best is not None:
            tensors |= {f"best/{name}": w for name, w in self.best[1].items()}
        state = {
            "run_id": run_id,
            "done_steps": self.done_steps,
            "seconds": self.seconds,
            "micro_batch_size": self.micro_batch_rows,
            "best_loss": None if self.best is None else self.best[0],
            "curve": self.curve,
            "rollouts": self.rollouts,
        }
        world.write(folder, {key: world.local(tensor.detach()) for key, tensor in tensors.items()}, state)

    def resume(self, folder: Path, run_id: str, world: World, warn: Callable[[dict[str, Any]], None]) -> None:
        """Continue from a checkpoint of this run, if there is one; one that cannot be used is set aside."""
        if not folder.is_dir():
            return
        reason = ""
        try:
            state, tensors = self._read(folder, run_id, world)
        except Exception as error:  # whatever is wrong with it, training from the start loses nothing
            reason = str(error) or type(error).__name__
        if not world.largest(reason != ""):
            self._apply(state, tensors)
        elif world.rank == 0:
            aside, reason = disk.set_aside(folder), reason or "another process cannot read its part"
            warn({"warning": f"checkpoint set aside as {aside.name} ({reason}); training starts anew"})

    def _read(
        self, folder: Path, run_id: str, world: World
    ) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """State, and tensors by kind and name. Changes nothing; raises whatever is wrong."""
        state, tensors = world.read(folder)
        if state["run_id"] != run_id:
            raise ValueError(f"it is of run {state['run_id']}")
        found: dict[str, dict[str, Tensor]] = {"weight": {}, "best": {}, "optimiser": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")  # of the optimiser: what it keeps, then of which weight
            w = self.weights[name.partition("/")[2] if kind == "optimiser" else name]
            found[kind][name] = world.like(value, w) if value.ndim else value.to(w.device)
        if lost := self.weights.keys() - found["weight"].keys():
            raise ValueError(f"it has no {min(lost)}")
        rollouts = {int(step): [Text(*text) for text in texts] for step, texts in state["rollouts"].items()}
        wanted = ("done_steps", "seconds", "micro_batch_size", "best_loss", "curve")
        return {key: state[key] for key in wanted} | {"rollouts": rollouts}, found

    def _apply(self, state: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> None:
        self.restore(tensors["weight"])
        for key, value in tensors["optimiser"].items():
            slot, _, name = key.partition("/")
            self.optimiser.state[self.weights[name]][slot] = value
        self.best = None if state["best_loss"] is None else (state["best_loss"], tensors["best"])
        self.done_steps, self.seconds = state["done_steps"], state["seconds"]
        self.micro_batch_rows = min(self.micro_batch_rows, state["micro_batch_size"])
        self.curve, self.rollouts = state["curve"], state["rollouts"]
