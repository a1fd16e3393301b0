"""Real questions: how files become items, splits and flags; the release fetched whole, checked or refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace

import pytest

from kdutils.constants import CHOICE_TASKS, DOMAIN_TASKS, TASKS
from kdutils.data import benchmark, evaluate, llm_adapters, options, sources
from kdutils.data.benchmark import ends_in
from kdutils.data.item_files import letters_and_digits
from kdutils.io import disk
from kdutils.items import DataError, Item
from kdutils.spec import EvalSpec, RunSpec

DEV_ITEMS = {
    **{"aqua": 117, "addsub": 209, "gsm8k": 250, "multiarith": 250, "svamp": 250, "singleeq": 250},
    **{"arc_c": 250, "arc_e": 250, "boolq": 250, "hellaswag": 250, "obqa": 244, "piqa": 250, "siqa": 250},
    **{"winogrande": 250, "dolly": 69, "selfinst": 118, "vicuna": 4},
}
POOL = {"math": 8_316, "commonsense": 6_900, "instruction": 1_243}


def a_spec(domain="math", *, source="benchmark", train=10, validation=4, **options) -> RunSpec:
    return RunSpec(
        student="Qwen/Qwen2.5-0.5B",
        method="sft",
        domain=domain,
        data=source,
        train_items=train,
        validation_items=validation,
        **options,
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, for this test alone."""
    monkeypatch.setattr(disk, "cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


# --- the folder of JSON lines --------------------------------------------------------------------------


def record(number, task, split, **values):
    answer = (
        "B" if task == "aqua" else CHOICE_TASKS[task][number % 2] if task in CHOICE_TASKS else str(number)
    )
    made = {
        "id": f"{task}-{split}-{number:05d}",
        "task": task,
        "question": f"Question {'abcdefghijklmnopqrst'[number % 20] * 9} of {task} in {split}: {number}?",
        "answer": answer,
        "rationale": "" if task in CHOICE_TASKS else f"We count.\nThe answer is {answer}.",
    }
    return made | values


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in records))


@pytest.fixture
def folder(tmp_path, monkeypatch, cache):
    """A data folder like $KDUTILS_DATA/data, with few items."""
    root = tmp_path / "root" / "data"
    write(root / "train" / "math_train.jsonl", [record(n, "gsm8k", "train") for n in range(40)])
    write(root / "train" / "math_equation_train.jsonl", [record(n, "mawps", "train") for n in range(20)])
    for name in benchmark.TRAIN_FILES["commonsense"]:
        write(root / "train" / f"{name}.jsonl", [record(n, "boolq", name) for n in range(8)])
    write(
        root / "train" / "instruct_train.jsonl",
        [record(n, "rasbt_instruct", "train", answer="So it is.", rationale="") for n in range(8)],
    )
    for task in TASKS:
        write(root / "dev" / f"{task}.jsonl", [record(n, task, "test") for n in range(12)])
    for task in DOMAIN_TASKS["instruction"]:
        records = [
            record(n, task, "test", answer="" if task == "vicuna" and n < 7 else "Yes.", rationale="")
            for n in range(9)
        ]
        write(root / "dev" / f"{task}.jsonl", records)
    monkeypatch.setenv("KDUTILS_DATA", str(root.parent))
    return root


def test_train_items_are_of_all_files_and_only_grow(folder):
    order = [item.id for item in sources.load_items(a_spec(train=50, validation=10), "train")]
    assert len(set(order)) == 50
    assert {name.split("-")[0] for name in order[:10]} == {"gsm8k", "mawps"}
    for n in (1, 10, 37):
        assert [item.id for item in sources.load_items(a_spec(train=n), "train")] == order[:n]


def test_validation_items_never_become_train_items(folder):
    held = {item.id for item in sources.load_items(a_spec(train=1, validation=10), "validation")}
    for n_train, n_validation in [(10, 4), (50, 10), (56, 4)]:
        spec = a_spec(train=n_train, validation=n_validation)
        parts = {split: {i.id for i in sources.load_items(spec, split)} for split in ("train", "validation")}
        assert len(parts["train"] | parts["validation"]) == n_train + n_validation
        assert parts["validation"] <= held


