"""Other starts and recipes: planned for notebook 11 alone, and compared with the SFT that starts alike."""

from dataclasses import replace

import pandas as pd
import pytest

from kdutils.grid import plan, profile
from kdutils.inference import intervals
from kdutils.results import protocols, recipes


def rows(method, right, *, start="base", prefix="gold", divergence="forward_kl", sft=(1, 0) * 10, **own):
    facts = {"domain": "math", "teacher": "t-2k", "student": "s-1k", "seed": 0, "decoding": "greedy"} | own
    facts |= {"student_start": start, "method": method, "prefix": prefix, "divergence": divergence}
    found = pd.DataFrame({"item_id": [f"svamp-{n}" for n in range(20)], "kd": right, "sft": sft})
    found["in_format"] = [True] * 15 + [False] * 5
    return found.assign(task="svamp", **facts)[recipes.COLUMNS]


def test_gains_are_over_the_sft_that_starts_alike():
    base = rows("fkl", [1] * 12 + [0] * 8)
    after = rows("fkl", [1] * 16 + [0] * 4, start="sft", sft=[1] * 15 + [0] * 5)
    alone = rows("revkd", [1] * 20, divergence="reverse_kl")  # does not start after SFT
    table = recipes.by_start(pd.concat([base, after, alone]))
    assert table["student_start"].tolist() == ["base", "sft"]
    assert table["strict accuracy, %"].tolist() == [60, 80]
    assert table["answer in the format, %"].tolist() == [75, 75]
    expected = intervals.difference_over_items(after["kd"] - after["sft"], after["task"])
    assert expected.value == pytest.approx(5)
    assert table["gain, points"][1] == f"+5.0 [−{-expected.low:.1f}, +{expected.high:.1f}]"
    assert recipes.by_start(pd.concat([base, alone])).empty
    assert recipes.SAMPLED_GAIN not in table


def test_the_gain_at_temperature_1_stands_beside_that_of_greedy_texts():
    base = rows("fkl", [1] * 12 + [0] * 8)
    after = rows("fkl", [1] * 16 + [0] * 4, start="sft", sft=[1] * 15 + [0] * 5)
    sampled = rows("fkl", [1] * 14 + [0] * 6, start="sft", sft=[1] * 10 + [0] * 10, decoding="sampled")
    greedy = recipes.by_start(pd.concat([base, after]))
    as_it_is = rows("fkl", [1] * 10 + [0] * 10, decoding="sampled")
    both = recipes.by_start(pd.concat([base, after, sampled, as_it_is]))
    pd.testing.assert_frame_equal(both.drop(columns=recipes.SAMPLED_GAIN), greedy)
    assert both[recipes.SAMPLED_GAIN][0].startswith("+0.0 [")
    assert both[recipes.SAMPLED_GAIN][1].startswith("+20.0 [")
    assert recipes.by_start(sampled).empty
    one = recipes.by_start(pd.concat([base, after, sampled]))  # nothing to compare it with
    pd.testing.assert_frame_equal(one, greedy)


def test_a_pair_that_starts_one_way_alone_or_lacks_a_recipe_is_left_out():
    both = [rows("fkl", [1] * 12 + [0] * 8), rows("fkl", [1] * 12 + [0] * 8, start="sft")]
    odd = rows("fkl", [1] * 20, start="sft", teacher="t-4k")
    pd.testing.assert_frame_equal(
        recipes.by_start(pd.concat([*both, odd])), recipes.by_start(pd.concat(both))
    )
    assert recipes.by_recipe(rows("kd:student+forward_kl", [1] * 20, prefix="student")).empty


def test_the_four_of_prefix_and_divergence_are_those_of_the_pairs_that_have_all():
    own = {"prefix": "student"}
    four = [
        rows("fkl", [1] * 20), rows("revkd", [0] * 20, divergence="reverse_kl"),
        rows("opd", [1] * 10 + [0] * 10, divergence="reverse_kl", **own),
        rows("kd:student+forward_kl", [1] * 5 + [0] * 15, **own),
    ]  # fmt: skip
    table = recipes.by_recipe(pd.concat([*four, rows("fkl", [0] * 20, seed=1)]))
    found = table.set_index(["prefix", "divergence"])["strict accuracy, %"].to_dict()
    assert found == {
        ("gold", "forward_kl"): 100, ("gold", "reverse_kl"): 0,
        ("student", "reverse_kl"): 50, ("student", "forward_kl"): 25,
    }  # fmt: skip
    assert recipes.by_recipe(pd.concat(four[:3])).empty


def test_a_profile_asks_for_starts_and_recipes_in_its_own_sections_alone(monkeypatch):
    smoke = profile.load_profile("smoke")
    extra = {"student_start": ("base", "sft"), "recipes": (("student", "forward_kl"),)}
    need = replace(smoke.live.needs[0], sections=("11",), methods=("fkl", "opd"), **extra)
    changed = replace(smoke, live=replace(smoke.live, needs=(*smoke.live.needs, need)))
    monkeypatch.setattr(plan, "load_profile", lambda name: changed)
    eleven = plan.plan("11", {"profile": "smoke"})
    for number in ("00", "01", "08"):
        runs = plan.plan(number, {"profile": "smoke"}).runs
        assert all(run.spec.student_start == "base" and run.spec.method != "kd" for run in runs)
    others = [run.spec for run in eleven.variants]
    found = {(spec.named_method, spec.student_start) for spec in others}
    assert found == {
        ("kd:student+forward_kl", "base"), ("sft", "base"),
        *((method, "sft") for method in ("kd:student+forward_kl", "sft", "fkl", "opd")),
    }  # fmt: skip
    assert {spec.sft_spec for spec in others} <= {*others, *(run.spec for run in eleven.runs)}
    both = replace(changed, live=replace(changed.live, decodings=("greedy", "sampled")))
    monkeypatch.setattr(plan, "load_profile", lambda name: both)
    eleven = plan.plan("11", {"profile": "smoke"})
    (sampled,) = eleven.others
    assert [run.spec for run in eleven.variants] == [run.spec for run in sampled.variants] == others
    assert {run.evaluation.temperature for run in sampled.variants} == {1.0}
    assert set(sampled.variants) <= set(eleven.to_make)
    assert recipes.read(eleven).empty and protocols.read(eleven).empty  # nothing was trained
