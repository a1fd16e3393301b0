"""Linear layers that read their weights from one short array: random parameter sharing, STABLE-RPS.

Source: Desai & Shrivastava 2024 (arXiv:2310.11611). Number the weights of all layers; weight i of layer l is
lambda_l g(i) M[h(i)], with a sign g and RANDOMFOLD: h(i) = (hash(i // m) + i mod m) mod m. So runs of m
weights are M rotated: each slot of M has n/m uses, rounded up or down; for m = n h is a permutation.

lambda_l is the spread of the layer's weights over that of all weights, so that M is as large as they are, and
a learning rate means for it what it means for them. A slot's gradient is the sum over its uses, divided by
(sum of their lambda)^2 / count, as there. AdamW takes most of that out again; SGD does not.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODULUS = 2_038_074_743
PLACE, SIGN = np.random.default_rng(123_321).integers(0, MODULUS // 2, (2, 3)) * 2 + 1  # a, b, c of a hash
EPSILON = 1e-6  # in the division of a slot's gradient


def hashed(x: Tensor, coefficients: np.ndarray) -> Tensor:
    """(a x + b x^2 + c) mod MODULUS of int64 numbers, without overflow."""
    a, b, c = coefficients.tolist()
    x = x % MODULUS
    return (x * a % MODULUS + x * x % MODULUS * b % MODULUS + c) % MODULUS


class Pool(nn.Module):
    """The array M, and from it the weights of all layers."""

    def __init__(self, shapes: list[torch.Size], compression: float, like: Tensor) -> None:
        super().__init__()
        self.shapes = shapes
        self.sizes = [shape.numel() for shape in shapes]
        self.n = sum(self.sizes)
        m = max(1, int(self.n / compression))
        self.values = nn.Parameter(like.new_zeros(1, m))  # a matrix, so that it may decay as matrices do
        self.register_buffer("scales", like.new_ones(len(shapes)))  # lambda
        self.shifts = (hashed(torch.arange(-(-self.n // m)), PLACE) % m).tolist()
        places = torch.arange(self.n, device=like.device)
        self.register_buffer("signs", (hashed(places, SIGN) % 2 * 2 - 1).to(torch.int8), persistent=False)
        self.current: list[Tensor] = []  # weights of all layers, as of `made_at`
        self.made_at = -1

    def unfolded(self, values_M: Tensor) -> Tensor:
        """The slot's value at each of its uses (n,)."""
        return torch.cat([values_M.roll(-shift) for shift in self.shifts])[: self.n]

    def folded(self, uses_N: Tensor) -> Tensor:
        """The sum over the uses of each slot (m,): the adjoint of `unfolded`."""
        m = self.values.numel()
        runs = F.pad(uses_N, (0, len(self.shifts) * m - self.n)).view(-1, m)
        return sum(run.roll(shift) for run, shift in zip(runs, self.shifts, strict=True))

    def of_layers(self) -> Tensor:
        """lambda at each weight (n,)."""
        return self.scales.repeat_interleave(torch.tensor(self.sizes, device=self.scales.device))

    @torch.no_grad()
    def fill(self, weights: list[Tensor]) -> None:
        """Take M and lambda from these weights of the layers: the M whose weights are nearest to them."""
        flat = torch.cat([w.detach().flatten() for w in weights])
        spreads = torch.stack([w.double().std() for w in weights])
        self.scales.copy_(spreads / (spreads.new_tensor(self.sizes) @ spreads.square() / self.n).sqrt())
        scale_N = self.of_layers()
        values_M = self.folded(flat * self.signs * scale_N) / self.folded(scale_N.square())
        self.values.copy_(values_M[None])

    @cached_property
    def divisor(self) -> Tensor:
        """(sum of lambda over a slot's uses)^2 / their number (m,), by which its gradient is divided."""
        scale_N = self.of_layers()
        return self.folded(scale_N).square() / self.folded(torch.ones_like(scale_N)) + EPSILON

    def refresh(self, *_: object) -> None:
        """Make the weights of all layers, unless they are those of M already and need no gradient."""
        version = self.values._version
        if not torch.is_grad_enabled() and self.made_at == version:
            return
        values_M = self.values[0]
        if values_M.requires_grad:
            values_M.register_hook(lambda gradient: gradient / self.divisor)
        parts = (self.unfolded(values_M) * self.signs).split(self.sizes)
        layers = zip(self.scales, parts, self.shapes, strict=True)
        self.current = [scale * part.view(shape) for scale, part, shape in layers]
        self.made_at = -1 if torch.is_grad_enabled() else version


class Shared(nn.Module):
    """A linear layer with weights from a pool."""

    def __init__(self, pool: Pool, number: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        object.__setattr__(self, "pool", pool)  # a part of the network, not of each layer
        self.number, self.bias = number, bias

    @property
    def weight(self) -> Tensor:
        """The dense matrix (outputs, inputs), as of the decoder's last pass; differentiable."""
        return self.pool.current[self.number]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def share(
    network: nn.Module, layers: dict[str, nn.Linear], compression: float, *, is_folded: bool = True
) -> None:
    """Let the layers read their weights from one array, which is made of theirs if `is_folded`, else zero."""
    weights = [layer.weight for layer in layers.values()]
    pool = network.shared = Pool([w.shape for w in weights], compression, weights[0].detach())
    if is_folded:
        pool.fill(weights)
    for number, (name, layer) in enumerate(layers.items()):
        network.set_submodule(name, Shared(pool, number, layer.bias))
    pool.hook = network.get_decoder().register_forward_pre_hook(pool.refresh)
