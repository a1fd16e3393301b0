"""One student on several devices, and its teacher: FSDP2, a process for each device.

Every process holds a part of every weight, gradient and moment (`fully_shard`) and computes its share of the
rows of each batch. Gradients are summed, not averaged: each process has already divided by the count of the
whole batch. Embedding, last norm and head are one group, gathered from the forward pass to the end of the
backward one, so that the losses see a whole head and stay as they are.

What differs from one process is the order of sums, and which units LoRA's dropout drops.
"""

from __future__ import annotations

import datetime
import math
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kdutils.encoding import Batch
from kdutils.io import disk
from kdutils.models import LoadedModel
from kdutils.process_group import World, checked, on_cpu, read_state, write_state

PATIENCE = datetime.timedelta(minutes=30)  # with a process that does not answer
Made = TypeVar("Made")


class Sharded(World):
    """The processes of one training, seen from the one of this rank."""

    def __init__(self, rank: int, size: int, scratch: Path) -> None:
        self.rank, self.size = rank, size
        self._parts = scratch / "parts"  # of a checkpoint, before it is made
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.mesh = init_device_mesh(device, (size,))

    def share(self, batch: Batch) -> Batch:
        """As `World.share`. Longer and shorter rows are dealt out in turn, so that all have as much to do."""
        return batch.share(self.rank, self.size)

    def sum(self, value: float) -> float:
        """As `World.sum`, in float64."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        """As `World.largest`."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        cell = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(cell, how)
        return float(cell)

    def in_turn(self, make: Callable[[], Made]) -> Made:
        """As `World.in_turn`."""
        for rank in range(self.size):
            if rank == self.rank:
                made = make()
            dist.barrier()
        return made

    def handed(self, rows: Tensor, *, by: int, n_rows: int) -> Tensor:
        """As `World.handed`."""
        rows = rows.cpu()
        if self.rank == by != 0:
            dist.send(rows, 0)
        elif self.rank == 0 != by:
            rows = rows.new_empty((n_rows, *rows.shape[1:]))
            dist.recv(rows, by)
        return rows

    def clip(self, weights: Iterable[Tensor], max_norm: float) -> Tensor:
        """As `World.clip`: the norm is that of the whole gradient, not of a part."""
        weights = list(weights)
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
        return norm

    def local(self, tensor: Tensor) -> Tensor:
        """As `World.local`."""
        return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor

    def like(self, values: Tensor, weight: Tensor) -> Tensor:
        """As `World.like`."""
        made = weight.detach().clone()
        self.local(made).copy_(values)
        return made

    def write(self, folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """As `World.write`: a file for each process; the JSON, with the digests of all, comes last."""
        self._parts.mkdir(parents=True, exist_ok=True)
        save_file(on_cpu(tensors), self._parts / _part(self.rank))
        dist.barrier()
        if self.rank > 0:  # the next step, which needs rank 0, waits until it has done what follows
            return
        with disk.folder_in_one_step(folder) as partial:
            names = [_part(rank) for rank in range(self.size)]
            for name in names:
                (self._parts / name).replace(partial / name)
            write_state(partial, state, names)

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As `World.read`; what another number of processes wrote is joined, and divided anew.

        Raises:
            ValueError: as `World.read`.
        """
        state, files = read_state(folder)
        if len(files) != self.size or len(files) == 1:
            state, whole = super().read(folder)
            return state, {name: self._own(tensor) for name, tensor in whole.items()}
        name, digest = list(files.items())[self.rank]
        return state, checked(folder / name, digest)

    def _own(self, tensor: Tensor) -> Tensor:
        """This process's part of a whole tensor, as `fully_shard` divides it: along the first axis."""
        if not tensor.ndim:
            return tensor
        n = math.ceil(len(tensor) / self.size)
        return tensor[self.rank * n : (self.rank + 1) * n]


def _part(rank: int) -> str:
    return f"state-{rank}.safetensors"


def together(rendezvous: Path, scratch: Path, *, rank: int, size: int) -> Sharded:
    """The world of `size` processes that meet at a file of this machine, once all of them are there.

    They find each other in a file, which needs no open port, and talk over the loopback interface. With GPUs,
    each has its own, and what is on them goes by NCCL, which has not been tried yet; all else by gloo.

    Args:
        scratch: a folder for what they write on their way, on the file system of their checkpoints.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    meeting = dist.FileStore(str(rendezvous), size)
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=PATIENCE)
    return Sharded(rank, size, scratch)


class ShardedModel(LoadedModel):
    """A model of which every process holds a part; all must ask for the same at the same time."""

    is_sharded = True

    def hidden_states(self, input_ids_BT: Tensor) -> Tensor:
        """As `LoadedModel.hidden_states`; `head` is whole from here to the end of the backward pass."""
        plain = super().hidden_states
        return self.gathered(lambda: plain(input_ids_BT))

    def gathered(self, compute: Callable[[], Made]) -> Made:
        """As `LoadedModel.gathered`; embedding, norm and head are whole meanwhile."""
        return self.network.within(compute)

    def without_gradients(self, compute: Callable[[], Made]) -> Made:
        """As `LoadedModel.without_gradients`, with embedding and head whole meanwhile.

        Every process computes all of it. In inference mode what is gathered could not be trained with later.
        """
        with torch.no_grad():
            made = self.gathered(compute)
            self.network.reshard()
        return made

    def trained_weights(self) -> dict[str, Tensor]:
        """What was trained, whole and in main memory, on rank 0; nothing on the others, which ask too."""
        self.network.reshard()  # what validation has gathered is not the best epoch's
        whole = {}
        for name, w in self.network.named_parameters():
            full = w.detach().full_tensor() if w.requires_grad else None
            if full is not None and dist.get_rank() == 0:
                whole[name] = full.cpu().contiguous()
        return whole


def shard(model: LoadedModel, world: Sharded) -> ShardedModel:
    """The model in parts, one for each process, on their devices; `model` itself is used up.

    Each layer of the decoder is a group that is gathered when it computes, all else is one more.
    """
    network, mesh = model.network, world.mesh
    for layer in model.causal.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo can neither average nor scale
    network.within = lambda compute: compute()
    register_fsdp_forward_method(network, "within")
    return ShardedModel(model.name, network, model.tokenizer, model.policy)
