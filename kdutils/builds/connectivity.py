"""How two students that were trained apart lie to each other: the loss on the line between them, and CKA.

Source: the three-regime model of pruning, Zhou et al. 2023 (arXiv:2305.18383), and Kornblith et al. 2019
(arXiv:1905.00414) for linear CKA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdutils import encoding
from kdutils.items import Item
from kdutils.models import LoadedModel
from kdutils.spec import RunSpec

POINTS = np.linspace(0, 1, 11)
ROWS, LOGIT_ROWS = 16, 256  # sequences in a pass, positions whose logits exist at one time


class Scores(NamedTuple):
    """Of the scored tokens of some items."""

    nll: float  # nats a token
    hidden_NH: Tensor  # the final hidden states that score them


@torch.no_grad()
def scores(student: LoadedModel, items: Sequence[Item], spec: RunSpec) -> Scores:
    """How the student does on the gold responses, given the true tokens before each."""
    encoded = encoding.encode(items, student.tokenizer, **spec.encoding)
    head, total, found = student.head.cut(student.vocabulary_size), 0.0, []
    for start in range(0, len(items), ROWS):
        rows = range(start, min(start + ROWS, len(items)))
        batch = encoding.collate(encoded, rows, pad_id=student.pad_id)
        hidden_NH = student.scoring_states(batch)
        token_N = batch.input_ids_BT[batch.scored_BT].to(hidden_NH.device)
        for part_RH, own_R in zip(hidden_NH.split(LOGIT_ROWS), token_N.split(LOGIT_ROWS), strict=True):
            logits_RV = head.logits(part_RH).float()
            total += float(cross_entropy(logits_RV, own_R, reduction="sum"))
        found.append(hidden_NH.float())
    hidden_NH = torch.cat(found)
    return Scores(total / len(hidden_NH), hidden_NH)


@torch.no_grad()
def logit_features(student: LoadedModel, hidden_NH: Tensor) -> Tensor:
    """Features (N, H) of hidden states with the inner products of their logits, which are wider.

    Logits are W h = Q R h, and Q keeps inner products; a bias is the same for all, which CKA takes out.
    """
    weight_VH = student.head.cut(student.vocabulary_size).weight_VH
    return hidden_NH @ torch.linalg.qr(weight_VH.float(), mode="r").R.T


def barrier(nll: np.ndarray) -> float:
    """(1 - t) E(0) + t E(1) - E(t) of the losses E of a `line`, with t where it is farthest from 0.

    Below 0 there is a barrier between the two; above, the line is better than its ends. The source has
    (E(0) + E(1)) / 2 - E(t), by which ends that are not equally good would be a barrier themselves.
    """
    t = np.linspace(0, 1, len(nll))
    gap = (1 - t) * nll[0] + t * nll[-1] - nll
    return float(gap[np.abs(gap).argmax()])


@torch.no_grad()
def line(first: LoadedModel, second: LoadedModel, items: Sequence[Item], spec: RunSpec) -> np.ndarray:
    """Nats a token of two students and nine between them, at POINTS: w = (1 - t) w_first + t w_second.

    `first` is as before afterwards.

    Raises:
        ValueError: if their parameters differ in name or shape, or their zeros (pruned entries) in place.
    """
    pairs = dict(first.network.named_parameters()), dict(second.network.named_parameters())
    shapes = [{name: tuple(w.shape) for name, w in own.items()} for own in pairs]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{first.name} and {second.name} have other parameters: no line joins them")
    ends = [(w, w.clone(), pairs[1][name]) for name, w in pairs[0].items()]
    for name, w in pairs[0].items():
        if w.ndim > 1 and not torch.equal(w == 0, pairs[1][name] == 0):
            raise ValueError(f"{name}: the students' zeros differ; give two that were pruned by one mask")
    found = []
    for t in POINTS.tolist():
        for w, start, end in ends:
            w.copy_(start.lerp(end.to(start), t))
        found.append(scores(first, items, spec).nll)
    for w, start, _ in ends:
        w.copy_(start)
    return np.array(found)


def linear_cka(one_NH: Tensor, two_NK: Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same N tokens, from 0 to 1.

    Blind to rotations and to the scale of either; NaN if one does not vary.
    """
    x, y = (each.double() - each.double().mean(0) for each in (one_NH, two_NK))
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))
