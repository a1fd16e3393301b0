"""Linear layers as products of two factors: PELA, Guo et al. 2024 (arXiv:2310.10700).

W (m outputs, n inputs) becomes B A of rank r = m n / (c (m + n)). Plain, B A is the nearest matrix to W.
Whitened, as in SVD-LLM (Wang et al. 2025, arXiv:2403.07378), B A x is nearest to W x over the inputs x that
the layer has on training items in the model as it is. Each of the r directions is split so that its column of
B and its row of A are equally long; plain, that is a root of the singular value on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kdutils import encoding
from kdutils.data.model_files import ModelError
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.spec import RunSpec

TOKENS = 8_192  # about so many, of items evenly from all, are what inputs are taken from
RIDGE = 1e-6  # of the inputs' mean square, added to each input's: for directions that no item has


class LowRank(nn.Sequential):
    """A linear layer B A: a layer with weights A (rank, inputs) and after it one with B (outputs, rank)."""

    @property
    def weight(self) -> Tensor:
        """The dense matrix B A (outputs, inputs), differentiable."""
        return self[1].weight @ self[0].weight

    @property
    def bias(self) -> nn.Parameter | None:
        """Of the outputs."""
        return self[1].bias


def linear(weight: Tensor, bias: nn.Parameter | None = None) -> nn.Linear:
    """A linear layer with these weights."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight, made.bias = nn.Parameter(weight), bias
    return made


def rank_of(layer: nn.Linear, compression: float) -> int:
    """The rank at which the factors hold 1 / compression of the layer's weights; 0 if that saves none."""
    m, n = layer.weight.shape
    rank = max(1, int(m * n / (compression * (m + n))))
    return rank if rank * (m + n) < m * n else 0


def factorise(
    network: nn.Module,
    layers: dict[str, nn.Linear],
    compression: float,
    moments: dict[str, Tensor] | None = None,
    *,
    is_empty: bool = False,
) -> None:
    """Replace each layer by its factors, where these are fewer numbers.

    Args:
        moments: of `moments`, for whitened factors.
        is_empty: with any values, since they are read from a file.
    """
    for name, layer in layers.items():
        if rank := rank_of(layer, compression):
            (m, n), w = layer.weight.shape, layer.weight
            given = None if moments is None else moments[name]
            # Contiguous, as moments in a checkpoint are: AdamW's fused step pairs both by place in memory.
            pair = (w.new_empty(m, rank), w.new_empty(rank, n)) if is_empty else factors(w, rank, given)
            b, a = (each.to(w).contiguous() for each in pair)
            network.set_submodule(name, LowRank(linear(a), linear(b, layer.bias)))


@torch.no_grad()
def factors(weight: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """B (m, rank) and A (rank, n) in float64: the best of that rank for W or, given a moment, its outputs.

    With S the second moment of the inputs, tr((W - BA) S (W - BA)^T) is least for BA = U U^T W, where U holds
    the leading eigenvectors of W S W^T (m, m), the moment of the outputs. With more outputs than inputs, the
    same is BA = W L V V^T L^-1, with S = L L^T and V the leading eigenvectors of L^T W^T W L (n, n).

    Args:
        moment: of the outputs (m, m) if m <= n, else of the inputs (n, n).
    """
    w = weight.double()
    m, n = w.shape
    if m <= n:
        b = _leading(w @ w.T if moment is None else moment, rank)
        a = b.T @ w
    else:
        root = torch.eye(n).to(w) if moment is None else torch.linalg.cholesky(moment)
        v = _leading(root.T @ w.T @ w @ root, rank)
        b, a = w @ root @ v, torch.linalg.solve_triangular(root, v.T, upper=False, left=False)
    tiny = torch.finfo(torch.float32).tiny  # of a direction that W does not have
    split = (a.norm(dim=1).clamp_min(tiny) / b.norm(dim=0).clamp_min(tiny)).sqrt()
    return b * split, a / split[:, None]


def _leading(symmetric: Tensor, rank: int) -> Tensor:
    return torch.linalg.eigh(symmetric).eigenvectors[:, -rank:]


@torch.no_grad()
def moments(
    student: LoadedModel, layers: dict[str, nn.Linear], items: Sequence[Item], spec: RunSpec
) -> dict[str, Tensor]:
    """Second moment of each layer's outputs without bias, or of its inputs if these are fewer, in float64.

    The inputs' has RIDGE added to its diagonal, the outputs' what that means for them.

    Raises:
        ModelError: if a layer is not used.
    """
    sums = dict.fromkeys(layers, 0.0)
    squares, counts = dict(sums), dict.fromkeys(layers, 0)

    def note(name: str, layer: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
        x, y = args[0].flatten(0, -2).float(), output.flatten(0, -2).float()
        y = y if layer.bias is None else y - layer.bias
        kept = y if y.shape[1] <= x.shape[1] else x
        with torch.autocast(x.device.type, enabled=False):
            sums[name] += (kept.T @ kept).double()
        squares[name] += float(x.square().sum()) / x.shape[1]
        counts[name] += len(x)

    hooks = [layer.register_forward_hook(partial(note, name)) for name, layer in layers.items()]
    rows = encoding.encode(items, student.tokenizer, **spec.encoding)["input_ids"][:]
    n_rows = max(1, TOKENS * len(rows) // sum(map(len, rows)))
    for ids in rows[:: max(1, len(rows) // n_rows)][:n_rows]:  # one at a time: no padding
        student.hidden_states(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    if unused := [name for name, n in counts.items() if n == 0]:
        raise ModelError(f"{student.name} does not use its layer {unused[0]}; use 'low_rank_plain'")
    for name, layer in layers.items():
        w, ridge = layer.weight.double(), RIDGE * squares[name] / counts[name]
        m, n = w.shape
        sums[name] = sums[name] / counts[name] + ridge * (w @ w.T if m <= n else torch.eye(n).to(w))
    return sums