def test_a_question_that_stands_twice_is_not_on_both_sides(folder):
    path = folder / "train" / "math_train.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [*records, *(each | {"id": each["id"] + "-again"} for each in records)])
    found, seen_both = benchmark.read("benchmark", "math"), 0
    for n in (1, 10, 40):
        held = {letters_and_digits(item.question) for item in found.pool[::-1][:n]}
        n_train = sum(letters_and_digits(item.question) not in held for item in found.pool)
        seen_both += n_train < 100 - n
        parts = found.split(train_items=n_train, validation_items=n)
        train, validation = ({letters_and_digits(item.question) for item in part} for part in parts.values())
        assert not train & validation
        with pytest.raises(DataError, match="ask for fewer"):
            found.split(train_items=n_train + 1, validation_items=n)
    assert seen_both == 3


def test_longer_items_are_left_out_of_train_and_validation(folder):
    path = folder / "train" / "math_train.jsonl"
    write(
        path, [record(n, "gsm8k", "train", rationale=f"{'Well, ' * n}the answer is {n}.") for n in range(40)]
    )
    whole = benchmark.read("benchmark", "math")
    lengths = sorted(len(item.question) + len(item.response) for item in whole.pool)
    limit = lengths[30]
    n_usable = sum(length <= limit for length in lengths)
    assert 30 < n_usable < 60
    spec = a_spec(train=n_usable - 4, max_item_characters=limit)
    items = sources.load_items(spec, "train") + sources.load_items(spec, "validation")
    assert {i.id for i in items} == {i.id for i in whole.pool if len(i.question) + len(i.response) <= limit}
    assert len(sources.load_items(spec, "test")) == 72  # test items are never left out for their length
    with pytest.raises(
        DataError,
        match=rf"has {n_usable} math items of at most {limit} characters.*raise max_item_characters",
    ):
        sources.load_items(replace(spec, train_items=n_usable - 3), "train")


def test_too_few_items_say_how_many_there_are(folder):
    with pytest.raises(
        DataError,
        match="train_items=57 and validation_items=4, but .* has 60 math items to train on; ask for",
    ) as caught:
        sources.load_items(a_spec(train=57), "validation")
    assert "\n" not in str(caught.value)


def test_fewer_test_items_are_among_more(folder):
    tasks = ("svamp", "aqua")
    whole = [i.id for i in sources.test_items(a_spec(), EvalSpec(tasks=tasks, items_per_task=12))]
    few = [i.id for i in sources.test_items(a_spec(), EvalSpec(tasks=tasks, items_per_task=5))]
    assert few == whole[:5] + whole[12:17]
    assert whole[:12] != sorted(whole[:12])
    assert {name.split("-")[0] for name in few[:5]} == {"svamp"}


def test_responses_are_what_llm_adapters_trains_on(folder):
    write(folder / "dev" / "svamp.jsonl", [record(3, "svamp", "test", rationale="")])
    responses = {
        domain: {item.task: item.response for item in sources.load_items(a_spec(domain), "test")}
        for domain in POOL
    }
    assert responses["math"]["svamp"] == "The answer is 3."
    assert responses["math"]["aqua"] == "We count.\nThe answer is B."
    assert re.fullmatch("the correct answer is (true|false)", responses["commonsense"]["boolq"])
    assert responses["instruction"]["dolly"] == "Yes."
    trained = sources.load_items(a_spec("instruction", train=4, validation=0), "train")
    assert {(item.task, item.response) for item in trained} == {("dolly", "So it is.")}


def test_items_without_a_reference_are_left_out(folder):
    found = benchmark.read("benchmark", "instruction")
    assert sum(item.task == "vicuna" for item in found.test) == 2  # of 9


def test_a_math_item_without_an_answer_is_refused(folder):
    write(folder / "dev" / "svamp.jsonl", [record(0, "svamp", "test"), record(1, "svamp", "test", answer="")])
    with pytest.raises(DataError, match=r"svamp\.jsonl, line 2: answer is missing"):
        sources.load_items(a_spec(), "test")


def test_gold_answers_are_read_as_what_they_mean(folder):
    write(folder / "dev" / "svamp.jsonl", [record(0, "svamp", "test", answer="$1,234", rationale="")])
    (item,) = [each for each in sources.load_items(a_spec(), "test") if each.task == "svamp"]
    assert (item.answer, item.response) == ("1234", "The answer is 1234.")
    write(folder / "dev" / "svamp.jsonl", [record(0, "svamp", "test", answer="nan")])
    with pytest.raises(DataError, match=r"svamp\.jsonl, line 1: answer='nan' is not as svamp is scored"):
        sources.load_items(a_spec(), "test")


