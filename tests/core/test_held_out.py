"""Held-out predictions against logits of the whole model, row by row."""

import pytest
import torch

from kdutils import encoding, models
from kdutils.data import sources
from kdutils.runs import held_out
from kdutils.spec import EvalSpec, RunSpec

SPEC = RunSpec(student="mini-qwen-0.5B", method="base", domain="math")
ITEMS = sources.test_items(SPEC, EvalSpec(tasks=("addsub", "svamp"), items_per_task=3))


def expected(student, teacher):
    """nll and both divergences of each item from full logits, one item at a time."""
    rows = encoding.encode(ITEMS, student.tokenizer, max_tokens=10_000, protocol="careful")
    for ids, start in zip(rows["input_ids"], rows["n_unscored"], strict=True):
        logits = [
            m.causal(torch.tensor([ids])).logits[0, start - 1 : -1, : len(m.tokenizer)]
            for m in (student, teacher)
        ]
        log_s, log_t = (own.log_softmax(-1) for own in logits)
        nll = torch.nn.functional.nll_loss(log_s, torch.tensor(ids[start:]))
        kls = [
            torch.nn.functional.kl_div(*pair, log_target=True, reduction="batchmean")
            for pair in ((log_s, log_t), (log_t, log_s))
        ]
        yield [float(nll), *map(float, kls)]


@torch.no_grad()
def test_losses_are_those_of_the_whole_models_logits(monkeypatch):
    monkeypatch.setattr(held_out, "ROWS", 7)
    student, teacher = models.load(SPEC.student), models.load("mini-qwen-1.5B")
    found = held_out.predictions(student, teacher, ITEMS, "alpaca")
    assert found["item_id"].tolist() == [item.id for item in ITEMS]
    for row, own in zip(
        found[["nll", "forward_kl", "reverse_kl"]].to_numpy(), expected(student, teacher), strict=True
    ):
        assert row == pytest.approx(own, rel=1e-4)
    assert found["same_top1"].between(0, 1).all()
    alone = held_out.predictions(student, None, ITEMS, "alpaca")
    assert alone["nll"].tolist() == pytest.approx(found["nll"].tolist())
    assert alone[["forward_kl", "same_top1"]].isna().all(axis=None)
    itself = held_out.predictions(student, student, ITEMS, "alpaca")
    assert itself["forward_kl"].abs().max() < 1e-5 and (itself["same_top1"] == 1).all()
