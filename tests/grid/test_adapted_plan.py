"""The study of adapters: every rate is tried first, then the best is trained on, but not one on the edge."""

import math
from dataclasses import replace

import pytest

from kdutils.grid import adaptation, plan
from kdutils.grid.profile import load_profile
from kdutils.io.toml_files import one_line_errors

STUDY = load_profile("adaptation").live.adaptation
GRID = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def asked(tmp_path):
    return [run.spec for run in plan.plan("15", {"profile": "adaptation", "out": str(tmp_path)}).asked]


def test_the_second_round_is_at_the_best_rate_and_void_arms_have_none(monkeypatch, tmp_path):
    cells = adaptation.cells_of(STUDY)
    first = asked(tmp_path)
    assert len(first) == len(cells) * adaptation.N_RATES
    assert {(spec.train_items, spec.seed) for spec in first} == {(160, 0)}

    def loss(out, spec):  # the lowest at 1e-2, the last rate of some arms; SFT with all weights diverges
        if spec.adapter == "full" and spec.method == "sft":
            return math.inf
        return abs(math.log(spec.learning_rate / 1e-2))

    monkeypatch.setattr(adaptation, "best_loss", loss)
    second = asked(tmp_path)[len(first) :]
    assert {spec.learning_rate for spec in second} == {1e-2}
    good = [cell for cell in cells if 1e-2 in STUDY.arms[cell.arm]["learning_rate"][1:-1]]
    assert len(second) == len(good) * (len(STUDY.train_items) * len(STUDY.seeds) - 1)
    assert not {"full", "pissa"} & {spec.adapter for spec in second}
    assert {spec.train_items * spec.epochs for spec in (*first, *second)} == {STUDY.sequences}


def test_all_students_of_a_pair_have_one_teacher_trained_in_full_on_the_most_items(monkeypatch, tmp_path):
    monkeypatch.setattr(adaptation, "best_loss", lambda out, spec: abs(math.log(spec.learning_rate / 1e-3)))
    runs = list(adaptation.runs_of(load_profile("adaptation").live, tmp_path))
    teachers = {(run.cell.teacher, run.teacher) for run in runs}
    assert len(teachers) == len({run.cell.teacher for run in runs}) == 1
    assert {run.spec.teacher_spec for run in runs} == {None, *(teacher for _, teacher in teachers)}
    for _, teacher in teachers:
        assert (teacher.adapter, teacher.train_items, teacher.epochs) == ("full", 1600, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": STUDY.arms | {"full": {"learning_rate": GRID[1:]}}}, "give 5, each half a decade"),
        ({"arms": STUDY.arms | {"full": {"learning_rate": [*GRID[:4], 1.0]}}}, "give 5, each half a decade"),
        ({"arms": STUDY.arms | {"full": {}}}, r"arm 'full' has learning_rate=\[\]"),
        ({"train_items": (16, 160, 1500)}, "sequences=1600 are no whole epochs of 1500 train_items"),
        ({"arms": {"lora": {"learning_rate": GRID}}}, "crossings name the arm 'full', which is none of"),
    ],
)
def test_a_study_that_compares_unlike_things_is_refused(changes, message):
    with pytest.raises(ValueError, match=message), one_line_errors():
        replace(STUDY, **changes)


def test_the_lowest_loss_is_chosen_and_only_of_all_rates():
    assert adaptation.chosen([3.0, math.inf, 1.0, 2.0, 2.0]) == 2
    assert adaptation.chosen([3.0, math.nan, 1.0, 2.0, 2.0]) is None
    assert adaptation.chosen([math.inf] * 5) is None
