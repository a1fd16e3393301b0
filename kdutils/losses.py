"""One masked, chunked divergence for all methods, and cross-entropy, from hidden states and output heads.

Logits exist for a few rows at a time: a chunk is projected by the heads, scored, and turned into its share
of the gradient before the next one, so neither forward nor backward ever holds positions x vocabulary.
Nothing is divided here.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdutils.head import Head
from kdutils.noise import LogitNoise

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
BUDGET_BYTES = 160 << 20  # for the logits that exist at one time, of both models together
HEAD_ROWS = 1 << 14  # of the head's gradient at a time, in bfloat16
BLOCK_ELEMENTS = {"cpu": 1 << 19}  # of element-wise work: fits the CPU's cache; 1 << 24 elsewhere


class TokenSum(NamedTuple):
    """A loss before anyone has divided it."""

    total: Tensor  # scalar, nats, differentiable
    n_tokens: Tensor  # scalar, how many positions `total` sums over


def shifted(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """The hidden states (N, H) that score the tokens kept by the mask, in its row-major order.

    Token t is scored by the hidden state at t - 1 and by no other. The targets are `input_ids_BT[mask_BT]`;
    the teacher's states go through here with the same mask. What stands left of a kept token must be a real
    token, so the first one of a sequence is never kept, whichever side is padded.

    Args:
        mask_BT: bool, True where token t is scored. No True at all is legal and gives N = 0.
    """
    if mask_BT.dtype != torch.bool or mask_BT.shape != hidden_BTH.shape[:2]:
        shapes = f"mask {mask_BT.dtype} {tuple(mask_BT.shape)}, hidden states {tuple(hidden_BTH.shape)}"
        raise ValueError(f"{shapes}: give a bool mask (batch, positions) that is not shifted itself")
    if mask_BT[:, 0].any():
        raise ValueError("the mask keeps position 0, which no position scores: set mask[:, 0] = False")
    return hidden_BTH[:, :-1][mask_BT[:, 1:]]


def sequence_mean_weights(mask_BT: Tensor) -> Tensor:
    """Weights (N,) that make a total the sum over sequences of each one's mean, as in protocol `paper`."""
    return (1.0 / mask_BT.sum(1, keepdim=True).clamp(min=1)).expand(mask_BT.shape)[mask_BT]


