"""The processes that train one student, as the training loop sees them.

`World` is the usual one: a single process, which has everything. Where several share a student, each with a
part of every weight and of every batch, kdutils.sharded has another with the same methods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdutils import store
from kdutils.data import Batch


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
        """Keep tensors and state in a folder, which appears in one step."""
        with store.folder_in_one_step(folder) as partial:
            file = partial / "state.safetensors"
            save_file(on_cpu(tensors), file)
            store.write_json(partial / "state.json", state | {"sha256": store.sha256(file)})

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """State and tensors as they were written.

        Raises:
            ValueError: if the tensors are not those. Whatever else is wrong with the files raises, too.
        """
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return state, checked(folder / "state.safetensors", state["sha256"])


def checked(file: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a file of that SHA-256.

    Raises:
        ValueError: if it has another.
    """
    tensors = load_file(file)
    if digest != store.sha256(file):
        raise ValueError("its weights are not those that were written")
    return tensors


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors can write them."""
    return {key: w.contiguous().cpu() for key, w in tensors.items()}


ALONE = World()
