"""Where a student starts: the model as it is, its SFT, matrices that are shrunk and perturbed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from kdutils import models
from kdutils.data import sources
from kdutils.grid import dry_run, fill
from kdutils.grid.jobs import Shard, jobs_of
from kdutils.grid.study import PlannedRun
from kdutils.noise import key_of, seeded
from kdutils.runs import experiment, store, students
from kdutils.runs.inputs import Inputs
from kdutils.runs.store import Store
from kdutils.spec import RunSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_study(tmp_path_factory.mktemp("study"))


def a_spec(folder, method="fkl", **fields):
    teacher = {} if method in ("sft", "base") else {"teacher": str(folder / "tiny-40k")}
    fields = {"epochs": 1, "weight_decay": 0.0} | teacher | fields
    return tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), method=method, **fields)


def weights(model):
    return {name: w.detach().clone() for name, w in model.network.named_parameters()}


def begun(spec, out):
    """The student of a run before its first step."""
    spec = sources.resolved(spec)
    return students.student_to_train(Inputs.of(spec, None), Store(out))


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_two_students_start_from_one_sft_run_with_exactly_its_weights(folder, tmp_path, adapter):
    specs = [a_spec(folder, each, student_start="sft", adapter=adapter) for each in ("sft", "fkl", "revkd")]
    runs = [experiment.run(spec, out=tmp_path, evaluation=tiny.EVALUATION) for spec in specs]
    start = runs[1].spec.start_spec
    assert {run.spec.start_spec.run_id for run in runs} == {start.run_id}
    assert start.run_id == sources.resolved(a_spec(folder, "sft", adapter=adapter)).run_id
    assert len(list(store.finished(tmp_path))) == 5  # with the start and the teacher
    assert {run.spec.sft_spec.run_id for run in runs} == {runs[0].spec.run_id}
    stored = students.load_trained(start, store.folder_of(tmp_path, start.run_id))
    own = begun(runs[1].spec, tmp_path)
    assert all(torch.equal(w, weights(stored)[name]) for name, w in weights(own).items())
    trained = {name for name, w in own.network.named_parameters() if w.requires_grad}
    assert trained == {name for name in weights(own) if adapter == "full" or "lora" in name}
    losses = {}
    for run_id in (start.run_id, runs[0].spec.run_id):
        lines = (store.folder_of(tmp_path, run_id).path / "curve.jsonl").read_text().splitlines()
        losses[run_id] = json.loads(lines[0])["loss"]
    assert losses[runs[0].spec.run_id] < losses[start.run_id]  # SFT goes on where it was
    again = students.load_trained(runs[1].spec, runs[1].folder)
    assert not all(torch.equal(w, weights(stored)[name]) for name, w in weights(again).items())
    card = (runs[1].folder.model / "README.md").read_text()
    assert "after SFT and then token forward KL" in card and "- `student_start`: sft" in card


def test_shrink_one_and_perturb_zero_change_nothing_and_other_values_are_the_definition(folder, tmp_path):
    plain = a_spec(folder, seed=3)
    before, same = weights(models.load(plain.student)), weights(begun(plain, tmp_path))
    assert all(torch.equal(w, same[name]) for name, w in before.items())
    found = weights(begun(replace(plain, shrink=0.4, perturb=0.1), tmp_path))
    with seeded(key_of(3, "fresh")):
        fresh = models.load(plain.student).causal
        fresh = type(fresh)(fresh.config)
    name = "model.layers.1.mlp.up_proj.weight"
    drawn = dict(fresh.named_parameters())[name].detach().numpy()
    assert drawn.std() == pytest.approx(0.02, rel=0.1)  # as the configuration says
    by_hand = np.float32(0.4) * before[name].numpy() + np.float32(0.1) * drawn
    np.testing.assert_allclose(found[name].numpy(), by_hand, rtol=1e-5, atol=1e-8)
    assert all(torch.equal(w, found[each]) for each, w in before.items() if w.ndim == 1)
    again = weights(begun(replace(plain, shrink=0.4, perturb=0.1), tmp_path))
    assert torch.equal(again[name], found[name])
    assert not torch.equal(weights(begun(replace(plain, seed=4, perturb=0.1), tmp_path))[name], found[name])


def test_a_plan_makes_and_counts_the_start_once_and_the_baseline_is_sft_continued(folder, tmp_path, inline):
    specs = [a_spec(folder, method, student_start="sft") for method in ("fkl", "revkd")]
    planned = [PlannedRun(spec, tiny.EVALUATION) for spec in (*specs, specs[0].sft_spec)]
    jobs = jobs_of(planned)
    start = sources.resolved(specs[0]).start_spec.run_id
    assert len(jobs) == 5 and list(jobs[start].needs) == []
    assert [job.needs[start] for run_id, job in jobs.items() if job.needs] == ["start"] * 3
    assert [cell.spec.run_id for cell in dry_run.cells_of(planned, tmp_path)].count(start) == 1
    assert len(dry_run.cells_of(planned, tmp_path)) == 5
    own = Shard(1, 5).jobs(jobs)
    assert all(needed in own for job in own.values() for needed in job.needs)
    assert "5 made" in str(fill.fill(planned, tmp_path, workers=1))
    assert all(cell.status == "done" for cell in dry_run.cells_of(planned, tmp_path))


def test_a_start_that_failed_is_named_with_its_reason(folder, tmp_path, inline, monkeypatch):
    planned = [PlannedRun(a_spec(folder, "sft", student_start="sft"), tiny.EVALUATION)]
    start = sources.resolved(planned[0].spec).start_spec.run_id

    def fails(*arguments, **options):
        raise RuntimeError("no luck")

    monkeypatch.setattr(experiment.training, "train", fails)
    state = fill.fill(planned, tmp_path, workers=1)
    (reason,) = (each for run_id, each in state.failures.items() if run_id != start)
    assert reason == f"its start {start} failed: RuntimeError: no luck"
    assert fill.costs(planned, tmp_path)["reason"].tolist() == [reason]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"method": "base", "student_start": "sft"}, "student_start='sft' has no effect with method 'base'"),
        ({"method": "base", "shrink": 0.5}, "shrink=0.5 has no effect with method 'base'"),
        ({"adapter": "lora", "perturb": 0.1}, "perturb=0.1 has no effect with adapter='lora': use one of"),
        ({"adapter": "lora", "frozen": "mlp"}, "frozen='mlp' has no effect with adapter='lora': use one of"),
        ({"method": "base", "frozen": "mlp"}, "frozen='mlp' has no effect with method 'base'"),
        ({"shrink": 0.0}, "shrink=0.0 must be greater than or equal to 0.001"),
        ({"perturb": 1.5}, "perturb=1.5 must be less than or equal to 1"),
    ],
)
def test_starts_without_effect_or_out_of_range_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        RunSpec(**{"student": "o/s-1B", "method": "sft", "domain": "math"} | fields)


def test_teachers_and_starts_begin_with_the_model_as_it_is():
    spec = RunSpec(
        student="o/s-1B", teacher="o/t-7B", method="opd", domain="math", data="items",
        student_start="sft", shrink=0.5, perturb=0.1, frozen="mlp",
    )  # fmt: skip
    assert spec.start_spec == RunSpec(student="o/s-1B", method="sft", domain="math", data="items")
    assert spec.teacher_spec == RunSpec(student="o/t-7B", method="sft", domain="math", data="items")
    changed = spec.sft_spec.changes().items() - spec.start_spec.changes().items()
    assert dict(changed) == {"student_start": "sft", "shrink": 0.5, "perturb": 0.1, "frozen": "mlp"}
