"""Options ranked by likelihood, from a run to the cells, and by other scores and in other orders."""

import math

import numpy as np
import pandas as pd
import pytest

from kdutils import encoding, models
from kdutils.constants import DOMAIN_TASKS
from kdutils.data import sources
from kdutils.data.options import n_ordered, options
from kdutils.grid import cell_table, fill
from kdutils.grid.study import PlannedRun
from kdutils.items import Item
from kdutils.runs import experiment, ranking, store
from kdutils.spec import EvalSpec, RunSpec

NAME = "mini-qwen-0.5B"


@pytest.mark.parametrize(
    ("domain", "has_average"),
    [("math", False), ("commonsense", True)],  # of math only AQuA has options
)
def test_ranked_accuracies_reach_the_cells(tmp_path, domain, has_average):
    spec = sources.resolved(RunSpec(student=NAME, method="base", domain=domain))
    evaluation = EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=6, max_new_tokens=4)
    planned = [PlannedRun(spec, evaluation), PlannedRun(spec, evaluation.ranking())]
    state = fill.fill(planned, tmp_path, workers=1)
    assert (state.n_runs, state.n_done, state.failures) == (1, 1, {})
    cells = cell_table.cell_table(cell_table.rows_of(tmp_path, evaluation, [spec])).set_index("task")
    rows = store.folder_of(tmp_path, spec.run_id).evaluation(evaluation.ranking())
    shares = 100 * rows.groupby("task")["correct"].mean()
    assert set(shares.index) == set(evaluation.ranking().tasks)
    for task in evaluation.tasks:
        expected = shares.get(task, math.nan)
        assert cells.loc[task, "accuracy_ranked"] == pytest.approx(expected, nan_ok=True)
    expected = shares.mean() if has_average else math.nan
    assert cells.loc["average", "accuracy_ranked"] == pytest.approx(expected, nan_ok=True)
    assert cells["accuracy_ranked_normalised"].notna().equals(cells["accuracy_ranked"].notna())
    assert cells["n_clean"].eq(cells["n"]).all()  # generated questions are not in the training set


def test_rows_hold_the_likelihood_of_every_option(tmp_path):
    spec = RunSpec(student=NAME, method="base", domain="commonsense")
    evaluation = EvalSpec(tasks=("boolq", "siqa"), items_per_task=3, scoring="likelihood")
    rows = experiment.run(spec, out=tmp_path, evaluation=evaluation).items
    model = models.load(NAME)
    for item in sources.test_items(spec, evaluation):
        row = rows[rows["item_id"] == item.id].iloc[0]
        (prompt,) = encoding.prompt_ids([item.question], model.tokenizer)
        texts = model.tokenizer(list(options(item).values()), add_special_tokens=False)["input_ids"]
        (expected,) = ranking.option_logprobs(model, [prompt], [texts])
        assert row["logprobs"] == pytest.approx(expected, abs=1e-3)
        assert row["parsed"] == row["options"][row["logprobs"].argmax()]


def test_only_tasks_with_options_can_be_ranked():
    with pytest.raises(ValueError, match=r"task 'gsm8k' has no options to rank"):
        EvalSpec(tasks=("aqua", "gsm8k"), scoring="likelihood")
    for own in (
        {"max_new_tokens": 5},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "samples": 2},
    ):
        with pytest.raises(ValueError, match="have no effect with scoring='likelihood'"):
            EvalSpec(tasks=("aqua",), scoring="likelihood", **own)
    assert EvalSpec(tasks=("gsm8k", "dolly")).ranking() is None
    assert EvalSpec(tasks=("gsm8k", "aqua"), items_per_task=7).ranking() == EvalSpec(
        tasks=("aqua",), items_per_task=7, scoring="likelihood"
    )


# --- other scores, other orders ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return models.load(NAME)


def asked_so(tasks, scoring, rotation=0):
    evaluation = EvalSpec(tasks=tasks, items_per_task=5, scoring=scoring, rotation=rotation)
    spec = RunSpec(student=NAME, method="base", domain="commonsense")
    return sources.test_items(spec, evaluation), [evaluation]


def logprobs(model, tasks, scoring):
    (rows,) = ranking.ranked(model, *asked_so(tasks, scoring), "alpaca")
    return [value for row in rows for value in row["logprobs"]]


