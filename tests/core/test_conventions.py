"""What others expect of a run: a model card, trackers, results in the formats of other programs."""

import contextlib
import dataclasses
import io
import json
import re

import gguf
import jsonschema
import pytest
import tiny
from accelerate import tracking
from huggingface_hub import ModelCard

from kdutils.data import model_facts
from kdutils.data.model_files import Location
from kdutils.runs import experiment, exports, trackers
from kdutils.spec import EvalSpec, RunSpec

TEXTS = EvalSpec(tasks=("addsub",), max_new_tokens=24)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tiny.save_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def fkl(study):
    """A distilled student, which has learned something, and its teacher."""
    names = {"teacher": str(study / "tiny-40k"), "method": "fkl"}
    spec = tiny.spec(str(study / "tiny-20k"), str(study / "data"), **names)
    return experiment.run(spec, out=study / "out", evaluation=TEXTS)


def lora(study, **fields):
    return tiny.spec(str(study / "tiny-20k"), str(study / "data"), adapter="lora", epochs=1, **fields)


def card_of(run) -> ModelCard:
    return ModelCard.load(run.folder.model / "README.md")


def answer_by_card(run, question: str, monkeypatch) -> str:
    """What the code in the card prints, for another question than its own."""
    code = re.search(r"```python\n(.*?)```", card_of(run).text, re.S)[1]
    assert "What is 2 plus 3 ?" in code
    code = code.replace("What is 2 plus 3 ?", question).replace(
        '"max_new_tokens": 96', '"max_new_tokens": 24'
    )
    monkeypatch.chdir(run.folder.model)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README.md", "exec"), {})
    return printed.getvalue().removesuffix("\n")


# --- model card ---------------------------------------------------------------------------------------------


def test_the_card_says_what_the_run_came_to(fkl):
    card = card_of(fkl)
    score = fkl.accuracies["accuracy"].item()
    found = {each.metric_name: each for each in card.data.eval_results}
    assert found["accuracy (greedy, up to 24 tokens)"].metric_value == pytest.approx(score, abs=0.01)
    assert found["accuracy (greedy, up to 24 tokens)"].dataset_type == "data/addsub"  # not the benchmark's
    se = fkl.accuracies["accuracy_se"].item()
    assert f"| AddSub | accuracy | greedy, up to 24 tokens | {score:.1f} | {se:.1f} | 6 |" in card.text
    assert card.data.tags == ["knowledge-distillation", "fkl", "kdutils"]
    for fact in (fkl.spec.data_digest, fkl.result["fingerprint"], "`tiny-40k` as its teacher", "`steps`: 6"):
        assert fact in card.text
    assert "base_model" not in card.data.to_dict()  # a folder of this machine is no name on a hub
    assert str(fkl.folder.path.parents[2]) not in card.content
    assert (card.data.license, card.data.license_name) == ("other", "unknown")
    assert "look it up before use" in card.text


@pytest.mark.parametrize("kind", ["full", "lora", "spt"])
def test_the_code_in_the_card_gives_the_stored_answer(study, fkl, kind, monkeypatch):
    own = {"adapter": "spt", "adapter_parameters": 1_000, "lora_rank": 2} if kind == "spt" else {}
    spec = dataclasses.replace(lora(study), **own)
    run = fkl if kind == "full" else experiment.run(spec, out=study / "out", evaluation=TEXTS)
    first = json.loads((study / "data/test.jsonl").read_text().splitlines()[0])
    assert answer_by_card(run, first["question"], monkeypatch) == run.items["text"].iloc[0]


