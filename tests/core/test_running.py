"""From items to scored, stored answers, by every method; what is stored is not done again."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch

from kdutils import encoding, generation, models, training
from kdutils.compute import Compute
from kdutils.data import sources
from kdutils.grid import cell_table
from kdutils.io import leases, memory
from kdutils.items import DataError
from kdutils.runs import comparison, experiment, store, students, teacher_outputs
from kdutils.runs.inputs import Inputs
from kdutils.spec import EvalSpec, RunSpec

EVALUATION = EvalSpec(tasks=("addsub",), max_new_tokens=24)
METHODS = ["sft", "fkl", "seqkd", "revkd", "gkd", "opd"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_study(tmp_path_factory.mktemp("study"))


def a_spec(folder, method, **fields):
    if method != "sft":
        fields = {"teacher": str(folder / "tiny-40k")} | fields
    writes = {} if method in ("sft", "fkl", "revkd") else {"max_new_tokens": 12}
    fields = {"epochs": 1} | writes | fields
    return tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), method=method, **fields)


def cells(out):
    """Every finished run of a store."""
    specs = [spec for spec, _ in store.finished(out)]
    return cell_table.cell_table(cell_table.rows_of(out, EVALUATION, specs))


@pytest.fixture(scope="module")
def finished(folder):
    """One run of every method, in one store."""
    out = folder / "out"
    return out, {m: experiment.run(a_spec(folder, m), out=out, evaluation=EVALUATION) for m in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_in_scored_answers(finished, method):
    run = finished[1][method]
    assert run.result["status"] == "trained"
    assert run.result["steps"] == 3
    assert run.items["item_id"].tolist() == [f"addsub-{400 + number}" for number in range(6)]
    assert run.accuracies["n"].tolist() == [6]
    names = {path.name for path in run.folder.path.iterdir()}
    assert names == {"spec.json", "environment.json", "curve.jsonl", "model", "result.json", "eval"}
    assert not list(run.folder.path.rglob("*.bin")) + list(run.folder.path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("prefix", "divergence"),
    [
        *(("teacher", divergence) for divergence in ("forward_kl", "reverse_kl", "jsd")),
        *(("student", "forward_kl"), ("mixed", "forward_kl"), ("mixed", "reverse_kl")),
    ],
)
def test_other_prefixes_and_divergences_are_trained(folder, finished, tmp_path, prefix, divergence):
    out = shutil.copytree(finished[0], tmp_path / "out")
    run = experiment.run(
        a_spec(folder, "kd", prefix=prefix, divergence=divergence), out=out, evaluation=EVALUATION
    )
    samples = [entry.get("on_policy", False) for entry in run.folder.curve()]
    assert run.result["status"] == "trained"
    assert {"teacher": not any(samples), "student": sum(samples) == 3, "mixed": True}[prefix]
    states, texts = (list(out.glob(own)) for own in ("states/*", "texts/*.jsonl"))
    assert len(texts) == 1  # those of seqkd
    assert len(states) == 1 + (prefix == "teacher")  # other texts, other states
    about = (run.folder.model / "README.md").read_text()
    assert f"KD ({divergence} on " in about and f"- `prefix`: {prefix}" in about
    assert run.spec.run_id.startswith(f"tiny-20k-kd-{prefix}-{divergence.replace('_', '-')}-math")


def test_states_on_the_texts_of_the_teacher_are_those_of_the_teacher_online(folder, finished, tmp_path):
    spec, losses = a_spec(folder, "kd", prefix="teacher", divergence="forward_kl"), []
    for keeps in (True, False):
        out = shutil.copytree(finished[0], tmp_path / str(keeps))
        run = experiment.run(
            spec, out=out, evaluation=EVALUATION, compute=Compute(keeps_teacher_states=keeps)
        )
        losses.append([entry["loss"] for entry in run.folder.curve() if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_teacher_was_trained_once_and_shared(finished):
    out, done = finished
    specs = [spec for spec, _ in store.finished(out)]
    teachers = [spec for spec in specs if spec.student.endswith("tiny-40k")]
    assert len(specs) == len(METHODS) + 1
    assert len(teachers) == 1
    assert teachers[0].run_id == done["fkl"].spec.teacher_spec.run_id


def test_what_is_stored_is_not_done_again(folder, finished, monkeypatch):
    out, done = finished

    def never(*arguments, **options):
        raise AssertionError("trained or generated again")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr(generation, "generate", never)
    again = experiment.run(a_spec(folder, "gkd"), out=out, evaluation=EVALUATION)
    pd.testing.assert_frame_equal(again.items, done["gkd"].items)


def test_a_new_evaluation_does_not_retrain(folder, finished, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", never)
    sampled = EvalSpec(tasks=("addsub",), max_new_tokens=8, temperature=1.0, samples=3)
    run = experiment.run(a_spec(folder, "sft"), out=finished[0], evaluation=sampled)
    assert len(run.items) == 18
    assert run.accuracies["n"].tolist() == [6]


def test_the_same_spec_gives_the_same_items_in_another_store(folder, finished, tmp_path):
    again = experiment.run(a_spec(folder, "gkd"), out=tmp_path, evaluation=EVALUATION)
    pd.testing.assert_frame_equal(again.items, finished[1]["gkd"].items)


def test_a_stored_student_is_the_trained_one(finished):
    run = finished[1]["fkl"]
    student = students.load_trained(run.spec, run.folder)
    assert student.name == run.spec.student
    items = sources.test_items(run.spec, EVALUATION)
    prompts = encoding.prompt_ids([item.question for item in items], student.tokenizer)
    texts = generation.decode(student, generation.generate(student, prompts, max_new_tokens=24))
    assert texts == run.items["text"].tolist()


def test_an_adapter_is_stored_and_read_back(folder, tmp_path):
    spec = a_spec(folder, "fkl", adapter="lora")
    run = experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    assert (run.folder.model / "adapter_model.safetensors").is_file()
    ids = torch.arange(3, 13)[None]
    stored = students.load_trained(run.spec, run.folder).hidden_states(ids)
    assert not torch.equal(stored, models.load(spec.student).hidden_states(ids))


def test_teacher_texts_are_made_once_and_are_the_teachers(folder, finished, monkeypatch):
    out, done = finished
    (path,) = (out / "texts").glob("*.jsonl")
    spec = done["seqkd"].spec
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    inputs, at = Inputs.of(spec, None), store.Store(out)
    teacher = teacher_outputs.teacher_model(inputs, at)
    items = sources.load_items(spec, "train")
    prompts = encoding.prompt_ids([item.question for item in items], teacher.tokenizer)
    texts = generation.generate(teacher, prompts, max_new_tokens=12)
    assert [record["response"] for record in kept] == generation.decode(teacher, texts)
    assert [record["ended"] for record in kept] == [text.ended for text in texts]
    monkeypatch.setattr(generation, "generate", None)
    again = teacher_outputs.teacher_texts(inputs, at)
    assert [item.response for item in again] == [record["response"] for record in kept]
    assert all(item.rationale == "" for item in again)


def test_a_teachers_text_that_max_tokens_cuts_has_no_eos(finished, monkeypatch):
    out, done = finished
    inputs = Inputs.of(done["seqkd"].spec, None)
    first = inputs.items.train[0]
    short, long = (dataclasses.replace(first, response=text) for text in ("3", "3 " * 200))
    monkeypatch.setattr(teacher_outputs, "teacher_texts", lambda *_: [short, long])
    made = teacher_outputs.training_items(inputs, store.Store(out))
    assert [item.ended for item in made] == [True, False]
    encoding.encode(made, inputs.tokenizer, **inputs.spec.encoding)  # which refuses what ends too late


def test_other_weights_of_an_untuned_teacher_write_other_texts(folder, tmp_path):
    own = tmp_path / "models"
    shutil.copytree(folder, own)
    for seed in (1, 7):
        tiny.save_model(own / "tiny-40k", hidden=48, rows=96, seed=seed)
        experiment.run(a_spec(own, "seqkd", teacher_tuned=False), out=tmp_path / "out", evaluation=EVALUATION)
    assert len(list((tmp_path / "out" / "texts").glob("*.jsonl"))) == 2


def test_the_texts_of_a_tuned_teacher_keep_their_name(tmp_path):
    spec = RunSpec(
        student="mini-qwen-0.5B", teacher="mini-qwen-1.5B", method="seqkd", domain="math", train_items=24
    )
    path = teacher_outputs.texts_path(Inputs.of(spec, None), store.Store(tmp_path))
    assert path.name == "b90e47e507b9e36d.jsonl"  # as in stores that are there


def test_cells_have_the_schema_of_the_released_tables(finished):
    table = cells(finished[0])
    assert list(table.columns) == list(cell_table.SCHEMA)
    assert set(table["source"]) == {"live"}
    kd = table[(table["teacher"] != "") & (table["task"] == "addsub")]
    assert set(kd["method"]) == set(METHODS) - {"sft"}
    assert kd["student_parameters"].tolist() == [20_000] * 5
    sft = table[(table["method"] == "sft") & (table["task"] == "average")]
    assert len(sft) == 2


def test_agreement_in_cells_is_that_of_the_item_rows(folder, finished):
    """Likeness columns are filled in for the KD and for the SFT student beside the same teacher."""
    out, done = finished
    table = cells(out).query("task == 'addsub' and method == 'fkl'").iloc[0]
    teacher = store.folder_of(out, done["fkl"].spec.teacher_spec.run_id).evaluation(EVALUATION)
    both = comparison.paired(done["fkl"].items, teacher)
    assert table["agreement"] == comparison.agreement(both)["agreement"]
    assert table["agreement"] == done["fkl"].agreement["agreement"].item()
    assert table["fidelity"] == comparison.corpus_bleu(both["text"], both["text_teacher"])
    own = comparison.paired(done["sft"].items, teacher)
    assert table["agreement_sft"] == comparison.agreement(own)["agreement"]


def test_other_data_are_another_run(folder, finished, tmp_path):
    other = Path(tiny.write_data(tmp_path / "data"))
    spec = a_spec(folder, "sft")
    one = sources.resolved(tiny.spec(spec.student, str(other)))
    (other / "train.jsonl").write_text((other / "train.jsonl").read_text().replace("What", "what", 1))
    assert sources.resolved(tiny.spec(spec.student, str(other))).run_id != one.run_id


def test_other_weights_under_the_same_name_are_another_run(folder, tmp_path):
    model = tiny.save_model(tmp_path / "tiny-20k", seed=5)
    spec = tiny.spec(model, str(folder / "data"))
    before = sources.resolved(spec)
    Path(model, "generation_config.json").write_text("{}")  # never read, so it changes nothing
    assert sources.resolved(spec).run_id == before.run_id
    tiny.save_model(tmp_path / "tiny-20k", seed=6)
    assert sources.resolved(spec).run_id != before.run_id
    teacher = tiny.spec(str(folder / "tiny-20k"), str(folder / "data"), method="fkl", teacher=model)
    assert sources.resolved(teacher).teacher_spec.student_digest == sources.resolved(spec).student_digest


@pytest.mark.parametrize(
    ("fields", "evaluation", "says"),
    [
        ({"student": "nobody"}, EVALUATION, "unknown model 'nobody'"),
        ({"train_items": 99}, EVALUATION, "train_items=99, but"),
        ({"data": "/not/there"}, EVALUATION, "/not/there/train.jsonl is missing"),
        ({"max_tokens": 20}, EVALUATION, "more than max_tokens=20"),
        (
            {"max_tokens": 20, "protocol": "paper", "prompt_in_loss": False},
            EVALUATION,
            "max_tokens=20 cuts every item within its prompt; raise it",
        ),
        ({"teacher_items": 99}, EVALUATION, "teacher_items=99, but"),
        ({"student_start": "sft", "start_items": 99}, EVALUATION, "start_items=99, but"),
        ({}, EvalSpec(tasks=("svamp",)), "no test items of task 'svamp'; there are items of ..addsub"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(folder, tmp_path, fields, evaluation, says):
    spec = a_spec(folder, "fkl" if "teacher_items" in fields else "sft")
    with pytest.raises(ValueError, match=says) as caught:
        experiment.run(
            type(spec).from_dict(spec.to_dict() | fields), out=tmp_path / "out", evaluation=evaluation
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_validation_item_that_is_too_long_is_refused_before_the_teacher_works(folder, tmp_path):
    data = Path(tiny.write_data(tmp_path / "data"))
    lines = (data / "validation.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["question"] = "1 + 2 " * 200
    (data / "validation.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    spec = dataclasses.replace(a_spec(folder, "seqkd"), data=str(data))
    with pytest.raises(DataError, match=f"'{first['id']}' has .* more than max_tokens="):
        experiment.run(spec, out=tmp_path / "out", evaluation=EVALUATION)
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_written_is_refused_before_training(folder, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("a file where the folder should be")
    monkeypatch.setattr(training, "train", None)
    with pytest.raises((store.StoreError, NotADirectoryError), match="cannot be written|Not a directory"):
        experiment.run(a_spec(folder, "sft"), out=tmp_path / "out", evaluation=EVALUATION)


@pytest.mark.parametrize("name", ["result.json", "spec.json"])
def test_a_damaged_file_is_named_with_its_remedy(folder, finished, tmp_path, name):
    run = experiment.run(a_spec(folder, "sft"), out=tmp_path, evaluation=EVALUATION)
    (run.folder.path / name).write_text('{"half": ')
    with pytest.raises(store.StoreError, match=f"{name} is damaged .*delete"):
        list(store.finished(tmp_path))


def test_a_store_of_another_layout_is_refused(folder, tmp_path):
    run = experiment.run(a_spec(folder, "sft"), out=tmp_path, evaluation=EVALUATION)
    path = run.folder.path / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 99}))
    with pytest.raises(store.StoreError, match="is of layout 99, this is 1"):
        experiment.run(a_spec(folder, "sft"), out=tmp_path, evaluation=EVALUATION)


def test_damaged_items_are_named(folder, tmp_path):
    run = experiment.run(a_spec(folder, "sft"), out=tmp_path, evaluation=EVALUATION)
    path = run.folder.path / "eval" / EVALUATION.eval_id / "items.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(store.StoreError, match="items.parquet is damaged"):
        experiment.run(a_spec(folder, "sft"), out=tmp_path, evaluation=EVALUATION)


def test_an_untuned_teacher_is_the_plain_model(folder, tmp_path):
    spec = a_spec(folder, "fkl", teacher_tuned=False)
    experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    assert len(list(store.finished(tmp_path))) == 1


def readme_code(number):
    """A Python block of the README."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    return readme.split("```python\n")[number].split("```")[0]


