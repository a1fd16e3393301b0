"""Fidelity at matched accuracy, and the crossing of density and dense epochs, on planted students."""

import itertools

import numpy as np
import pandas as pd
import pytest

from kdutils.claims import contrasts
from kdutils.results import arms, construction

ARMS = (
    "narrow",
    "low_rank",
    "low_rank_plain",
    "low_rank_features",
    "low_rank_perturbation",
    "pruned",
    "shared",
)
N, SEED = 60, 5
WHO = ["arm", "method"]


def items(of_student, *, names=ARMS, methods=("sft", "fkl")):
    """Test items of students whose accuracy and fidelity are of_student(arm, method)."""
    rng, tables = np.random.default_rng(0), []
    for arm, method, seed in itertools.product(names, methods, (0, 1)):
        accuracy, bleu = of_student(arm, method)
        right = np.arange(N) < round(accuracy * N)
        table = pd.DataFrame({"item_id": [f"i{place}" for place in range(N)], "right": right.astype(float)})
        values = {"bleu": bleu + rng.normal(0, 0.5, N), "same": table["right"], "nll": 1 - accuracy}
        tables.append(table.assign(**values, forward_kl=0.1, arm=arm, method=method, seed=seed))
    own = pd.concat(tables, ignore_index=True)
    student = np.where(own["arm"] == "narrow", "S", "T")
    return own.assign(teacher="T", student=student, train_items=1600, task="gsm8k", is_other=False)


NONE_SCORED = pd.DataFrame(columns=["student", "method", "gap"]).astype({"student": str})


def verdicts(rows, regimes=(), at=None):
    found = construction.contrasts(rows, regimes, at, NONE_SCORED, seed=SEED)
    return found, {row["id"]: row["verdict"] for row in contrasts.judge("16", found)}


def accuracy_of(arm):
    return 0.3 + 0.05 * ARMS.index(arm)


def test_fidelity_that_accuracy_explains_is_not_counted_and_what_it_does_not_is():
    explained = items(lambda arm, method: (accuracy_of(arm), 40 * accuracy_of(arm)))
    table = construction.table(explained, pd.DataFrame(), seed=SEED).set_index(["measure", "arm", "method"])
    assert table.loc[("bleu", "shared", "fkl"), "value"] > table.loc[("bleu", "narrow", "fkl"), "value"] + 10
    found, said = verdicts(explained)
    assert found["C1"].value == pytest.approx(0, abs=0.5)
    assert (said["C1"], said["C3"]) != ("reproduced", "reproduced")
    more = items(lambda arm, method: (accuracy_of(arm), 40 * accuracy_of(arm) + 6 * (arm != "narrow")))
    found, said = verdicts(more)
    assert found["C1"].low > 0 and said["C1"] == "reproduced"
    assert (said["C2"], said["C5"]) == ("not_reproduced", "not_reproduced")  # 0.05 higher; 0.15 apart
    assert (said["C9"], said["C6"], said["C10"]) == ("reproduced", "not_testable", "not_testable")


def test_arms_that_are_younger_than_the_claims_move_none_of_them():
    def student(arm, method):
        return (0.95, 0.0) if arm in construction.LATER else (accuracy_of(arm), 40 * accuracy_of(arm))

    with_them = construction.contrasts(
        items(student, names=(*ARMS, *construction.LATER)), (), None, NONE_SCORED, seed=SEED
    )
    without = construction.contrasts(items(student), (), None, NONE_SCORED, seed=SEED)
    assert with_them["C1"].value == pytest.approx(without["C1"].value, abs=0.2)  # other noise, the same line


def test_an_arm_that_is_void_leaves_the_other_contrasts():
    rows = items(lambda arm, method: (0.5, 20.0), names=("narrow", "low_rank"))
    found, said = verdicts(rows)
    assert found["C9"] == "shared by sft is not trained, or void"
    assert said["C1"] == "inconclusive" and found["C1"].n == N


def test_slopes_of_a_planted_crossing():
    places = itertools.product((0.8, 0.1), (1, 4, 16))
    at = pd.DataFrame([(f"{d}_{e}", d, e) for d, e in places], columns=["arm", "density", "dense_epochs"])
    known = at.set_index("arm")

    def student(arm, method):
        density, epochs = known.loc[arm]
        slope = 0.05 if density == 0.8 else -0.05 if method == "sft" else 0.0
        return 0.5 + slope * np.log2(epochs), 10.0

    rows = items(student, names=at["arm"])
    found = construction.slopes(rows, at, seed=SEED)
    assert found["sft", 0.8][0] == pytest.approx(5.0, abs=0.3)
    assert found["sft", 0.1][0] == pytest.approx(-5.0, abs=0.3)
    figures = construction.regimes(rows, at, seed=SEED)
    assert len(figures) == 12 and (figures["low"] <= figures["accuracy"]).all()
    values, said = verdicts(rows.iloc[:0], rows, at)
    assert values["C6"].value == pytest.approx(7.5, abs=0.4)
    assert values["C7"].value == pytest.approx(5.0, abs=0.4)
    values, _ = verdicts(rows.iloc[:0], rows[rows["arm"] != "0.1_4"], at)
    assert values["C6"] == values["C7"] == "not every density and number of dense epochs is trained"


def test_the_line_is_taken_out_of_every_resample():
    accuracy = pd.DataFrame([[1.0, 2, 2, 3], [1, 3, 3, 2], [5, 5, 5, 5]])
    accuracy.columns = pd.MultiIndex.from_tuples([(f"a{place}", "sft") for place in range(4)], names=WHO)
    values = 2 * accuracy + np.array([[0.0, 2, 2, 0], [0] * 4, [0, 2, 2, 0]])
    left = arms.at_matched(values, accuracy)
    assert left.to_numpy() == pytest.approx(np.array([[-1.0, 1, 1, -1], [0] * 4, [-1, 1, 1, -1]]))
    three = values.columns[:3]
    assert arms.at_matched(values[three], accuracy).isna().all(axis=None)  # a line takes all of it out
    far = pd.DataFrame({("late", "sft"): [9.0, 9, 9]}).rename_axis(columns=WHO)
    more = arms.at_matched(
        pd.concat([values, far], axis=1), pd.concat([accuracy, far], axis=1), apart=["late"]
    )
    assert more[values.columns].equals(left)
    assert more["late", "sft"].tolist() == pytest.approx([9 - 5 - 2 * 7, 9 - 4.5 - 2 * 6.75, 9 - 11 - 0])


def test_a_hybrid_that_writes_worse_than_it_ranks_is_found_with_the_number_of_its_items():
    own = {"student": "mini-hybrid-0.5B", "task": "aqua", "gap": 20.0}
    rows = [
        own | {"method": method, "seed": seed, "item_id": f"i{place}"}
        for method, seed, place in itertools.product(("sft", "fkl"), (0, 1), range(N))
    ]
    found = construction.contrasts(pd.DataFrame(), (), None, pd.DataFrame(rows), seed=SEED)
    assert (found["C10"].value, found["C10"].n) == (20.0, N)
    never = pd.DataFrame(rows).assign(gap=0.0)  # of texts of one template writing is ranking
    found = construction.contrasts(pd.DataFrame(), (), None, never, seed=SEED)
    assert found["C10"] == "every student writes the very option that it ranks first"
    one_method = pd.DataFrame(rows).query("method == 'sft'")
    found = construction.contrasts(pd.DataFrame(), (), None, one_method, seed=SEED)
    assert found["C10"] == "the hybrid by fkl is not trained, or void"
