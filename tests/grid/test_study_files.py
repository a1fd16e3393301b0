"""A study file: what it brings along is read and hashed; what is wrong with it names its line."""

import json
import re
from dataclasses import replace

import pytest
from ownstudy import write_study

from kdutils.constants import ALL_TASKS, TASK_LABELS
from kdutils.data import answers, options, sources, study_files
from kdutils.data.item_files import item_of
from kdutils.grid.plan import plan
from kdutils.grid.profile import NEW_STUDY, load_profile
from kdutils.grid.study import place_of
from kdutils.report import cli, live
from kdutils.runs.comparison import chance_accuracy


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path, notebooks=["01_effectiveness"], sections=["01"])


def planned(path):
    return plan("01", {"profile": str(path), "out": str(path.parent)})


def identity(path):
    """What names the distilled run, and its evaluation."""
    run = next(run for run in planned(path).runs if run.spec.teacher)
    return sources.resolved(run.spec).run_id, run.evaluation.eval_id


def changed(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_runs_and_items_are_those_of_the_file(study):
    run = next(run for run in planned(study).to_make if run.spec.teacher)
    train = sources.load_items(run.spec, "train")
    test = sources.test_items(run.spec, run.evaluation)
    assert len(train) == 48 and {item.response[:14] for item in train} == {"The answer is "}
    assert [TASK_LABELS[task] for task in dict.fromkeys(item.task for item in test)] == ["legs", "largest"]
    assert len(test) == 120
    legs, largest = run.evaluation.tasks
    assert (chance_accuracy(legs), chance_accuracy(largest)) == (0.0, pytest.approx(100 / 3))
    assert run.evaluation.ranking().tasks == (largest,)
    assert place_of("winogrande") < place_of(largest) < place_of(legs) < place_of("average")
    assert (
        planned(study).profile.live.watermark == "model world"
    )  # the questions are real, the models are not


def test_tasks_are_asked_for_by_their_names(study):
    asked = plan("01", {"profile": str(study), "tasks": ["legs"], "domains": ["counting"]})
    assert asked.shown.tasks == ("legs?answer=number",)
    with pytest.raises(ValueError, match=r"tasks=\['gsm9k'\]: name at least one of .*'largest'"):
        plan("01", {"profile": str(study), "tasks": ["gsm9k"]})


def test_what_a_run_is_made_of_is_in_its_name_and_where_it_lies_is_not(study, tmp_path):
    first = identity(study)
    (tmp_path / "elsewhere").mkdir()
    other = write_study(tmp_path / "elsewhere", notebooks=["01_effectiveness"], sections=["01"])
    assert identity(other) == first

    changed(tmp_path / "legs.jsonl", "dogs. How many legs are there? (0)", "dogs. How many legs? (0)")
    run_id, eval_id = identity(study)
    assert run_id == first[0] and eval_id != first[1]  # evaluated again, not trained again
    changed(study, "choices = 3", "choices = 3\nchance = 40.0")
    assert identity(study)[0] == run_id and identity(study)[1] != eval_id
    changed(tmp_path / "train.jsonl", "How many legs are there? (60)", "How many legs? (60)")
    assert identity(study)[0] != run_id


def test_two_studies_of_one_process_do_not_mix(study, tmp_path):
    (tmp_path / "b").mkdir()
    other = write_study(tmp_path / "b", notebooks=["01_effectiveness"], sections=["01"])
    changed(other, 'answer = "number"', "answer = 'is (\\d+)'")
    runs = [next(run for run in planned(path).runs if run.spec.teacher) for path in (study, other)]
    found = [sources.test_items(run.spec, run.evaluation)[0] for run in runs]
    assert [answers.parse(item.task, "It is 7, not 8") for item in found] == ["8", "7"]
    assert not [key for key in ALL_TASKS if "?" in key]


@pytest.mark.parametrize(
    ("answer", "choices", "text", "parsed"),
    [
        ("keyword", ["red", "reddish"], "the correct answer is reddish", "reddish"),
        (r"#### (-?\d+)", (), "first #### 4 then #### -5.", "-5"),
        ("text", (), " any words ", "any words"),
    ],
)
def test_every_way_of_reading(answer, choices, text, parsed):
    key = study_files.OwnTask(items="x.csv", answer=answer, choices=choices).key("own")
    assert answers.parse(key, text) == answers.parse_strict(key, text) == parsed
    assert answers.is_correct(key, parsed, parsed)


def test_what_a_task_is_survives_its_key_whatever_the_letters():
    pattern, response = r"\\boxed\{(é\d|&=%\+|)\}", r"So {x=1}, \boxed{{}}"
    own = study_files.OwnTask(items="x.csv", answer=pattern, choices=["é1", "&=%+", ""], response=response)
    key = own.key("own")
    assert (ALL_TASKS[key].reading, ALL_TASKS[key].options) == (pattern, ("é1", "&=%+", ""))
    item = item_of({"id": "1", "task": key, "question": "?", "answer": "&=%+"}, where="", is_own=True)
    assert item.response == r"So {x=1}, \boxed{&=%+}"
    assert answers.parse(key, item.response) == item.answer
    assert list(options.options(item, "label").values())[1] == r"So {x=1}, \boxed{&=%+"


MODELS = 'models = ["mini-qwen-0.5B", "mini-qwen-3B"]'
BAD = {  # in place of a line, the wrong one -> what is said of that line
    ('title = "Legs and largest"', "title = 3"): "title=3: it must be a valid string",
    ("epochs = 1", "epochs = 0"): "epochs=0 must be greater than or equal to 1",
    ("epochs = 1", "epoch = 1"): "no field 'epoch'",
    ("sft_seeds = [0]", "sft_seeds = 0"): "sft_seeds=0: it must be a list",
    ('summary = "Two tasks of one\'s own, one mini pair."', 'sumary = "A pair."'): "sumary is unknown; use",
    (MODELS, 'models = ["mini-qwen-0.7B", "mini-qwen-3B"]'): "models: unknown model 'mini-qwen-0.7B'",
    (MODELS, 'models = ["mini-llama-1B", "mini-qwen-3B"]'): "models: no two of a family differ in size in",
    ('domains = ["counting"]', 'domains = ["geography"]'): "domains='geography' must be one of",
    ('domains = ["counting"]', 'domains = ["math"]'): "data is missing: whose items?",
    ('items = "legs.jsonl"', 'items = "arms.jsonl"'): "no .jsonl or .csv file that is there; give one",
    ('answer = "number"', 'answer = "numbre"'): "answer='numbre' is none of ['number', 'letter'",
    ('answer = "number"', "answer = '(a)(b)'"): "with one group (it has 2)",
    ('answer = "number"', "answer = '(a'"): "with one group (it has missing )",
    ("choices = 3", "choices = 9"): "choices=9 must be how many letters there are, 2 to 5",
    ("choices = 3", "chance = 101.0"): "chance=101.0: it must be less than or equal to 100",
    ("choices = 3", "choises = 3"): "choises is unknown; use one of ['items', 'answer'",
    ("[tasks.legs]", "[tasks.gsm8k]"): "'gsm8k' is a name of the package; use another",
    ("[domains.counting]", "[domains.math]"): "'math' is a name of the package; use another",
    ('tasks = ["legs", "largest"]', 'tasks = ["widest"]'): "'widest' is no [tasks] of this file; there are",
}


@pytest.mark.parametrize(("lines", "message"), BAD.items(), ids=lambda each: each[1])
def test_what_is_wrong_names_its_line_and_the_remedy(study, lines, message):
    changed(study, *lines)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        planned(study)
    line = study.read_text().splitlines().index(lines[1]) + 1
    assert str(caught.value).startswith(f"{study}, line {line}: ")


OF_DOMAIN = "[live.by_domain.counting]\ntrain_items = 49\n"
OF_TWO = f"{OF_DOMAIN}[live.by_method.fkl]\ntrain_items = 49\n[live.evaluation]"


@pytest.mark.parametrize(
    ("before", "after", "given", "place"),
    [
        ("train_items = 48", "train_items = 49", {}, ", line 10: train_items=49"),
        ("[live.evaluation]", f"{OF_DOMAIN}[live.evaluation]", {}, ", line 17: train_items=49"),
        ("[live.evaluation]", OF_TWO, {}, ": train_items=49"),  # which of two lines is not known
        ("train_items = 48\n", "", {}, ", line 6: train_items=1500"),  # [live], which has none
        ("train_items", "train_items", {"train_items": 49}, ": train_items=49"),  # not given in the file
    ],
)
def test_more_items_than_there_are_to_train_on_name_their_line(study, before, after, given, place):
    changed(study, before, after)
    asked = plan("01", {"profile": str(study), "out": str(study.parent)} | given)
    said = f"{study}{place} and validation_items=8, but {study.name} has 56 counting items to train on"
    with pytest.raises(ValueError, match=re.escape(said)):
        live.train(asked)


def test_the_name_of_a_study_is_that_of_its_file(study):
    study.write_text('name = "other"\n' + study.read_text())
    with pytest.raises(ValueError, match="line 1: name is that of the file itself: leave it out"):
        planned(study)


def test_a_task_of_no_domain_is_refused(study):
    line = len(study.read_text().splitlines()) + 1
    study.write_text(study.read_text() + '[tasks.widest]\nitems = "legs.jsonl"\nanswer = "number"\n')
    with pytest.raises(ValueError, match=rf"line {line}: tasks.widest is in no domain; name it in"):
        planned(study)


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("legs.jsonl", '"legs-1"', '"legs-0"', "legs.jsonl, line 2: id 'legs-0' stands there twice"),
        ("legs.jsonl", '"task": "legs"', '"task": "arms"', "line 1: task='arms' must be one of ['legs']"),
        ("largest.csv", ",question,", ",answer,question,", "line 1: column 'answer' stands there twice"),
        ("largest.csv", ",question,", ",querstion,", "line 2: key 'querstion' is none of an item"),
        ("largest.csv", '",A\n', '",E\n', "answer='E' is not as largest"),
        ("train.jsonl", '"task": "largest", ', "", "task=None must be one of ['legs', 'largest']"),
    ],
)
def test_items_that_cannot_be_used_name_their_line(study, tmp_path, file, before, after, message):
    changed(tmp_path / file, before, after)
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(study)


