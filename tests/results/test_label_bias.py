"""Label bias on rows whose biases are known: an order-blind scorer, a label-blind one, and both between."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from labelrows import LABELS, drawn, of_a_pair, rows_of

from kdutils.data import sources
from kdutils.grid import plan
from kdutils.grid.profile import load_profile
from kdutils.grid.study import PlannedRun
from kdutils.report.ledger import CLAIM_CHOICES
from kdutils.results import item_gains, label_bias, label_cells, label_sequences
from kdutils.spec import EvalSpec, RunSpec


def test_log_probabilities_are_those_of_the_labels_alone():
    rows = label_bias.of_labels(rows_of("sft", (0.3, -0.2), 1.0))
    assert scipy.special.logsumexp(label_bias.logprobs(rows), axis=1) == pytest.approx(0)
    mixed = pd.concat([rows, label_bias.of_labels(rows_of("sft", (0, 0, 0, 0), 1.0, task="obqa"))])
    table = label_bias.logprobs(mixed)
    assert np.isnan(table[: len(rows), 2:]).all() and np.isfinite(table[len(rows) :]).all()


def test_the_prior_is_found_and_an_order_blind_model_has_none():
    prior = np.array([0.8, 0.1, -0.4, -0.5])
    rows = label_bias.of_labels(rows_of("sft", prior, 1.0, task="obqa"))
    free = label_bias.without_prior(rows)
    assert rows["correct"].mean() < 1 and free["correct"].all()
    blind = label_bias.of_labels(rows_of("sft", np.zeros(4), 1.0, task="obqa"))
    assert label_bias.without_prior(blind)["parsed"].equals(blind["parsed"])  # rotating it changes nothing
    pair = of_a_pair(("fkl", prior, 1.0), task="obqa")
    found = label_bias.labels(pair).set_index(["who", "label"])["prior"]
    assert found["fkl"].to_numpy() == pytest.approx(100 * scipy.special.softmax(prior))
    assert found["teacher"].to_numpy() == pytest.approx([25] * 4)


def test_the_prior_of_several_models_is_the_mean_of_theirs():
    methods = {"base": "", "sft": "", "fkl": "mini-s-3k"}
    even = [rows_of(name, (0, 0), 1.0, student="mini-s-2k", teacher=own) for name, own in methods.items()]
    sure = of_a_pair(("fkl", (math.log(49), 0.0), 1.0))
    both = pd.concat([sure, label_bias.of_labels(pd.concat(even, ignore_index=True))], ignore_index=True)
    found = label_bias.labels(both).set_index(["who", "label"])["prior"]
    assert found["fkl"].to_numpy() == pytest.approx([74, 26])  # of 98 and 50 %


def test_same_label_and_same_option_tell_bias_from_knowledge():
    _, found = drawn(of_a_pair(("fkl", (2.0, 0.0), 1.0), ("revkd", (0.0, 0.0), 1.0)))
    assert found["same_label"][0].tolist() == [100, 0]
    assert found["same_option"][0].tolist() == [0, 100]
    assert np.isnan(drawn(of_a_pair(("fkl", (2.0, 0.0), 1.0), task="boolq"))[1]["same_label"]).all()


def test_a_share_of_none_or_all_questions_has_the_exact_interval():
    pair = of_a_pair(("fkl", (2.0, 0.0), 1.0), n=30)
    shown = label_bias.by_who(*drawn(pair), list(label_bias.SHARES)).set_index(["quantity", "who"])
    least = 100 * 0.025 ** (1 / 30)
    assert shown.loc[("same_label", "fkl"), ["low", "high"]].tolist() == pytest.approx([least, 100])
    assert shown.loc[("same_option", "fkl"), ["low", "high"]].tolist() == pytest.approx([0, 100 - least])
    assert shown["n"].tolist() == [1] * len(shown)


def test_a_shifted_criterion_is_no_change_of_sensitivity_and_has_the_log_linear_correction():
    knows = 1 + 1.5 * scipy.stats.norm.ppf((np.arange(40) + 0.5) / 40)
    rows = of_a_pair(("fkl", (1.0, 0.0), knows), sft=((0.0, 0.0), knows))
    keys, found = drawn(rows)
    hits, false = ((rows["place"] == 0) & (rows["method"] == "fkl") & own for own in (
        rows["answer"] == "solution1", rows["answer"] == "solution2"
    ))  # fmt: skip
    z = [scipy.stats.norm.ppf((each.sum() + 0.5) / 41) for each in (hits, false)]
    assert found["criterion"][0] == pytest.approx(-(z[0] + z[1]) / 2)
    assert found["sensitivity"][0] == pytest.approx((z[0] - z[1]) / 2)
    assert abs(found["d_criterion"][0, 0]) > 3 * abs(found["d_sensitivity"][0, 0])
    always = drawn(of_a_pair(("fkl", (9.0, 0.0), 0.0)))[1]
    assert np.isfinite(always["criterion"]).all() and always["criterion"][0, 0] < -2
    assert np.isnan(drawn(of_a_pair(("fkl", (0, 0, 0, 0), 1.0), task="obqa"))[1]["criterion"]).all()


def test_contrasts_by_hand():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(200, 2))
    own = {"n": 200, "noise": noise, "sft": ((2.0, 0.0), 0.5), "teacher": ((0.5, 0.0), 1.5)}
    keys, found = drawn(of_a_pair(("fkl", (0.5, 0.0), 0.5), ("revkd", (2.0, 0.0), 1.5), **own))
    values = label_bias.contrast_values(keys, found)
    far, near = scipy.special.softmax([2.0, 0.0])[0], scipy.special.softmax([0.5, 0.0])[0]
    fkl = found["prior_distance"][0, keys.keys["method"] == "fkl"][0]
    assert fkl == pytest.approx(0, abs=1e-6)
    assert values["B1"].value == pytest.approx(100 * (far - near), abs=1e-6)
    assert values["B1"].low > 1
    asked = keys.keys.assign(raw=found["agreement"][0], free=found["agreement_free"][0])
    assert values["B3"].value == pytest.approx((asked["raw"] - asked["free"]).mean())
    assert values["B4"].value in (-1.0, 1.0)
    alone = label_bias.contrast_values(*drawn(of_a_pair(("fkl", (0.5, 0.0), 0.5))))
    assert alone["B4"].reason == "one method"
    empty = label_bias.compared(of_a_pair())
    assert set(label_bias.contrast_values(*label_bias.resampled(empty, rng=rng)).values()) == {
        "no KD student was scored by label beside its teacher"
    }


def test_students_count_the_same_however_many_teachers_they_have():
    parts = [
        of_a_pair(("fkl", (2.0, 0.0), 0.5)),
        rows_of("base", (0, 0), 0.0, student="mini-s-2k"),
        rows_of("sft", (0, 0), 0.5, student="mini-s-2k"),
        rows_of("fkl", (0, 0), 0.5, student="mini-s-2k", teacher="mini-s-3k"),
        rows_of("sft", (0, 0), 0.5, student="mini-s-4k"),
        rows_of("fkl", (0, 0), 0.5, student="mini-s-2k", teacher="mini-s-4k"),
    ]
    rows = label_bias.of_labels(pd.concat(parts, ignore_index=True))
    keys, found = drawn(rows)
    assert len(keys.keys) == 3
    assert label_bias.mean(keys, found["same_label"]).value == 50
    shown = label_bias.by_who(keys, found, ["same_label", "gain"]).set_index(["quantity", "who"])
    assert shown["n"].tolist() == [2] * 5
    assert shown["value"].to_dict() == {
        ("same_label", "base"): 100, ("same_label", "sft"): 50, ("same_label", "fkl"): 50,
        ("same_label", "teacher"): 0, ("gain", "fkl"): 0,
    }  # fmt: skip


def test_students_are_compared_also_where_no_model_was_asked_as_it_is():
    rows = of_a_pair(("fkl", (2.0, 0.0), 0.5))
    whole, without = (drawn(own)[1] for own in (rows, rows[rows["method"] != "base"].reset_index(drop=True)))
    assert (
        {name for name in whole if name not in without}
        == {name for name in whole if "_base" in name}
        != set()
    )
    assert all(np.array_equal(without[name], whole[name], equal_nan=True) for name in without)
    assert set(label_bias.who(rows[rows["method"] != "base"])["who"]) == {"sft", "fkl", label_bias.TEACHER}


def test_recency_and_order_of_a_sequence_made_for_it():
    n = 300
    answers, knows = np.zeros(n), np.zeros((n, 2))
    rng, streak = np.random.default_rng(2), 0
    for at in range(1, n):  # the logit of the label just said falls by 0.2 for each time in a row
        last = int(answers[at - 1])
        streak = streak + 1 if at > 1 and answers[at - 2] == last else 1
        logit = -0.2 * streak + 0.3 * rng.normal()
        knows[at] = np.where(np.arange(2) == last, logit, 0.0)
        answers[at] = last if logit > 0 else 1 - last
    labels = LABELS["boolq"]
    made = rows_of("fkl", (0, 0), 0.0, task="boolq", teacher="mini-s-3k", n=n)
    made["logprobs"] = [list(row) for row in knows]
    others = of_a_pair(task="boolq", n=n)
    rows = label_bias.of_labels(pd.concat([others, made], ignore_index=True))
    slope = label_sequences.recency(rows).set_index("who").loc["fkl"]
    assert slope["low"] < -0.2 < slope["high"] < 0
    table = label_sequences.markov(rows).set_index("who")
    places = rows.loc[rows["method"] == "fkl", "place"].to_numpy()
    counts = pd.crosstab(places[:-1], places[1:]).to_numpy()
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    assert table.loc["fkl", "G2 / df"] == pytest.approx(2 * (counts * np.log(counts / expected)).sum())
    assert table.loc["fkl", ["rejected", "sequences"]].tolist() == [100, 1]
    assert table.loc["right answers", "G2 / df"] > 100  # true, false, true, ...
    assert labels[places[5]] == rows.loc[rows["method"] == "fkl", "parsed"].iloc[5]


def test_one_shot_at_every_temperature():
    rows = of_a_pair(("fkl", (1.0, 0.0), 0.0))
    found = label_bias.one_shot(rows, [0.5, 1.0]).set_index(["who", "temperature"])
    assert found.loc[("fkl", 0.5), "share"] == pytest.approx(100 * scipy.special.expit(2.0))
    assert found.loc[("fkl", 1.0), ["share", "gold"]].tolist() == pytest.approx([73.1059, 50], abs=1e-3)


def test_an_item_without_its_own_order_is_refused():
    rows = rows_of("sft", (0, 0), 1.0)
    with pytest.raises(ValueError, match="rotation=0"):
        label_bias.of_labels(rows[rows["rotation"] > 0])


def test_cells_and_items_are_those_of_the_answers_in_the_own_order(tmp_path):
    own = {"train_items": 200, "domain": "commonsense"}
    sft, tuned = (RunSpec(student=f"mini-qwen-{size}", method="sft", **own) for size in ("0.5B", "3B"))
    fkl = RunSpec(student="mini-qwen-0.5B", teacher="mini-qwen-3B", method="fkl", **own)
    evaluation = EvalSpec(tasks=("piqa", "boolq"), scoring="label")
    runs = tuple(PlannedRun(spec, evaluation) for spec in (sft, tuned, fkl))
    asked = plan.Plan("14", load_profile("smoke"), tmp_path, (), plan.Filter(), asked=runs)
    models = {sft: ((2.0, 0.0), 0.5), tuned: ((0.0, 0.0), 1.0), fkl: ((0.0, 3.0), 0.5)}
    parts = [
        rows_of(spec.method, *model, task=task).assign(run_id=sources.resolved(spec).run_id, contaminated="")
        for spec, model in models.items()
        for task in evaluation.tasks
    ]
    rows = label_bias.of_labels(pd.concat(parts, ignore_index=True))
    table = label_cells.cells(asked, rows).set_index(["decoding", "method", "student", "task"]).sort_index()
    assert set(table.index.unique("decoding")) == set(label_cells.WAYS) <= set(CLAIM_CHOICES["decoding"])
    said, free = (table.loc[(way, "fkl", "mini-qwen-0.5B")] for way in label_cells.WAYS)
    assert said["accuracy"].tolist() == [50, 50, 50]
    assert free["accuracy"].tolist() == [100, 100, 100]
    assert said.loc["piqa", ["agreement", "agreement_sft", "n"]].tolist() == [50, 50, 40]
    assert free.loc["piqa", ["agreement", "agreement_sft"]].tolist() == [100, 100]
    assert said.loc["average", "n"] == 80
    assert said.loc["average", "accuracy_se"] == pytest.approx(said.loc["piqa", "accuracy_se"] / 2**0.5)
    items = label_cells.items(asked, rows, "label")
    gains = item_gains.gains(items.scored).set_index("task")["difference"]
    assert gains.to_dict() == {"boolq": 0, "piqa": 0, "average": 0}
    assert items.beside.groupby("method")["value"].mean().to_dict() == {"fkl": 0.5, "sft": 0.5}
