"""How two students of one pruned model lie to each other, and in which regime that is."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from kdutils.data import sources
from kdutils.results import arms, construction
from kdutils.runs import experiment, twins
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("addsub", "svamp"), items_per_task=3)
OF_RUN = {"train_items": 8, "epochs": 1, "batch_size": 8, "validation_items": 0, "domain": "math"}
BUILD = {"student_build": "pruned", "build_compression": 2.0, "student_start": "sft", "start_epochs": 2}
SFT = RunSpec(student="mini-qwen-0.5B", method="sft", **OF_RUN, **BUILD)


def test_twins_of_one_mask_are_joined(tmp_path):
    fkl = replace(SFT, method="fkl", teacher="mini-qwen-0.5B", teacher_tuned=False)
    for spec in (SFT, fkl):
        experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    sft, fkl = map(sources.resolved, (SFT, fkl))
    itself = twins.joined(tmp_path, sft, sft, EVALUATION)
    assert itself == pytest.approx({"barrier": 0.0, "cka": 1.0}, abs=1e-5)
    both = twins.joined(tmp_path, sft, fkl, EVALUATION)
    assert both["cka"] < 1 - 1e-7 and abs(both["barrier"]) < 0.1


def test_regimes_are_told_apart_by_barrier_and_likeness(monkeypatch, tmp_path):
    measured = {"hot": (-0.2, 0.99), "cold": (0.0, 0.5), "alike": (-0.01, 0.97)}
    made = [
        (SimpleNamespace(cell=SimpleNamespace(arm=arm, method=method), spec=replace(SFT, seed=seed)), arm)
        for arm in measured
        for method in ("sft", "fkl")
        for seed in (0, 1)
        if (arm, method, seed) != ("cold", "fkl", 1)  # not trained
    ]
    monkeypatch.setattr(arms, "finals", lambda plan, study: made)
    of_arm = {arm: {"barrier": barrier, "cka": cka} for arm, (barrier, cka) in measured.items()}
    monkeypatch.setattr(construction, "_joined", lambda out, one, other, how, code: of_arm[how])
    at = pd.DataFrame({"arm": list(measured), "density": [0.1, 0.2, 0.8], "dense_epochs": 4})
    found = construction.twins(SimpleNamespace(out=tmp_path), at)
    assert found["regime"].tolist() == ["I", "II-A", "II-B"]