def test_the_readme_distils_a_mini_pair(tmp_path, capsys):
    """The README's lines with the smallest models, few items, and another folder."""
    code = readme_code(1).replace("qwen-1.5B", "qwen-0.5B").replace("qwen-14B", "qwen-1.5B")
    code = code.replace('domain="math")', 'domain="math", train_items=24, validation_items=0, epochs=1)')
    code = code.replace("kdutils.run(spec)", f"kdutils.run(spec, out={str(tmp_path)!r})")
    exec(code, {})
    assert "multiarith" in capsys.readouterr().out
    assert len(list(store.finished(tmp_path))) == 2


def test_the_readme_distils_a_pair(folder, tmp_path, monkeypatch, capsys):
    """The README's lines as they stand, with tiny models under the hub's names."""
    code = readme_code(2)
    for name, stands_for in (("tiny-20k", "Qwen/Qwen2.5-0.5B"), ("tiny-40k", "Qwen/Qwen2.5-1.5B")):
        code = code.replace(stands_for, str(folder / name))
    code = code.replace("train_items=400, validation_items=40", "train_items=24, validation_items=6")
    monkeypatch.chdir(tmp_path)
    tiny.write_data(tmp_path / "my_items")
    exec(code, {})
    assert "error_consistency" in capsys.readouterr().out


