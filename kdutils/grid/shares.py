"""What one run of many may use of the nodes that there are, and how many runs so have room at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

DIGITS = 4  # of a part of a GPU or core, as Ray counts them


class Node(NamedTuple):
    """What a machine has."""

    cpus: float
    gpus: float


class Share(NamedTuple):
    """What one run takes of the node that it is on."""

    cpus: float
    gpus: float

    @property
    def n_threads(self) -> int:
        """How many threads it may compute with."""
        return max(1, int(self.cpus))


def share_of(nodes: Sequence[Node], *, workers: int | None, is_large: bool, n_devices: int = 1) -> Share:
    """A GPU with its part of the cores where nodes have GPUs; else a core, or a whole node for large models.

    Nodes without a GPU are left out where others have some. More `workers` than that divide it among them.
    A run on several devices has as many GPUs or cores, undivided.

    Raises:
        ValueError: if no node has anything, or not so many.
    """
    own = _usable(nodes)
    if not own:
        raise ValueError("the cluster has no node with a core to give; start one with `ray start --address`")
    if n_devices > 1:
        return _of_several(own, n_devices, is_large=is_large)
    slots = [int(node.gpus) or (1 if is_large else int(node.cpus) or 1) for node in own]
    crowding = max(1, math.ceil((workers or 0) / sum(slots)))  # runs in the place of one
    cpus = min(node.cpus / (n * crowding) for node, n in zip(own, slots, strict=True))
    cpus = float(int(cpus)) if cpus >= 1 else _cut(cpus)
    return Share(cpus if is_large else min(cpus, 1.0), _cut(1 / crowding) if own[0].gpus >= 1 else 0.0)


def _of_several(nodes: Sequence[Node], n_devices: int, *, is_large: bool) -> Share:
    kind = "gpus" if nodes[0].gpus >= 1 else "cpus"
    able = [node for node in nodes if getattr(node, kind) >= n_devices]
    if not able:
        most = max(getattr(node, kind) for node in nodes)
        raise ValueError(
            f"devices={n_devices} is more than any node has ({most:g} {kind}); "
            f"use devices={int(most)} or fewer"
        )
    if kind == "gpus":
        cpus = min(node.cpus / (node.gpus // n_devices) for node in able)
        return Share(max(1.0, float(int(cpus))) if is_large else 1.0, float(n_devices))
    return Share(min(node.cpus for node in able) if is_large else float(n_devices), 0.0)


def room_for(share: Share, nodes: Sequence[Node]) -> int:
    """How many such runs the nodes hold at a time."""
    return sum(
        int(min(node.cpus / share.cpus, node.gpus / share.gpus if share.gpus else math.inf) + 10**-DIGITS)
        for node in _usable(nodes)
    )


def _usable(nodes: Sequence[Node]) -> list[Node]:
    own = [node for node in nodes if node.cpus > 0]
    return [node for node in own if node.gpus >= 1] or own


def _cut(number: float) -> float:
    return math.floor(number * 10**DIGITS) / 10**DIGITS
