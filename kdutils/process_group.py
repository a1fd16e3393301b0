"""The processes that train one student, as the training loop sees them.

`World` is the usual case: a single process that has everything. Where several processes share a student,
kdutils.devices.fsdp has a subclass: each process holds a shard of every weight and computes a part of every
batch, and all call the methods below together.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdutils.encoding import Batch
from kdutils.io import disk

WHOLE = "state.safetensors"


class World:
    """One process alone: nothing to divide, nothing to sum."""

    rank, size = 0, 1

    def passes(self, batch: Batch, *, max_rows: int, pass_tokens: int | None) -> list[Batch]:
        """This process's part of a batch, cut into passes (see `Batch.passes`); each process gets as many."""
        return batch.passes(max_rows=max_rows, pass_tokens=pass_tokens)

    def sum(self, value: float) -> float:
        """The sum of the processes' values, the same in all of them."""
        return value

    def largest(self, value: float) -> float:
        """The largest of the processes' values, the same in all of them, so that all decide alike."""
        return value

    def gathered_rows(self, rows: Tensor, *, source: int, n_rows: int) -> Tensor:
        """On rank 0, the `n_rows` rows of process `source` in main memory; other ranks ignore the result."""
        return rows.cpu()

    def clip(self, weights: Iterable[Tensor], max_norm: float) -> Tensor:
        """The norm of the whole gradient, which is scaled in place to at most `max_norm`."""
        return nn.utils.clip_grad_norm_(weights, max_norm)

    def local(self, tensor: Tensor) -> Tensor:
        """This process's shard of a tensor, in the same memory."""
        return tensor

    def like(self, values: Tensor, weight: Tensor) -> Tensor:
        """A tensor with the type, layout in memory and sharding of `weight` whose local shard is `values`."""
        return torch.empty_like(weight).copy_(values)  # fused AdamW pairs weights and moments by memory

    def write(self, folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write a checkpoint, of whose tensors each process has a shard; the folder appears whole."""
        with disk.folder_in_one_step(folder) as partial:
            save_file(on_cpu(tensors), partial / WHOLE)
            write_state(partial, state, [WHOLE])

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """State and this process's shards of a checkpoint, by however many processes; raises if damaged."""
        state, files = read_state(folder)
        shards = [checked(folder / name, digest) for name, digest in files.items()]
        whole = {}
        for name, tensor in shards[0].items():  # divided along the first axis; scalars are in every shard
            is_divided = len(shards) > 1 and tensor.ndim > 0
            whole[name] = torch.cat([shard[name] for shard in shards]) if is_divided else tensor
        return state, whole


def write_state(folder: Path, state: dict[str, Any], files: list[str]) -> None:
    """Write the state of a training, sealed, with the SHA-256 of the files that hold its tensors."""
    digests = {name: disk.sha256(folder / name) for name in files}
    disk.write_json(folder / "state.json", disk.sealed(state | {"sha256": digests}))


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state that `write_state` wrote, and file -> SHA-256 in the order of ranks; raises if damaged."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if not disk.has_whole_seal(state):
        raise ValueError("its state is not what was written")
    digests = state["sha256"]
    return state, {WHOLE: digests} if isinstance(digests, str) else digests  # text: of earlier builds


def checked(file: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file with that SHA-256; raises if it has another."""
    tensors = load_file(file)
    if digest != disk.sha256(file):
        raise ValueError("its weights are not those that were written")
    return tensors


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors can write them: contiguous, in main memory."""
    return {key: w.contiguous().cpu() for key, w in tensors.items()}


ALONE = World()