def test_models_and_data_begin_where_the_file_lies(study, tmp_path, monkeypatch):
    changed(study, '"mini-qwen-3B"]', '"./models/mini-qwen-9B"]')
    monkeypatch.chdir("/")
    assert load_profile(str(study)).live.models[1] == str(tmp_path / "models" / "mini-qwen-9B")


def test_a_study_is_not_named_as_what_is_there(study):
    for name in ("mini", "runs", "a b"):
        other = study.with_name(f"{name}.toml")
        study.rename(other)
        with pytest.raises(ValueError, match="a study file is NAME.toml, .*; rename it"):
            load_profile(str(other))
        other.rename(study)
    with pytest.raises(ValueError, match="elsewhere.toml cannot be read .*; check the path"):
        load_profile("elsewhere.toml")


def test_a_new_study_is_written_once_and_can_be_planned(tmp_path, capsys, monkeypatch):
    path = tmp_path / "my_study.toml"
    assert cli.main(["--new", str(path)]) == 0
    assert path.read_text() == NEW_STUDY.read_text()
    assert cli.main(["--new", str(path)]) == 2
    assert "cannot be written (File exists); give another path" in capsys.readouterr().err
    assert {run.spec.method for run in planned(path).runs} == {"base", "sft", "fkl"}
    (tmp_path / "rivers.jsonl").write_text(
        json.dumps({"id": "1", "question": "q (A) x (B) y (C) z (D) w", "answer": "A"})
    )
    (tmp_path / "lengths.csv").write_text("id,question,answer\n1,How long?,12\n")
    (tmp_path / "train.jsonl").write_text(
        json.dumps({"id": "t", "task": "lengths", "question": "And this?", "answer": "7"})
    )
    keys = "items|answer|choices|chance|response|train|tasks"
    own = re.sub(rf"(?m)^# ?(?=\[(?:tasks|domains)\.|(?:{keys}) = )", "", path.read_text())
    path.write_text(own.replace('domains = ["math"]', 'domains = ["geography"]'))
    run = next(run for run in planned(path).runs if run.spec.method == "sft")
    spec = replace(run.spec, train_items=1, validation_items=0)
    assert [item.response for item in sources.load_items(spec, "train")] == ["Length: 7 km"]
