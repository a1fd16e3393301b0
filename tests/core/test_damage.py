"""A file that is not what was written is found when it is read; the grid makes it anew."""

import json
import math
import shutil

import pandas as pd
import pytest
import tiny

from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.grid import cell_table, fill, scheduler
from kdutils.io import disk, leases
from kdutils.runs import experiment, store, students

EVALUATION = tiny.EVALUATION


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return tiny.plan(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """A folder in which everything is made."""
    out = tmp_path_factory.mktemp("whole")
    for run in plan:
        experiment.run(run.spec, out=out, evaluation=EVALUATION)
    return out


@pytest.fixture
def out(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "out"


def flip(path):
    """Change one byte in the middle, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = [
    "result.json",
    "environment.json",
    "spec.json",
    "curve.jsonl",
    "eval/*/items.parquet",
    "eval/*/result.json",
    "eval/*/spec.json",
]


def the(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_set_aside_and_made_anew(plan, whole, out, inline, begun, fault, pattern, damage):
    (run_id,) = tiny.run_ids(plan, "fkl")
    path = the(out / "runs" / run_id, pattern)
    damage(path)
    fault(f"{pattern} {damage.__name__}")
    with pytest.raises(store.DamagedError, match=f"{path.name} is damaged .*; delete .* and run again"):
        experiment.run(plan[0].spec, out=out, evaluation=EVALUATION)
    begun.clear()
    state = fill.fill(plan, out, workers=1)
    assert (state.n_found, state.n_done, state.failures) == (4, 1, {})
    assert set(state.set_aside) == {run_id}
    assert f"{path.name} is damaged" in str(state)
    of_evaluation = pattern.startswith("eval")
    assert begun == ([] if of_evaluation else [run_id])
    aside = f"{run_id}-{EVALUATION.eval_id}-1" if of_evaluation else f"{run_id}-1"
    assert [each.name for each in (out / "damaged").iterdir()] == [aside]
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


def test_a_damaged_teacher_is_made_anew_for_its_student(plan, out, inline, begun):
    (student,), teacher = tiny.run_ids(plan, "fkl"), tiny.teacher_id(plan)
    shutil.rmtree(out / "runs" / student)
    shutil.rmtree(out / "states")  # with them, its weights are not read
    flip(out / "runs" / teacher / "model" / "model.safetensors")
    with pytest.raises(store.DamagedError, match=r"model.safetensors is damaged \(its SHA-256"):
        experiment.run(plan[0].spec, out=out, evaluation=EVALUATION)
    begun.clear()
    seen = []
    state = fill.fill(plan, out, workers=1, progress=seen.append)
    assert (state.n_found, state.n_done, set(state.set_aside)) == (3, 2, {teacher})
    assert begun == [student, teacher, student]
    assert all(each.n_found + each.n_done + len(each.running) + each.n_left == 5 for each in seen)


@pytest.mark.faults
def test_states_of_a_teacher_outlive_its_weights(plan, whole, out, inline, fault):
    (student,), teacher = tiny.run_ids(plan, "fkl"), tiny.teacher_id(plan)
    shutil.rmtree(out / "runs" / student)
    flip(out / "runs" / teacher / "model" / "model.safetensors")
    fault("model.safetensors flip")
    state = fill.fill(plan, out, workers=1)
    assert (state.n_done, state.failures, state.set_aside) == (1, {}, {})
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


def test_weights_without_a_record_are_damaged_if_they_cannot_be_loaded(plan, out):
    teacher = store.folder_of(out, tiny.teacher_id(plan))
    record = teacher.result()
    del record["sha256"], record["seal"]
    (teacher.path / "result.json").write_text(json.dumps(record))
    spec = sources.resolved(plan[0].spec).teacher_spec
    students.load_trained(spec, teacher)  # an old folder is taken as it is
    cut(teacher.model / "model.safetensors")
    with pytest.raises(store.DamagedError, match="model is damaged"):
        students.load_trained(spec, teacher)


@pytest.mark.faults
def test_damaged_texts_are_written_anew(plan, out, inline, fault):
    (student,) = tiny.run_ids(plan, "seqkd")
    path = the(out, "texts/*.jsonl")
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"response": "', b'"response": "x', 1))
    fault("texts flip")
    shutil.rmtree(out / "runs" / student)
    with pytest.raises(store.DamagedError, match="jsonl is damaged"):
        experiment.run(plan[1].spec, out=out, evaluation=EVALUATION)
    state = fill.fill(plan, out, workers=1)
    assert (state.n_done, set(state.set_aside)) == (1, {f"texts-{path.stem}"})
    assert path.read_bytes() == before


def test_what_is_damaged_again_and_again_ends_in_a_failure(plan, out, inline, monkeypatch):
    (student,), teacher = tiny.run_ids(plan, "fkl"), tiny.teacher_id(plan)
    finish = store.RunFolder.finish

    def badly(folder, *arguments):
        finish(folder, *arguments)
        if folder.path.name == teacher:
            flip(folder.model / "model.safetensors")

    shutil.rmtree(out / "runs" / student)
    shutil.rmtree(out / "states")
    flip(out / "runs" / teacher / "model" / "model.safetensors")
    monkeypatch.setattr(store.RunFolder, "finish", badly)
    state = fill.fill(plan, out, workers=1)
    assert state.failures[student].startswith(f"{teacher} was set aside 2 times and is damaged again")
    assert len(list((out / "damaged").iterdir())) == 3


def test_damage_that_is_read_later_is_found_then(plan, out):
    flip(the(out / "runs" / tiny.run_ids(plan, "sft")[0], "eval/*/items.parquet"))
    with pytest.raises(store.DamagedError, match="items.parquet is damaged"):
        fill.live_cells(plan, out)


def test_what_somebody_else_has_made_anew_meanwhile_is_left_alone(plan, out):
    (run_id,) = tiny.run_ids(plan, "sft")
    folder = store.folder_of(out, run_id)
    cut(folder.path / "result.json")
    with pytest.raises(store.DamagedError) as caught:
        folder.result()
    folder.path.rename(out / "elsewhere")
    experiment.run(plan[2].spec, out=out, evaluation=EVALUATION)
    scheduler.set_aside(out, caught.value)
    assert folder.is_whole(EVALUATION)
    assert leases.is_free(out, run_id)


# --- cells that are kept -------------------------------------------------------------------------------


@pytest.mark.faults
def test_cells_are_computed_once_and_again_when_something_changes(plan, out, monkeypatch, fault):
    counted = []

    def counting(name):
        function = getattr(cell_table, name)

        def counted_one(*rows):
            counted.append(name)
            return function(*rows)

        counted_one.__name__ = name
        monkeypatch.setattr(cell_table, name, counted_one)

    counting("_accuracies")
    counting("_likeness")
    first = fill.live_cells(plan, out)
    pairs = 3  # either student and its teacher, and the SFT student, which both are compared beside, with it
    assert (counted.count("_accuracies"), counted.count("_likeness")) == (4, pairs)
    assert fill.live_cells(plan, out).equals(first)
    assert len(counted) == 7
    kept = sorted((out / "cache" / "cells").iterdir())
    flip(kept[0])
    fault("kept cells flip")
    kept[1].write_text('{"records": []')
    kept[2].write_text("[]")
    assert fill.live_cells(plan, out).equals(first)
    assert len(counted) == 10
    for each in plan:
        cell_table.keep(out, each.evaluation, sources.resolved(each.spec))
    assert len(counted) == 10
    sft = store.folder_of(out, tiny.run_ids(plan, "sft")[0])
    rows = sft.evaluation(EVALUATION).assign(text="another")
    sft.write_evaluation(EVALUATION, rows, {})
    changed = fill.live_cells(plan, out)
    assert counted[10:].count("_accuracies") == counted[10:].count("_likeness") == 1
    assert not changed.equals(first)


def test_instructions_have_an_average_and_no_agreement(plan, out):
    own = store.folder_of(out, tiny.run_ids(plan, "fkl")[0])
    rows = own.evaluation(EVALUATION)
    both = pd.concat([rows.assign(task=task, rouge_l=0.5) for task in ("dolly", "vicuna")])
    records = cell_table._accuracies(both)
    assert [record["task"] for record in records] == ["dolly", "vicuna", "average"]
    likeness = cell_table._likeness(both, both)
    assert [record["fidelity"] >= 0 for record in likeness] == [True, True]
    assert all(math.isnan(record["agreement"]) for record in likeness)


def test_likeness_of_the_sft_student_is_that_of_the_same_seed(plan, out):
    table = fill.live_cells(plan, out).query("task == 'addsub' and method == 'fkl'").iloc[0]
    assert table["fidelity"] >= 0
    assert table["fidelity_sft"] >= 0
    assert table["agreement_sft"] == table["agreement_sft"]
    alone = fill.live_cells(plan[:1], out).query("task == 'addsub'").iloc[0]
    assert alone["fidelity"] == table["fidelity"]
    assert alone["fidelity_sft"] != alone["fidelity_sft"]  # its SFT run is not asked for


# --- files that runs share, and those of unfinished ones ------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize(
    "pattern", ["states/*/index.json", "states/*/states-*", "states/*/head*", "texts/*.sha256"]
)
def test_what_runs_share_is_made_anew_once_it_is_needed(plan, whole, out, inline, fault, pattern, damage):
    for run_id in tiny.run_ids(plan, "fkl", "seqkd"):
        shutil.rmtree(out / "runs" / run_id)
    damage(the(out, pattern))
    fault(f"{pattern} {damage.__name__}")
    state = fill.fill(plan, out, workers=1)
    assert (state.n_found, state.n_done, state.failures) == (3, 2, {})
    assert len(state.set_aside) == 1
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["model/model.safetensors", "model/config.json", "model/tokenizer.json"])
def test_damaged_weights_are_found_by_who_loads_them(plan, whole, out, inline, fault, name, damage):
    """A teacher's, asked for an evaluation that it does not have."""
    teacher = store.folder_of(out, tiny.teacher_id(plan))
    shutil.rmtree(teacher.path / "eval")
    damage(teacher.path / name)
    fault(f"{name} {damage.__name__}")
    state = fill.fill(plan, out, workers=1)
    assert (state.n_done, state.failures, set(state.set_aside)) == (1, {}, {teacher.path.name})
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(
    plan, whole, out, inline, fault, monkeypatch, name, damage
):
    (run_id,) = tiny.run_ids(plan, "fkl")
    folder, finish = store.folder_of(out, run_id), store.RunFolder.finish
    shutil.rmtree(folder.path)

    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Compute, "from_environment", lambda: Compute(checkpoint_seconds=0.0))
    monkeypatch.setattr(store.RunFolder, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill.fill(plan, out, workers=1)
    monkeypatch.setattr(store.RunFolder, "finish", finish)
    damage(folder.checkpoint / name)
    fault(f"checkpoint/{name} {damage.__name__}")
    state = fill.fill(plan, out, workers=1)
    assert (state.n_done, state.failures) == (1, {})
    assert (folder.path / "checkpoint.aside-1").is_dir()
    assert fill.live_cells(plan, out).equals(fill.live_cells(plan, whole))


@pytest.mark.faults
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_digest_of_a_large_file_is_computed_anew(tmp_path, monkeypatch, fault, damage):
    """A wrong one would give runs another name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "LARGE_BYTES", 4)
    file, counted = tmp_path / "large", []
    file.write_bytes(b"weights")
    digest = disk.sha256(file)
    monkeypatch.setattr(disk, "sha256", lambda path: counted.append(path) or digest)

    def once_more():
        disk._sha256_of.cache_clear()
        return disk.sha256_once(file)

    assert once_more() == once_more() == digest
    assert len(counted) == 1
    damage(the(tmp_path, "cache/*/digests/*"))
    fault(f"a kept digest {damage.__name__}")
    assert once_more() == digest
    assert len(counted) == 2


def test_no_byte_of_a_result_can_change_unseen(plan, out):
    """Each byte in turn: the content is as it was, or reading it says that it is not."""
    folder = store.folder_of(out, tiny.run_ids(plan, "sft")[0])
    path, before = folder.path / "result.json", folder.result()
    whole, content = path.read_bytes(), {key: value for key, value in before.items() if key != "seal"}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = folder.result()
        except store.StoreError:
            continue
        assert {key: found.get(key) for key in content} == content
