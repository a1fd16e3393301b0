"""One student and its teacher on several devices: FSDP2, a process for each device.

Every process holds a shard of every weight, gradient and moment (`fully_shard`) and computes its rows of each
batch. Gradients are summed, not averaged: each process has already divided by the count of the whole batch.
Embedding, last norm and head are one FSDP group, gathered from the forward pass to the end of the backward
pass, so that the losses see a whole head.

Results differ from those of one process by the order of sums, and by which units LoRA's dropout drops.
"""

import datetime
import math
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

TIMEOUT = datetime.timedelta(minutes=30)  # for a process that does not answer
Result = TypeVar("Result")


class Sharded(World):
    """`World` for several processes, in the process of this rank."""

    def __init__(self, rank: int, size: int, scratch: Path) -> None:
        self.rank, self.size = rank, size
        self._shards = scratch / "parts"  # of a checkpoint, until all are written
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.mesh = init_device_mesh(device, (size,))

    def passes(self, batch: Batch, *, max_rows: int, pass_tokens: int | None) -> list[Batch]:
        own = share(batch, self.rank, self.size).passes(max_rows=max_rows, pass_tokens=pass_tokens)
        return own + [unscored(batch)] * (int(self.largest(len(own))) - len(own))

    def sum(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.MAX)

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        cell = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(cell, operation)
        return float(cell)

    def in_turn(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, made by one process after the other, since it takes much main memory."""
        for rank in range(self.size):
            if rank == self.rank:
                result = call()
            dist.barrier()
        return result

    def gathered_rows(self, rows: Tensor, *, source: int, n_rows: int) -> Tensor:
        rows = rows.cpu()
        if self.rank == source != 0:
            dist.send(rows, 0)
        elif self.rank == 0 != source:
            rows = rows.new_empty((n_rows, *rows.shape[1:]))
            dist.recv(rows, source)
        return rows

    def clip(self, weights: Iterable[Tensor], max_norm: float) -> Tensor:
        weights = list(weights)
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
        return norm

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor

    def like(self, values: Tensor, weight: Tensor) -> Tensor:
        result = weight.detach().clone()
        self.local(result).copy_(values)
        return result

    def write(self, folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """A file for each process; the JSON with the digests of all is written last."""
        self._shards.mkdir(parents=True, exist_ok=True)
        save_file(on_cpu(tensors), self._shards / f"state-{self.rank}.safetensors")
        dist.barrier()
        if self.rank > 0:  # its next step waits for rank 0
            return
        with disk.folder_in_one_step(folder) as partial:
            names = [f"state-{rank}.safetensors" for rank in range(self.size)]
            for name in names:
                (self._shards / name).replace(partial / name)
            write_state(partial, state, names)

    def read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A checkpoint of another number of processes is joined and divided again."""
        state, files = read_state(folder)
        if len(files) != self.size or len(files) == 1:
            state, whole = super().read(folder)
            return state, {name: self._shard(tensor) for name, tensor in whole.items()}
        name, digest = list(files.items())[self.rank]
        return state, checked(folder / name, digest)

    def _shard(self, tensor: Tensor) -> Tensor:
        """This process's shard of a whole tensor, as `fully_shard` divides it: along the first axis."""
        if not tensor.ndim:
            return tensor
        n = math.ceil(len(tensor) / self.size)
        return tensor[self.rank * n : (self.rank + 1) * n]


def share(batch: Batch, part: int, parts: int) -> Batch:
    """Part number `part` of `parts`: rows sorted by length are dealt out in turn, so parts cost alike.

    If there are fewer rows than parts, the last parts are `unscored`.
    """
    order = batch.attention_BT.sum(1).argsort(descending=True, stable=True)[part::parts]
    if not len(order):
        return unscored(batch)
    length = int(batch.attention_BT[order].sum(1).max())
    tensors = (batch.input_ids_BT, batch.attention_BT, batch.scored_BT)
    return Batch([batch.ids[row] for row in order.tolist()], *(t[order, :length] for t in tensors))


def unscored(batch: Batch) -> Batch:
    """Two tokens of one row, none scored: a pass for a process without rows, which FSDP needs."""
    scored_BT = torch.zeros_like(batch.scored_BT[:1, :2])
    return Batch(batch.ids[:1], batch.input_ids_BT[:1, :2], batch.attention_BT[:1, :2], scored_BT)


def together(rendezvous: Path, scratch: Path, *, rank: int, size: int) -> Sharded:
    """The world of `size` processes, once all of them have met at a file, which needs no open port.

    With GPUs, each process has its own, and their tensors go by NCCL (not tried yet), all else by gloo.

    Args:
        scratch: a folder for temporary files, on the file system of the checkpoints.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(rendezvous), size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return Sharded(rank, size, scratch)


class ShardedModel(LoadedModel):
    """A model of which every process holds a shard; all must call the same methods at the same time."""

    def hidden_states(self, input_ids_BT: Tensor) -> Tensor:
        """As `LoadedModel`; `head` is whole from here to the end of the backward pass."""
        plain = super().hidden_states
        return self.gathered(lambda: plain(input_ids_BT))

    def gathered(self, compute: Callable[[], Result]) -> Result:
        """As `LoadedModel`; embedding, norm and head are whole meanwhile."""
        return self.network.within(compute)

    def without_gradients(self, compute: Callable[[], Result]) -> Result:
        """As `LoadedModel`, all in every process; not in inference mode, whose tensors cannot be trained."""
        with torch.no_grad():
            result = self.gathered(compute)
            self.network.reshard()
        return result

    def trained_weights(self) -> dict[str, Tensor]:
        """The trained weights, whole and in main memory, on rank 0; empty on the others."""
        self.network.reshard()  # drops copies gathered for validation, which may not be of the best epoch
        whole = {}
        for name, w in self.network.named_parameters():
            full = w.detach().full_tensor() if w.requires_grad else None
            if full is not None and dist.get_rank() == 0:
                whole[name] = full.cpu().contiguous()
        return whole


def shard(model: LoadedModel, world: Sharded) -> ShardedModel:
    """The model in shards on the devices of all processes; `model` itself must not be used any more.

    Each layer of the decoder is an FSDP group, gathered when it computes; the rest is another group.
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
