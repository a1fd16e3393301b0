"""The benefit of KD by way of adapting, on losses whose differences are planted."""

import math

import numpy as np
import pandas as pd
import pingouin
import pytest

from kdutils.claims import contrasts
from kdutils.inference import student_tests
from kdutils.results import adaptation, arms

ARMS = ("full", "lora", "lora_small")
SIZES, SEEDS, N = (16, 160, 1600), (0, 1, 2), 30


def items(loss, *, arms=ARMS, methods=("sft", "fkl", "revkd"), noise=0.02, student="S"):
    """Test items whose nll and reverse_kl are loss(arm, method, train_items), and noise."""
    rng, tables = np.random.default_rng(0), []
    of_item, of_seed = rng.normal(0, 0.3, N), rng.normal(0, 0.1, len(SEEDS))
    for arm in arms:
        for method in methods:
            for size in SIZES:
                for seed in SEEDS:
                    value = loss(arm, method, size) + of_item + of_seed[seed] + rng.normal(0, noise, N)
                    row = {"arm": arm, "method": method, "train_items": size, "seed": seed, "is_other": False}
                    names = [f"i{place}" for place in range(N)]
                    tables.append(
                        pd.DataFrame({"item_id": names, "nll": value, "reverse_kl": value}).assign(**row)
                    )
    return pd.concat(tables, ignore_index=True).assign(teacher="T", student=student, task="obqa")


def by_capacity(arm, method, size):
    """The benefit of forward KL is 0.3, 0.2 and 0.1; reverse KL costs the largest and helps the smallest."""
    benefit = {"full": 0.3, "lora": 0.2, "lora_small": 0.1}[arm]
    reverse = {"full": 0.05, "lora": 0.0, "lora_small": -0.05}[arm]
    return 2.0 - (benefit if method != "sft" else 0) + (reverse if method == "revkd" else 0)


def rng():
    return np.random.default_rng(1)


def no_runs():
    return pd.DataFrame(columns=[*arms.RUN, "is_final", "early_loss"]).astype({"is_final": bool})


def test_a_planted_interaction_is_found_and_none_is_not():
    rows = items(by_capacity)
    levels = arms.levels(rows, "nll", rng=rng())
    benefits = adaptation.benefits(levels)
    means = benefits[benefits["method"] == "fkl"].groupby("arm")["benefit"].mean()
    assert means.to_dict() == pytest.approx({"full": 0.3, "lora": 0.2, "lora_small": 0.1}, abs=0.01)
    assert (benefits["low"] < benefits["benefit"]).all()
    found = adaptation.interactions(rows, levels).set_index(["method", "arm"])
    assert found.loc[("fkl", "lora_small"), "low"] > 0.15
    assert (found["p_holm"] >= found["p_value"]).all()
    assert found["p_holm"].max() < 0.02 and set(found["n"]) == {3}
    assert adaptation.anova(rows).set_index("source").loc["arm", "p"] < 0.01
    values = adaptation.contrasts(rows, no_runs(), rng=rng())
    verdicts = {row["id"]: row["verdict"] for row in contrasts.judge("15", values)}
    assert (verdicts["AD1"], verdicts["AD3"]) == ("reproduced", "reproduced")
    assert verdicts["AD2"] in ("not_reproduced", "inconclusive")  # it is the same with every number of items
    assert verdicts["AD4"] == "not_testable"

    flat = items(lambda arm, method, size: 2.0 - 0.2 * (method != "sft") - 0.1 * (arm == "full"))
    levels = arms.levels(flat, "nll", rng=rng())
    found = adaptation.interactions(flat, levels)
    assert (found["low"] < 0).all() and (found["high"] > 0).all()
    assert found["p_holm"].min() > 0.05
    assert adaptation.anova(flat).set_index("source").loc["arm", "p"] > 0.05


