"""Studies of arms: every rate is tried first, then the best is trained on, but not one on the edge."""

import json
import math
from dataclasses import replace
from itertools import permutations

import pytest

from kdutils.constants import ALL_TASKS, DOMAINS
from kdutils.data import sources
from kdutils.grid import arms, plan
from kdutils.grid.profile import load_profile, profile_names
from kdutils.io import disk
from kdutils.io.toml_files import one_line_errors
from kdutils.runs import store
from kdutils.spec import RunSpec

STUDY = load_profile("adaptation").live.arm_studies[0]
QWEN = {"student": "Qwen/Qwen2.5-0.5B", "teacher": "Qwen/Qwen2.5-1.5B", "method": "fkl", "domain": "math"}
GRID = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def asked(tmp_path):
    return [run.spec for run in plan.plan("15", {"profile": "adaptation", "out": str(tmp_path)}).asked]


def test_the_second_round_is_at_the_best_rate_and_void_arms_have_none(monkeypatch, tmp_path):
    cells = arms.cells_of(STUDY)
    first = asked(tmp_path)
    assert len(first) == len(cells) * arms.N_RATES
    assert {(spec.train_items, spec.seed) for spec in first} == {(160, 0)}

    def loss(out, spec):  # the lowest at 1e-2, the last rate of some arms; SFT with all weights diverges
        if spec.adapter == "full" and spec.method == "sft":
            return math.inf
        return abs(math.log(spec.learning_rate / 1e-2))

    monkeypatch.setattr(arms, "best_loss", loss)
    second = asked(tmp_path)[len(first) :]
    assert {spec.learning_rate for spec in second} == {1e-2}
    good = [cell for cell in cells if 1e-2 in STUDY.arms[cell.arm]["learning_rate"][1:-1]]
    assert len(second) == len(good) * (len(STUDY.train_items) * len(STUDY.seeds) - 1)
    assert not {"full", "pissa"} & {spec.adapter for spec in second}
    assert {spec.train_items * spec.epochs for spec in (*first, *second)} == {STUDY.sequences}


@pytest.mark.parametrize(("select_best", "kept"), [(True, 1.0), (False, 1.5)])
def test_a_rate_is_chosen_by_the_epoch_that_is_kept(tmp_path, select_best, kept):
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math", select_best=select_best)
    place = store.folder_of(tmp_path, sources.resolved(spec).run_id).path
    place.mkdir(parents=True)
    losses = [2.0, 1.0, 1.5]
    curve = [{"epoch": 1 + epoch, "validation_loss": loss} for epoch, loss in enumerate(losses)]
    (place / "curve.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in curve))
    assert math.isnan(arms.best_loss(tmp_path, spec))
    for status, expected in (("trained", kept), ("diverged", math.inf)):
        disk.write_json(place / "result.json", disk.sealed({"layout": store.LAYOUT, "status": status}))
        assert arms.best_loss(tmp_path, spec) == expected


def test_all_students_of_a_pair_have_one_teacher_trained_in_full_on_the_most_items(monkeypatch, tmp_path):
    monkeypatch.setattr(arms, "best_loss", lambda out, spec: abs(math.log(spec.learning_rate / 1e-3)))
    runs = list(arms.runs_of(STUDY, load_profile("adaptation").live, tmp_path))
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
        ({"arms": STUDY.arms | {"full": {"learning_rate": []}}}, r"arm 'full' has learning_rate=\[\]"),
        ({"settings": {"teacher_epochs": 3}}, "settings has teacher_epochs=3, but all arms have one teacher"),
        ({"arms": STUDY.arms | {"full": {"teacher_items": 9}}}, "full has teacher_items=9, but all arms"),
        ({"train_items": (16, 160, 1500)}, "sequences=1600 are no whole epochs of 1500 train_items"),
        ({"arms": {"lora": {"learning_rate": GRID}}}, "crossings name the arm 'full', which is none of"),
    ],
)
def test_a_study_that_compares_unlike_things_is_refused(changes, message):
    with pytest.raises(ValueError, match=message), one_line_errors():
        replace(STUDY, **changes)


def test_the_lowest_loss_is_chosen_and_only_of_all_rates():
    assert arms.chosen([3.0, math.inf, 1.0, 2.0, 2.0]) == 2
    assert arms.chosen([3.0, math.nan, 1.0, 2.0, 2.0]) is None
    assert arms.chosen([math.inf] * 5) is None


