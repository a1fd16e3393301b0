"""Runs that start from another run: on a first domain, or from SFT on other items than their own."""

import json
from dataclasses import replace

import ownstudy
import pytest
import tiny
import torch

from kdutils.data import sources
from kdutils.grid import dry_run, fill
from kdutils.grid.jobs import jobs_of
from kdutils.grid.study import PlannedRun
from kdutils.items import DataError, fingerprint
from kdutils.results import forgetting
from kdutils.runs import experiment, store, students
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import DamagedError, Store
from kdutils.spec import EvalSpec, RunSpec

HOW = {"items_per_task": 4, "max_new_tokens": 16}
FIRST, SECOND = EvalSpec(tasks=("addsub",), **HOW), EvalSpec(tasks=("boolq", "piqa"), **HOW)


def a_spec(method="fkl", **fields):
    teacher = {} if method == "sft" else {"teacher": "mini-qwen-1.5B"}
    short = {"train_items": 24, "validation_items": 6, "epochs": 1, "batch_size": 8}
    own = {"student": "mini-qwen-0.5B", "method": method, "domain": "commonsense", "first_domain": "math"}
    return RunSpec(**own | teacher | short | fields)


def alone(spec, domain="math"):
    """The same on one domain, as the model is."""
    plain = {"first_domain": "", "replay_share": 0.0, "penalty": "", "penalty_strength": 0.0}
    return replace(spec, domain=domain, **plain)


def weights(model):
    return {name: w.detach().clone() for name, w in model.network.named_parameters()}


def test_the_second_domain_is_learned_by_the_student_of_the_first_with_a_teacher_of_its_own(tmp_path, begun):
    spec = a_spec(penalty="intervals", penalty_strength=1.0, replay_share=0.25)
    run = experiment.run(spec, out=tmp_path, evaluation=SECOND)
    start, teacher, plain = run.spec.start_spec, run.spec.teacher_spec, alone(spec, "commonsense")
    assert start.run_id == sources.resolved(alone(spec)).run_id
    assert teacher.run_id == sources.resolved(plain).teacher_spec.run_id
    assert begun == [each.run_id for each in (run.spec, teacher, start, start.teacher_spec)]
    stored = students.load_trained(start, store.folder_of(tmp_path, start.run_id))
    inputs = Inputs.of(run.spec, SECOND)
    own = students.student_to_train(inputs, Store(tmp_path))
    assert all(torch.equal(w, weights(stored)[name]) for name, w in weights(own).items())
    after = students.load_trained(run.spec, run.folder)
    assert not torch.equal(next(iter(weights(after).values())), next(iter(weights(stored).values())))
    assert "after training on math items and then" in (run.folder.model / "README.md").read_text()
    replayed = sources.load_items(replace(start, train_items=6), "train")
    assert list(inputs.items.train) == [*sources.load_items(sources.resolved(plain), "train"), *replayed]
    assert run.result["fingerprint"] == fingerprint(inputs.items.train)
    assert {item.task for item in replayed}.isdisjoint(item.task for item in inputs.items.validation)
    path = next(store.folder_of(tmp_path, start.run_id).model.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError):
        students.student_to_train(inputs, Store(tmp_path))


def test_a_plan_makes_every_run_of_the_chain_and_forgetting_is_read_from_it(tmp_path, inline):
    spec, baseline = a_spec(), a_spec("sft")
    asked = [(each, how) for each in (spec, baseline, alone(spec)) for how in (FIRST, SECOND)]
    asked += [(alone(baseline), FIRST)]
    planned = [PlannedRun(*each) for each in asked]
    jobs = jobs_of(planned)
    resolved = sources.resolved(spec)
    start = resolved.start_spec
    assert jobs[start.run_id].needs == {start.teacher_spec.run_id: "teacher"}
    assert jobs[start.teacher_spec.run_id].is_teacher
    assert len(jobs) == len(dry_run.cells_of(planned, tmp_path)) == 6
    assert "6 made" in str(fill.fill(planned, tmp_path, workers=1))
    assert all(cell.status == "done" for cell in dry_run.cells_of(planned, tmp_path))
    runs = [(each, start.teacher_spec) for each in (resolved, sources.resolved(baseline))]
    found = forgetting.read(tmp_path, runs, {"math": FIRST, "commonsense": SECOND})
    assert found["method"].tolist() == ["fkl", "sft"]
    rows = store.folder_of(tmp_path, start.run_id).evaluation(FIRST)
    assert found["before"][0] == 100 * rows["correct"].mean()
    assert found[forgetting.MEASURES].notna().all(axis=None)


