"""The paradox item by item: groups that are whole, changes by hand, planted truths, and what is undefined."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import sacrebleu

from kdutils.constants import METHOD_NAMES
from kdutils.data import evaluate, sources
from kdutils.grid import plan
from kdutils.grid.profile import load_profile
from kdutils.grid.study import PlannedRun
from kdutils.report import plots
from kdutils.results import agreement_fidelity, paradox, solution_steps
from kdutils.runs import store
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("svamp",), items_per_task=6)
SFT = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
TEACHER = RunSpec(student="mini-qwen-1.5B", method="sft", domain="math")
KD = RunSpec(student="mini-qwen-0.5B", teacher="mini-qwen-1.5B", method="fkl", domain="math")


def finish(out, run, answers, texts):
    items = sources.test_items(sources.resolved(run), EVALUATION)
    rows = pd.DataFrame({"task": "svamp", "item_id": [item.id for item in items], "sample": 0, "text": texts})
    rows["answer"] = [item.answer for item in items]
    rows["parsed"] = [
        item.answer if own == "right" else own for own, item in zip(answers, items, strict=True)
    ]
    rows["correct"] = [own == "right" for own in answers]
    rows["truncated"] = False
    store.folder_of(out, sources.resolved(run).run_id).write_evaluation(EVALUATION, rows, {})


@pytest.fixture
def asked(tmp_path):
    """Items 0 to 5: became right, stayed right, stayed wrong alike, became wrong, teacher wrong twice."""
    teacher = [f"they have {i} in all" for i in range(6)]
    finish(tmp_path, TEACHER, ["right"] * 4 + ["-1", "-1"], teacher)
    finish(tmp_path, SFT, ["-2", "right", "-2", "right", "-1", "-2"], ["something else"] * 6)
    finish(tmp_path, KD, ["right", "right", "-2", "-3", "-1", "right"], [teacher[0], *["something else"] * 5])
    planned = tuple(
        PlannedRun(run, EVALUATION) for run in (SFT, TEACHER, KD, dataclasses.replace(KD, seed=1))
    )
    return plan.Plan("05", load_profile("smoke"), tmp_path, planned, plan.Filter())


def test_every_text_has_one_outcome_and_one_fate(asked):
    rows = paradox.texts(asked)
    assert rows["method"].value_counts().to_dict() == {"fkl": 6, "sft": 6}
    kd = rows[rows["method"] == "fkl"]
    right, other = ["both_right"] * 2, ["only_teacher"] * 2
    assert kd["outcome"].tolist() == [*right, *other, "same_wrong", "only_student"]
    fates = paradox.changes(rows)["fate"].tolist()
    assert fates == ["became_right", "stayed_right", "stayed_wrong", "became_wrong", *["teacher_wrong"] * 2]
    assert set(paradox.OUTCOMES) == set(agreement_fidelity.ANSWERS)


def test_change_is_against_the_same_text_of_the_teacher(asked):
    rises = paradox.changes(paradox.texts(asked))
    assert rises["bleu"].tolist() == pytest.approx([100.0, 0, 0, 0, 0, 0])
    assert rises["rouge_l"].iloc[0] == pytest.approx(100.0)


def test_groups_hold_all_items_and_nothing_else(asked):
    rows = paradox.texts(asked)
    table = paradox.by_group(rows, "outcome", paradox.OUTCOMES, rng=np.random.default_rng(0))
    n = table[table["measure"] == "bleu"].groupby("method")["n"].sum()
    assert n.to_dict() == {"fkl": 6, "sft": 6}
    kd = table[(table["method"] == "fkl") & (table["measure"] == "bleu")].set_index("group")
    assert kd.loc["both_right", "estimate"] == pytest.approx(50.0)
    assert np.isnan(kd.loc["other_wrong", "estimate"])
    assert kd.loc["other_wrong", "reason"] == paradox.NONE
    assert np.isnan(kd.loc["only_student", "low"])  # one text
    assert "nothing to draw" in kd.loc["only_student", "reason"]


def planted(rng, *, extra, n=120, pairs=4):
    """Rises of KD: items became right or stayed wrong; the first rose by `extra` more; one task is harder."""
    rows = []
    for pair in range(pairs):
        for task, share, level in (("svamp", 0.8, 10.0), ("gsm8k", 0.1, -10.0)):
            became = rng.random(n) < share
            for i, right in enumerate(became):
                rise = level + extra * right + rng.normal(0, 3)
                fate = "became_right" if right else "stayed_wrong"
                where = {"method": "gkd", "teacher": "t", "student": f"s{pair}", "seed": 0, "task": task}
                rows.append(
                    where | {"item_id": f"{task}{i}", "fate": fate} | dict.fromkeys(paradox.MEASURES, rise)
                )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("extra", [0.0, 5.0])
def test_contrasts_find_what_was_planted_within_tasks(extra):
    rises = planted(np.random.default_rng(1), extra=extra)
    crude = rises.groupby("fate")["bleu"].mean()
    assert crude["became_right"] - crude["stayed_wrong"] > extra + 8  # easy tasks rise more, whatever happens
    table = paradox.contrasts(rises, rng=np.random.default_rng(2))
    row = table[(table["than"] == "stayed_wrong") & (table["measure"] == "bleu")].iloc[0]
    assert row["low"] < extra < row["high"]
    assert row["estimate"] == pytest.approx(extra, abs=1.0)
    assert (row["low"] > 0) == (extra > 0)
    undefined = table[table["than"] == "stayed_right"].iloc[0]
    assert np.isnan(undefined["estimate"])
    assert "both kinds" in undefined["reason"]


def test_following_is_read_by_method_and_fate(asked):
    rows = paradox.texts(asked)
    rows["text"] = ["Nina has 3 + 4 = 7 coins. The answer is 7."] * 6 + [
        *["Nina has 3 + 4 = 7 coins. The answer is 8."] * 3, "Nina has 3 + 4 = 9 coins.", "none", "none"
    ]  # fmt: skip
    table = solution_steps.followed(rows, paradox.changes(rows), rng=np.random.default_rng(0))
    first, second = rows["method"].map(METHOD_NAMES).unique()
    table = table[table["group"] == "all texts"].set_index("student")
    shares = table[["checkable, %", "follows, %", "right steps, %"]].map(lambda text: text.split(" ")[0])
    assert shares.loc[first].tolist() == ["100.0", "100.0", "100.0"]
    assert shares.loc[second].tolist() == ["50.0", "0.0", "75.0"]
    assert table.loc[second, "checkable, %"].startswith("50.0 [")
    assert table["texts"].tolist() == [6, 6]
    rows["text"] = "none"
    nothing = solution_steps.followed(rows, paradox.changes(rows), rng=np.random.default_rng(0))
    assert nothing.loc[0, "checkable, %"].startswith("0.0")
    assert nothing.loc[0, ["follows, %", "right steps, %"]].tolist() == ["—", "—"]


def test_shares_of_errors_are_whole(asked):
    rows = paradox.texts(asked)
    found = solution_steps.errors(asked, rows, task="svamp", rng=np.random.default_rng(0))
    wide = solution_steps.error_shares(found)
    assert wide.sum(axis=1).tolist() == pytest.approx([100.0, 100.0])
    assert list(wide.columns) == list(solution_steps.CATEGORIES)
    assert wide.loc["SeqKD†", ["right", "no_step"]].tolist() == pytest.approx([50.0, 50.0])
    assert set(plots.ERROR_STYLE) == set(solution_steps.CATEGORIES)
    assert {name: style.label for name, style in plots.LIKENESS_STYLE.items()} == paradox.MEASURES


def test_a_plan_without_live_runs_has_no_texts():
    published = plan.plan("05", {"profile": "published"})
    rows = paradox.texts(published)
    assert rows.empty
    assert {"outcome", "task", "domain", *paradox.MEASURES} <= set(rows)


def test_likeness_is_of_each_pair_in_order():
    texts = [
        "He has 3 + 4 = 7 apples. The answer is 7.",
        "",
        "a",
        "He has 3 + 4 = 7 apples. The answer is 7.",
    ]
    others = ["He has 3 + 5 = 8 apples. The answer is 8.", "a word", "a", "a"]
    found = paradox.likeness(texts, others)
    metric = sacrebleu.BLEU(effective_order=True)
    pairs = list(zip(texts, others, strict=True))
    assert found["bleu"].tolist() == [metric.sentence_score(text, [other]).score for text, other in pairs]
    assert found["rouge_l"].tolist() == [100 * evaluate.rouge_l(text, other) for text, other in pairs]
    assert found["wording"][0] == pytest.approx(100.0) and found["bleu"][0] < 100.0
    assert all(len(values) == 0 for values in paradox.likeness([], []).values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("They have 24 + 10 = 34 pens in all. The answer is 34.", "They have 0 + 0 = 0 pens in all."),
        ("It is 1,200.5 or -3. the answer is C. More", "It is 0 or -0."),
        ("no number", "no number"),
    ],
)
def test_words_are_left_without_numbers_and_answer(text, words):
    assert paradox.wording(text) == words