def test_an_arm_without_rates_has_the_models_own_and_no_trials(tmp_path):
    crossing = {"arms": ["plain", "twice"], "methods": ["sft"], "pairs": [("T", "mini-qwen-0.5B")]}
    own = {"arms": {"plain": {}, "twice": {"epochs": 20}}, "train_items": (160,), "crossings": [crossing]}
    study = replace(STUDY, **own)
    runs = list(arms.runs_of(study, load_profile("adaptation").live, tmp_path))
    assert [(run.is_trial, run.is_final, run.spec.learning_rate) for run in runs] == [(False, True, None)] * 4
    assert [run.spec.epochs for run in runs] == [10, 10, 20, 20]


def test_an_arm_without_rates_may_have_one_that_is_set_for_all(tmp_path):
    live = load_profile("training").live
    in_turn = [study for study in live.arm_studies if "first_domain" in study.settings]
    runs = [run for study in in_turn for run in arms.runs_of(study, live, tmp_path)]
    assert (
        {run.spec.learning_rate for run in runs}
        == {run.spec.start_spec.learning_rate for run in runs}
        == {1e-3}
    )
    assert {run.teacher.learning_rate for run in runs} == {None}


def test_students_adapted_in_any_way_can_share_the_lora_teacher_of_other_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(arms, "best_loss", lambda out, spec: math.nan)
    live = load_profile("qwen-students").live
    need = RunSpec(**live.settings_of(domain="math", protocol="careful", method="fkl") | QWEN)
    runs = [run for study in live.arm_studies for run in arms.runs_of(study, live, tmp_path)]
    assert {run.teacher for run in runs} == {need.teacher_spec}
    assert {run.spec.adapter for run in runs} == {"lora", "pissa", "miss", "id3", "full"}
    assert {(run.spec.epochs, run.is_trial) for run in runs} == {(1, True), (2, False)}
    assert all(run.spec.teacher_spec == run.teacher for run in runs if run.spec.teacher)


def test_an_arm_with_one_rate_is_trained_at_it(tmp_path):
    crossing = {"arms": ["fast"], "methods": ["sft"], "pairs": [("T", "mini-qwen-0.5B")]}
    study = replace(STUDY, arms={"fast": {"learning_rate": 0.5}}, crossings=[crossing])
    runs = list(arms.runs_of(study, load_profile("adaptation").live, tmp_path))
    assert {(run.is_trial, run.is_final, run.spec.learning_rate) for run in runs} == {(False, True, 0.5)}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"learning_rates": GRID}, "no field 'learning_rates'"),
        ({"adapter": "lora", "lora_rank": [4, 8]}, r"lora_rank=\[4, 8\] must be a valid integer"),
    ],
)
def test_an_arm_with_fields_that_a_run_cannot_have_is_refused(tmp_path, arm, message):
    study = replace(STUDY, arms=STUDY.arms | {"full": arm})
    with pytest.raises(ValueError, match=message):
        list(arms.runs_of(study, load_profile("adaptation").live, tmp_path))


def test_two_studies_of_one_name_are_refused():
    live = load_profile("adaptation").live
    with pytest.raises(ValueError, match="two studies of arms have the name 'adapters'"), one_line_errors():
        replace(live, arm_studies=(STUDY, STUDY))


@pytest.mark.parametrize("profile", [name for name in profile_names() if load_profile(name).live])
def test_every_profile_with_such_studies_can_be_planned(profile, tmp_path):
    for study in load_profile(profile).live.arm_studies:
        asked = plan.plan(study.section, {"profile": profile, "out": str(tmp_path)}).asked
        assert {run.spec.domain for run in asked} >= {study.domain}


def test_students_of_two_domains_their_starts_and_first_teachers_are_evaluated_on_both(tmp_path):
    asked = plan.plan("17", {"profile": "training", "out": str(tmp_path)}).asked
    domains = {}
    for run in asked:
        domains.setdefault(run.spec, set()).add(ALL_TASKS[run.evaluation.tasks[0]].domain)
    second = [spec for spec in domains if spec.first_domain]
    assert {(spec.first_domain, spec.domain) for spec in second} == set(permutations(DOMAINS))
    for spec in second:
        assert domains[spec] == set(DOMAINS)
        assert spec.first_domain in domains[spec.start_spec]
        if spec.teacher:
            assert spec.first_domain in domains[spec.start_spec.teacher_spec]
