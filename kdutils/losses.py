"""Divergence between teacher and student, and cross-entropy, from hidden states and output heads.

Logits exist for a few rows at a time: a chunk is projected by the heads, scored, and turned into its part
of the gradient before the next one, so neither forward nor backward ever holds positions x vocabulary.
Sums are returned with their token counts; the training step divides.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdutils.compute import BUDGET_BYTES
from kdutils.divergences import DIVERGENCES, Rows
from kdutils.head import Head
from kdutils.noise import LogitNoise

HEAD_ROWS = 1 << 14  # of the head's gradient at a time, in bfloat16
BLOCK_ELEMENTS = {"cpu": 1 << 19}  # of element-wise work: fits the CPU's cache; 1 << 24 elsewhere


class TokenSum(NamedTuple):
    """A loss that is not divided yet."""

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

    def score(rows: slice, logits_RV: Tensor) -> Tensor:  # the gradient is softmax - one-hot target
        log_p, targets_R1 = logits_RV.log_softmax(-1), targets_N[rows, None]
        torch.exp(log_p, out=logits_RV).scatter_add_(1, targets_R1, -log_p.new_ones(targets_R1.shape))
        return -log_p.gather(1, targets_R1)[:, 0]

    return _summed(score, [student], weights_N, budget_bytes, {"targets": targets_N})


def divergence(
    student_hidden_NH: Tensor,
    student_head: Head,
    teacher_hidden_NH: Tensor,
    teacher_head: Head,
    *,
    kind: str,
    temperature: float,
    vocabulary_size: int,
    scale_by_temperature_squared: bool,
    beta: float | None = None,
    teacher_noise: LogitNoise | None = None,
    weights_N: Tensor | None = None,
    budget_bytes: int = BUDGET_BYTES,
    compile_backend: str = "",
) -> TokenSum:
    """Sum over positions of the divergence between teacher and student, both at `temperature`.

    Row n of both hidden states predicts the same token (see `shifted`). N = 0 gives exactly zero and a
    gradient of zeros. The teacher is a constant, even where it shares tensors with the student. Matrix
    products run in the dtype of the hidden states, or in that of autocast; all else in float32 (float64 for
    float64). In bfloat16 the value stays within 0.5 % of float32, gradients within 3 %.

    Args:
        kind: a key of `divergences.DIVERGENCES`.
        vocabulary_size: length of the tokenizer, to which both heads are cut; no gradient beyond it.
        scale_by_temperature_squared: multiplies value and gradient alike by temperature**2.
        beta: for `jsd` alone, in the open interval (0, 1). At its ends this jsd is 0 for any student; divided
            by beta (1 - beta) it tends to forward_kl at 0 and to reverse_kl at 1.
        teacher_noise: added to the teacher's logits before the temperature, one key for each position.
        weights_N: a constant factor for each position, which does not change `n_tokens`.
        budget_bytes: bounds the logits in memory (but at least one row). Changes results by rounding only.
        compile_backend: of torch.compile for the element-wise part; "" is eager, the reference.

    Raises:
        ValueError: if vocabularies, rows or dtypes do not fit, or a parameter is out of range.

    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2; those of the divergences are in `divergences`.
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"unknown divergence {kind!r}; there are {list(DIVERGENCES)}")
    if (kind == "jsd") != (beta is not None):
        raise ValueError(f"kind={kind!r} with beta={beta}: jsd needs a beta in (0, 1), the others take none")
    if beta is not None and not 0 < beta < 1:
        remedy = {0: "kind='forward_kl'", 1: "kind='reverse_kl'"}.get(beta, "0.5, the symmetric one")
        raise ValueError(f"beta={beta} is outside the open interval (0, 1) of jsd: use {remedy}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite: 1 leaves logits as is")
    student = _Logits("student", student_hidden_NH, student_head, vocabulary_size)
    teacher = _Logits("teacher", teacher_hidden_NH, teacher_head, vocabulary_size)

    def score(rows: slice, student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
        if teacher_noise is not None:
            teacher_noise.added_to(teacher_RV, rows)
        return _compiled(compile_backend)(student_RV, teacher_RV, kind, beta, temperature)

    scale = temperature**2 if scale_by_temperature_squared else 1.0
    same_rows = {"teacher": teacher.hidden_NH, "noise": teacher_noise}
    models, scales = [student, teacher], (scale, scale / temperature)
    return _summed(score, models, weights_N, budget_bytes, same_rows, scales)


@functools.cache
def _compiled(backend: str) -> Callable[..., Tensor]:
    """`_score_rows` by that backend of torch.compile, "" for eager; on a CPU inductor is no faster."""
    return torch.compile(_score_rows, backend=backend, dynamic=True) if backend else _score_rows


def _score_rows(
    student_RV: Tensor, teacher_RV: Tensor, kind: str, beta: float | None, temperature: float
) -> Tensor:
    """Divergence (R,) of each row; its gradient wrt logits / temperature overwrites `student_RV`."""
    if temperature != 1:
        student_RV.div_(temperature)
        teacher_RV.div_(temperature)
    log_student, log_teacher = student_RV.log_softmax(-1), teacher_RV.log_softmax(-1)
    gap = log_teacher - log_student
    parameters = {} if beta is None else {"beta": beta}
    return DIVERGENCES[kind](Rows(log_student.exp_(), log_teacher.exp_(), gap, student_RV), **parameters)


class _Logits:
    """One model's hidden @ weight.T + bias for a slice of rows, in a buffer that each call overwrites."""

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
        self.buffer = self.block = None

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


class _Chunks(NamedTuple):
    score: Callable[..., Tensor]  # (rows, *logits) -> values; overwrites the student's logits by the gradient
    models: list[_Logits]  # the student first
    weights_N: Tensor | None
    n_rows: int  # in a chunk
    scales: tuple[float, float]  # of the value, of the gradient
    needs_gradients: bool


class _FusedSum(torch.autograd.Function):
    """Weighted sum of `score` over all rows; `forward` computes its gradients as well."""

    @staticmethod
    def forward(ctx, hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, chunks: _Chunks) -> Tensor:
        models, weights_N, student = chunks.models, chunks.weights_N, chunks.models[0]
        n_rows, n_tokens = len(hidden_NH), len(student.head_VH)
        hidden_sum, head_sum, bias_sum = (
            torch.zeros_like(x, dtype=student.wide) if chunks.needs_gradients and needed else None
            for x, needed in zip((hidden_NH, head_VH, bias_V), ctx.needs_input_grad, strict=False)
        )
        in_slices = head_sum is not None and student.dtype != student.wide
        part_VH = student.head_VH.new_empty(min(n_tokens, HEAD_ROWS) if in_slices else 0, head_VH.shape[1])
        values_N = torch.zeros(n_rows, dtype=student.wide, device=hidden_NH.device)
        n_block = max(1, BLOCK_ELEMENTS.get(hidden_NH.device.type, 1 << 24) // n_tokens)
        for start in range(0, n_rows, chunks.n_rows):
            chunk = slice(start, min(start + chunks.n_rows, n_rows))
            products = [model[chunk] for model in models]
            for first in range(start, chunk.stop, n_block):
                rows = slice(first, min(first + n_block, chunk.stop))
                block = [x[first - start : rows.stop - start] for x in products]
                wide = [model.logits(x) for model, x in zip(models, block, strict=True)]
                slope_RV = student.head.slope_of_cap(wide[0])
                values_N[rows] = chunks.score(rows, *wide)
                if weights_N is not None:
                    wide[0].mul_(weights_N[rows, None])
                if slope_RV is not None:
                    wide[0].mul_(slope_RV)
                if wide[0] is not block[0]:
                    block[0].copy_(wide[0])
            gradient_RV = products[0]  # but for the factors in `backward`
            if hidden_sum is not None:
                hidden_sum[chunk] = gradient_RV @ student.head_VH
            if bias_sum is not None:
                bias_sum[:n_tokens].add_(gradient_RV.sum(0, dtype=student.wide))
            if head_sum is not None and not in_slices:
                head_sum[:n_tokens].addmm_(gradient_RV.T, student.hidden_NH[chunk])
            elif head_sum is not None:  # products in bfloat16, their sum over chunks in float32
                for first in range(0, n_tokens, HEAD_ROWS):
                    some = slice(first, min(first + HEAD_ROWS, n_tokens))
                    part = part_VH[: some.stop - first]
                    head_sum[some].add_(torch.mm(gradient_RV[:, some].T, student.hidden_NH[chunk], out=part))
        ctx.save_for_backward(hidden_sum, head_sum, bias_sum)
        ctx.dtypes = hidden_NH.dtype, head_VH.dtype, None if bias_V is None else bias_V.dtype
        ctx.gradient_scale = chunks.scales[1] * student.head.scale
        return (values_N if weights_N is None else values_N * weights_N).sum() * chunks.scales[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        factor, pairs = upstream * ctx.gradient_scale, zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if x is None else (x * factor).to(dtype) for x, dtype in pairs), None


def _summed(
    score: Callable[..., Tensor],
    models: list[_Logits],
    weights_N: Tensor | None,
    budget_bytes: int,
    same_rows: dict[str, Tensor | LogitNoise | None],
    scales: tuple[float, float] = (1.0, 1.0),
) -> TokenSum:
    """The sum of `score` over all rows (see `_Chunks`); `same_rows` must have as many rows as the student."""
    n_rows = len(models[0].hidden_NH)
    for name, rows in ({"weights": weights_N} | same_rows).items():
        if rows is not None and len(rows) != n_rows:
            raise ValueError(f"{name}: {len(rows)} rows for {n_rows} of the student, select all by one mask")
    if budget_bytes < 1:
        raise ValueError(f"budget_bytes={budget_bytes} must be at least 1 (one row is always computed)")
    n_chunk = max(1, budget_bytes // sum(model.row_bytes for model in models))
    chunks = _Chunks(score, models, weights_N, n_chunk, scales, torch.is_grad_enabled())
    total = _FusedSum.apply(*models[0].inputs, chunks)
    return TokenSum(total, torch.tensor(n_rows, device=total.device))
