"""Two processes with parts of one student make what one process makes, but for the order of sums."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import inline
import pandas as pd
import psutil
import pytest
import tiny
import together
import torch
from heads import network_of
from safetensors.torch import load_file
from together import Case

from kdutils import encoding, models
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.devices import fsdp, launch
from kdutils.grid import fill
from kdutils.grid.jobs import jobs_of
from kdutils.grid.study import PlannedRun
from kdutils.process_group import ALONE
from kdutils.runs import answers, experiment, store
from kdutils.runs.inputs import Inputs
from kdutils.spec import EvalSpec, RunSpec
from kdutils.teacher import States

EVALUATION = EvalSpec(tasks=("addsub",), max_new_tokens=24)
# What one process and two may differ by. Measured: losses by 2e-7 of their size, weights by 5e-6.
LOSS, WEIGHT = 1e-5, 2e-5


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tiny.save_study(tmp_path_factory.mktemp("models"))
    tiny.save_model(root / "untied-20k", kind="llama", tied=False, seed=3)
    shutil.copytree(root / "tiny-20k", root / "bias-20k")
    network_of("phi").save_pretrained(root / "bias-20k")
    return root


@pytest.fixture(scope="module")
def cases(study):
    """Seventeen items in batches of eight: every third step has one row, so one process has none."""

    def of(method, student="tiny-20k", **fields):
        own = {"method": method, "train_items": 17, "epochs": 1, "devices": 2}
        if method != "sft":
            own |= {"teacher": str(study / "tiny-40k"), "teacher_tuned": False}
        if method == "gkd":
            own |= {"max_new_tokens": 12}
        return sources.resolved(tiny.spec(str(study / student), str(study / "data"), **own | fields))

    sft = of("sft", select_best=True, epochs=2)
    noisy = of("fkl", noise_sigma=1.0, temperature=2.0)
    own = of("gkd", on_policy_share=1.0, rollout_steps=2)
    return {
        "sft": Case(sft, answers=True),
        "fkl": Case(noisy, {"micro_batch_rows": 3}),
        "fkl, states kept": Case(noisy, {"micro_batch_rows": 3}, reads_states=True),
        "revkd": Case(of("revkd", protocol="paper")),
        "gkd": Case(of("gkd", on_policy_share=0.5, epochs=2), reads_states=True),
        "gkd, own samples": Case(own),
        "lora": Case(of("fkl", adapter="lora", lora_dropout=0.0), answers=True),
        "untied": Case(of("revkd", "untied-20k"), {"pass_tokens": 0}),
        "bias": Case(of("fkl", "bias-20k")),
        "sft again": Case(sft, stops_at=4),
        "gkd, own samples again": Case(own, stops_at=2),
        "sft damaged": Case(sft, stops_at=4, damages="state-1.safetensors"),
        "sft from one": Case(sft, stops_at=4),
        "sft for one": Case(sft, stops_at=4, goes_on=False),
        "dies": Case(of("revkd"), dies_at=2),
    }


class Fitted(NamedTuple):
    weights: dict[str, torch.Tensor]
    curve: list[dict]
    warnings: list[dict]
    said: list | None


class Apart(NamedTuple):
    """What two processes made."""

    root: Path
    fitted: dict[str, Fitted]
    end: Exception  # of the last case


@pytest.fixture(scope="module")
def apart(cases, tmp_path_factory):
    """Every case, by one pair of processes."""
    root = tmp_path_factory.mktemp("together")
    interrupted_alone(cases["sft from one"], root / "sft from one")
    with pytest.raises(launch.RankError) as end:
        together.run(root, cases)
    fitted = {}
    for name in cases:
        if (root / name / "told.json").exists():
            told = json.loads((root / name / "told.json").read_text())
            weights = load_file(root / name / "weights.safetensors")
            fitted[name] = Fitted(weights, told["outcome"]["curve"], told["warnings"], told["said"])
    return Apart(root, fitted, end.value)


def interrupted_alone(case, folder):
    together.stop(case, ALONE, folder)


def alone(case, folder):
    """What this process makes of a case."""
    student, outcome, warnings = together.fit(case, ALONE, folder)
    said = together.answered(student, case.spec) if case.answers else None
    return Fitted(together.whole_weights(student, ALONE), outcome.curve, warnings, said)


def curve(entries, key):
    return [entry[key] for entry in entries if key in entry]


def assert_alike(one, two):
    """Equal but for the order of sums."""
    for key in ("loss", "grad_norm", "validation_loss"):
        assert curve(two.curve, key) == pytest.approx(curve(one.curve, key), rel=LOSS)
    for key in ("step", "n_tokens", "on_policy", "learning_rate", "epoch"):
        assert curve(two.curve, key) == curve(one.curve, key)
    assert two.weights.keys() == one.weights.keys()
    for key, w in one.weights.items():
        assert torch.allclose(two.weights[key], w, rtol=1e-3, atol=WEIGHT), key


STRAIGHT = ("sft", "fkl", "fkl, states kept", "revkd", "gkd", "gkd, own samples", "lora", "untied")


@pytest.mark.parametrize("name", STRAIGHT)
def test_two_processes_make_what_one_makes(cases, apart, tmp_path, name):
    one, two = alone(cases[name], tmp_path), apart.fitted[name]
    assert_alike(one, two)
    if cases[name].answers:  # what a divided student says
        assert two.said[:2] == one.said[:2]
        assert two.said[2] == [pytest.approx(own, rel=LOSS) for own in one.said[2]]


def test_a_divided_head_with_a_bias_trains_as_a_whole_one(cases, apart, tmp_path):
    one, two = alone(cases["bias"], tmp_path), apart.fitted["bias"]
    assert "lm_head.bias" in two.weights
    for fitted in (one, two):  # a constant in all keys changes nothing: AdamW makes steps of its rounding
        for name in [name for name in fitted.weights if name.endswith("k_proj.bias")]:
            del fitted.weights[name]
    assert_alike(one, two)


def test_a_divided_teacher_says_what_a_whole_one_says(cases, apart, tmp_path):
    alone(cases["fkl, states kept"], tmp_path)
    whole, divided = (States(root / "states").open() for root in (tmp_path, apart.root / "fkl, states kept"))
    ids = [item.id for item in sources.load_items(cases["fkl"].spec, "train")]
    assert torch.equal(divided.hidden_NH(ids), whole.hidden_NH(ids))
    assert torch.equal(divided.head("cpu").weight_VH, whole.head("cpu").weight_VH)


@pytest.mark.parametrize("name", ["sft", "gkd, own samples"])
def test_interrupted_and_resumed_is_bit_equal(apart, name):
    straight, resumed = apart.fitted[name], apart.fitted[f"{name} again"]
    assert resumed.warnings == []
    assert resumed.curve == straight.curve
    assert all(torch.equal(w, resumed.weights[key]) for key, w in straight.weights.items())


def test_a_part_that_lost_a_bit_sets_the_whole_checkpoint_aside(apart):
    straight, anew = apart.fitted["sft"], apart.fitted["sft damaged"]
    assert "set aside as checkpoint.aside-1" in anew.warnings[0]["warning"]
    assert all(torch.equal(w, anew.weights[key]) for key, w in straight.weights.items())


def test_what_one_process_began_two_go_on_with_and_the_other_way_round(cases, apart, tmp_path):
    straight = alone(cases["sft"], tmp_path / "straight")
    shutil.copytree(apart.root / "sft for one", tmp_path / "begun")
    begun_by_one = apart.fitted["sft from one"]
    begun_by_two = alone(cases["sft for one"], tmp_path / "begun")
    for resumed, first in ((begun_by_one, straight), (begun_by_two, apart.fitted["sft"])):
        assert resumed.warnings == []
        assert_alike(straight, resumed)
        # The fourth step, interrupted before it was saved, is done again; those before are equal to the bit.
        assert curve(resumed.curve, "loss")[:3] == curve(first.curve, "loss")[:3]


def test_a_process_that_dies_at_work_ends_the_other_and_is_the_reason(apart):
    assert str(apart.end).startswith("rank 1 of 2 was killed (signal 9)")
    assert ranks_of_this_process() == []


def ranks_of_this_process():
    return [process for process in psutil.Process().children() if "scratch" in process.cmdline()[-1]]


def test_every_row_is_some_process_s_own_and_none_is_twice(cases):
    spec = cases["sft"].spec
    table = encoding.encode(
        sources.load_items(spec, "train"), models.load_tokenizer(spec.student), **spec.encoding
    )
    batch = encoding.collate(table, range(7), pad_id=2)
    shares = [fsdp.share(batch, rank, 3) for rank in range(3)]
    assert sorted(name for share in shares for name in share.ids) == sorted(batch.ids)
    assert sum(int(share.scored_BT.sum()) for share in shares) == int(batch.scored_BT.sum())
    assert {len(share.ids) for share in shares} == {2, 3}
    idle = fsdp.share(encoding.collate(table, [0], pad_id=2), 1, 2)
    assert not idle.scored_BT.any()
    assert len(idle.ids) == 1


# --- as a run of the store ---------------------------------------------------------------------------------


def distilled(study, **fields):
    """Untuned, so that no run of a teacher is needed."""
    own = {"method": "fkl", "teacher": str(study / "tiny-40k"), "teacher_tuned": False, "devices": 2}
    return tiny.spec(str(study / "tiny-20k"), str(study / "data"), **own | fields)


def test_the_grid_trains_a_run_on_two_devices_from_its_checkpoint(cases, apart, study, tmp_path, monkeypatch):
    """By the program itself; its beginning was made by the processes of the other tests."""
    monkeypatch.setattr(fill, "Pool", inline.InlinePool)
    spec, folder = cases["sft"].spec, store.folder_of(tmp_path, cases["sft"].spec.run_id)
    shutil.copytree(apart.root / "sft for one" / "checkpoint", folder.checkpoint)
    state = fill.fill([PlannedRun(spec, EVALUATION)], tmp_path, workers=1)
    assert (state.failures, state.n_done) == ({}, 1)
    entries = [json.loads(line) for line in (folder.path / "curve.jsonl").read_text().splitlines()]
    assert entries == apart.fitted["sft"].curve
    weights = load_file(folder.model / "model.safetensors")
    straight = apart.fitted["sft"].weights
    assert all(torch.equal(w, weights[key]) for key, w in straight.items())
    assert json.loads((folder.path / "spec.json").read_text())["devices"] == 2
    assert folder.result()["status"] == "trained"
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"spec.json", "environment.json", "curve.jsonl", "model", "result.json", "eval"}
    found = fill.fill([PlannedRun(dataclasses.replace(spec, devices=1), EVALUATION)], tmp_path)
    assert found.n_found == 1


ONE_DIES = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""


def test_a_rank_that_dies_is_a_failure_and_the_grid_goes_on_with_others(study, tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "Pool", inline.InlinePool)
    monkeypatch.setattr(launch, "PROGRAM", ("-c", ONE_DIES))
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    on_two = distilled(study, method="sft", teacher=None, teacher_tuned=True)
    on_one = dataclasses.replace(on_two, devices=1, seed=1, epochs=1)
    folder = store.folder_of(tmp_path, sources.resolved(on_two).run_id)
    folder.checkpoint.mkdir(parents=True)
    state = fill.fill([PlannedRun(spec, EVALUATION) for spec in (on_two, on_one)], tmp_path, workers=1)
    assert state.n_done == 1
    [reason] = state.failures.values()
    assert reason.startswith("RankError: rank 1 of 2 was killed (signal 9)")
    assert ranks_of_this_process() == []
    assert folder.failure()["reason"] == reason
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"spec.json", "environment.json", "failure.json", "checkpoint"}


def test_memory_that_runs_out_in_a_rank_begins_anew_with_fewer_rows(study, tmp_path, monkeypatch):
    rows = []

    def full(task, **how):
        if task["what"] == "training":
            rows.append(task["compute"]["micro_batch_rows"])
            raise MemoryError("torch.OutOfMemoryError: injected")

    monkeypatch.setattr(launch, "run", full)
    compute = Compute(keeps_teacher_states=False)
    with pytest.raises(MemoryError, match="one sequence of up to 96 tokens does not fit .* lower max_tokens"):
        experiment.run(distilled(study), out=tmp_path, evaluation=EVALUATION, compute=compute)
    assert rows == [None, 2, 1]


def test_a_student_that_one_device_has_no_room_for_is_evaluated_by_all(study, tmp_path, monkeypatch):
    spec = sources.resolved(distilled(study, method="sft", teacher=None, teacher_tuned=True))
    at, rows = store.Store(tmp_path), pd.DataFrame({"text": ["3"]})
    folder = at.folder(spec.run_id)
    folder.path.mkdir(parents=True)
    asked = []

    def full(*what, **how):
        raise torch.OutOfMemoryError("injected")

    def run(task, *, scratch, **how):
        asked.append(EvalSpec.from_dict(json.loads(json.dumps(task["evaluation"]))))
        scratch.mkdir()
        rows.to_parquet(scratch / launch.ROWS)
        return {"seconds": 1.0}

    monkeypatch.setattr(answers, "rows_of", full)
    monkeypatch.setattr(answers, "load_trained", lambda *which, **how: None)
    monkeypatch.setattr(launch, "run", run)
    _, [(found, facts)] = answers._rows(None, [Inputs.of(spec, EVALUATION)], folder, at)
    assert found.equals(rows)
    assert (facts, asked) == ({"seconds": 1.0}, [EVALUATION])
    with pytest.raises(torch.OutOfMemoryError):
        alone = Inputs.of(dataclasses.replace(spec, devices=1), EVALUATION)
        answers._rows(None, [alone], folder, at)


def test_a_teacher_s_states_are_made_by_the_processes_and_damage_is_found_before_training(
    study, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(launch, "run", lambda task, **how: asked.append(task["what"]))
    with pytest.raises(store.DamagedError, match=r"states/.*index.json"):  # nobody has written them
        experiment.make(sources.resolved(distilled(study)), (), tmp_path)
    assert asked == ["states"]


def test_why_a_rank_ends_is_what_the_first_of_them_says(tmp_path):
    launch.report_failure(tmp_path, 1, kind="ValueError", reason="ValueError: the cause")
    launch.report_failure(tmp_path, 0, kind="RuntimeError", reason="RuntimeError: connection closed by peer")
    with pytest.raises(launch.RankError, match="rank 1 of 2: ValueError: the cause"):
        launch._raise_reason(tmp_path, [1, 1])
    launch.report_failure(tmp_path / "other", 0, kind=launch.MEMORY, reason="MemoryError: full")
    with pytest.raises(MemoryError, match="full"):
        launch._raise_reason(tmp_path / "other", [1, 0])
    (tmp_path / "rank-0.log").write_text("a line\nImportError: no torch\n")
    (tmp_path / "error-0.json").unlink()
    (tmp_path / "error-1.json").unlink()
    with pytest.raises(launch.RankError, match="rank 0 of 2 ended with code 3; ImportError: no torch"):
        launch._raise_reason(tmp_path, [3, 0])


# --- what is refused ---------------------------------------------------------------------------------------


def test_devices_are_told_and_no_part_of_a_name(study):
    one, two = (sources.resolved(distilled(study, devices=n)) for n in (1, 2))
    assert one.run_id == two.run_id
    assert one == two
    assert two.to_dict()["devices"] == 2
    old = {key: value for key, value in one.to_dict().items() if key != "devices"}
    assert RunSpec.from_dict(old).devices == 1
    tuned = dataclasses.replace(two, teacher_tuned=True)
    assert tuned.teacher_spec.devices == tuned.sft_spec.devices == 2
    jobs = jobs_of([PlannedRun(spec, EVALUATION) for spec in (one, two, one)])
    assert [job.spec.devices for job in jobs.values()] == [2]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"devices": 0}, "devices=0 must be greater than or equal to 1"),
        ({"devices": 9}, "devices=9 is more than the 8 rows of a batch"),
        ({"devices": 3, "batch_size": 2}, "devices=3 .* use devices=2 or fewer, or a larger batch_size"),
    ],
)
def test_bad_devices_are_refused_with_the_value_and_a_remedy(study, fields, says):
    plain = {"student": str(study / "tiny-20k"), "domain": "math", "data": str(study / "data")}
    own = {"method": "fkl", "teacher": str(study / "tiny-40k"), "batch_size": 8} | fields
    with pytest.raises(ValueError, match=says):
        RunSpec(**plain | own)
    for wrong in (2.0, "2", True, None):
        with pytest.raises(ValueError, match=f"devices={wrong!r} must be a valid integer"):
            RunSpec(**plain | {"method": "sft", "devices": wrong})


def test_what_this_machine_has_not_is_refused_before_anything_is_written(study, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(launch.DevicesError, match="devices=2 is more than the 1 GPUs .* use devices=1"):
        fill.fill([PlannedRun(distilled(study), EVALUATION)], study / "out")
    monkeypatch.undo()
    with pytest.raises(
        launch.DevicesError, match="devices=512 is more than the .* has cores for; use devices="
    ):
        fill.fill([PlannedRun(distilled(study, devices=512, batch_size=512), EVALUATION)], study / "out")
    monkeypatch.setenv("KDUTILS_COMPILE", "inductor")
    with pytest.raises(launch.DevicesError, match="devices=2 with compile_backend='inductor'"):
        experiment.run(distilled(study), out=study / "out", evaluation=EVALUATION)
    assert not (study / "out" / "runs").exists()


def test_workers_get_as_many_gpus_as_a_run_asks_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    given = [setting.gpu for setting in fill._settings(workers=None, is_large=False, n_devices=2)]
    assert given == ["0,1", "2,3"]
    assert [setting.gpu for setting in fill._settings(workers=None, is_large=False)] == list("01234")


def test_the_same_run_on_other_devices_is_asked_for_with_these():
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
    for devices in (1, 2, 1):
        found = sources.resolved(dataclasses.replace(spec, devices=devices))
        assert found.devices == devices
        assert found == sources.resolved(spec) and found.run_id == sources.resolved(spec).run_id