def test_the_interaction_is_that_of_the_benefits_and_missing_arms_are_left_out():
    rows = items(by_capacity)
    rows = rows[(rows["arm"] != "lora") | (rows["method"] != "fkl")]  # void after forward KL
    found = adaptation.anova(rows)
    assert found["arms"].tolist() == [2, 2, 2] and found["n"].tolist() == [3, 3, 3]
    wide = rows.groupby(["seed", "train_items", "arm", "method"])["nll"].mean().unstack("method")
    benefit = (wide["sft"] - wide["fkl"]).unstack("arm")[["full", "lora_small"]]
    over_sizes = benefit.groupby("seed").mean()
    by_arm = found.set_index("source").loc["arm"]
    assert by_arm["F"] == pytest.approx(student_tests.repeated_measures(over_sizes).statistic)
    one = pingouin.ttest(over_sizes["full"], over_sizes["lora_small"], paired=True)
    assert by_arm["F"] == pytest.approx(float(one["T"].iloc[0]) ** 2)
    levels = arms.levels(rows, "nll", rng=rng())
    assert ("fkl", "lora") not in set(
        adaptation.interactions(rows, levels).set_index(["method", "arm"]).index
    )


def test_what_differs_between_numbers_of_items_alone_does_not_hide_a_difference_between_arms():
    def loss(arm, method, size):
        benefit = {"full": 0.3, "lora": 0.2, "lora_small": 0.1}[arm] * {16: 3.0, 160: 1.0, 1600: 0.5}[size]
        return 2.0 - benefit * (method != "sft")

    found = adaptation.anova(items(loss, noise=0.005)).set_index("source")["p"]
    assert found["arm"] < 0.01 and found["train_items"] < 0.01


def test_a_void_arm_of_one_student_is_left_out_of_the_analysis_and_named_in_the_contrast():
    def opposite(arm, method, size):
        return 4.0 - by_capacity(arm, method, size)

    rows = pd.concat([items(by_capacity), items(opposite, student="S2")], ignore_index=True)
    void = (rows["student"] == "S2") & (rows["arm"] == "lora_small") & (rows["method"] == "fkl")
    whole, part = (adaptation.contrasts(each, no_runs(), rng=rng()) for each in (rows, rows[~void]))
    assert whole["AD1"].value == pytest.approx(0.0, abs=0.02) and not whole["AD1"].reason
    assert part["AD1"].value == pytest.approx(0.2, abs=0.02)
    assert part["AD1"].reason == "S under T alone"
    said = {row["id"]: row["reason"] for row in contrasts.judge("15", part)}
    assert said["AD1"].endswith("(S under T alone)") and "alone" not in said["AD2"]
    found = adaptation.anova(rows[~void])
    assert found["arms"].tolist() == [2, 2, 2] and found["n"].tolist() == [6, 6, 6]
    table = adaptation.interactions(rows[~void], arms.levels(rows[~void], "nll", rng=rng()))
    students = table.set_index(["method", "arm"])["students"]
    assert (students["fkl", "lora_small"], students["fkl", "lora"]) == ("S", "S, S2")


def early(losses):
    """Final runs with these early losses by arm and method, alike in every place and nearly so in seeds."""
    rows = [
        {"teacher": "T", "student": student, "train_items": size, "seed": seed, "arm": arm, "method": method}
        | {"early_loss": loss + 1e-3 * seed * (arm == "pissa"), "is_final": True}
        for (student, arm, method), loss in losses.items()
        for size in SIZES
        for seed in SEEDS
    ]
    return pd.DataFrame(rows)


def test_budgets_are_of_the_methods_that_most_arms_have():
    rows = items(by_capacity, methods=("fkl", "sft"))
    assert arms.shared_methods(rows) == ["fkl", "sft"]
    assert arms.shared_methods(rows[(rows["arm"] != "lora") | (rows["method"] != "sft")]) == ["fkl"]
    assert arms.shared_methods(rows[:0]) == []


