"""Divergences between the next-token distributions of teacher and student: value and gradient of each row.

With z the student's logits and f_v the derivative of a divergence by S_v, the Jacobian of the softmax gives
the gradient by z_v as S_v (f_v - sum_u S_u f_u). A constant in f drops out; chosen so that f = 0 at S = T,
it makes the gradient of equal models exactly zero.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What a divergence is computed from, each (R, V). All may be overwritten: they are fresh tensors."""

    student: Tensor  # probabilities S
    teacher: Tensor  # probabilities T
    log_ratio: Tensor  # g = log T - log S, in nats
    gradient: Tensor  # where to write the gradient of the divergence with respect to the student's logits


def through_softmax(rows: Rows, weighted_RV: Tensor) -> Tensor:
    """Sums (R, 1) of `weighted_RV` = S f; writes the gradient S (f - sum S f), and overwrites S."""
    sum_R1 = weighted_RV.sum(-1, keepdim=True)
    torch.sub(weighted_RV, rows.student.mul_(sum_R1), out=rows.gradient)
    return sum_R1


def forward_kl(rows: Rows) -> Tensor:
    """KL(T || S) = sum T g, in nats (R,).

    f_v = -T_v / S_v, so the gradient is S_v - T_v. Its sum over v is zero but for rounding of the two softmax
    normalisers; added to the value, it cancels their rounding there.
    """
    torch.sub(rows.student, rows.teacher, out=rows.gradient)
    return rows.teacher.mul_(rows.log_ratio).sum(-1) + rows.gradient.sum(-1)


def reverse_kl(rows: Rows) -> Tensor:
    """KL(S || T) = sum S r with r = log S - log T = -g, in nats (R,).

    f_v = r_v + 1, so the gradient is S_v (r_v - KL). sum (T - S) cancels rounding as in `forward_kl`.
    """
    rounding_R = rows.teacher.sub_(rows.student).sum(-1)
    return rounding_R + through_softmax(rows, rows.log_ratio.neg_().mul_(rows.student))[:, 0]