def test_test_items_say_how_they_occur_in_the_pool(folder):
    pool = [json.loads(line) for line in (folder / "train" / "math_train.jsonl").read_text().splitlines()]
    copied = record(0, "svamp", "test", question=pool[5]["question"].upper())
    masked = record(1, "svamp", "test", question=pool[6]["question"].replace("6", "1,000"))
    write(
        folder / "dev" / "svamp.jsonl", [copied, masked, record(2, "svamp", "test", question="Why is it so?")]
    )
    spec, evaluation = a_spec(train=1, validation=0), EvalSpec(tasks=("svamp",))
    flags = {item.id: item.contaminated for item in sources.test_items(spec, evaluation)}
    assert flags == {"svamp-test-00000": "exact", "svamp-test-00001": "masked", "svamp-test-00002": ""}
    held = sources.test_items(a_spec(), EvalSpec(tasks=("gsm8k",), split="validation"))
    assert {item.contaminated for item in held} == {""}  # they are of the pool itself
    usual = sources.default_evaluation(spec)
    assert usual.tasks == DOMAIN_TASKS["math"]
    longest = max(len(path.read_text().splitlines()) for path in (folder / "dev").glob("*.jsonl"))
    assert usual.items_per_task == longest > 1


def test_the_digest_names_the_files_of_the_domain(folder):
    before = {domain: sources.data_digest(a_spec(domain)) for domain in POOL}
    assert len(set(before.values())) == 3
    path = folder / "train" / "math_equation_train.jsonl"
    path.write_text(path.read_text().replace("We count.", "We add.", 1))
    after = {domain: sources.data_digest(a_spec(domain)) for domain in POOL}
    assert {domain for domain in POOL if after[domain] != before[domain]} == {"math"}
    (folder / "dev" / "aqua.jsonl").unlink()
    with pytest.raises(DataError, match=r"aqua\.jsonl is missing; put it there, or use data='llm-adapters'"):
        sources.data_digest(a_spec())
    assert sources.data_digest(a_spec("commonsense")) == before["commonsense"]


def test_an_id_that_stands_twice_is_refused(folder):
    path = folder / "train" / "math_train.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="id 'gsm8k-train-00000' stands there twice"):
        benchmark.read("benchmark", "math")


def test_a_separator_of_lines_within_a_question_is_no_end_of_a_line(folder):
    text = json.dumps(record(0, "svamp", "test", question="One\u2028two?"), ensure_ascii=False)
    (folder / "dev" / "svamp.jsonl").write_text(text + "\n", encoding="utf-8")
    questions = [i.question for i in benchmark.read("benchmark", "math").test if i.task == "svamp"]
    assert questions == ["One\u2028two?"]


def test_a_limit_of_characters_has_no_place_in_the_mini_world(tmp_path):
    with pytest.raises(DataError, match="max_item_characters concerns items of files, not data='mini'"):
        sources.load_items(a_spec(source="mini", max_item_characters=99), "train")


def test_a_limit_of_characters_holds_for_a_readers_own_folder(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [record(n, "gsm8k", split) for n in (1, 10, 100)])
    lengths = [len(i.question) + len(i.response) for i in sources.read_items(tmp_path / "train.jsonl")]
    spec = a_spec(source=str(tmp_path), train=2, validation=1, max_item_characters=lengths[1])
    assert [item.answer for item in sources.load_items(spec, "train")] == ["1", "10"]
    with pytest.raises(DataError, match=f"holds 2; ask for fewer or raise max_item_characters={lengths[1]}"):
        sources.load_items(replace(spec, train_items=3), "train")


# --- the release of LLM-Adapters -----------------------------------------------------------------------


def git(folder, *arguments):
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(
        ["git", *who, "-C", str(folder), *arguments], env=environment, capture_output=True, check=True
    )
    return run.stdout.decode().strip()


def released_record(number, task):
    """A record as LLM-Adapters writes it: its answer a list, a float or text."""
    letter, wrong = "ABCDE"[number % 5], number % 4 == 3
    if task in CHOICE_TASKS:
        options = CHOICE_TASKS[task]
        answer = options[number % len(options)]
        question = f"Please choose the correct answer to the question: which {task} {'no' * number}?\n\n"
        question += f"Answer format: {'/'.join(options)}"
        return {
            "instruction": question,
            "input": "",
            "output": f"the correct answer is {answer}",
            "answer": answer,
        }
    if task == "aqua":
        output = f"We think of A and B. The answer is ({'ABCDE'[(number + 1) % 5] if wrong else letter})."
        answer = [letter]
    else:
        output = f"\nA: We count {number}. The answer is {number + wrong} apples."
        answer = {0: f"{number}.0", 1: str(number), 2: float(number), 3: f"{number}"}[number % 4]
    question = f"How {'very ' * number}many apples are there for {task} ? "
    return {"instruction": question, "input": "", "output": output, "answer": answer}