def cross_entropy(
    hidden_NH: Tensor,
    head: Head,
    targets_N: Tensor,
    *,
    vocabulary_size: int,
    weights_N: Tensor | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> TokenSum:
    """Sum over positions of -log softmax(head.logits(hidden))[target]; all else as in `divergence`."""
    student = _Logits("student", hidden_NH, head, vocabulary_size)
    low, high = (int(targets_N.min()), int(targets_N.max())) if targets_N.numel() else (0, 0)
    if low < 0 or high >= vocabulary_size:
        spans = f"targets span {low}..{high}, the vocabulary 0..{vocabulary_size - 1}"
        raise ValueError(f"{spans}: keep scored positions only (no -100), made by the same tokenizer")

    def score(rows: slice, logits_RV: Tensor) -> Tensor:
        log_p, targets_R1 = logits_RV.log_softmax(-1), targets_N[rows, None]
        torch.exp(log_p, out=logits_RV).scatter_add_(1, targets_R1, -log_p.new_ones(targets_R1.shape))
        return -log_p.gather(1, targets_R1)[:, 0]

    return _sum(score, [student], weights_N, budget_bytes, targets=targets_N)


def divergence(
    student_hidden_NH: Tensor,
    student_head: Head,
    teacher_hidden_NH: Tensor,
    teacher_head: Head,
    *,
    kind: Kind,
    temperature: float,
    vocabulary_size: int,
    scale_by_temperature_squared: bool,
    beta: float | None = None,
    teacher_noise: LogitNoise | None = None,
    weights_N: Tensor | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> TokenSum:
    """Sum over positions of the divergence between teacher and student, both at `temperature`.

    Row n of both hidden states predicts the same token (see `shifted`). N = 0 gives exactly zero and a
    gradient of zeros. The teacher is a constant, even where it shares tensors with the student. Products run
    in the dtype of the hidden states (under autocast in its), all else in float32 (float64 for float64). In
    bfloat16 the value stays within 0.5 % of float32, gradients within 3 %: logits are rounded to 8 bits.

    Args:
        kind: `forward_kl` is KL(teacher || student), `reverse_kl` KL(student || teacher), `jsd` is
            beta KL(T || M) + (1 - beta) KL(S || M) with M = beta T + (1 - beta) S.
        vocabulary_size: length of the tokenizer, to which both heads are cut; no gradient beyond it.
        scale_by_temperature_squared: multiplies value and gradient alike by temperature**2.
        beta: for `jsd` alone, in the open interval (0, 1). At its ends this jsd is 0 for any student; divided
            by beta (1 - beta) it tends to forward_kl at 0 and to reverse_kl at 1.
        teacher_noise: added to the teacher's logits before the temperature, one key for each position.
        weights_N: a constant factor for each position; `n_tokens` counts positions all the same.
        budget_bytes: bounds the logits in memory (but at least one row). Changes results by rounding only.

    Raises:
        ValueError: if vocabularies, rows or dtypes do not fit, or a parameter is out of range.

    Source: Agarwal et al. 2024 (arXiv:2306.13649), eq. 1; Hinton et al. 2015 (arXiv:1503.02531), section 2.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown divergence {kind!r}; there are {list(get_args(Kind))}")
    if (kind == "jsd") != (beta is not None):
        raise ValueError(f"kind={kind!r} with beta={beta}: jsd needs a beta in (0, 1), the others take none")
    if beta is not None and not 0 < beta < 1:
        remedy = {0: "use kind='forward_kl'", 1: "use kind='reverse_kl'"}.get(
            beta, "0.5 is the symmetric one"
        )
        raise ValueError(f"beta={beta} is outside the open interval (0, 1) of jsd: {remedy}")
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature={temperature} must be positive and finite: 1 leaves logits as they are"
        )
    student = _Logits("student", student_hidden_NH, student_head, vocabulary_size)
    teacher = _Logits("teacher", teacher_hidden_NH, teacher_head, vocabulary_size)

    def score(rows: slice, student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
        if teacher_noise is not None:
            teacher_noise.added_to(teacher_RV, rows)
        return of_rows(student_RV, teacher_RV, kind, beta, temperature)

    of_rows = _compiled(os.environ.get("KDUTILS_COMPILE", ""))
    scale = temperature**2 if scale_by_temperature_squared else 1.0
    scales, also = (scale, scale / temperature), {"teacher": teacher.hidden_NH, "noise": teacher_noise}
    return _sum(score, [student, teacher], weights_N, budget_bytes, scales, **also)


@functools.cache
def _compiled(backend: str) -> Callable[..., Tensor]:
    """`_divergence_of_rows` as that backend of torch.compile makes it; "" is eager, the reference.

    On a CPU inductor is no faster than eager in blocks that fit the cache (512 rows x 151,936 in bfloat16,
    two cores without AMX: 2.3 s for 1.9). On CUDA nobody has measured it yet.
    """
    return (
        torch.compile(_divergence_of_rows, backend=backend, dynamic=True) if backend else _divergence_of_rows
    )


def _divergence_of_rows(student_RV: Tensor, teacher_RV: Tensor, kind, beta, temperature) -> Tensor:
    """Divergence of each row; its gradient by logits / temperature overwrites the student's logits."""
    if temperature != 1:
        student_RV.div_(temperature)
        teacher_RV.div_(temperature)
    log_student, log_teacher = student_RV.log_softmax(-1), teacher_RV.log_softmax(-1)
    gap = log_teacher - log_student  # all below is written in it, so that equal models give exact zeros
    student, teacher = log_student.exp_(), log_teacher.exp_()
    if kind == "forward_kl":
        torch.sub(student, teacher, out=student_RV)
        # The second sum is zero but for rounding of the normalisers, which it takes out of the first.
        return teacher.mul_(gap).sum(-1) + student_RV.sum(-1)
    if kind == "reverse_kl":
        rest, kl_weight, log_ratio = teacher.sub_(student).sum(-1), 1.0, gap.neg_()  # likewise
    else:
        # log(M / S) = logaddexp(log(1 - beta), log(beta) + gap) and log(M / T) = log(M / S) - gap, both from
        # one term that is exact at gap = 0 and never an exponential of something positive.
        # beta where the student has more, else 1 - beta
        share = 0.5 if beta == 0.5 else gap.sign().mul_(0.5 - beta).add_(0.5)
        term = gap.abs().neg_().expm1_().mul_(share).log1p_()
        rest = gap.clamp(max=0.0).sub_(term).mul_(teacher).sum(-1).mul_(beta)
        kl_weight, log_ratio = 1.0 - beta, gap.clamp_(min=0.0).add_(term).neg_()
    weighted = log_ratio.mul_(student)
    kl_R1 = weighted.sum(-1, keepdim=True)  # of the student from the teacher or from M
    torch.sub(weighted, student.mul_(kl_R1), out=student_RV).mul_(kl_weight)
    return rest + kl_weight * kl_R1[:, 0]


class _Logits:
    """One model's hidden @ weight.T + bias of some rows at a time, in a buffer that each call overwrites."""

    def __init__(self, side: str, hidden_NH: Tensor, head: Head, vocabulary_size: int) -> None:
        device = hidden_NH.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        head_VH = head.weight_VH
        facts = f"{side}: hidden states {tuple(hidden_NH.shape)}, head {tuple(head_VH.shape)}, {dtype}"
        if hidden_NH.ndim != 2 or head_VH.ndim != 2 or hidden_NH.shape[1] != head_VH.shape[1]:
            raise ValueError(f"{facts}: want (N, H) and (V, H) of one width; select positions by `shifted`")
        if not 1 <= vocabulary_size <= len(head_VH):
            remedy = "vocabularies that truly differ need method seqkd; else correct vocabulary_size"
            raise ValueError(f"{facts}: not the tokenizer's {vocabulary_size} rows or more; {remedy}")
        if dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise ValueError(f"{facts}: small gradients vanish in this dtype, use float32 or bfloat16")
        self.dtype, self.wide = dtype, torch.promote_types(dtype, torch.float32)
        self.inputs, self.hidden_NH = (hidden_NH, head_VH, head.bias_V), hidden_NH.detach().to(dtype)
        self.head, self.head_VH = head, head_VH.detach()[:vocabulary_size].to(dtype)
        self.bias_V = None if head.bias_V is None else head.bias_V.detach()[:vocabulary_size].to(dtype)
        self.row_bytes = vocabulary_size * dtype.itemsize
        self.buffer: Tensor | None = None
        self.block: Tensor | None = None

    def __getitem__(self, rows: slice) -> Tensor:
        hidden_RH = self.hidden_NH[rows]
        if self.buffer is None:  # the first rows asked for are the most; fresh memory is what costs
            self.buffer = hidden_RH.new_empty(len(hidden_RH), len(self.head_VH))
        products_RV = self.buffer[: len(hidden_RH)]
        if self.bias_V is None:
            return torch.mm(hidden_RH, self.head_VH.T, out=products_RV)
        return torch.addmm(self.bias_V, hidden_RH, self.head_VH.T, out=products_RV)

    def logits(self, products_RV: Tensor) -> Tensor:
        """The logits, wide enough to compute with; `products_RV` itself if it is all that already."""
        if self.dtype == self.wide:
            return self.head.shaped(products_RV)
        if self.block is None:
            self.block = torch.empty_like(products_RV, dtype=self.wide)
        return self.head.shaped(self.block[: len(products_RV)].copy_(products_RV))


class _FusedSum(torch.autograd.Function):
    """Weighted sum of `score` over all rows, and its gradients by hidden states and head, made on the way."""

    @staticmethod
    def forward(ctx, hidden_NH, head_VH, bias_V, score, models, weights_N, n_chunk, scales, grad_enabled):
        student, n_rows, n_tokens = models[0], len(hidden_NH), len(models[0].head_VH)
        needs_hidden, needs_head, needs_bias = (grad_enabled and x for x in ctx.needs_input_grad[:3])
        hidden_sum = torch.zeros_like(hidden_NH, dtype=student.wide) if needs_hidden else None
        head_sum = torch.zeros_like(head_VH, dtype=student.wide) if needs_head else None
        bias_sum = torch.zeros_like(bias_V, dtype=student.wide) if needs_bias else None
        in_slices = needs_head and student.dtype != student.wide
        part_VH = student.head_VH.new_empty(min(n_tokens, HEAD_ROWS), head_VH.shape[1]) if in_slices else None
        values_N = torch.zeros(n_rows, dtype=student.wide, device=hidden_NH.device)
        n_block = max(1, BLOCK_ELEMENTS.get(hidden_NH.device.type, 1 << 24) // n_tokens)
        for start in range(0, n_rows, n_chunk):
            chunk = slice(start, min(start + n_chunk, n_rows))
            products = [model[chunk] for model in models]
            for first in range(start, chunk.stop, n_block):
                rows = slice(first, min(first + n_block, chunk.stop))
                block = [x[first - start : rows.stop - start] for x in products]
                wide = [model.logits(x) for model, x in zip(models, block, strict=True)]
                slope_RV = student.head.slope_of_cap(wide[0])
                values_N[rows] = score(rows, *wide)
                if weights_N is not None:
                    wide[0].mul_(weights_N[rows, None])
                if slope_RV is not None:
                    wide[0].mul_(slope_RV)
                if wide[0] is not block[0]:
                    block[0].copy_(wide[0])
            gradient_RV = products[0]  # but for the factors that `backward` multiplies by
            if needs_hidden:
                hidden_sum[chunk] = gradient_RV @ student.head_VH
            if needs_bias:
                bias_sum[:n_tokens].add_(gradient_RV.sum(0, dtype=student.wide))
            if needs_head and not in_slices:
                head_sum[:n_tokens].addmm_(gradient_RV.T, student.hidden_NH[chunk])
            elif needs_head:  # the sum over chunks is in float32 all the same
                for first in range(0, n_tokens, HEAD_ROWS):
                    some = slice(first, min(first + HEAD_ROWS, n_tokens))
                    part = part_VH[: some.stop - first]
                    torch.mm(gradient_RV[:, some].T, student.hidden_NH[chunk], out=part)
                    head_sum[some].add_(part)
        ctx.save_for_backward(hidden_sum, head_sum, bias_sum)
        ctx.dtypes = hidden_NH.dtype, head_VH.dtype, None if bias_V is None else bias_V.dtype
        ctx.gradient_scale = scales[1] * student.head.scale
        return (values_N if weights_N is None else values_N * weights_N).sum() * scales[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        factor, pairs = upstream * ctx.gradient_scale, zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if x is None else (x * factor).to(dtype) for x, dtype in pairs), *[None] * 6


def _sum(score, models, weights_N, budget_bytes, scales=(1.0, 1.0), **others) -> TokenSum:
    """`score(rows, *logits)` returns values and overwrites the first model's logits by the gradient."""
    n_rows = len(models[0].hidden_NH)
    for name, rows in {"weights": weights_N, **others}.items():
        if rows is not None and len(rows) != n_rows:
            raise ValueError(f"{name}: {len(rows)} rows for {n_rows} of the student, select all by one mask")
    if budget_bytes < 1:
        raise ValueError(f"budget_bytes={budget_bytes} must be at least 1 (one row is always computed)")
    n_chunk = max(1, budget_bytes // sum(model.row_bytes for model in models))
    how = (score, models, weights_N, n_chunk, scales, torch.is_grad_enabled())
    total = _FusedSum.apply(*models[0].inputs, *how)
    return TokenSum(total, torch.tensor(n_rows, device=total.device))
