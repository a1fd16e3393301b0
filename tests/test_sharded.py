"""Two processes with parts of one student make what one process makes, but for the order of sums."""

import dataclasses
import json
from pathlib import Path

import psutil
import pytest
import tiny
import together
import torch
from safetensors.torch import load_file
from together import Case

from kdutils import data, grid, material, models, ranks, running, runs
from kdutils.runspec import EvalSpec, PlannedRun, RunSpec
from kdutils.world import ALONE

METHODS = ("sft", "fkl", "revkd", "gkd")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Seventeen items in batches of eight: every third step has one row, so one process has none."""
    root = tmp_path_factory.mktemp("models")
    student = tiny.save_model(root / "student-20k", seed=0)
    untied = tiny.save_model(root / "untied-20k", kind="llama", tied=False, seed=3)
    teacher = tiny.save_model(root / "teacher-40k", hidden=48, rows=96, seed=1)
    items = tiny.write_data(root / "data")

    def of(method, student=student, **fields):
        fields = {"teacher": teacher} | fields if method != "sft" else fields
        fields = {"max_new_tokens": 12} | fields if method == "gkd" else fields
        return tiny.spec(student, items, method=method, **{"train_items": 17, "devices": 2} | fields)

    noisy = of("fkl", noise_sigma=1.0, temperature=2.0)
    own = {"on_policy_share": 1.0, "rollout_steps": 2, "epochs": 1}
    return {
        "sft": Case(of("sft", select_best=True)),
        "fkl": Case(noisy, {"micro_batch_size": 3}),
        "revkd": Case(of("revkd", protocol="paper")),
        "gkd": Case(of("gkd", on_policy_share=0.5)),
        "lora": Case(of("fkl", adapter="lora", lora_dropout=0.0)),
        "untied": Case(of("revkd", student=untied), {"pass_tokens": 0}),
        "own": Case(of("gkd", **own)),
        "sft again": Case(of("sft", select_best=True), {}, 4),
        "own again": Case(of("gkd", **own), {}, 2),
        "sft damaged": Case(of("sft", select_best=True), {}, 4, "state-1.safetensors"),
    }


@pytest.fixture(scope="module")
def apart(cases, tmp_path_factory):
    """(weights, what was told) of each case, by two processes."""
    root = tmp_path_factory.mktemp("together")
    together.run(root, cases)
    return {
        name: (
            load_file(root / name / "weights.safetensors"),
            json.loads((root / name / "told.json").read_text()),
        )
        for name in cases
    }


def curve(entries, key):
    return [entry[key] for entry in entries if key in entry]


@pytest.mark.parametrize("name", [*METHODS, "lora", "untied", "own"])
def test_two_processes_make_what_one_makes(cases, apart, tmp_path, name):
    student, outcome, _ = together.fit(cases[name], ALONE, tmp_path)
    weights, told = apart[name]
    entries = told["outcome"]["curve"]
    for key in ("loss", "grad_norm", "validation_loss"):
        assert curve(entries, key) == pytest.approx(curve(outcome.curve, key), rel=1e-5)
    for key in ("step", "n_tokens", "on_policy", "learning_rate", "epoch"):
        assert curve(entries, key) == curve(outcome.curve, key)
    alone = together.whole_weights(student, ALONE)
    assert weights.keys() == alone.keys()
    for key, w in alone.items():
        assert torch.allclose(weights[key], w, rtol=1e-3, atol=2e-5), key


@pytest.mark.parametrize("name", ["sft", "own"])
def test_interrupted_and_resumed_is_bit_equal(apart, name):
    (straight, first), (resumed, second) = apart[name], apart[f"{name} again"]
    assert second["warnings"] == []
    assert first["outcome"]["curve"] == second["outcome"]["curve"]
    assert all(torch.equal(w, resumed[key]) for key, w in straight.items())


def test_a_part_that_lost_a_bit_sets_the_whole_checkpoint_aside(apart):
    (straight, _), (anew, told) = apart["sft"], apart["sft damaged"]
    assert "set aside as checkpoint.aside-1" in told["warnings"][0]["warning"]
    assert all(torch.equal(w, anew[key]) for key, w in straight.items())


def test_every_row_is_some_process_s_own_and_none_is_twice(cases):
    spec = cases["sft"].spec
    table = data.encode(
        material.load_items(spec, "train"), models.load_tokenizer(spec.student), **spec.encoding
    )
    batch = data.collate(table, range(7), pad_id=2)
    shares = [batch.share(rank, 3) for rank in range(3)]
    assert sorted(name for share in shares for name in share.ids) == sorted(batch.ids)
    assert sum(int(share.scored_BT.sum()) for share in shares) == int(batch.scored_BT.sum())
    assert {len(share.ids) for share in shares} == {2, 3}
    idle = batch.slice(slice(0, 1)).share(1, 2)
    assert not idle.scored_BT.any()
    assert len(idle.ids) == 1


# --- as a run of the store ---------------------------------------------------------------------------------

EVALUATION = EvalSpec(tasks=("addsub",), max_new_tokens=24)


@pytest.fixture
def study(tmp_path):
    return tiny.save_study(tmp_path)


def distilled(study, **fields):
    """Untuned, so that no run of a teacher is needed."""
    own = {"method": "fkl", "teacher": str(study / "tiny-40k"), "teacher_tuned": False, "devices": 2}
    return tiny.spec(str(study / "tiny-20k"), str(study / "data"), **own | fields)


def ranks_of_this_process():
    """Those that run now, by rank."""
    own = [(process, process.cmdline()) for process in psutil.Process().children()]
    found = [(int(command[-1]), process) for process, command in own if "kdutils.rank" in command]
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def test_a_rank_that_dies_is_why_the_run_failed_and_the_next_attempt_goes_on(study, monkeypatch):
    monkeypatch.setattr(running.train, "CHECKPOINT_SECONDS", 0.0)
    out, spec, warnings = study / "out", distilled(study), []

    def kill(entry):
        if entry.get("step") == 4:
            _, second = ranks_of_this_process()
            second.kill()

    with pytest.raises(ranks.RankError, match=r"rank 1 of 2 was killed \(signal 9\)"):
        running.run(spec, out=out, evaluation=EVALUATION, progress=kill)
    assert ranks_of_this_process() == []
    folder = runs.folder_of(out, material.resolved(spec).run_id)
    assert "RankError: rank 1 of 2 was killed" in folder.failure()["reason"]
    assert sorted(path.name for path in folder.path.iterdir()) == [
        *("checkpoint", "environment.json", "failure.json", "spec.json")
    ]

    steps = []

    def watch(entry):
        steps.extend(curve([entry], "step"))
        warnings.extend(curve([entry], "warning"))

    together = running.run(spec, out=out, evaluation=EVALUATION, progress=watch)
    assert warnings == []
    assert steps[0] in (4, 5)  # not from the beginning
    names = {path.name for path in together.folder.path.iterdir()}
    assert names == {"spec.json", "environment.json", "curve.jsonl", "model", "result.json", "eval"}

    alone = running.run(dataclasses.replace(spec, devices=1), out=out, evaluation=EVALUATION)
    assert alone.spec.run_id != together.spec.run_id
    first, second = (
        [json.loads(line) for line in (run.folder.path / "curve.jsonl").read_text().splitlines()]
        for run in (alone, together)
    )
    assert curve(second, "loss") == pytest.approx(curve(first, "loss"), rel=1e-5)
    assert together.items["text"].tolist() == alone.items["text"].tolist()
    files = [sorted(path.name for path in run.folder.model.iterdir()) for run in (alone, together)]
    assert files[0] == files[1]


def test_memory_that_runs_out_in_a_rank_begins_anew_with_fewer_rows(study, monkeypatch):
    rows = []

    def full(task, **how):
        rows.append(task["micro_batch_size"])
        raise MemoryError("torch.OutOfMemoryError: injected")

    monkeypatch.setattr(running.ranks, "run", full)
    with pytest.raises(MemoryError, match="one sequence of up to 96 tokens does not fit .* lower max_tokens"):
        running.run(distilled(study), out=study / "out", evaluation=EVALUATION)
    assert rows == [None, 2, 1]


def test_why_a_rank_ends_is_what_the_first_of_them_says(tmp_path):
    ranks.report_failure(tmp_path, 1, kind="ValueError", reason="ValueError: the cause")
    ranks.report_failure(tmp_path, 0, kind="RuntimeError", reason="RuntimeError: connection closed by peer")
    with pytest.raises(ranks.RankError, match="rank 1 of 2: ValueError: the cause"):
        ranks._raise_reason(tmp_path, [1, 1])
    ranks.report_failure(tmp_path / "other", 0, kind=ranks.MEMORY, reason="MemoryError: full")
    with pytest.raises(MemoryError, match="full"):
        ranks._raise_reason(tmp_path / "other", [1, 0])
    (tmp_path / "rank-0.log").write_text("a line\nImportError: no torch\n")
    (tmp_path / "error-0.json").unlink()
    (tmp_path / "error-1.json").unlink()
    with pytest.raises(ranks.RankError, match="rank 0 of 2 ended with code 3; ImportError: no torch"):
        ranks._raise_reason(tmp_path, [3, 0])


# --- what is refused ---------------------------------------------------------------------------------------


def test_devices_are_in_a_name_only_where_there_are_several(study):
    one, two = (distilled(study, devices=n) for n in (1, 2))
    assert "devices" not in one.changes()
    assert one.run_id != two.run_id
    old = {key: value for key, value in one.to_dict().items() if key != "devices"}
    assert RunSpec.from_dict(old) == one
    tuned = dataclasses.replace(two, teacher_tuned=True)
    assert tuned.teacher_spec().devices == tuned.sft_spec().devices == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"devices": 0}, "devices=0 must lie between 1 and 1024"),
        ({"devices": 9}, "devices=9 is more than the 8 rows of a batch"),
        ({"devices": 2, "method": "base", "teacher": None}, "devices=2 has no effect with method 'base'"),
    ],
)
def test_bad_devices_are_refused_with_the_value_and_a_remedy(study, fields, says):
    plain = {"student": str(study / "tiny-20k"), "domain": "math", "data": str(study / "data")}
    own = {"method": "fkl", "teacher": str(study / "tiny-40k"), "batch_size": 8} | fields
    if own["method"] == "base":
        own = {key: own[key] for key in ("method", "devices")}
    with pytest.raises(ValueError, match=says):
        RunSpec(**plain | own)


def test_what_this_machine_has_not_is_refused_before_anything_is_written(study, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices=2 is more than the 1 GPUs .* use devices=1"):
        grid.fill([PlannedRun(distilled(study), EVALUATION)], study / "out")
    monkeypatch.undo()
    monkeypatch.setenv("KDUTILS_COMPILE", "inductor")
    with pytest.raises(ValueError, match="devices=2 with KDUTILS_COMPILE=inductor"):
        running.run(distilled(study), out=study / "out", evaluation=EVALUATION)
    assert not (study / "out" / "runs").exists()


def test_workers_get_as_many_gpus_as_a_run_asks_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    given = [setting.gpu for setting in grid._settings(None, n_large=0, n_devices=2)]
    assert given == ["0,1", "2,3"]
    assert [setting.gpu for setting in grid._settings(None, n_large=0)] == list("01234")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["seqkd", "gkd"])
def test_the_grid_trains_on_two_devices_with_a_teacher_tuned_on_two(study, method):
    """Its workers may have no children of multiprocessing; ours are programs."""
    spec = distilled(study, method=method, teacher_tuned=True, max_new_tokens=12, epochs=1)
    state = grid.fill([PlannedRun(spec, EVALUATION)], study / "out", workers=1)
    assert (state.failures, state.n_done) == ({}, 2)
    done = {own.student: own for own, _ in runs.finished(study / "out")}
    assert {Path(name).name: own.devices for name, own in done.items()} == {"tiny-20k": 2, "tiny-40k": 2}