@pytest.fixture
def published(tmp_path, monkeypatch, cache):
    """A release like LLM-Adapters' at a URL of this machine, pinned to its first commit."""
    source = tmp_path / "source"
    source.mkdir()
    monkeypatch.delenv("KDUTILS_DATA", raising=False)
    git(source, "init", "-q")
    for task, name in llm_adapters.TEST_FILES.items():
        records = [released_record(number, task) for number in range(8)]
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text(json.dumps(records, indent=4))
    (source / "ft-training_set").mkdir()
    math = [released_record(n, task) for n in range(8, 24) for task in ("aqua", "gsm8k")]
    choices = [released_record(n, task) for n in range(8, 12) for task in CHOICE_TASKS]
    math.append(released_record(5, "addsub"))
    math.append({"instruction": "Which part?", "input": "", "output": "The answer is 1/2.", "answer": "1/2"})
    (source / llm_adapters.TRAIN_FILES["math"]).write_text(json.dumps(math))
    (source / llm_adapters.TRAIN_FILES["commonsense"]).write_text(json.dumps(choices))
    (source / "large.bin").write_bytes(os.urandom(300_000))
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "first")
    git(source, "config", "uploadpack.allowFilter", "true")
    git(source, "config", "uploadpack.allowAnySHA1InWant", "true")
    known = ("dataset/AddSub/test.json", git(source, "rev-parse", "HEAD:dataset/AddSub/test.json"))
    pinned = llm_adapters.Release(source.as_uri(), git(source, "rev-parse", "HEAD"), (known,))
    monkeypatch.setattr(llm_adapters, "PINNED", pinned)
    (source / "dataset/AddSub/test.json").write_text("[]")
    git(source, "commit", "-q", "-a", "-m", "second")
    return pinned


SOURCES = pytest.mark.parametrize("source", ["benchmark", "llm-adapters"])


@SOURCES
def test_the_release_becomes_items(published, source):
    test = {item.id: item for item in sources.load_items(a_spec(source=source), "test")}
    assert Counter(item.task for item in test.values()) == dict.fromkeys(DOMAIN_TASKS["math"], 8)
    one = test["addsub-test-00002"]
    assert (one.question, one.answer) == ("How very very many apples are there for addsub ?", "2")
    assert one.response == one.rationale == "\nA: We count 2. The answer is 2 apples."
    assert [test[f"addsub-test-0000{n}"].answer for n in range(8)] == list("01234567")
    assert [test[f"aqua-test-0000{n}"].answer for n in range(3)] == ["A", "B", "C"]
    wrong = test["addsub-test-00003"]
    assert (wrong.rationale, wrong.response) == ("", "The answer is 3.")
    assert all(ends_in(item, item.answer) for item in test.values())


def test_released_responses_are_trained_on_as_they_are(published):
    found = benchmark.read("llm-adapters", "math")
    trained = {item.id: item for item in found.pool}
    assert len(trained) == 34
    assert trained["math_10k-00001"].response == "\nA: We count 8. The answer is 8 apples."
    assert trained["math_10k-00007"].response == "\nA: We count 11. The answer is 12 apples."
    assert Counter(item.task for item in found.pool) == {"aqua": 16, "gsm8k": 18}
    wrong = [item for item in found.pool if not ends_in(item, item.answer)]
    assert len(wrong) == 9  # a fraction is no number that is read, so it counts as wrong


def test_released_choices_are_read_by_their_answers(published):
    found = benchmark.read("llm-adapters", "commonsense")
    by_task = Counter(item.task for item in found.pool)
    assert by_task == {"arc_e": 12, "boolq": 4, "hellaswag": 4, "piqa": 4, "siqa": 4, "winogrande": 4}
    assert all(evaluate.parse(item.task, item.response) == item.answer for item in found.pool)
    assert all(ends_in(item, item.answer) for item in found.pool)