def test_an_adapter_names_the_model_of_the_hub_and_not_where_it_was_read(study, monkeypatch):
    monkeypatch.setenv("KDUTILS_MODELS", f"someone/tiny-20k={study / 'tiny-20k'}")
    spec = tiny.spec("someone/tiny-20k", str(study / "data"), adapter="lora", epochs=1)
    run = experiment.run(spec, out=study / "out", evaluation=TEXTS)
    config = json.loads((run.folder.model / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == card_of(run).data.base_model == "someone/tiny-20k"
    assert card_of(run).data.to_dict()["base_model_relation"] == "adapter"
    assert (
        "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('someone/tiny-20k')"
        in card_of(run).text
    )


def test_a_new_evaluation_is_added_to_the_card_and_the_weights_stay_whole(study, fkl):
    sampled = EvalSpec(tasks=("addsub",), max_new_tokens=8, temperature=1.0, samples=3)
    before = fkl.folder.weights()
    run = experiment.run(fkl.spec, out=study / "out", evaluation=sampled)
    names = {each.metric_name for each in card_of(run).data.eval_results}
    assert {
        "accuracy (greedy, up to 24 tokens)",
        "accuracy (3 sampled at temperature 1, up to 8 tokens)",
    } <= names
    run.folder.check_model()
    assert run.folder.weights() == before
    assert not any(name.endswith(".md") for name in before)


def test_a_card_that_a_run_counts_on_is_left_alone(study):
    """Runs of earlier builds have peft's card among their digests."""
    run = experiment.run(lora(study, seed=3), out=study / "out", evaluation=TEXTS)
    (run.folder.model / "README.md").write_text("of peft\n")
    result = {key: value for key, value in run.result.items() if key not in ("sha256", "seal", "layout")}
    run.folder.finish(result, [])
    experiment.run(run.spec, out=study / "out", evaluation=EvalSpec(tasks=("addsub",), max_new_tokens=8))
    run.folder.check_model()


def test_a_parents_licence_is_read_where_it_is_stated(tmp_path):
    folder = tmp_path / "parent"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: tongyi\nlicense_link: x\n---\nHello\n"
    )
    stated = {"license": "other", "license_name": "tongyi", "license_link": "x"}
    assert model_facts.licence(Location("parent", str(folder))) == stated
    writer = gguf.GGUFWriter(tmp_path / "it.gguf", "qwen2")
    writer.add_license("mit")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert model_facts.licence(Location("it", str(tmp_path), "it.gguf")) == {"license": "mit"}
    assert model_facts.licence(Location("mini-qwen-0.5B", "anywhere")) == {"license": "apache-2.0"}
    (folder / "README.md").write_text("---\n- [\n---\n")
    assert model_facts.licence(Location("unreadable", str(folder))) == {}


# --- trackers -----------------------------------------------------------------------------------------------


class Kept:
    """A tracker that keeps what it is told, and fails when told so."""

    def __init__(self, fails_at=None):
        self.fails_at, self.logged, self.settings, self.finished = fails_at, {}, {}, []

    def __call__(self, run_name, name, config, **options):
        self.logged[name], self.settings[name], outer = [], config, self

        class Tracker:
            def start(self):
                pass

            def log(self, values, step):
                if outer.fails_at == step:
                    raise ConnectionError("no route to host")
                outer.logged[name].append((step, values))

            def finish(self):
                outer.finished.append(name)

        return Tracker()


@pytest.fixture
def tracked(monkeypatch):
    """wandb, and a fake of it."""
    fake = Kept()
    monkeypatch.setattr(tracking, "WandBTracker", fake)
    monkeypatch.setattr(trackers.util, "find_spec", lambda name: name == "wandb" or None)
    return fake


def a_run(study, out, **options):
    spec = tiny.spec(
        str(study / "tiny-20k"), str(study / "data"), method="fkl", teacher=str(study / "tiny-40k")
    )
    return experiment.run(spec, out=out, evaluation=TEXTS, trackers=["wandb"], **options)


def test_a_tracker_has_the_curves_of_student_and_teacher_apart(study, tracked, tmp_path):
    run = a_run(study, tmp_path)
    own, teacher = run.spec.run_id, run.spec.teacher_spec.run_id
    assert set(tracked.logged) == set(tracked.finished) == {own, teacher}
    assert tracked.settings[own]["method"] == "fkl"
    assert tracked.settings[teacher]["method"] == "sft"
    curve = [json.loads(line) for line in (run.folder.path / "curve.jsonl").read_text().splitlines()]
    losses = [(entry["step"], entry["loss"]) for entry in curve if "step" in entry]
    logged = [(step, values["loss"]) for step, values in tracked.logged[own] if "loss" in values]
    assert logged == losses
    held_out = [(step, values) for step, values in tracked.logged[own] if "validation_loss" in values]
    assert [step for step, _ in held_out] == [3, 6]
    last = tracked.logged[own][-1][1]
    assert 100 * last["accuracy/addsub"] == pytest.approx(run.accuracies["accuracy"].item())
    assert "accuracy/addsub" in tracked.logged[teacher][-1][1]


def test_a_run_that_was_made_before_is_shown_too(study, fkl, tracked):
    run = experiment.run(fkl.spec, out=study / "out", evaluation=TEXTS, trackers="wandb")
    assert [step for step, values in tracked.logged[run.spec.run_id] if "loss" in values] == list(range(1, 7))


def test_a_tracker_that_fails_is_told_and_the_run_goes_on(study, tracked, tmp_path, caplog):
    tracked.fails_at = 2
    seen = []
    run = a_run(study, tmp_path, progress=seen.append)
    assert run.result["status"] == "trained"
    assert len(run.items) == 6
    (message,) = [record.getMessage() for record in caplog.records if record.name == trackers.__name__]
    assert "tracker wandb failed (ConnectionError: no route to host)" in message
    assert [entry["step"] for entry in seen if entry.get("run_id") == run.spec.run_id and "step" in entry][
        -1
    ] == 6


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["wandbb"], "unknown tracker 'wandbb': choose from"),
        ("tensorbord", "unknown tracker 'tensorbord'"),
        (["wandb", "trackio"], "tracker 'trackio' is not installed: `python -m pip install trackio`"),
    ],
)
def test_a_tracker_that_cannot_be_is_refused_before_any_work(tmp_path, tracked, names, complaint):
    spec = RunSpec(student="mini-qwen-0.5B", method="sft", domain="math")
    with pytest.raises(ValueError, match=re.escape(complaint)):
        experiment.run(spec, out=tmp_path, trackers=names)
    assert not list(tmp_path.iterdir())


