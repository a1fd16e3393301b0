"""Starts and two domains in turn, on planted students."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kdutils.claims import contrasts
from kdutils.results import training

N, SEED = 50, 3
STARTS = ("from_base", "after_sft", "after_half", "after_wrong", "shrunk")


def items(bleu_of, nll_of):
    rng, tables = np.random.default_rng(0), []
    for arm, method, seed in itertools.product(STARTS, training.AFTER, (0, 1)):
        table = pd.DataFrame({"item_id": [f"i{place}" for place in range(N)]})
        values = {"bleu": bleu_of.get(arm, 50.0), "nll": nll_of.get(arm, 0.5), "right": 0.5, "same": 0.5}
        noise = {name: value + rng.normal(0, 1e-3, N) for name, value in values.items()}
        tables.append(table.assign(**noise, arm=arm, method=method, seed=seed))
    own = {"teacher": "T", "student": "S", "train_items": 400, "task": "gsm8k", "is_other": False}
    return pd.concat(tables, ignore_index=True).assign(**own)


def in_turn(after_of):
    """Students of two orders and three seeds that learn as much as their arm lets them."""
    rng, rows = np.random.default_rng(1), []
    held = {"sft": ("plain", *training.L2_SP), "fkl": ("plain", *training.L2_SP, *training.INTERVALS)}
    for first, seed, method in itertools.product(("math", "commonsense"), (0, 1, 2), held):
        for arm in held[method]:
            strength = {"plain": 0, "weak": 1, "strong": 3}.get(arm.rpartition("_")[2], 2)
            row = {"arm": arm, "first_domain": first, "seed": seed, "method": method, "before": 60.0}
            row |= {"second": 70 - 2 * strength, "bleu_before": 50.0, "bleu": 20.0}
            row |= {"guessed_before": 0.0, "guessed": 0.0}
            rows.append(row | {"after": after_of(method, arm) + 5 * strength + rng.normal(0, 0.1)})
    return pd.DataFrame(rows).assign(forgetting=lambda table: table["before"] - table["after"])


def verdicts(rows, turned):
    found = training.contrasts(rows, turned, seed=SEED)
    asked = [each.id for each in contrasts.contrasts_of("17")]
    judged = contrasts.judge("17", dict.fromkeys(asked, "") | found)
    return found, {row["id"]: row["verdict"] for row in judged}


def test_planted_starts_are_found():
    table = items({"after_sft": 45.0}, {"after_half": 0.502, "after_wrong": 0.6, "shrunk": 0.49})
    found, said = verdicts(table, pd.DataFrame())
    assert [said[f"R{place}"] for place in (4, 5, 7)] == ["reproduced"] * 3
    assert (said["R6"], said["R8"]) == ("not_reproduced", "not_testable")
    assert abs(found["R4"].value + 5) < 0.01
    means = training.starts(table, seed=SEED).groupby(["measure", "arm"])["value"].mean()
    assert abs(means["bleu", "after_sft"] - 45) < 0.01 and abs(means["right", "shrunk"] - 50) < 0.1


@pytest.mark.parametrize(
    ("own", "tokens"),
    [({}, 100), ({"perturb": 0.1}, 400), ({"start_spec": None}, 200), ({"shrink": 0.8}, 400)],
)
def test_a_loss_can_be_near_the_final_one_before_distillation_begins(monkeypatch, own, tokens):
    losses = {"start": [0.502, 0.499], "run": [0.51, 0.504, 0.5]}
    curves = {
        name: [{"n_tokens": 100, "epoch": 1, "validation_loss": x} for x in losses[name]] for name in losses
    }
    curves["run"][0] |= {"validation_loss": 0.6}
    folders = {name: SimpleNamespace(curve=lambda name=name: curves[name]) for name in curves}
    monkeypatch.setattr(training.store, "folder_of", lambda out, run_id: folders[run_id])
    monkeypatch.setattr(training.sources, "resolved", lambda spec: spec)
    start = SimpleNamespace(run_id="start")
    spec = SimpleNamespace(**{"run_id": "run", "start_spec": start, "shrink": 1.0, "perturb": 0.0} | own)
    monkeypatch.setattr(
        training.arms, "finals", lambda plan, study: [(SimpleNamespace(cell=None, spec=spec), None)]
    )
    monkeypatch.setattr(training.arms, "named", lambda cell, spec: dict.fromkeys(training.RUN, "x"))
    found = training.tokens_until_near(SimpleNamespace(out=None), "starts")
    assert found["tokens"].tolist() == [tokens]


def test_what_guessing_reaches_is_not_kept():
    all_lost = in_turn(lambda method, arm: 30).assign(guessed_before=30.0, guessed=30.0, bleu=0.0)
    found, said = verdicts(items({}, {}), all_lost)
    assert abs(found["R10"].value) < 1 and said["R10"] != "reproduced"
    never_learned = all_lost.assign(before=30.0)
    assert verdicts(items({}, {}), never_learned)[1]["R10"] == "not_testable"


def test_planted_forgetting_is_found_and_equal_frontiers_are_not_told_apart():
    more = in_turn(lambda method, arm: 30 + 6 * (method == "fkl") + 4 * arm.startswith("intervals"))
    found, said = verdicts(items({}, {}), more)
    assert (said["R8"], said["R9"], said["R10"]) == ("reproduced",) * 3
    assert abs(found["R8"].value - 6) < 0.5 and found["R8"].n == 6
    equal = in_turn(lambda method, arm: 30)
    found, said = verdicts(items({}, {}), equal)
    assert {said["R8"], said["R9"]} <= {"inconclusive", "not_reproduced"}
    assert abs(found["R8"].value) < 0.3
