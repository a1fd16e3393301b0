"""Texts side by side: the rows that are drawn, and what is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdutils.data import sources
from kdutils.grid import plan
from kdutils.grid.profile import load_profile
from kdutils.grid.study import PlannedRun
from kdutils.report import html_tables
from kdutils.results import paradox
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("svamp",), items_per_task=6)
SFT = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
TEACHER = RunSpec(student="mini-qwen-1.5B", method="sft", domain="math")
PAIR = {"student": "mini-qwen-0.5B", "teacher": "mini-qwen-1.5B", "domain": "math"}
KD = RunSpec(method="revkd", **PAIR)
NOISY = RunSpec(method="fkl", noise_sigma=2.0, **PAIR)


def finish(out: Path, run: RunSpec, answers: list[str], right: list[bool]) -> None:
    """Put item rows with these answers into the store, as if the run were trained and evaluated."""
    items = sources.test_items(sources.resolved(run), EVALUATION)
    rows = pd.DataFrame(
        {
            "task": "svamp",
            "item_id": [item.id for item in items],
            "sample": 0,
            "text": [f"{run.method} of {run.student} <b>says</b> {answer}" for answer in answers],
            "answer": [item.answer for item in items],
            "parsed": answers,
            "correct": right,
        }
    )
    store.folder_of(out, sources.resolved(run).run_id).write_evaluation(EVALUATION, rows, {})


@pytest.fixture
def asked(tmp_path):
    """A plan whose KD student has 3 items in one quadrant, 1 in each of two, and 1 unparsed in the last."""
    finish(tmp_path, TEACHER, list("111111"), [True, True, True, False, False, False])
    finish(tmp_path, SFT, list("999999"), [False] * 6)
    finish(tmp_path, KD, ["1", "1", "1", "1", "2", None], [True, True, True, False, True, False])
    planned = tuple(PlannedRun(run, EVALUATION) for run in (SFT, TEACHER, KD, NOISY))
    return plan.Plan("05", load_profile("smoke"), tmp_path, planned, plan.Filter())


def test_one_of_each_outcome_with_its_own_texts(asked):
    found = paradox.examples(asked, rng=np.random.default_rng(0))
    assert list(found.columns) == ["KD student is", "question", "teacher", "SFT student", "KD student"]
    assert [text.split(" (")[0] for text in found["KD student is"]] == [
        *(paradox.QUADRANTS[key] for key in ((True, True), (True, False), (False, True), (False, False)))
    ]
    assert found["KD student is"].str.endswith("(SVAMP: mini-qwen 1.5B → 0.5B, RevKD)").all()
    assert found["teacher"].tolist() == ["sft of mini-qwen-1.5B <b>says</b> 1"] * 4
    assert found["SFT student"].tolist() == ["sft of mini-qwen-0.5B <b>says</b> 9"] * 4
    answers = [text.rsplit(" ", 1)[1] for text in found["KD student"]]
    assert answers == ["1", "1", "2", "None"]


def test_questions_are_those_of_the_items(asked):
    items = sources.test_items(sources.resolved(KD), EVALUATION)
    found = paradox.examples(asked, rng=np.random.default_rng(0))
    assert found["question"].iloc[1] == f"{items[3].question} [{items[3].answer}]"  # the only one of its kind
    assert found["question"].iloc[2] == f"{items[4].question} [{items[4].answer}]"


def test_every_method_has_its_own_four(asked, tmp_path):
    gkd = RunSpec(method="gkd", **PAIR)
    finish(tmp_path, gkd, ["2", "1", "2", "1", "1", None], [False, True, True, False, True, False])
    runs_of_both = (*asked.runs, PlannedRun(gkd, EVALUATION))
    both = plan.Plan("05", asked.profile, asked.out, runs_of_both, plan.Filter())
    found = paradox.examples(both, rng=np.random.default_rng(0))
    outcomes = [text.split(" (")[0] for text in found["KD student is"]]
    assert outcomes == 2 * list(paradox.QUADRANTS.values())
    assert found["KD student"].str.split().str[0].tolist() == ["revkd"] * 4 + ["gkd"] * 4


def test_the_generator_decides_and_nothing_else(asked):
    drawn = [paradox.examples(asked, rng=np.random.default_rng(seed)) for seed in (1, 1, *range(2, 12))]
    pd.testing.assert_frame_equal(drawn[0], drawn[1])
    assert len({tuple(table["question"]) for table in drawn}) > 1


def test_texts_are_escaped_in_the_table(asked):
    markup = html_tables.to_html(paradox.examples(asked, rng=np.random.default_rng(0)), caption="c")
    assert "&lt;b&gt;says&lt;/b&gt;" in markup
    assert "<b>" not in markup


@pytest.mark.parametrize("gone", [TEACHER, SFT, KD])
def test_a_missing_run_leaves_nothing_to_compare(asked, gone):
    folder = store.folder_of(asked.out, sources.resolved(gone).run_id)
    (folder.path / "eval" / EVALUATION.eval_id / "result.json").unlink()
    assert paradox.examples(asked, rng=np.random.default_rng(0)).empty


def test_tasks_and_domains_that_are_not_shown_give_no_rows(asked):
    narrow = plan.Plan(asked.section, asked.profile, asked.out, asked.runs, plan.Filter(tasks=("boolq",)))
    assert paradox.examples(narrow, rng=np.random.default_rng(0)).empty


def test_a_plan_that_trains_nothing_has_no_examples():
    published = plan.plan("05", {"profile": "published"})
    assert paradox.examples(published, rng=np.random.default_rng(0)).empty
