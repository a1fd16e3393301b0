"""The teacher as a signal: hidden states at the scored positions, output head and noise on its logits.

`Teacher` runs the model on every batch. `CachedTeacher` reads the states of the training items from disk:
off-policy methods show the teacher the same sequences in every run and epoch, so the model runs once. The
head recovers any logit from the states, exactly; they are 50 to 100 times smaller than logits of Qwen's.

    states/<digest>/states-00000.safetensors ...   hidden states (positions, width), item after item
    states/<digest>/head.safetensors               weights of the output head, and its bias if it has one
    states/<digest>/index.json                     head's scale and soft cap, positions of each item, SHA-256

The folder appears in one step. Its name is a digest of everything that the states depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdutils import encoding
from kdutils.encoding import Batch
from kdutils.head import Head
from kdutils.io import disk
from kdutils.io.disk import DamagedError
from kdutils.models import LoadedModel
from kdutils.noise import LogitNoise, noise_keys
from kdutils.process_group import ALONE, World

LAYOUT = 2
SHARD_BYTES = 256 << 20
BATCH_ROWS = 16


@dataclass
class Teacher:
    """A frozen model whose logits a student is compared with."""

    model: LoadedModel
    noise_sigma: float = 0.0  # standard deviation of Gaussian noise on its logits
    seed: int = 0  # of the noise

    @property
    def head(self) -> Head:
        return self.model.head

    @torch.no_grad()
    def hidden_NH(self, batch: Batch) -> Tensor:
        """The hidden states that score the batch's scored tokens, in their row-major order."""
        return self.model.scoring_states(batch)

    def noise(self, batch: Batch) -> LogitNoise | None:
        """The noise at those positions, None without noise; a function of seed, item and position alone."""
        if self.noise_sigma == 0:
            return None
        row_N, position_N = batch.scored_BT.nonzero(as_tuple=True)  # padding is on the right
        item_ids = [batch.ids[row] for row in row_N.tolist()]
        return LogitNoise(noise_keys(self.seed, item_ids, position_N.tolist()), self.noise_sigma)


