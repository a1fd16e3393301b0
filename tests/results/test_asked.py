"""Item rows of all that a plan asks again, with what tells its runs and evaluations apart."""

from dataclasses import replace

import pytest

from kdutils.data import options
from kdutils.grid import plan, profile
from kdutils.results import asked
from kdutils.runs import experiment

TABLES = ({"temperature": [0.0, 1.0], "samples": 2}, {"scoring": ["label", "cloze_pmi"], "rotation": [0, 1]})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    need = profile.Need(
        sections=("12",), methods=("fkl",), domains=("math",), temperatures=(1.0, 2.0), evaluations=TABLES
    )  # fmt: skip
    live = profile.Live(
        data="mini", models=("mini-qwen-0.5B", "mini-qwen-1.5B"), needs=(need,), sft_seeds=(0,),
        items_per_task=2, evaluation={"max_new_tokens": 4},
        settings={"train_items": 8, "validation_items": 0, "epochs": 1, "batch_size": 8},
    )  # fmt: skip
    whole = replace(profile.load_profile("smoke"), live=live)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "load_profile", lambda name: whole)
        planned = plan.plan("12", {"profile": "smoke", "out": str(tmp_path_factory.mktemp("out"))})
    for run in planned.asked[:-1]:
        experiment.run(run.spec, evaluation=run.evaluation, out=planned.out)
    return planned, asked.read(planned)


def test_rows_are_those_of_every_finished_run_and_evaluation(found):
    planned, rows = found
    assert list(rows)[: len(asked.OF_RUN)] == list(asked.OF_RUN)
    per_item = rows.groupby(["run_id", "eval_id", "task", "item_id"])["sample"].nunique()
    assert set(per_item) == {1, 2}
    assert rows.groupby(["run_id", "eval_id"]).ngroups == len(planned.asked) - 1
    assert not rows.duplicated(["run_id", "role", "eval_id", "item_id", "sample"]).any()
    roles = rows.groupby("role")[["student", "teacher", "method"]].agg(lambda column: set(column.dropna()))
    small, large = "mini-qwen-0.5B", "mini-qwen-1.5B"
    assert roles.loc["kd"].tolist() == [{small}, {large}, {"fkl"}]
    assert roles.loc["sft"].tolist() == [{small}, set(), {"sft"}]
    assert roles.loc["teacher"].tolist() == [{large}, set(), {"sft"}]
    assert roles.loc["base"].tolist() == [{small, large}, set(), {"base"}]
    kd = rows[rows["role"] == "kd"]
    assert set(kd["divergence_temperature"]) == {1.0, 2.0}
    assert "train_items" not in rows  # the same in all
    assert set(zip(rows["temperature"], rows["scoring"], rows["rotation"], strict=True)) == {
        (0.0, "generation", 0), (1.0, "generation", 0),
        *((0.0, scoring, rotation) for scoring in ("label", "cloze_pmi") for rotation in (0, 1)),
    }  # fmt: skip


def test_a_rotated_item_is_the_same_item_with_its_options_elsewhere(found):
    _, rows = found
    rows = rows[rows["scoring"].eq("cloze_pmi") & rows["role"].eq("sft")].set_index(["rotation", "item_id"])
    for item in rows.loc[0].index:
        plain, moved = rows.loc[(0, item)], rows.loc[(1, item)]
        assert [plain["texts"][place] for place in moved["contents"]] == list(moved["texts"])
        gold = [row["texts"][list(row["options"]).index(row["answer"])] for row in (plain, moved)]
        assert gold[0] == gold[1]
        assert plain["answer"] != moved["answer"]
        assert list(moved["options"]) == list("ABCDE")
    assert options.n_ordered("aqua") == 5


def test_tasks_that_are_not_shown_are_left_out_and_no_runs_are_no_rows(found, tmp_path):
    planned, rows = found
    shown = asked.read(replace(planned, shown=replace(planned.shown, tasks=("svamp",))))
    assert len(shown) == (rows["task"] == "svamp").sum() > 0
    assert asked.read(replace(planned, out=tmp_path)).empty