def test_every_tracker_is_one_that_accelerate_has():
    for name, adapter in trackers.TRACKERS.items():
        assert getattr(tracking, adapter).name == name


# --- results for other programs -----------------------------------------------------------------------------

TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "number", "minimum": 0, "maximum": 1}


def needs(**fields):
    return {"type": "object", "required": [*fields], "properties": fields}


SOURCE = needs(
    source_type={"const": "evaluation_run"}, source_organization_name=TEXT, evaluator_relationship=TEXT
)
MODEL = needs(name=TEXT, id=TEXT, additional_details=needs(deployment_type=TEXT, model_availability=TEXT))
METRIC = needs(lower_is_better={"const": False}, score_type=TEXT, min_score=NUMBER, max_score=NUMBER)
DATA = needs(dataset_name=TEXT, source_type={"const": "other"})
SCORE = needs(score=NUMBER)
RESULT = needs(evaluation_name=TEXT, source_data=DATA, metric_config=METRIC, score_details=SCORE)
RECORD = needs(  # what schema 0.3.0 of Every Eval Ever requires
    **dict.fromkeys(("schema_version", "evaluation_id", "retrieved_timestamp"), TEXT),
    source_metadata=SOURCE,
    model_info=MODEL,
    eval_library=needs(name=TEXT, version=TEXT),
    evaluation_results={"type": "array", "items": RESULT, "minItems": 1},
)
INSTANCE = needs(
    **dict.fromkeys(("schema_version", "evaluation_id", "model_id", "evaluation_name", "sample_id"), TEXT),
    interaction_type={"const": "single_turn"},
    input=needs(raw=TEXT, reference={"type": "array", "items": TEXT}),
    output=needs(raw={"type": "array", "items": {"type": "string"}}),
    answer_attribution={"type": "array", "items": needs(extracted_value=TEXT, extraction_method=TEXT)},
    evaluation=needs(score=NUMBER, is_correct={"type": "boolean"}),
)
SAMPLE = {  # of lm-evaluation-harness 0.4.13
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
RESULTS = {  # what its results_*.json has, beside versions of its own machine
    *(
        "results",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
    ),
    *("git_hash", "date", "pretty_env_info", "transformers_version", "lm_eval_version", "upper_git_hash"),
    *("tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id", "max_length"),
    *("task_hashes", "model_source", "model_name", "model_name_sanitized", "system_instruction"),
    *("system_instruction_sha", "fewshot_as_multiturn", "chat_template", "chat_template_sha"),
    "total_evaluation_time_seconds",
}


def read(files, pattern):
    """The one file of that name, as JSON or as records."""
    (path,) = [path for path in files if re.fullmatch(pattern, path.name)]
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else json.loads("".join(lines))


@pytest.fixture(scope="module")
def exported(study, fkl, tmp_path_factory):
    """One evaluation alone, so that there is one file of each kind."""
    alone = experiment.run(fkl.spec, out=tmp_path_factory.mktemp("out"), evaluation=TEXTS)
    return alone, alone.export(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    spec = RunSpec(student="mini-qwen-0.5B", method="base", domain="commonsense")
    evaluation = EvalSpec(tasks=("boolq",), items_per_task=4, scoring="likelihood")
    run = experiment.run(spec, out=tmp_path_factory.mktemp("ranked"), evaluation=evaluation)
    return run, run.export(tmp_path_factory.mktemp("exported"))


def test_results_are_those_of_the_harness_in_shape_and_ours_in_number(exported):
    run, files = exported
    found = read(files, r"results_.*\.json")
    assert set(found) == RESULTS | {"kdutils_version"}
    assert set(found["results"]) == {"kdutils_data_addsub"}  # not the harness's own task
    scores = found["results"]["kdutils_data_addsub"]
    assert 100 * scores["exact_match,flexible-extract"] == pytest.approx(run.accuracies["accuracy"].item())
    se = run.accuracies["accuracy_se"].item()
    assert 100 * scores["exact_match_stderr,flexible-extract"] == pytest.approx(se)
    assert scores["exact_match,strict-match"] == pytest.approx(run.items["correct_strict"].mean())
    samples = read(files, r"samples_kdutils_data_addsub_.*\.jsonl")
    assert len(samples) == 2 * len(run.items)
    assert all(set(sample) == SAMPLE | {"exact_match"} for sample in samples)
    lenient = [sample for sample in samples if sample["filter"] == "flexible-extract"]
    assert [sample["resps"][0][0] for sample in lenient] == run.items["text"].tolist()
    assert [sample["exact_match"] for sample in lenient] == run.items["correct"].astype(float).tolist()


def test_ranked_options_are_those_of_the_harness_too(ranked):
    run, files = ranked
    scores = read(files, r"results_.*\.json")["results"]["kdutils_mini_boolq"]
    assert scores["acc,none"] == run.items["correct"].mean()
    assert scores["acc_norm,none"] == run.items["correct_normalised"].mean()
    first, *others = read(files, r"samples_kdutils_mini_boolq_.*\.jsonl")
    assert len(others) == len(run.items) - 1
    assert set(first) == SAMPLE | {"acc", "acc_norm"}
    assert [float(response[0][0]) for response in first["resps"]] == list(run.items["logprobs"].iloc[0])
    assert all(response[0][1] is None for response in first["resps"])  # whether greedy was never looked at


@pytest.mark.parametrize("which", ["exported", "ranked"])
def test_records_hold_what_every_eval_ever_requires(request, which):
    run, files = request.getfixturevalue(which)
    record = read(files, r"[0-9a-f-]{36}\.json")
    jsonschema.validate(record, RECORD)
    assert str(run.folder.path.parents[2]) not in json.dumps(record)
    samples = read(files, r"[0-9a-f-]{36}_samples\.jsonl")
    assert record["detailed_evaluation_results"]["total_rows"] == len(samples) == 2 * len(run.items)
    for sample in samples:
        jsonschema.validate(sample, INSTANCE)
        assert (sample["evaluation_id"], sample["model_id"]) == (
            record["evaluation_id"],
            record["model_info"]["id"],
        )
    for result in record["evaluation_results"]:
        own = [
            s["evaluation"]["score"]
            for s in samples
            if s["evaluation_result_id"] == result["evaluation_result_id"]
        ]
        assert sum(own) / len(own) == pytest.approx(result["score_details"]["score"])


def test_what_is_not_known_is_left_out_and_never_zero(study, tmp_path):
    spec = tiny.spec(str(study / "tiny-20k"), str(study / "data"), epochs=1)
    one = EvalSpec(tasks=("addsub",), items_per_task=1, max_new_tokens=4)
    run = experiment.run(spec, out=tmp_path, evaluation=one)
    files = run.export(tmp_path / "exported")
    scores = read(files, r"results_.*\.json")["results"]["kdutils_data_addsub"]
    assert not any("stderr" in name for name in scores)  # of one item there is none
    record = read(files, r"[0-9a-f-]{36}\.json")
    assert "standard_error" not in record["evaluation_results"][0]["score_details"]["uncertainty"]


def test_without_the_items_there_are_no_samples(study, tmp_path):
    data = tiny.write_data(tmp_path / "data")
    spec = tiny.spec(str(study / "tiny-20k"), data, epochs=1)
    run = experiment.run(spec, out=tmp_path, evaluation=TEXTS)
    tiny.write_data(tmp_path / "data", n_other=7)  # the same names, other items
    files = run.export(tmp_path / "exported")
    assert sorted(path.suffix for path in files) == [".json", ".json"]
    assert "detailed_evaluation_results" not in read(files, r"[0-9a-f-]{36}\.json")


def test_the_command_writes_what_is_asked_for(exported, tmp_path, capsys):
    run, files = exported
    out = run.folder.path.parents[1]
    assert exports.main([str(out), run.spec.run_id, "--to", str(tmp_path)]) == 0
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in sorted(files)]
    assert f"4 files of 1 runs in {tmp_path}" in capsys.readouterr().out
    for wrong in ([str(out), "no-such-run"], [str(tmp_path / "nothing")]):
        assert exports.main([*wrong, "--to", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "has no finished run" in error