class CachedTeacher(Teacher):
    """A teacher whose states are read from disk; the model is loaded for batches of other items alone.

    Such a batch holds a student's own samples, so off-policy methods never have two models in memory.
    """

    def __init__(
        self,
        states: OpenStates,
        load: Callable[[], LoadedModel],
        device: str,
        noise_sigma: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.states, self._load, self.device = states, load, device
        self.noise_sigma, self.seed = noise_sigma, seed

    @cached_property
    def model(self) -> LoadedModel:
        """The model, frozen."""
        model = self._load()
        model.network.requires_grad_(False)
        return model

    @cached_property
    def head(self) -> Head:
        """Output head, cut to the tokenizer's length."""
        return self.states.head(self.device)

    def hidden_NH(self, batch: Batch) -> Tensor:
        if not all(item_id in self.states for item_id in batch.ids):
            return super().hidden_NH(batch)
        ids = batch.ids if batch.scored_BT.any() else []  # a pass without scored tokens, see devices.fsdp
        return self.states.hidden_NH(ids).to(self.device)


@dataclass(frozen=True)
class States:
    """The folder for the states of one teacher on one encoded data set, written or not."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the lease on them."""
        return f"states-{self.path.name}"

    def are_there(self) -> bool:
        """Whether they were written."""
        return (self.path / "index.json").is_file()

    def write(self, teacher: LoadedModel, encoded: datasets.Dataset, world: World = ALONE) -> None:
        """Run the teacher over the items and write its states, all or nothing.

        Each of several processes calls this and runs a part of the batches; rank 0 writes.

        Raises:
            StoreError: before any work, if the disk has too little space.
        """
        columns = encoded["input_ids"][:], encoded["n_unscored"][:]
        n_positions = [len(ids) - n for ids, n in zip(*columns, strict=True)]
        width, size = teacher.head.weight_VH.shape[1], teacher.vocabulary_size
        n_bytes = (sum(n_positions) * width + size * width) * teacher.policy.weights.itemsize
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.check_space(self.path.parent, n_bytes, "the teacher's hidden states")
        shards = _shards(n_positions, SHARD_BYTES // (width * teacher.policy.weights.itemsize))
        found = (list(_states_of(teacher, encoded, rows, world)) for rows in shards)
        if world.rank > 0:
            for _ in found:  # each shard is empty here: its rows go to rank 0
                pass
            return
        disk.remove_partials(self.path.parent, of=self.path.name)
        with disk.folder_in_one_step(self.path) as partial:
            for number, states in enumerate(found):
                save_file({"states": torch.cat(states)}, partial / f"states-{number:05d}.safetensors")
            head = teacher.head.cut(size)  # FSDP has gathered it by now
            tensors = {"weight": head.weight_VH} | ({} if head.bias_V is None else {"bias": head.bias_V})
            tensors = {name: x.detach().contiguous().cpu() for name, x in tensors.items()}
            save_file(tensors, partial / "head.safetensors")
            digests = {path.name: disk.sha256(path) for path in sorted(partial.glob("*.safetensors"))}
            index = {
                "layout": LAYOUT,
                "teacher": teacher.name,
                "head": {"scale": head.scale, "soft_cap": head.soft_cap},
                "ids": encoded["id"][:],
                "n_positions": n_positions,
                "shards": [[rows.start, rows.stop] for rows in shards],
                "sha256": digests,
            }
            disk.write_json(partial / "index.json", disk.sealed(index))

    def open(self) -> OpenStates:
        """The states, checked against their digests, then read from disk as they are needed.

        Raises:
            DamagedError: if a file is missing or not what was written.
        """
        try:
            index = json.loads((self.path / "index.json").read_text(encoding="utf-8"))
            if index["layout"] != LAYOUT:
                raise ValueError(f"layout {index['layout']}, this is {LAYOUT}")
            if "seal" not in index or not disk.has_whole_seal(index):  # it holds the head's scale and cap
                raise ValueError("its content is not what was written")
            for name, digest in index["sha256"].items():
                if disk.sha256(self.path / name) != digest:
                    raise ValueError(f"the SHA-256 of {name} is not the recorded one")
            return OpenStates(self.path, index)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DamagedError(self.path / "index.json", error, whole=self.path, name=self.name) from error


class OpenStates:
    """Hidden states by item."""

    def __init__(self, path: Path, index: dict[str, Any]) -> None:
        self._place: dict[str, tuple[int, int, int]] = {}  # item -> shard, first position, number
        for number, (start, stop) in enumerate(index["shards"]):
            first = 0
            for name, n in zip(index["ids"][start:stop], index["n_positions"][start:stop], strict=True):
                self._place[name] = (number, first, n)
                first += n
        self._path, self._after_head = path, index["head"]
        self._shards = [
            safe_open(path / f"states-{number:05d}.safetensors", framework="pt").get_tensor("states")
            for number in range(len(index["shards"]))
        ]  # memory-mapped: read from disk when used

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._place

    def head(self, device: str) -> Head:
        """The teacher's output head on that device, cut to its tokenizer's length."""
        tensors = load_file(self._path / "head.safetensors", device=device)
        return Head(tensors["weight"], tensors.get("bias"), **self._after_head)

    def hidden_NH(self, item_ids: Sequence[str]) -> Tensor:
        """The states of these items' scored positions, item after item."""
        parts = [self._shards[shard][first : first + n] for shard, first, n in map(self._place.get, item_ids)]
        return torch.cat(parts) if parts else self._shards[0][0:0]


def states_of(out: Path, key: dict[str, Any]) -> States:
    """The states whose every dependency `key` holds, ready for JSON."""
    digest = hashlib.sha256(json.dumps({"layout": LAYOUT} | key, sort_keys=True).encode()).hexdigest()[:16]
    return States(Path(out) / "states" / digest)


def _shards(n_positions: Sequence[int], most: int) -> list[range]:
    """Ranges of items with at most `most` positions together (but at least one item)."""
    shards, start, total = [], 0, 0
    for row, n in enumerate(n_positions):
        if total + n > most and row > start:
            shards.append(range(start, row))
            start, total = row, 0
        total += n
    return [*shards, range(start, len(n_positions))]


@torch.no_grad()
def _states_of(
    teacher: LoadedModel, encoded: datasets.Dataset, rows: range, world: World
) -> Iterator[Tensor]:
    """The hidden states of each row's scored positions, in order, on rank 0; nothing on the others."""
    lengths = {row: len(ids) for row, ids in zip(rows, encoded[list(rows)]["input_ids"], strict=True)}
    by_length = sorted(rows, key=lambda row: -lengths[row])
    batches = [by_length[first : first + BATCH_ROWS] for first in range(0, len(by_length), BATCH_ROWS)]
    found: dict[int, Tensor] = {}
    for first in range(0, len(batches), world.size):
        now = [
            encoding.collate(encoded, chosen, pad_id=teacher.pad_id)
            for chosen in batches[first : first + world.size]
        ]
        own = now[min(world.rank, len(now) - 1)]  # without a batch left, repeat the last: FSDP needs all
        states = teacher.scoring_states(own).to(teacher.policy.weights)
        for rank, batch in enumerate(now):
            n_positions = batch.scored_BT.sum(1).tolist()
            parts = world.gathered_rows(states, source=rank, n_rows=sum(n_positions))
            if world.rank == 0:
                found |= dict(zip(batches[first + rank], parts.split(n_positions), strict=True))
    yield from (found[row] for row in rows if row in found)