def test_released_test_questions_in_the_training_set_are_flagged(published):
    evaluation = EvalSpec(tasks=("addsub", "aqua"))
    items = sources.test_items(a_spec(source="llm-adapters"), evaluation)
    assert {item.id for item in items if item.contaminated == "exact"} == {"addsub-test-00005"}
    assert sum(item.task == "addsub" for item in items) == 8


def test_the_release_has_no_instructions(published):
    with pytest.raises(DataError, match="LLM-Adapters has no instruction items, only .*set KDUTILS_DATA"):
        benchmark.read("benchmark", "instruction")


def test_the_digest_of_the_release_needs_no_download(published, cache):
    names = {sources.data_digest(a_spec(domain, source="llm-adapters")) for domain in ("math", "commonsense")}
    assert len(names) == 2
    assert not cache.exists()


def test_an_answer_of_no_task_is_refused():
    with pytest.raises(DataError, match="here: answer 'maybe' is none that any task has"):
        benchmark._task_read_as("commonsense", "maybe", "Is it?", "here")


@pytest.mark.parametrize("answer", [None, [], ["A", "B"], {"A": 1}, True])
def test_an_answer_that_cannot_be_scored_is_refused(answer):
    with pytest.raises(DataError, match=r"here: answer .* is neither text nor a number"):
        benchmark._released_answer({"answer": answer}, "here")


def test_what_is_fetched_are_the_files_and_what_proves_them(published, cache):
    benchmark.read("llm-adapters", "math")
    (folder,) = cache.glob("llm-adapters-*")
    assert folder == published.cached
    assert folder.stat().st_mode & 0o777 == 0o755
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    objects = {name for name in files if name.startswith("objects/")}
    assert files - objects == set(llm_adapters.FILES)
    assert len(objects) == 1 + 1 + 2 + 14  # the commit, the root, two folders and fourteen in dataset/
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []


def test_once_fetched_neither_git_nor_the_network_is_needed(published, cache, monkeypatch, tmp_path):
    before = llm_adapters.content(published, "dataset/AQuA/test.json")
    (tmp_path / "source").rename(tmp_path / "gone")
    monkeypatch.setenv("PATH", "")
    assert llm_adapters.content(published, "dataset/AQuA/test.json") == before
    (tmp_path / "data").mkdir()
    published.cached.rename(tmp_path / "data" / "llm-adapters")
    monkeypatch.setenv("KDUTILS_DATA", str(tmp_path / "data"))
    assert llm_adapters.content(published, "dataset/AQuA/test.json") == before
    assert not published.cached.exists()


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert "KDUTILS_DATA" in text
    return text


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b.replace(b"apples", b"appels", 1), lambda b: b""]
)
def test_a_changed_file_is_refused_with_both_ids(published, damage):
    name = "dataset/SVAMP/test.json"
    content = llm_adapters.content(published, name)
    (published.cached / name).write_bytes(damage(content))
    expected, found = llm_adapters.git_id("blob", content), llm_adapters.git_id("blob", damage(content))
    with pytest.raises(DataError) as error:
        llm_adapters.content(published, name)
    assert (
        f"{published.cached / name} is not the released file: git blob id {found} instead of {expected}"
        in (text := one_line(error))
    )
    assert f"delete {published.cached} and run again with a network" in text
    (published.cached / name).unlink()
    with pytest.raises(DataError, match=rf"test\.json is missing, git blob id {expected}; delete"):
        llm_adapters.content(published, name)


def test_a_changed_file_and_a_tree_that_says_so_are_refused(published):
    """Whoever changes a file and the id that stands in its tree would have to change the commit too."""
    name = "dataset/SVAMP/test.json"
    content = llm_adapters.content(published, name)
    forged = content.replace(b"apples", b"pears")
    (published.cached / name).write_bytes(forged)
    (tree,) = [
        path
        for path in (published.cached / "objects").iterdir()
        if bytes.fromhex(llm_adapters.git_id("blob", content)) in path.read_bytes()
    ]
    swap = [bytes.fromhex(llm_adapters.git_id("blob", each)) for each in (content, forged)]
    tree.write_bytes(tree.read_bytes().replace(*swap))
    with pytest.raises(
        DataError, match=rf"{tree} is damaged: git tree id [0-9a-f]{{40}} instead of {tree.name}"
    ):
        llm_adapters.content(published, name)
    tree.unlink()
    with pytest.raises(DataError, match=f"{tree} is missing, git tree id {tree.name}; delete"):
        llm_adapters.content(published, name)