def test_the_domains_of_a_study_file_may_follow_each_other(tmp_path):
    path = ownstudy.write_study(tmp_path, notebooks=["01_effectiveness"], sections=["01"])
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    for task in ("legs", "largest"):
        own = "".join(line for line in lines if f'"task": "{task}"' in line)
        (tmp_path / f"{task}_train.jsonl").write_text(own)
    text = path.read_text().split("[domains.counting]")[0].replace('"counting"', '"d_legs"')
    for task in ("legs", "largest"):
        text += f'[domains.d_{task}]\ntrain = "{task}_train.jsonl"\ntasks = ["{task}"]\n'
    path.write_text(text)
    data = {"data": "study-file", "study_file": str(path), "domain": "d_legs", "first_domain": "d_largest"}
    spec = sources.resolved(a_spec("sft", replay_share=0.25, validation_items=4, **data))
    items = sources.Splits(spec, None).train
    assert [item.task.split("?")[0] for item in items] == ["legs"] * 24 + ["largest"] * 6
    keys = tuple(dict.fromkeys(item.task for item in items))
    for each in (spec, spec.start_spec):
        found = sources.test_items(each, EvalSpec(tasks=keys, items_per_task=5))
        assert [item.task for item in found] == [keys[0]] * 5 + [keys[1]] * 5


def test_replayed_items_have_ids_of_their_own(monkeypatch):
    whole = sources.load_items
    monkeypatch.setattr(
        sources,
        "load_items",
        lambda spec, split: [replace(x, id=str(row)) for row, x in enumerate(whole(spec, split))],
    )
    with pytest.raises(DataError, match="two items with the id '0': give those of 'math' other ids"):
        list(sources.Splits(a_spec(replay_share=0.25), None).train)


def test_a_run_is_evaluated_again_when_test_items_change(tmp_path):
    path = ownstudy.write_study(tmp_path, notebooks=["01_effectiveness"], sections=["01"])
    data = {"domain": "counting", "data": "study-file", "study_file": str(path)}
    spec = RunSpec(student="mini-qwen-0.5B", method="base", **data)
    task = sources.default_evaluation(sources.resolved(spec)).tasks[0]
    asked = EvalSpec(tasks=(task,), items_per_task=3, max_new_tokens=4)

    def answers():
        return experiment.run(spec, out=tmp_path / "out", evaluation=asked).items["answer"].tolist()

    before, file = answers(), tmp_path / "legs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(each | {"answer": "7"}) + "\n" for each in lines))
    assert before != answers() == ["7"] * 3


def test_the_first_of_two_domains_must_have_other_items(tmp_path):
    root = tiny.save_study(tmp_path)
    spec = tiny.spec(str(root / "tiny-20k"), str(root / "data"), first_domain="commonsense")
    with pytest.raises(DataError, match="has the items of 'math'"):
        sources.resolved(spec)


def test_an_sft_start_is_trained_on_its_own_items(tmp_path):
    fields = {"start_items": 12, "start_epochs": 2, "start_wrong_share": 1.0, "student_start": "sft"}
    spec = a_spec(domain="math", first_domain="", **fields)
    run = experiment.run(spec, out=tmp_path, evaluation=FIRST)
    start = run.spec.start_spec
    own = replace(alone(a_spec("sft")), train_items=12, epochs=2, wrong_rationale_share=1.0)
    assert start.run_id == sources.resolved(own).run_id
    items = sources.load_items(own, "train")
    facts = store.folder_of(tmp_path, start.run_id).result()
    assert (facts["fingerprint"], facts["steps"], len(items)) == (fingerprint(items), 4, 12)
    plain = sources.load_items(replace(own, wrong_rationale_share=0.23), "train")
    assert [item.question for item in items] == [item.question for item in plain]
    assert [item.response for item in items] != [item.response for item in plain]
    assert run.result["steps"] == 3


def test_wrong_rationales_of_the_second_domain_do_not_concern_the_first():
    spec = a_spec("sft", domain="math", first_domain="commonsense", wrong_rationale_share=0.5)
    assert sources.resolved(spec).start_spec == sources.resolved(alone(a_spec("sft"), "commonsense"))


def test_a_start_with_more_items_than_there_are_is_refused_before_work(tmp_path):
    root = tiny.save_study(tmp_path)
    spec = tiny.spec(str(root / "tiny-20k"), str(root / "data"), student_start="sft", start_items=99)
    with pytest.raises(DataError, match="start_items=99, but .* holds 24"):
        experiment.run(spec, out=tmp_path / "out", evaluation=tiny.EVALUATION)
    assert not (tmp_path / "out").exists()
