"""Gaps, orders and recipes by scoring, on rows whose answers are known."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from kdutils.grid.study import PlannedRun
from kdutils.results import asked as asked_rows
from kdutils.results import scorings
from kdutils.runs import experiment
from kdutils.spec import EvalSpec, RunSpec

N = 40  # items a task
BOTH = ("generation", "likelihood", "label")


def asked(right, *, tasks=("boolq", "piqa"), n=N, **fields):
    """Rows of one student or teacher: scoring -> how many of the first items of each task are right."""
    rows = pd.DataFrame(
        [
            (scoring, task, f"{task}-{item}", item < n_right)
            for scoring, n_right in right.items()
            for task in tasks
            for item in range(n)
        ],
        columns=["scoring", "task", "item_id", "correct"],
    )
    own = {"domain": "commonsense", "seed": 0, "temperature": 0.0, "rotation": 0, "kd_weight": 1.0}
    own |= {"prompt_in_loss": None, "frozen": "", "role": "kd", "teacher": "T", "student": "S"}
    return rows.assign(parsed=rows["correct"].map({True: "yes", False: "no"}), **own | fields)


def study(kd, *more, teacher=(N, N, N), sft=(10, 10, 10), **fields):
    """A teacher, SFT and KD students by method, and `more` rows; counts are those of BOTH."""
    parts = [
        asked(dict(zip(BOTH, teacher, strict=True)), role="teacher", student="T", teacher=None, method="sft"),
        asked(dict(zip(BOTH, sft, strict=True)), role="sft", teacher=None, method="sft"),
    ]
    parts += [asked(dict(zip(BOTH, own, strict=True)), method=name, **fields) for name, own in kd.items()]
    return pd.concat([*parts, *more], ignore_index=True)


def rng():
    return np.random.default_rng(0)


def test_answers_stand_beside_their_teachers_and_others_are_left_out():
    plain = study({"fkl": (20, 20, 20)})
    second = study({"fkl": (20, 20, 20)})
    second = second[second["role"] != "sft"].replace({"student": {"T": "U"}, "teacher": {"T": "U"}})
    others = [plain.assign(temperature=1.0), plain.assign(rotation=1)]
    others += [asked({"generation": 3}, tasks=["gsm8k"])]  # a task without options
    rows = scorings.answers(pd.concat([plain, second, *others]))
    assert len(rows) == 2 * 2 * 3 * 2 * N  # SFT and KD of each teacher, scorings, tasks, items
    assert rows.groupby(["method", "teacher"]).size().nunique() == 1
    assert rows[["right", "same", "teacher_right"]].mean().tolist() == [15 / N, 15 / N, 1.0]
    assert scorings.answers(plain[plain["scoring"] == "generation"]).empty
    nothing = scorings.answers(asked_rows.read(SimpleNamespace(asked=())))
    values = scorings.contrasts(nothing, scorings.taus(nothing, rng=rng()))
    assert list(map(type, values.values())) == [str] * 5


def test_the_gap_is_paired_by_item_and_its_difference_is_that_of_the_scorings():
    rows = scorings.answers(study({"fkl": (20, 36, 40), "revkd": (24, 36, 40)}))
    gaps = scorings.gaps(rows).set_index(["method", "task", "scoring"])
    assert gaps.loc[("fkl", "average", "generation"), ["teacher", "student", "gap"]].tolist() == [100, 50, 50]
    assert gaps.loc[("sft", "piqa", "label"), "gap"] == 75
    found = scorings.gap_differences(rows).set_index(["task", "scoring"])
    assert found.loc[("boolq", "likelihood"), "difference"] == pytest.approx(45 - 10)
    assert found.loc[("average", "label"), "difference"] == pytest.approx(45)
    row = found.loc[("average", "label")]
    assert row["low_all"] < row["low"] < row["low_90"] < 45 < row["high_90"] < row["high"] < row["high_all"]
    assert scorings.contrasts(rows, scorings.taus(rows, rng=rng()))["G1"].low > 2


def test_tau_is_that_of_scipy_and_undefined_where_all_are_level():
    x, y = rng().integers(0, 4, (2, 50, 5)).astype(float)
    expected = [scipy.stats.kendalltau(one, other).statistic for one, other in zip(x, y, strict=True)]
    assert np.allclose(scorings.kendall(x, y), expected, equal_nan=True)
    assert math.isnan(scorings.kendall(np.ones((1, 3)), np.array([[1.0, 2.0, 3.0]]))[0])


def test_a_scoring_that_turns_the_order_round_has_tau_minus_one_and_flips_every_pair():
    rows = scorings.answers(study({"fkl": (20, 20, 20), "revkd": (35, 5, 35)}, sft=(5, 35, 5)))
    order = scorings.taus(rows, rng=rng(), n_resamples=200).set_index(["domain", "scoring"])
    assert order.loc[("all", "label"), ["tau", "low", "high"]].tolist() == [1, 1, 1]
    assert order.loc[("commonsense", "likelihood"), ["tau", "low", "high"]].tolist() == [-1, -1, -1]
    assert order.loc[("all", "likelihood"), ["itself", "halves"]].tolist() == pytest.approx([1, -1], abs=0.05)
    pairs = scorings.flips(rows)
    assert pairs.groupby("scoring")["flips"].sum().to_dict() == {"label": 0, "likelihood": 3}
    least = pairs[pairs["scoring"] == "likelihood"].set_index(["one", "other"]).loc[("fkl", "revkd")]
    assert least["flip"] == pytest.approx(37.5) and 0 < least["flip_low"] < 37.5 < least["flip_high"]
    assert (pairs.loc[pairs["scoring"] == "label", "flip_high"] < 0).all()
    values = scorings.contrasts(rows, order.reset_index())
    assert values["G2"].bounds == pytest.approx((-1.8, -1.8, -1.8))
    assert values["G5"].value == 75 and values["G5"].low > 0


def test_over_all_domains_methods_are_ranked_that_all_of_them_have():
    both = [study({"fkl": (20, 20, 20), "revkd": (30, 30, 30)}).assign(domain=own) for own in ("a", "b")]
    lonely = asked(dict.fromkeys(BOTH, 35), method="gkd").assign(domain="b")
    rows = scorings.answers(pd.concat([*both, lonely]))
    found = scorings.taus(rows, rng=rng(), n_resamples=9).set_index(["domain", "scoring"])["n"]
    assert found.xs("label", level="scoring").to_dict() == {"a": 2 * N, "b": 2 * N, "all": 2 * N}
    two = scorings.taus(rows.assign(item_id=rows["domain"] + rows["item_id"]), rng=rng(), n_resamples=9)
    assert two.set_index(["domain", "scoring"]).loc[("all", "label"), "n"] == 4 * N


def test_the_gold_loss_of_sft_is_that_of_students(tmp_path):
    own = {"domain": "math", "train_items": 8, "validation_items": 2, "epochs": 1, "batch_size": 4}
    kd = RunSpec(student="mini-qwen-0.5B", teacher="mini-qwen-3B", method="fkl", **own)
    experiment.run(kd, out=tmp_path)
    experiment.run(kd.sft_spec, out=tmp_path)
    evaluation = EvalSpec(tasks=("svamp",))
    runs = tuple(PlannedRun(spec, evaluation) for spec in (kd, kd.sft_spec, kd.teacher_spec))
    found = scorings.gold_losses(SimpleNamespace(runs=runs, out=tmp_path))
    assert found[["student", "method"]].to_numpy().tolist() == [
        ["mini-qwen-0.5B", "fkl"],
        ["mini-qwen-0.5B", "sft"],
    ]
    assert found["gold_nll"].gt(0).all()


def test_a_recipe_is_compared_with_the_plain_one_of_the_same_pair_and_seed():
    made = {"prompt_in_loss": True}, {"kd_weight": 0.5}, {"frozen": "mlp", "kd_weight": 0.9}
    counts = (10, 18, 20), (20, 20, 20), (8, 8, 8)
    more = [
        asked(dict(zip(BOTH, own, strict=True)), method="fkl", **fields)
        for own, fields in zip(counts, made, strict=True)
    ]
    lonely = asked({"generation": 40}, method="fkl", seed=1)  # was not trained otherwise
    rows = scorings.answers(study({"fkl": (20, 20, 20), "gkd": (30, 30, 30)}, *more, lonely))
    found = scorings.recipes(rows).set_index(["variation", "scoring"])
    assert set(found["method"]) == {"fkl"}
    names = ["", "prompt in loss", "KD share 0.5", "KD share 0.9, mlp frozen"]
    assert list(found.index.unique("variation")) == names
    assert found.loc[("prompt in loss", "generation"), ["gain", "change"]].tolist() == [0, -25]
    assert found.loc[("", "label"), "gain"] == 25 and math.isnan(found.loc[("", "label"), "change"])
    another = study({"fkl": (40, 40, 40)}).assign(student="another")  # has no other recipe
    gains = scorings.recipes(pd.concat([rows, scorings.answers(another)]))["gain"]
    assert gains.tolist() == found["gain"].tolist()
    written = asked({"generation": 10}, method="fkl", frozen="mlp", kd_weight=1.0)  # and not ranked
    all_of_them = study({"fkl": (20, 20, 20), "gkd": (30, 30, 30)}, *more, lonely, written)
    gains = scorings.recipes(scorings.answers(all_of_them)).set_index(["variation", "scoring"])["gain"]
    assert gains[found.index].tolist() == found["gain"].tolist() and gains.count() == len(found) + 1
    values = scorings.contrasts(rows, scorings.taus(rows, rng=rng()))
    assert values["G3"].value == pytest.approx(20)  # 25 points of generation, 5 of likelihood
    assert values["G4"].value == 0 < values["G4"].high
    plain = scorings.answers(study({"fkl": (20, 20, 20)}))
    assert "trained so" in scorings.contrasts(plain, scorings.taus(plain, rng=rng()))["G3"]


@pytest.mark.parametrize(
    ("n", "counts", "outcome"),
    [
        (4000, (0.5, 0.5), "does not mislead"),
        (400, (0.5, 0.9), "misleads"),
        (40, (0.5, 0.5), "cannot be told"),
    ],
)
def test_the_rule_needs_gaps_that_agree_on_every_task_and_the_same_order(n, counts, outcome):
    parts = []
    for role, name, share in (
        ("teacher", "sft", 1.0),
        ("sft", "sft", 0.2),
        ("kd", "fkl", 0),
        ("kd", "gkd", 0.05),
    ):
        right = [share + (role == "kd") * each for each in counts]
        right = {way: int(n * each) for way, each in zip(("generation", "label"), right, strict=True)}
        own = {"student": "T" if role == "teacher" else "S", "teacher": "T" if role == "kd" else None}
        parts.append(asked(right, n=n, role=role, method=name, **own))
    rows = scorings.answers(pd.concat(parts))
    found = scorings.outcomes(scorings.gap_differences(rows), scorings.taus(rows, rng=rng(), n_resamples=99))
    assert found["outcome"].tolist() == [outcome]
