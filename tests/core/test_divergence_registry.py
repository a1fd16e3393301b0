"""The registry of divergences: its names, its constants, and the README's example of one more."""

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from kdutils import constants, divergences, losses
from kdutils.head import Head

README = Path(divergences.__file__).parent / "README.md"


def found(student_logits, teacher_logits, kind):
    """Total and gradient by the student's logits, at temperature 2 and one row a chunk."""
    logits = student_logits.clone().requires_grad_()
    size = logits.shape[-1]
    head, options = Head(torch.eye(size, dtype=logits.dtype)), {"temperature": 2.0, "budget_bytes": 1}
    options |= {"vocabulary_size": size, "scale_by_temperature_squared": False, "kind": kind}
    total = losses.divergence(logits, head, teacher_logits, head, **options).total
    return total.detach(), *torch.autograd.grad(total, logits)


def two_models():
    return torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_spec_can_name_every_divergence_and_no_other():
    assert tuple(divergences.DIVERGENCES) == constants.DIVERGENCES


def test_the_readmes_divergence_is_that_of_autograd(monkeypatch):
    (example,) = re.findall(r"```python\n(from kdutils.divergences.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.setitem(divergences.DIVERGENCES, "total_variation", None)  # gone after the test
    exec(example, {})
    student, teacher = two_models()
    logits = student.clone().requires_grad_()
    total = ((logits / 2).softmax(-1) - (teacher / 2).softmax(-1)).abs().sum() / 2
    expected = total.detach(), *torch.autograd.grad(total, logits)
    torch.testing.assert_close(found(student, teacher, "total_variation"), expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_skew_divergences_tend_to_the_kls(monkeypatch, direction):
    of_little_skew = partial(getattr(divergences, f"skew_{direction}"), skew=1e-9)
    monkeypatch.setitem(divergences.DIVERGENCES, "skew", of_little_skew)
    models = two_models()
    torch.testing.assert_close(found(*models, "skew"), found(*models, f"{direction}_kl"))


def test_adaptive_kl_of_three_tokens_is_that_by_hand():
    teacher, student = [0.35, 0.4, 0.25], [0.6, 0.25, 0.15]  # the head is token 1 alone: 0.4 + 0.35 > 0.5
    forward = sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))
    reverse = sum(s * math.log(s / t) for t, s in zip(teacher, student, strict=True))
    logits = [2 * torch.tensor([row]).log() for row in (student, teacher)]
    expected = 0.3 * forward + 0.7 * reverse  # gaps 0.15 in the head, 0.25 + 0.10 in the tail
    assert float(found(*logits, "adaptive")[0]) == pytest.approx(expected, rel=1e-6)
