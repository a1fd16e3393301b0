"""How two students of one pruned model lie to each other, and in which regime that is."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from kdutils.data import sources
from kdutils.results import arms, construction
from kdutils.runs import experiment, store, twins
from kdutils.runs.students import load_trained
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("addsub", "svamp"), items_per_task=3)
OF_RUN = {"train_items": 8, "epochs": 1, "batch_size": 8, "validation_items": 0, "domain": "math"}
BUILD = {"student_build": "pruned", "build_compression": 2.0, "student_start": "sft", "start_epochs": 2}
ORDERED = {"epochs": 2, "start_epochs": 1, "batch_size": 4}  # so that an order has an effect
SFT = RunSpec(student="mini-qwen-0.5B", method="sft", **OF_RUN, **BUILD)


def test_twins_of_one_mask_are_joined(tmp_path):
    one, other = (replace(SFT, **ORDERED, order_seed=seed) for seed in (None, 1))
    assert one.start_spec == other.start_spec
    for spec in (one, other):
        experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    one, other = map(sources.resolved, (one, other))
    itself = twins.joined(tmp_path, one, one, EVALUATION)
    assert itself == pytest.approx({"barrier": 0.0, "cka": 1.0}, abs=1e-5)
    both = twins.joined(tmp_path, one, other, EVALUATION)
    assert both["cka"] < 1 - 1e-7 and abs(both["barrier"]) < 0.1
    zeros = []
    for spec in (one, other):
        student = load_trained(spec, store.folder_of(tmp_path, spec.run_id))
        zeros.append([w == 0 for w in student.causal.parameters() if w.ndim > 1])
    assert all(map(torch.equal, *zeros))


def test_regimes_are_told_apart_by_barrier_and_likeness(monkeypatch, tmp_path):
    asked = []

    def joined(out, one, other, how, code):
        asked.append((how, one.order_seed, other.order_seed))
        return dict(zip(("barrier", "cka"), measured[how], strict=True))

    measured = {"hot": (-0.2, 0.99), "cold": (0.0, 0.5), "alike": (-0.01, 0.97)}

    def finals(plan, study):
        own = {"order_seed": 7} if study == "twins" else {}
        return [
            (SimpleNamespace(cell=SimpleNamespace(arm=arm), spec=replace(SFT, seed=seed, **own)), arm)
            for arm, seed in product(measured, (0, 1))
            if study == "regimes" or (arm, seed) != ("cold", 1)  # not trained
        ]

    monkeypatch.setattr(arms, "finals", finals)
    monkeypatch.setattr(construction, "_joined", joined)
    at = pd.DataFrame({"arm": list(measured), "density": [0.1, 0.2, 0.8], "dense_epochs": 4})
    found = construction.twins(SimpleNamespace(out=tmp_path), at)
    assert found["regime"].tolist() == ["I", "II-A", "II-B"]
    assert found["method"].tolist() == ["sft"] * 3
    assert asked == [(arm, None, 7) for arm in ("hot", "hot", "cold", "alike", "alike")]
