"""Best rates over widths, norms and signs of contrasts, on tables whose answers are planted."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from kdutils.claims import contrasts
from kdutils.grid.arms import ArmStudy
from kdutils.io import disk
from kdutils.results import arms, optimisers

WIDTHS = {"mini-qwen-0.5B": 48, "mini-qwen-7B": 96}
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
METHODS = ("sft", "fkl", "revkd")


def trials(best, *, largest=1.0):
    """Trials whose loss is a parabola over log2 of the rate around `best`; they diverge from `largest` on."""
    rows = []
    for student, width in WIDTHS.items():
        for arm in optimisers.OPTIMISERS:
            for method in METHODS:
                for rate in RATES:
                    loss = 1 + 0.01 * math.log2(rate / best(arm, width, method)) ** 2
                    loss = loss if rate < largest else math.inf
                    rows.append((f"{method}-teacher", student, method, arm, rate, loss))
    columns = ["teacher", "student", "method", "arm", "rate", "validation_loss"]
    return pd.DataFrame(rows, columns=columns).assign(is_trial=True)


def test_the_distance_of_the_best_rates_is_the_planted_one():
    def best(arm, width, method):
        start = {"sft": 4e-4, "fkl": 5e-4, "revkd": 6e-4}[method]
        return start * (width / 48) ** {"adamw": 2, "muon": 1, "muon_spectral": 0.1}[arm]

    found = optimisers.best_rates(trials(best), WIDTHS)
    for row in found.itertuples():
        assert row.rate == pytest.approx(best(row.arm, row.width, row.method), rel=1e-6)
    shifts = optimisers.shifts(found).set_index("arm")
    assert shifts["octaves"].to_dict() == pytest.approx({"adamw": 2, "muon": 1, "muon_spectral": 0.1})
    assert shifts["n"].tolist() == [2] * 3 and (shifts["widest"] == 96).all()
    assert shifts[["low", "high"]].isna().all(axis=None)  # however many methods, two students are two values
    assert set(found.loc[found["method"] == "sft", "teacher"]) == {""}


def test_a_best_rate_at_the_edge_has_no_distance_and_one_beside_divergence_has():
    found = optimisers.best_rates(
        trials(lambda arm, width, method: 4e-3 if width == 96 else 1e-5, largest=5e-3), WIDTHS
    )
    assert found.groupby("width")["outcome"].unique().map(list).to_dict() == {48: ["void"], 96: ["chosen"]}
    assert ((found["rate"] > 1e-3) & (found["rate"] < 3e-3)).sum() == 9  # away from what diverged
    assert optimisers.shifts(found).empty


def test_the_interval_of_the_shift_is_that_of_a_linear_model():
    rng = np.random.default_rng(0)
    rows = [("mini-qwen", "", method, width) for method in METHODS for width in (48, 64, 80, 96)]
    best = pd.DataFrame(rows, columns=["family", "teacher", "method", "width"]).assign(arm="adamw")
    best["student"] = best["width"].astype(str)
    best["rate"] = 1e-3 * (best["width"] / 48) ** 1.5 * 2 ** rng.normal(0, 0.3, len(best))
    of_student = np.log2(best[["width", "rate"]]).groupby(best["student"]).mean()
    fitted = sm.OLS(of_student["rate"], sm.add_constant(of_student["width"])).fit()
    expected = [fitted.params["width"], *fitted.conf_int().loc["width"]]
    lonely = best.iloc[:1].assign(teacher="another", rate=1.0)  # of one width alone: says nothing
    for rates in (best, pd.concat([best, lonely], ignore_index=True)):
        found = optimisers.shifts(rates).iloc[0]
        assert list(found[["octaves", "low", "high"]]) == pytest.approx(expected)  # 48 to 96 is one octave
        assert found["n"] == 4


def test_widths_are_those_of_the_students_of_the_study():
    arm = {"adamw": {}}
    crossing = {"arms": ["adamw"], "methods": ["sft"], "pairs": [("mini-qwen-14B", name) for name in WIDTHS]}
    how = {"section": "15", "domain": "math", "sequences": 64, "train_items": [64], "seeds": [0]}
    assert optimisers.widths(ArmStudy(name="o", arms=arm, crossings=[crossing], **how)) == WIDTHS
    assert optimisers.widths(None) == {}


def test_drift_is_the_largest_change_of_either_norm_since_the_start(tmp_path):
    bands = {"a": [(1.0, 8.0), (1.0, 4.0), (2.0, 8.0)], "b": [(1.0, 2.0), (0.25, 2.0)]}
    for name, band in bands.items():
        curve = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.9}]
        curve += [{"epoch": epoch} for epoch in range(1, len(band))]
        for place, (least, most) in zip((0, 2, 3), band, strict=False):
            curve[place] |= {"least_norm": least, "largest_norm": most}
        disk.write_text(tmp_path / "runs" / name / "curve.jsonl", "\n".join(map(json.dumps, curve)))
    runs = pd.DataFrame({"run_id": list(bands), "seed": [0, 1]}).assign(is_final=True, train_items=64)
    runs = runs.assign(teacher="T", student="S", method="sft", arm="muon_spectral")
    found = optimisers.bands(runs, tmp_path)
    assert found["drift"].tolist() == [0, 1, 1, 0, 2]
    assert optimisers.bands(runs[:0], tmp_path).empty
    value = optimisers.contrasts(no_rates(), found, levels(lambda arm, method: 0))["R2"]
    assert value.value == pytest.approx(0.5)  # of 1 and 2 octaves, less 1


def no_rates():
    return pd.DataFrame(columns=[*arms.CELL, "family", "width", "rate", "outcome"])


def no_bands():
    return pd.DataFrame(columns=[*arms.RUN, "epoch", "drift"])


def levels(loss, *, methods=METHODS, optimised=optimisers.OPTIMISERS, noise=0.002):
    """Resamples of loss(arm, method) by cell and number of items."""
    rng = np.random.default_rng(0)
    cells = [("T", "S", method, arm, n) for method in methods for arm in optimised for n in (16, 160)]
    found = {key: loss(key[3], key[2]) + rng.normal(0, noise, 1_000) for key in cells}
    return pd.DataFrame(found).rename_axis(columns=[*arms.CELL, "train_items"])


def by_method(arm, method):
    return {"sft": 1.0, "fkl": 0.8, "revkd": 0.9}[method]


def turned(arm, method):
    return 1.1 if (arm, method) == ("muon", "fkl") else by_method(arm, method)


@pytest.mark.parametrize(
    ("loss", "verdict", "changes"),
    [(by_method, "reproduced", 0), (turned, "not_reproduced", 2), (lambda arm, method: 1.0, "reproduced", 0)],
)
def test_a_contrast_that_changes_its_sign_is_found_and_none_is_not(loss, verdict, changes):
    found = levels(loss)
    table = optimisers.signs(found)
    assert len(table) == 6 and table["changes"].sum() == changes
    values = optimisers.contrasts(no_rates(), no_bands(), found)
    section = {each.id: each for each in contrasts.contrasts_of("17")}
    assert section["R3"].verdict(values["R3"]) == verdict
    if changes:  # of reverse less forward KL: 0.1 under AdamW, -0.2 under Muon
        assert values["R3"].value == pytest.approx(0.1 - 0.01, abs=0.01)
    assert isinstance(values["R1"], str) and isinstance(values["R2"], str)


def test_without_muon_nothing_is_said_of_it():
    values = optimisers.contrasts(no_rates(), no_bands(), levels(by_method, optimised=("adamw",)))
    assert {name: type(value) for name, value in values.items()} == dict.fromkeys(("R1", "R2", "R3"), str)
    empty = pd.DataFrame(columns=pd.MultiIndex.from_tuples([], names=[*arms.CELL, "train_items"]))
    assert optimisers.signs(empty).empty