def test_another_file_than_the_one_we_know_is_refused(published, cache):
    known = (("dataset/AddSub/test.json", "f" * 40),)
    with pytest.raises(DataError) as error:
        llm_adapters.content(replace(published, known=known), "dataset/AQuA/test.json")
    assert f"instead of {'f' * 40}" in one_line(error)
    assert "dataset/AddSub/test.json is not the file we know" in str(error.value)
    assert list(cache.iterdir()) == []


def test_a_commit_without_the_files_is_refused(published, cache, tmp_path):
    source = tmp_path / "source"
    git(source, "rm", "-q", "-r", "dataset/boolq")
    git(source, "commit", "-q", "-m", "third")
    with pytest.raises(DataError, match=r"dataset/boolq/test\.json is not in commit"):
        llm_adapters.content(
            replace(published, commit=git(source, "rev-parse", "HEAD")), "dataset/AQuA/test.json"
        )
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"url": "file:///nowhere/at/all"}, "does not appear to be a git repository|not exist"),
        ({"url": "http://127.0.0.1:9/LLM-Adapters.git"}, "Failed to connect|Connection refused"),
        ({"commit": "0" * 39 + "1"}, "not our ref"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(published, cache, change, says):
    with pytest.raises(DataError, match=says) as error:
        llm_adapters.content(replace(published, **change), "dataset/AQuA/test.json")
    text = one_line(error)
    assert text.startswith("cannot download the data of LLM-Adapters, commit ")
    assert "; run again with a network, or copy " in text
    assert list(cache.iterdir()) == []


def test_without_git_the_message_says_so(published, cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="git is not installed; install it") as error:
        llm_adapters.content(published, "dataset/AQuA/test.json")
    one_line(error)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("change", ["other content", "truncated"])
def test_a_file_that_changes_on_its_way_is_refused(published, cache, tmp_path, change):
    """The server's copy of one file is not what its id says, or ends too early."""
    blob = git(tmp_path / "source", "rev-parse", f"{published.commit}:dataset/SVAMP/test.json")
    path = tmp_path / "source" / ".git" / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    whole = path.read_bytes()
    other = zlib.compress(zlib.decompress(whole).replace(b"apples", b"appels"))
    path.write_bytes(other if change == "other content" else whole[: len(whole) // 2])
    with pytest.raises(DataError) as error:
        llm_adapters.content(published, "dataset/AQuA/test.json")
    assert blob in one_line(error)
    assert list(cache.iterdir()) == []


def test_a_server_that_sends_more_than_asked_for_will_do(published, tmp_path):
    git(tmp_path / "source", "config", "uploadpack.allowFilter", "false")
    assert len(benchmark.read("llm-adapters", "math").test) == 48


def test_a_hook_of_another_repository_leads_git_nowhere_else(published, monkeypatch, tmp_path):
    git(tmp_path, "init", "-q", "elsewhere")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere" / ".git"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere" / ".git" / "objects"))
    assert len(benchmark.read("llm-adapters", "math").test) == 48
    assert not [path for path in (tmp_path / "elsewhere/.git/objects").rglob("*") if path.is_file()]


def test_two_processes_may_download_at_once(published, cache):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from kdutils.data import llm_adapters\nfrom kdutils.io import disk\n"
        "disk.cache_path = lambda name: Path(sys.argv[3]) / name\n"
        "release = llm_adapters.Release(sys.argv[1], sys.argv[2])\n"
        "print(len(llm_adapters.content(release, 'dataset/AQuA/test.json')))"
    )
    command = [sys.executable, "-P", "-c", code, published.url, published.commit, str(cache)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lengths = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert lengths == {f"{len(llm_adapters.content(published, 'dataset/AQuA/test.json'))}\n"}
    assert [path.name for path in cache.iterdir()] == [published.cached.name]


def test_the_slower_of_two_leaves_the_other_folder(tmp_path):
    folder = tmp_path / "cache" / "name"
    with disk.folder_in_one_step(folder, replaces=False) as slow:
        (slow / "file").write_text("slow")
        with disk.folder_in_one_step(folder, replaces=False) as fast:
            (fast / "file").write_text("fast")
    assert [path.name for path in folder.parent.iterdir()] == ["name"]
    assert (folder / "file").read_text() == "fast"


def test_pinned_files_are_those_of_the_issue():
    assert llm_adapters.PINNED.commit == "816657208af4db747803f87ba40a4c71383fed7a"
    assert {name: blob[:7] for name, blob in llm_adapters.PINNED.known} == {
        "dataset/AddSub/test.json": "f3996cd",
        "ft-training_set/math_10k.json": "27dba77",
        "ft-training_set/commonsense_15k.json": "3716afe",
    }
    assert set(llm_adapters.TEST_FILES) == set(TASKS)


def test_git_ids_are_gits():
    assert llm_adapters.git_id("blob", b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert llm_adapters.git_id("tree", b"") == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


# --- the real files ------------------------------------------------------------------------------------


@pytest.fixture
def real(benchmark_files, cache):
    """The items of every domain of $KDUTILS_DATA/data."""
    return {domain: benchmark.read("benchmark", domain) for domain in POOL}


def options_of(item: Item) -> set[str]:
    """The answers that a question of several choices offers."""
    if item.task == "aqua":
        return set(re.findall(r"\(([A-E])\)", item.question.rsplit("Answer Choices:", 1)[1]))
    return set(item.question.rsplit("Answer format:", 1)[1].strip().split("/"))


def test_real_items_are_all_there(real):
    assert {domain: len(found.pool) for domain, found in real.items()} == POOL
    assert Counter(item.task for found in real.values() for item in found.test) == DEV_ITEMS
    items = [item for found in real.values() for item in (*found.pool, *found.test)]
    assert all(item.answer.strip() and item.response.strip() for item in items)


def test_real_gold_answers_are_among_the_options(real):
    items = [item for found in real.values() for item in (*found.pool, *found.test)]
    choices = [item for item in items if item.task == "aqua" or item.task in CHOICE_TASKS]
    assert len(choices) > 9_000
    assert [item.id for item in choices if item.answer not in options_of(item)] == []


def test_real_options_can_be_read_and_all_but_a_few_put_into_another_order(real):
    items = [item for found in real.values() for item in found.test if options.n_ordered(item.task)]
    fixed = Counter(item.task for item in items if not options.is_rotatable(item))
    assert fixed == {"aqua": 17, "obqa": 11, "arc_e": 1}  # none of these; three options
    for item in items:
        if options.is_rotatable(item):
            moved = options.rotated(item, 1)
            assert options.listed(moved)[moved.answer] == options.listed(item)[item.answer]
            assert options.rotated(moved, options.n_ordered(item.task) - 1) == item


def test_real_responses_end_in_their_answers(real):
    for domain in ("math", "commonsense"):
        assert all(ends_in(item, item.answer) for item in real[domain].pool)
    assert all(item.response.endswith(f"The answer is {item.answer}.") for item in real["math"].pool)
    # The authors' reading takes the first capital of an AQuA rationale for its answer.
    misread = Counter(
        item.task
        for domain in ("math", "commonsense")
        for item in real[domain].pool
        if not evaluate.is_correct(item.task, evaluate.parse(item.task, item.response), item.answer)
    )
    assert set(misread) == {"aqua"}
    assert misread["aqua"] == 160
    wrong = [item.id for item in real["math"].test if not ends_in(item, item.answer)]
    assert wrong == ["svamp-test-00753"]


def test_real_items_of_a_run_are_mixed_and_disjoint(real):
    spec = a_spec(train=400, validation=60, max_item_characters=600)
    train, validation = (sources.load_items(spec, split) for split in ("train", "validation"))
    assert {item.id.split("-")[0] for item in train} == {"gsm8k", "aqua", "mawps"}
    assert not {letters_and_digits(i.question) for i in train} & {
        letters_and_digits(i.question) for i in validation
    }
    longest = max(len(item.question) + len(item.response) for item in (*train, *validation))
    assert 500 < longest <= 600
    assert sources.load_items(replace(spec, train_items=2_000), "train")[:400] == train


def test_real_contamination_is_what_was_measured(real):
    items = [item for domain in POOL for item in benchmark.flagged(benchmark.read("benchmark", domain))]
    assert Counter(item.task for item in items) == DEV_ITEMS
    flagged = Counter(item.task for item in items if item.contaminated)
    assert {item.contaminated for item in items} == {"", "fuzzy"}
    assert flagged == {
        **{"aqua": 2, "gsm8k": 1, "svamp": 8, "singleeq": 12},
        **{"arc_c": 1, "boolq": 9, "obqa": 1, "piqa": 1},
    }
