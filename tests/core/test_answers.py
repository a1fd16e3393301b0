"""Answers of a student: evaluations that differ in decoding alone are made together, as if made alone."""

import shutil
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest

from kdutils import generation, models
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.runs import answers, experiment, store
from kdutils.runs.inputs import Inputs
from kdutils.spec import EvalSpec, RunSpec

GREEDY = EvalSpec(tasks=("svamp", "aqua"), items_per_task=4, max_new_tokens=16)
SAMPLED = replace(GREEDY, temperature=1.0)
SAME_PROMPTS = [
    GREEDY,
    SAMPLED,
    replace(GREEDY, temperature=1.3, samples=3),
    replace(SAMPLED, top_p=0.8),
    replace(SAMPLED, seed=4),
]
OTHERS = [  # each by itself
    replace(GREEDY, items_per_task=3),
    replace(SAMPLED, max_new_tokens=9),
    replace(GREEDY, tasks=("aqua",), rotation=2),
    EvalSpec(tasks=("aqua",), items_per_task=4, scoring="label"),
    EvalSpec(tasks=("aqua",), items_per_task=4, scoring="likelihood"),
]

CLOZES = [
    EvalSpec(tasks=("aqua",), items_per_task=4, scoring=f"cloze_{own}")
    for own in ("per_character", "pmi", "sum")
]


@pytest.fixture(scope="module")
def spec():
    return sources.resolved(RunSpec(student="mini-qwen-0.5B", method="base", domain="math"))


def test_those_on_the_same_prompts_are_together(spec):
    mixed = [OTHERS[0], *SAME_PROMPTS[:2], *OTHERS[1:], *SAME_PROMPTS[2:]]
    groups = answers.together([Inputs.of(spec, each) for each in mixed])
    found = [[each.evaluation for each in group] for group in groups]
    assert found == [[OTHERS[0]], SAME_PROMPTS, *([each] for each in OTHERS[1:])]
    assert len(answers.together([Inputs.of(spec, each) for each in [*CLOZES, *OTHERS[-2:]]])) == 3


def test_answers_made_together_are_those_made_alone_and_no_prompt_is_read_twice(spec, tmp_path, monkeypatch):
    several = [*SAME_PROMPTS, *CLOZES]
    alone = {each: experiment.run(spec, out=tmp_path / "alone", evaluation=each) for each in several}
    n_read, whole = Counter(), generation.Decoder.read_prompts

    def counted(step):
        n_read["prompts"] += len(step.prompt_BT)
        return whole(step)

    monkeypatch.setattr(generation.Decoder, "read_prompts", counted)
    experiment.make(spec, [*several, *OTHERS, *SAME_PROMPTS], tmp_path / "together")
    folder = store.folder_of(tmp_path / "together", spec.run_id)
    for each, run in alone.items():
        pd.testing.assert_frame_equal(folder.evaluation(each), run.items)
    assert all(folder.evaluation(each) is not None for each in OTHERS)
    # 8 prompts once, for 8 x (1 + 1 + 3 + 1 + 1) texts; 4 for all clozes, and 4 without a question, which
    # are one; of the others 6, 8 and 4, and 4 for each scoring.
    assert n_read["prompts"] == 8 + (4 + 1) + 6 + 8 + 4 + 4 + 4


def test_the_likeliest_tokens_along_the_responses_are_stored_with_every_text(spec, tmp_path):
    experiment.make(spec, SAME_PROMPTS[:3], tmp_path)
    folder = store.folder_of(tmp_path, spec.run_id)
    greedy, _, thrice = (folder.evaluation(each) for each in SAME_PROMPTS[:3])
    tokens = {row.item_id: list(row.top1) for row in greedy.itertuples()}
    assert len({tuple(own) for own in tokens.values()}) == len(greedy) == 8
    assert [list(own) for own in thrice["top1"]] == [tokens[item] for item in thrice["item_id"]]


def test_a_student_whose_weights_are_stored_rounded_is_evaluated_as_it_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "LARGE_PARAMETERS", 1_000)
    compute = Compute(cpu_bfloat16=True)
    own = {"train_items": 48, "validation_items": 0, "epochs": 1, "batch_size": 8}
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math", **own)
    asked = EvalSpec(tasks=("addsub", "aqua"), items_per_task=12, max_new_tokens=32)
    run = experiment.run(spec, out=tmp_path, evaluation=asked, compute=compute)
    shutil.rmtree(run.folder.path / "eval")
    again = experiment.run(spec, out=tmp_path, evaluation=asked, compute=compute)
    pd.testing.assert_frame_equal(again.items, run.items)
