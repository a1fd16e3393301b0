"""The cache of a teacher's hidden states: exact, shared, never stale, whole or absent."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
import torch

from kdutils import encoding, models, training
from kdutils import teacher as teachers
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.io import disk
from kdutils.items import fingerprint
from kdutils.runs import experiment, store, students, teacher_outputs
from kdutils.runs.inputs import Inputs
from kdutils.spec import EvalSpec
from kdutils.teacher import CachedTeacher, Teacher

EVALUATION = EvalSpec(tasks=("addsub",), max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_study(tmp_path_factory.mktemp("states"))


def a_spec(folder, method="fkl", **fields):
    spec = tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), method=method, epochs=1, **fields)
    return sources.resolved(spec)


def distilled(folder, method="fkl", **fields):
    return a_spec(folder, method, teacher=str(folder / "tiny-40k"), **fields)


@pytest.fixture
def kept(folder, tmp_path, monkeypatch):
    """The teacher, its items encoded, and its states as they were written in shards of few positions."""
    monkeypatch.setattr(teachers, "SHARD_BYTES", 48 * 4 * 60)
    teacher, spec = models.load(str(folder / "tiny-40k")), distilled(folder)
    items = sources.load_items(spec, "train")
    how = {"max_tokens": spec.max_tokens, "protocol": spec.protocol}
    encoded = encoding.encode(items, teacher.tokenizer, **how)
    found = teachers.states_of(tmp_path, {"teacher": "tiny"})
    found.write(teacher, encoded)
    return teacher, encoded, found


def batch_of(encoded, rows):
    return encoding.collate(encoded, rows, pad_id=0)


def test_cached_states_are_those_of_the_online_teacher(kept):
    teacher, encoded, found = kept
    assert len(list(found.path.glob("states-*.safetensors"))) > 1
    cached = CachedTeacher(found.open(), load=lambda: pytest.fail("no body is needed"), device="cpu")
    online = Teacher(teacher)
    for rows in ([0], [5, 3, 11], list(range(len(encoded)))[::-1]):
        batch = batch_of(encoded, rows)
        torch.testing.assert_close(cached.hidden_NH(batch), online.hidden_NH(batch), rtol=1e-5, atol=1e-6)
    assert torch.equal(cached.head.weight_VH, teacher.head.weight_VH[: teacher.vocabulary_size])


def test_of_prompts_that_are_cut_nothing_is_scored_and_other_states_stay_in_their_places(folder, tmp_path):
    teacher = models.load(str(folder / "tiny-40k"))
    items = sources.load_items(distilled(folder), "train")
    items = [replace(item, question=item.question * (1 + 2 * (row % 2))) for row, item in enumerate(items)]
    heads = encoding.prompt_ids([item.question for item in items], teacher.tokenizer)
    limit = max(map(len, heads[::2])) + 2
    assert min(map(len, heads[1::2])) > limit
    how = {"max_tokens": limit, "protocol": "paper", "prompt_in_loss": False}
    encoded = encoding.encode(items, teacher.tokenizer, **how)
    found = teachers.states_of(tmp_path, {"teacher": "tiny"})
    found.write(teacher, encoded)
    cached = CachedTeacher(found.open(), load=lambda: pytest.fail("no body is needed"), device="cpu")
    batch = batch_of(encoded, list(range(len(encoded))))
    assert batch.scored_BT.any(1).tolist() == [True, False] * (len(items) // 2)
    expected = Teacher(teacher).hidden_NH(batch)
    torch.testing.assert_close(cached.hidden_NH(batch), expected, rtol=1e-5, atol=1e-6)


def test_what_is_not_cached_is_asked_of_the_body(kept):
    teacher, encoded, found = kept
    cached = CachedTeacher(found.open(), load=lambda: teacher, device="cpu")
    batch = batch_of(encoded, [0, 1])
    own = encoding.Batch(["sample@1", "sample@2"], batch.input_ids_BT, batch.attention_BT, batch.scored_BT)
    assert torch.equal(cached.hidden_NH(own), Teacher(teacher).hidden_NH(own))
    assert not any(weight.requires_grad for weight in cached.model.network.parameters())


def test_noise_does_not_depend_on_the_cache(kept):
    teacher, encoded, found = kept
    batch = batch_of(encoded, [4, 2])
    with_body = Teacher(teacher, noise_sigma=2.0, seed=3).noise(batch)
    without = CachedTeacher(found.open(), None, "cpu", noise_sigma=2.0, seed=3).noise(batch)
    assert torch.equal(with_body.keys, without.keys) and with_body.sigma == without.sigma


@pytest.mark.parametrize("method", ["fkl", "revkd", "gkd"])
def test_a_student_learns_the_same_from_cached_states(folder, tmp_path, method):
    more = {"max_new_tokens": 8} if method == "gkd" else {}
    spec = distilled(folder, method, **more)
    curves, weights = [], []
    for keeps in (False, True):
        out, compute = tmp_path / str(keeps), Compute(keeps_teacher_states=keeps)
        run = experiment.run(spec, out=out, evaluation=EVALUATION, compute=compute)
        assert (out / "states").exists() == keeps
        lines = (run.folder.path / "curve.jsonl").read_text().splitlines()
        curves.append([entry["loss"] for entry in map(json.loads, lines) if "loss" in entry])
        weights.append(students.load_trained(run.spec, run.folder).network.state_dict())
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)
    assert len(list((tmp_path / "True" / "states").iterdir())) == 1


def test_students_temperatures_and_noise_share_one_cache(folder, tmp_path, monkeypatch):
    written = []
    write = teachers.States.write
    monkeypatch.setattr(teachers.States, "write", lambda *args: written.append(args[0]) or write(*args))
    for fields in ({}, {"temperature": 2.0}, {"noise_sigma": 1.0}, {"seed": 1}, {"teacher_tuned": False}):
        experiment.run(distilled(folder, **fields), out=tmp_path, evaluation=EVALUATION)
    assert len(written) == 2  # the tuned teacher's and the untuned one's
    experiment.run(distilled(folder, "revkd", max_tokens=100), out=tmp_path, evaluation=EVALUATION)
    assert len(written) == 3


def test_a_large_teacher_is_not_in_memory_when_its_student_is_loaded(folder, tmp_path, monkeypatch):
    alive = []
    trained = training.train

    def watched(student, items, spec, **options):
        alive.append("model" in vars(options["teacher"])) if options["teacher"] else None
        return trained(student, items, spec, **options)

    monkeypatch.setattr(training, "train", watched)
    experiment.run(distilled(folder), out=tmp_path, evaluation=EVALUATION)
    assert alive == [False]


def test_other_weights_under_the_same_name_are_another_cache(folder, tmp_path):
    own = tmp_path / "models"
    shutil.copytree(folder / "tiny-20k", own / "tiny-20k")
    shutil.copytree(folder / "tiny-40k", own / "tiny-40k")
    tiny.write_data(own / "data")
    experiment.run(distilled(own, teacher_tuned=False), out=tmp_path / "out", evaluation=EVALUATION)
    tiny.save_model(own / "tiny-40k", hidden=48, rows=96, seed=7)
    experiment.run(distilled(own, teacher_tuned=False), out=tmp_path / "out", evaluation=EVALUATION)
    assert len(list((tmp_path / "out" / "states").iterdir())) == 2


@pytest.mark.parametrize("name", ["head.safetensors", "states-00000.safetensors", "index.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_never_read(kept, name, harm):
    _, _, found = kept
    file = found.path / name
    content = bytearray(file.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-7])
    else:
        file.unlink()
    with pytest.raises(store.DamagedError, match=r"delete .*states.* and run again"):
        found.open()


def test_no_room_is_said_before_any_work(kept, monkeypatch, tmp_path):
    teacher, encoded, _ = kept
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(teachers, "_states_of", lambda *args: pytest.fail("nothing may be computed"))
    with pytest.raises(store.StoreError, match=r"GB free.*make room, or choose another out"):
        teachers.states_of(tmp_path, {"teacher": "other"}).write(teacher, encoded)


def test_an_interrupted_writing_leaves_nothing(kept, monkeypatch, tmp_path):
    teacher, encoded, _ = kept
    monkeypatch.setattr(teachers, "_states_of", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    other = teachers.states_of(tmp_path, {"teacher": "other"})
    with pytest.raises(KeyboardInterrupt):
        other.write(teacher, encoded)
    assert not other.are_there() and not list(other.path.parent.glob(f".{other.path.name}*"))


def test_a_student_that_sees_its_own_samples_alone_needs_no_cache(folder, tmp_path):
    experiment.run(
        distilled(folder, "gkd", on_policy_share=1.0, max_new_tokens=8), out=tmp_path, evaluation=EVALUATION
    )
    assert not (tmp_path / "states").exists()


def test_an_unknown_wish_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KDUTILS_TEACHER_STATES", "sometimes")
    with pytest.raises(ValueError, match="'sometimes' is unknown: use always or never"):
        experiment.run(distilled(folder), out=tmp_path, evaluation=EVALUATION)
    assert not list(tmp_path.iterdir())


def test_the_key_holds_all_that_states_depend_on(folder, tmp_path):
    spec = distilled(folder, teacher_tuned=False)
    items = sources.load_items(spec, "train")
    key = teacher_outputs.states_key(Inputs.of(spec, None), store.Store(tmp_path))
    assert key["weights"] == spec.teacher_digest and key["items"] == fingerprint(items)
    names = {teachers.states_of(tmp_path, key | {name: "other"}).path for name in key}
    assert len(names | {teachers.states_of(tmp_path, key).path}) == len(key) + 1
