"""Options ranked by likelihood, from a run to the cells."""

import math

import pytest

from kdutils import encoding, generation, models
from kdutils.constants import DOMAIN_TASKS
from kdutils.data import sources
from kdutils.data.options import options
from kdutils.grid import cell_table, fill
from kdutils.runs import experiment, store
from kdutils.spec import EvalSpec, PlannedRun, RunSpec

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
        (expected,) = generation.option_logprobs(model, [prompt], [texts])
        assert row["logprobs"] == pytest.approx(expected, abs=1e-3)
        assert row["parsed"] == row["options"][row["logprobs"].argmax()]


def test_only_tasks_with_options_can_be_ranked():
    with pytest.raises(ValueError, match=r"task 'gsm8k' has no options to rank"):
        EvalSpec(tasks=("aqua", "gsm8k"), scoring="likelihood")
    with pytest.raises(ValueError, match="have no effect with scoring='likelihood'"):
        EvalSpec(tasks=("aqua",), scoring="likelihood", max_new_tokens=5)
    assert EvalSpec(tasks=("gsm8k", "dolly")).ranking() is None
    assert EvalSpec(tasks=("gsm8k", "aqua"), items_per_task=7).ranking() == EvalSpec(
        tasks=("aqua",), items_per_task=7, scoring="likelihood"
    )
