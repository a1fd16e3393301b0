"""The benchmark for GPUs, tried on a CPU at a tiny shape."""

import importlib.util

import pandas as pd
import pytest

from kdutils.bench import gpu, gpu_contenders
from kdutils.bench.gpu_contenders import CONTENDERS, KINDS

OURS = ["kdutils", "kdutils, cached states", "plain loop"]


@pytest.fixture(scope="module")
def table():
    rows = [row for name in OURS for row in gpu.visit("tiny", name, "cpu", [(2, 16), (3, 8)])]
    return pd.DataFrame(rows)


def test_every_contender_makes_the_same_steps(table):
    assert "reason" not in table and len(table) == len(OURS) * 2 * len(KINDS)
    losses = table.pivot_table(index=["rows", "method"], columns="contender", values="loss", sort=False)
    for name in OURS:
        assert losses[name].to_numpy() == pytest.approx(losses["plain loop"].to_numpy(), rel=1e-5)
    assert losses["plain loop"].nunique() == len(losses)  # of batches and divergences that differ


def test_what_is_measured_is_of_a_step(table):
    assert table["tokens_per_second"].to_numpy() == pytest.approx(
        (table["rows"] * table["length"] / table["seconds"]).to_numpy()
    )
    setup = gpu_contenders.Setup("tiny", "cpu")
    assert setup.flops(2, 16, is_cached=True) < setup.flops(2, 16, is_cached=False)


def test_a_program_that_is_not_there_or_fails_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (row,) = gpu.visit("tiny", "Liger fused JSD", "cpu", [(2, 16)])
    assert row["reason"] == "liger_kernel is not installed"

    def broken(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setitem(CONTENDERS, "kdutils", (broken, ""))
    (row,) = gpu.visit("tiny", "kdutils", "cpu", [(2, 16)])
    assert row["reason"] == "MemoryError: no room"


def test_rows_are_compared_with_those_of_the_same_work():
    keys = {"case": "c", "rows": 4, "length": 512, "method": "fkl"}
    rows = [
        keys | {"contender": "TRL GKDTrainer", "seconds": 3.0, "loss": 1.01},
        keys | {"contender": "plain loop", "seconds": 2.0, "loss": 1.0},
        keys | {"contender": "kdutils", "seconds": 0.5, "loss": 1.0},
        keys | {"contender": "kdutils", "rows": 16, "seconds": 0.5, "loss": 1.0},  # nothing beside it
        {"case": "c", "contender": "Liger fused JSD", "reason": "not installed"},
    ]
    found = gpu.compared(pd.DataFrame(rows))
    assert found["times_faster_than_trl"].tolist()[:3] == [1.0, 1.5, 6.0]
    assert found["loss_apart"].tolist()[:3] == pytest.approx([0.01, 0.0, 0.0])
    assert found[["times_faster_than_trl", "loss_apart"]].iloc[3:].isna().all(axis=None)


def test_what_the_time_does_not_allow_is_named():
    found = gpu.run(["tiny"], "cpu", [(2, 16)], seconds=0.0)
    assert found["reason"].tolist() == ["not begun: 0 s were over"] * (len(CONTENDERS) + 1)


def test_the_plan_and_the_want_of_a_gpu_are_said(capsys, monkeypatch):
    assert gpu.main(["--plan"]) == 0
    assert "0.5B from 7B: kdutils" in capsys.readouterr().out
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no GPU here; use --plan" in capsys.readouterr().err
