"""The processes that train one student, as the training loop sees them.

`World` is the usual one: a single process, which has everything. Where several share a student, each with a
part of every weight and of every batch, kdutils.devices.fsdp has another with the same methods.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdutils.encoding import Batch
from kdutils.io import disk

WHOLE = "state.safetensors"
Made = TypeVar("Made")


class World:
    """One process alone: nothing to share, nothing to sum."""

    rank, size = 0, 1

    def share(self, batch: Batch) -> Batch:
        """The rows that this process computes; every row is some process's own."""
        return batch

    def sum(self, value: float) -> float:
        """The sum of every process's value, the same in all of them."""
        return value

    def largest(self, value: float) -> float:
        """The largest of every process's value, the same in all of them: what they decide by together."""
        return value

    def in_turn(self, make: Callable[[], Made]) -> Made:
        """What this process makes of that, one process after the other: for what takes much main memory."""
        return make()

    def handed(self, rows: Tensor, *, by: int, n_rows: int) -> Tensor:
        """The rows that process `by` has, on rank 0 and in main memory; elsewhere of no use."""
        return rows.cpu()

    def clip(self, weights: Iterable[Tensor], max_norm: float) -> Tensor:
        """The norm of the gradient of all weights, which is scaled down in place if that is greater."""
        return nn.utils.clip_grad_norm_(weights, max_norm)

    def local(self, tensor: Tensor) -> Tensor:
        """The part of a tensor that this process holds, in the same memory."""
        return tensor

    def like(self, values: Tensor, weight: Tensor) -> Tensor:
        """A tensor of the kind of `weight`, of which `values` is the part that this process holds."""
        return values.to(weight)

    # --- checkpoints: safetensors and JSON, whole or absent -----------------------------------------

    def write(self, folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Keep tensors, of which each process has its part, and the state, in a folder that appears whole."""
        with disk.folder_in_one_step(folder) as partial:
            save_file(on_cpu(tensors), partial / WHOLE)
            write_state(partial, state, [WHOLE])

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state and what of the tensors is this process's part, however many processes wrote them.

        Raises:
            ValueError: if they are not what was written. Whatever else is wrong with the files raises, too.
        """
        state, files = read_state(folder)
        return state, joined([checked(folder / name, digest) for name, digest in files.items()])


def write_state(folder: Path, state: dict[str, Any], files: list[str]) -> None:
    """Keep the state of a training, sealed, with the digests of the files that hold its tensors."""
    digests = {name: disk.sha256(folder / name) for name in files}
    disk.write_json(folder / "state.json", disk.sealed(state | {"sha256": digests}))


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What `write_state` kept: the state, and file -> digest, by rank.

    Raises:
        ValueError: if it is not what was written. Whatever else is wrong with the file raises, too.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if not disk.has_whole_seal(state):
        raise ValueError("its state is not what was written")
    digests = state["sha256"]
    return state, {WHOLE: digests} if isinstance(digests, str) else digests  # text: of an earlier build


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, of parts that divide their first axis; what has no axis is the same in all."""
    first, *others = parts
    return {
        name: torch.cat([tensor, *(part[name] for part in others)]) if others and tensor.ndim else tensor
        for name, tensor in first.items()
    }


def checked(file: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a file of that SHA-256.

    Raises:
        ValueError: if it has another.
    """
    tensors = load_file(file)
    if digest != disk.sha256(file):
        raise ValueError("its weights are not those that were written")
    return tensors


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors can write them."""
    return {key: w.contiguous().cpu() for key, w in tensors.items()}


ALONE = World()