def test_the_base_model_is_evaluated_without_training(folder, tmp_path):
    spec = RunSpec(student=str(folder / "tiny-20k"), method="base", domain="math", data=str(folder / "data"))
    run = experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    assert run.result["status"] == "untrained"
    assert len(run.items) == 6
    assert not run.folder.model.exists()
    again = experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    pd.testing.assert_frame_equal(again.items, run.items)
    (cell,) = cells(tmp_path).query("task == 'addsub'").to_dict("records")
    assert (cell["method"], cell["teacher"]) == ("base", "")


def test_the_mini_world_needs_no_files(tmp_path):
    spec = RunSpec(
        student="mini-qwen-0.5B", teacher="mini-qwen-1.5B", method="fkl", domain="math",
        train_items=24, validation_items=0, epochs=1, batch_size=8,
    )  # fmt: skip
    evaluation = EvalSpec(tasks=("addsub", "aqua"), items_per_task=4, max_new_tokens=48)
    run = experiment.run(spec, out=tmp_path, evaluation=evaluation)
    assert run.accuracies["n"].tolist() == [4, 4]
    assert run.agreement["top1_agreement"].between(0, 100).all()
    assert 0.1 < run.result["peak_memory_gb"] < 8


def test_the_memory_of_a_run_is_not_that_of_what_was_held_before(tmp_path):
    before = torch.ones(2_000_000_000, dtype=torch.uint8)
    held_gb = memory.status_gb("VmHWM")
    del before
    run = experiment.run(
        RunSpec(
            student="mini-qwen-0.5B",
            method="sft",
            domain="math",
            train_items=24,
            validation_items=0,
            epochs=1,
        ),
        out=tmp_path,
    )
    assert run.result["peak_memory_gb"] < held_gb - 1