def test_each_score_is_what_it_says(model):
    tasks = ("siqa", "boolq")
    (rows,) = ranking.ranked(model, *asked_so(tasks, "cloze_sum"), "alpaca")
    texts, sums = [text for row in rows for text in row["texts"]], logprobs(model, tasks, "cloze_sum")
    assert {"true", "false"} < set(texts)
    assert not any("answer1" in text for text in texts)
    (bare,) = encoding.prompt_ids([""], model.tokenizer)
    ids = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    (without,) = ranking.option_logprobs(model, [bare], [ids])
    pmi = [value - own for value, own in zip(sums, without, strict=True)]
    assert logprobs(model, tasks, "cloze_pmi") == pytest.approx(pmi, abs=1e-3)
    by_character = [value / len(text) for value, text in zip(sums, texts, strict=True)]
    assert logprobs(model, tasks, "cloze_per_character") == pytest.approx(by_character, abs=1e-4)
    whole, label = (
        np.array(logprobs(model, tasks[:1], name)).reshape(5, 3) for name in ("likelihood", "label")
    )
    assert (label > whole).all()  # without what stands before it
    assert whole - whole[:, :1] == pytest.approx(label - label[:, :1], abs=1e-3)


def test_without_a_question_there_is_no_mutual_information(model):
    item = Item(id="x", task="boolq", question="", answer="true")
    evaluation = EvalSpec(tasks=("boolq",), scoring="cloze_pmi")
    ((row,),) = ranking.ranked(model, [item], [evaluation], "alpaca")
    assert row["logprobs"] == pytest.approx([0.0, 0.0], abs=1e-5)


def test_labels_that_share_tokens_are_scored_by_the_rest(model, monkeypatch):
    prompts, ids = [], []
    monkeypatch.setattr(
        ranking.options,
        "options",
        lambda item, scoring: {"a": "light shade salt", "b": "light shade air green"},
    )
    monkeypatch.setattr(ranking.options, "rank", lambda *_, **__: {})
    monkeypatch.setattr(
        ranking,
        "option_logprobs",
        lambda _, heads, own: (prompts.extend(heads), ids.extend(own), [[0.0, 0.0]])[2],
    )
    items, evaluation = asked_so(("siqa",), "label")
    ranking.ranked(model, items[:1], evaluation, "alpaca")
    assert model.tokenizer.decode(prompts[0]).split()[-2:] == ["light", "shade"]
    assert [model.tokenizer.decode(each).split() for each in ids[0]] == [["salt"], ["air", "green"]]


def test_a_label_that_all_others_begin_with_is_scored_by_its_last_token(model, monkeypatch):
    ids = []
    offered = {"a": "light shade", "b": "light shade air"}
    monkeypatch.setattr(ranking.options, "options", lambda item, scoring: offered)
    monkeypatch.setattr(ranking.options, "rank", lambda *_, **__: {})
    monkeypatch.setattr(ranking, "option_logprobs", lambda _, heads, own: (ids.extend(own), [[0.0, 0.0]])[1])
    items, evaluations = asked_so(("siqa",), "label")
    ranking.ranked(model, items[:1], evaluations, "alpaca")
    assert [model.tokenizer.decode(each).split() for each in ids[0]] == [["shade"], ["shade", "air"]]


def test_accuracies_of_ranked_options_are_there_and_say_nothing_of_texts(tmp_path):
    evaluation = EvalSpec(tasks=("siqa",), items_per_task=4, scoring="label")
    spec = RunSpec(student=NAME, method="base", domain="commonsense")
    (row,) = experiment.run(spec, out=tmp_path, evaluation=evaluation).accuracies.to_dict("records")
    assert row["n"] == 4 and math.isnan(row["truncated"]) and math.isnan(row["unparsed"])


@pytest.mark.parametrize("task", ["arc_e", "piqa", "siqa"])
def test_a_rotation_changes_nothing_for_who_is_blind_to_order_and_all_for_who_sees_nothing_else(
    model, monkeypatch, task
):
    def chosen(scoring, scores):
        monkeypatch.setattr(
            ranking, "option_logprobs", lambda _, __, options: [scores(own) for own in options]
        )
        found = []
        for rotation in range(n_ordered(task)):
            (rows,) = ranking.ranked(model, *asked_so((task,), scoring, rotation), "alpaca")
            for row in rows:
                place = row["options"].index(row["parsed"])
                found.append((row["item_id"], row["contents"][place], row["correct"], row["rotation"]))
        return pd.DataFrame(found, columns=["item", "content", "correct", "rotation"])

    blind = chosen("cloze_sum", lambda own: [-float(sum(ids)) for ids in own])
    assert (blind.groupby("item")[["content", "correct"]].nunique() == 1).all(axis=None)
    first = chosen("label", lambda own: [-float(place) for place in range(len(own))])
    assert (first.groupby("item")["content"].nunique() == n_ordered(task)).all()
    assert (first.groupby("item")["correct"].sum() == 1).all()
