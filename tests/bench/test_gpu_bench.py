"""The benchmark for GPUs, tried on a CPU at a tiny shape."""

import sys

import pandas as pd
import pytest

from kdutils.bench import gpu
from kdutils.bench.gpu import CONTENDERS, PLAIN
from kdutils.bench.workloads import METHODS, Case
from kdutils.grid.model_shapes import Architecture

OURS = ["kdutils", "kdutils, cached states", PLAIN]
SHAPES = {
    role: Architecture(layers=2, hidden=h, heads=2, key_heads=2, intermediate=64, rows=512, is_tied=True)
    for role, h in (("student", 32), ("teacher", 48))
}
CASES = [
    Case(name="tiny", rows=rows, length=length, scored=length // 2, **SHAPES)
    for rows, length in ((2, 16), (3, 8))
]


@pytest.fixture(scope="module")
def table():
    return pd.DataFrame(row for name in OURS for row in gpu.visit(CASES, name, "cpu"))


def test_every_contender_makes_the_same_steps(table):
    assert "reason" not in table and len(table) == len(OURS) * 2 * len(METHODS)
    losses = table.pivot_table(index=["rows", "method"], columns="contender", values="loss", sort=False)
    for name in OURS:
        assert losses[name].to_numpy() == pytest.approx(losses[PLAIN].to_numpy(), rel=1e-5)
    assert losses[PLAIN].nunique() == len(losses)  # of batches and divergences that differ


def test_what_is_measured_is_of_a_step(table):
    assert table["tokens_per_second"].to_numpy() == pytest.approx(
        (table["rows"] * table["length"] / table["seconds"]).to_numpy()
    )
    flops = table.groupby("contender")["flops"].max()
    assert flops["kdutils, cached states"] < flops["kdutils"] == flops[PLAIN]


def test_a_program_that_is_not_there_or_fails_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    (row,) = gpu.visit(CASES[:1], "Liger fused JSD", "cpu")
    assert "liger_kernel" in row["reason"]

    def broken(work):
        raise MemoryError("no room")

    monkeypatch.setitem(CONTENDERS, "kdutils", gpu.Contender(broken))
    (row,) = gpu.visit(CASES[:1], "kdutils", "cpu")
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
    found = gpu.run(CASES, "cpu", seconds=0.0)
    assert found["reason"].tolist() == ["not begun: 0 s were over"] * (len(CONTENDERS) + 1)


def test_the_plan_and_the_want_of_a_gpu_are_said(capsys, monkeypatch):
    assert gpu.main(["--plan"]) == 0
    assert "0.5B from 7B: kdutils" in capsys.readouterr().out
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "no GPU here; use --plan" in capsys.readouterr().err