def test_the_digest_of_the_mini_world_is_of_its_items(monkeypatch):
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
    before = sources.resolved(spec).run_id
    assert sources.resolved(spec).run_id == before
    assert sources.resolved(dataclasses.replace(spec, wrong_rationale_share=0.5)).run_id != before
    monkeypatch.setattr(sources, "mini_digest", lambda domain: "of other items")
    assert sources.resolved(spec).run_id != before


def test_a_run_that_another_process_has_taken_over_stops_and_commits_nothing(folder, tmp_path):
    spec, steps = a_spec(folder, "sft"), []

    def lose_it(entry):
        steps.append(entry)
        (path,) = (tmp_path / "leases").glob("*.json")
        path.write_text('{"token": "another"}')

    with pytest.raises(leases.LostError, match="was taken over by another process"):
        experiment.run(spec, out=tmp_path, evaluation=EVALUATION, progress=lose_it)
    assert len(steps) == 1
    assert {path.name for path in (tmp_path / "runs").glob("*/*")} == {"spec.json", "environment.json"}
    assert list((tmp_path / "leases").glob("*.json")) != []  # the other's


def test_what_another_process_makes_is_waited_for(folder, tmp_path, monkeypatch):
    spec, said = sources.resolved(a_spec(folder, "sft")), []
    other = leases.take(tmp_path, spec.run_id)

    def others_finish(seconds):
        monkeypatch.undo()
        other.path.unlink()
        experiment.make(spec, [EVALUATION], tmp_path)

    monkeypatch.setattr(store.time, "sleep", others_finish)
    run = experiment.run(spec, out=tmp_path, evaluation=EVALUATION, progress=said.append)
    assert len(run.items) == 6
    assert [list(entry) for entry in said] == [["warning"]]
    assert "is being made by another process" in said[0]["warning"]


def test_a_failure_is_recorded_until_the_next_attempt(folder, tmp_path, monkeypatch):
    spec = sources.resolved(a_spec(folder, "fkl"))

    def failing(*arguments, **options):
        raise MemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(training, "train", failing)
        with pytest.raises(MemoryError, match="full"):
            experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    for each in (spec, spec.teacher_spec):
        failure = store.folder_of(tmp_path, each.run_id).failure()
        assert (failure["reason"], failure["run_token"]) == ("MemoryError: full", None)
    experiment.run(spec, out=tmp_path, evaluation=EVALUATION)
    assert store.folder_of(tmp_path, spec.run_id).failure() is None