def test_what_begins_faster_is_compared_after_both_methods():
    apart = {"sft": 0.12, "fkl": -0.08}
    losses = {
        (student, arm, method): 1.0 + apart[method] * (arm == "pissa")
        for student in ("S", "S2")
        for arm in ("pissa", "lora")
        for method in apart
    }
    rows = items(by_capacity)
    whole = adaptation.contrasts(rows, early(losses), rng=rng())["AD6"]
    assert whole.value == pytest.approx(0.021) and whole.n == 6
    del losses["S2", "pissa", "sft"]
    part = adaptation.contrasts(rows, early(losses), rng=rng())["AD6"]
    assert part.value == pytest.approx(0.021) and part.n == 3 and part.reason == "S under T alone"
    del losses["S", "pissa", "sft"]
    assert isinstance(adaptation.contrasts(rows, early(losses), rng=rng())["AD6"], str)


def test_equal_arms_are_within_the_margin_and_others_are_not():
    def loss(arm, method, size):
        return 2.0 + {"miss": 0.001, "spt": 0.05}.get(arm, 0.0) - 0.2 * (method != "sft")

    rows = items(loss, arms=("lora", "miss", "spt"), methods=("sft", "fkl"), noise=0.01)
    verdicts = contrasts.judge("15", adaptation.contrasts(rows, no_runs(), rng=rng()))
    found = {row["id"]: row["verdict"] for row in verdicts}
    assert (found["AD7"], found["AD9"]) == ("reproduced", "not_reproduced")


def runs(losses, *, arm="lora"):
    table = pd.DataFrame({"rate": [10.0**place for place in range(len(losses))], "validation_loss": losses})
    who = {"teacher": "T", "student": "S", "method": "sft", "arm": arm, "is_trial": True}
    return table.assign(**who)


@pytest.mark.parametrize(
    ("losses", "outcome", "rate"),
    [
        ([3.0, 2.0, 1.0, 2.0, math.inf], "chosen", 100.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "void", 1.0),
        ([5.0, 4.0, 3.0, 2.0, 1.0], "void", 1e4),
        ([3.0, 2.0, 1.0, 2.0], "open", math.nan),  # the fifth is missing
        ([3.0, 2.0, math.nan, 2.0, 3.0], "open", math.nan),
        ([math.inf] * 5, "open", math.nan),
    ],
)
def test_a_rate_on_the_edge_of_the_grid_voids_the_arm(losses, outcome, rate):
    found = arms.rates(runs(losses)).iloc[0]
    assert found["outcome"] == outcome
    assert found["rate"] == pytest.approx(rate, nan_ok=True)


def test_forgetting_is_the_rise_of_the_loss_on_the_other_domain():
    rows = items(by_capacity, methods=("sft",))
    far = rows.assign(
        is_other=True, task="gsm8k", nll=rows["arm"].map({"full": 3.0, "lora": 2.5, "lora_small": 2.1})
    )
    base = far[(far["arm"] == "full") & (far["train_items"] == 16) & (far["seed"] == 0)]
    base = base.assign(nll=2.0, arm=arms.BASE, method=arms.BASE, train_items=0)
    table = pd.concat([rows, far, base, base.assign(is_other=False, task="obqa")], ignore_index=True)
    table = table.reindex(columns=[*arms.RUN, *arms.ITEM, "is_other", *arms.VALUES])
    found = arms.measures(table).set_index("arm")["forgetting"].groupby(level=0).mean()
    assert found.to_dict() == pytest.approx({"full": 1.0, "lora": 0.5, "lora_small": 0.1, arms.BASE: 0.0})


def test_without_a_study_nothing_is_claimed():
    empty = pd.DataFrame(columns=[*arms.RUN, *arms.ITEM, "is_other", *arms.VALUES])
    empty = empty.astype({"is_other": bool} | dict.fromkeys(arms.VALUES, float))
    values = adaptation.contrasts(empty, no_runs(), rng=rng())
    assert {row["verdict"] for row in contrasts.judge("15", values)} == {"not_testable"}
    levels = arms.levels(empty, "nll", rng=rng())
    for table in (
        adaptation.benefits(levels),
        adaptation.interactions(empty, levels),
        adaptation.anova(empty),
    ):
        assert table.empty
    assert arms.measures(empty).empty and arms.rates(no_runs().assign(is_trial=False, rate=[])).empty