def _log_mixture(gap: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """log(M / S) and log(T / M) with M = share T + (1 - share) S; overwrites `gap`, which is g.

    Both come from one term that is exact at g = 0 and takes the exponential of no positive number, log(M / S)
    = log(1 - share + share exp(g)) = max(g, 0) + term and log(T / M) = g - log(M / S) = min(g, 0) - term:
    term = log1p(weight (exp(-|g|) - 1)), with weight = 1 - share where g > 0 and share where g < 0.
    """
    weight = 0.5 if share == 0.5 else gap.sign().mul_(0.5 - share).add_(0.5)
    term = gap.abs().neg_().expm1_().mul_(weight).log1p_()
    log_teacher_to_mixture = gap.clamp(max=0.0).sub_(term)
    return gap.clamp_(min=0.0).add_(term), log_teacher_to_mixture


def jsd(rows: Rows, beta: float) -> Tensor:
    """beta KL(T || M) + (1 - beta) KL(S || M) with M = beta T + (1 - beta) S, in nats (R,).

    f_v = (1 - beta) (log(S_v / M_v) + 1 - (beta T_v + (1 - beta) S_v) / M_v) = (1 - beta) log(S_v / M_v), so
    the gradient is 1 - beta times that of the reverse KL with M in the place of T.
    Source: Agarwal et al. 2024 (arXiv:2306.13649), eq. 1.
    """
    log_mixture_to_student, log_teacher_to_mixture = _log_mixture(rows.log_ratio, beta)
    kl_of_teacher_R = log_teacher_to_mixture.mul_(rows.teacher).sum(-1)
    kl_of_student_R1 = through_softmax(rows, log_mixture_to_student.neg_().mul_(rows.student))
    rows.gradient.mul_(1.0 - beta)
    return kl_of_teacher_R.mul_(beta) + (1.0 - beta) * kl_of_student_R1[:, 0]


def skew_forward(rows: Rows, skew: float) -> Tensor:
    """KL(T || M) = sum T q with M = skew T + (1 - skew) S and q = log(T / M), in nats (R,).

    f_v = -(1 - skew) T_v / M_v, or -(1 - skew) (exp(q_v) - 1), which skew bounds: T / M <= 1 / skew.
    sum (M - T) = (1 - skew) sum (S - T) cancels rounding as in `forward_kl`.
    Source: Ko et al. 2024 (arXiv:2402.03898).
    """
    _, log_ratio = _log_mixture(rows.log_ratio, skew)
    kl_R = (rows.teacher * log_ratio).sum(-1) + (1.0 - skew) * rows.student.sub(rows.teacher).sum(-1)
    through_softmax(rows, log_ratio.expm1_().mul_(skew - 1.0).mul_(rows.student))
    return kl_R


def skew_reverse(rows: Rows, skew: float) -> Tensor:
    """KL(S || M) = sum S r with M = (1 - skew) T + skew S and r = log(S / M), in nats (R,).

    f_v = r_v + 1 - skew S_v / M_v, or r_v - skew (exp(r_v) - 1), which skew bounds: S / M <= 1 / skew.
    sum (M - S) = (1 - skew) sum (T - S) cancels rounding as in `forward_kl`.
    Source: Ko et al. 2024 (arXiv:2402.03898).
    """
    log_ratio = _log_mixture(rows.log_ratio, 1.0 - skew)[0].neg_()
    kl_R = (rows.student * log_ratio).sum(-1) + (1.0 - skew) * rows.teacher.sub(rows.student).sum(-1)
    through_softmax(rows, log_ratio.sub_(log_ratio.expm1().mul_(skew)).mul_(rows.student))
    return kl_R


def adaptive(rows: Rows, head_mass: float) -> Tensor:
    """a KL(T || S) + (1 - a) KL(S || T), in nats (R,); a is a constant of each row, not differentiated.

    a is the head's part of sum |T - S|: forward KL fits the head first, reverse KL the tail. The head is the
    teacher's most probable token and the next ones (ties by token id) while T adds up to at most `head_mass`.
    Source: Wu et al. 2024 (arXiv:2404.02657), AKL.
    """
    ordered, order = rows.teacher.sort(dim=-1, descending=True, stable=True)
    is_tail = ordered.cumsum(-1) > head_mass
    is_tail[:, 0] = False
    forward = rows._replace(teacher=rows.teacher.clone(), gradient=ordered)
    forward_R, reverse_R = forward_kl(forward), reverse_kl(rows)
    gaps = forward.gradient.abs().gather(-1, order)
    gap_R1 = gaps.sum(-1, keepdim=True).clamp_(min=torch.finfo(gaps.dtype).tiny)
    share_R1 = gaps.masked_fill_(is_tail, 0.0).sum(-1, keepdim=True).div_(gap_R1)
    rows.gradient.lerp_(forward.gradient, share_R1)
    return reverse_R.lerp(forward_R, share_R1[:, 0])


def alpha_beta(rows: Rows, alpha: float, beta: float) -> Tensor:
    """-sum (T^a S^b - a/c T^c - b/c S^c) / (a b) with a = alpha, b = beta in (0, 1), c = a + b; (R,).

    With u = T^a S^b - S^c = S^c (exp(a g) - 1) and v = T^c - T^a S^b = T^c (1 - exp(-b g)), which vanish at
    S = T, it is sum (v / b - u / a) / c; S_v f_v = -u_v / a. Clamping |g| keeps exp finite, and where it does
    S or T is 0 or subnormal.
    Source: Wang et al. 2025 (arXiv:2505.04560), ABKD.
    """
    both, limit = alpha + beta, math.log(torch.finfo(rows.log_ratio.dtype).max)
    gap = rows.log_ratio.clamp_(-limit, limit)
    of_teacher = gap.mul(-beta).expm1_().mul_(rows.teacher.pow_(both)).div_(-beta)
    weighted = gap.mul_(alpha).expm1_().mul_(rows.student.pow(both)).div_(-alpha)
    value_R = of_teacher.add_(weighted).sum(-1).div_(both)
    through_softmax(rows, weighted)
    return value_R


DIVERGENCES: dict[str, Callable[..., Tensor]] = {  # each is called with Rows, jsd with beta as well
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_forward": partial(skew_forward, skew=0.1),
    "skew_reverse": partial(skew_reverse, skew=0.1),
    "adaptive": partial(adaptive, head_mass=0.5),
    "alpha_beta": partial(alpha_beta, alpha=0.2, beta=0.7),
}
