"""Options are read from a question and put into another order; what has no other order is refused."""

import pytest

from kdutils.constants import ALL_TASKS, DOMAINS
from kdutils.data import options, sources, study_files
from kdutils.items import DataError, Item
from kdutils.mini.items import build_data
from kdutils.spec import EvalSpec, RunSpec

ITEMS = [item for domain in DOMAINS for item in build_data(split="test", n_per_task=8, domain=domain)]
LISTED = [item for item in ITEMS if options.n_ordered(item.task)]


def test_a_rotation_moves_texts_and_answer_and_leaves_all_else():
    assert {item.task for item in LISTED} == {key for key, task in ALL_TASKS.items() if task.options} - {
        "boolq"
    }
    for item in LISTED:
        n, texts = options.n_ordered(item.task), options.listed(item)
        for places in range(n):
            moved = options.rotated(item, places)
            assert list(options.listed(moved)) == list(texts)
            assert options.listed(moved)[moved.answer] == texts[item.answer]
            assert sorted(moved.question) == sorted(item.question)
            assert options.rotated(moved, n - places) == item
            assert (moved == item) == (places == 0)
            if item.response:
                assert moved.response.rstrip(".").endswith(moved.answer)


@pytest.mark.parametrize("gold", ["negative", "neutral", "positive"])
def test_which_options_there_are_does_not_hang_on_the_answer(gold):
    words = ("negative", "neutral", "positive")
    task = study_files.OwnTask(items="mood.jsonl", answer="keyword", choices=words).key("mood")
    item = Item(id="m", task=task, question="A positive, or neutral, word: gloom?", answer=gold)
    assert sorted(options.options(item)) == list(words)


def test_a_rotation_by_hand():
    question = "What?\n\nAnswer1: a b Answer2: c Answer3: d\n\nAnswer format: answer1/answer2/answer3"
    response = "the correct answer is answer3"
    moved = options.rotated(
        Item(id="x", task="siqa", question=question, answer="answer3", response=response), 1
    )
    assert (
        moved.question
        == "What?\n\nAnswer1: d Answer2: a b Answer3: c\n\nAnswer format: answer1/answer2/answer3"
    )
    assert (moved.answer, moved.response) == ("answer1", "the correct answer is answer1")


@pytest.mark.parametrize(
    ("last", "can"),
    [
        ("None of the above", False),
        ("none of these", False),
        ("All of these are right.", False),
        ("both", False),
        ("A and B", False),
        ("none", False),
        ("all of the fossils lie above the water", True),
        ("both hands", True),
        ("a third one", True),
    ],
)
def test_an_option_that_speaks_of_others_has_no_other_place(last, can):
    item = Item(
        id="x", task="siqa", question=f"Which? Answer1: a Answer2: b Answer3: {last}", answer="answer1"
    )
    assert options.is_rotatable(item) is can
    short = Item(
        id="x", task="arc_e", question=f"Which? Answer1: a Answer2: b Answer3: {last}", answer="answer1"
    )
    assert not options.is_rotatable(short)  # the task has four


@pytest.mark.parametrize(
    "question", ["Which?", "Which? Answer2: a Answer1: b", "Which? Answer1: a", "A Answer1: a Answer2: "]
)
def test_options_that_cannot_be_read_are_refused_before_work(tmp_path, question):
    item = Item(id="x", task="siqa", question=question, answer="answer1")
    with pytest.raises(DataError, match="item 'x' of task 'siqa': its options cannot be read"):
        options.options(item, "cloze_sum")
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            f'{{"id": "x", "task": "siqa", "question": "{question}", "answer": "answer1"}}'
        )
    spec = RunSpec(student="mini-qwen-0.5B", method="base", domain="commonsense", data=str(tmp_path))
    for own in ({"scoring": "cloze_pmi"}, {"rotation": 1}):
        with pytest.raises(DataError, match="its options cannot be read"):
            sources.test_items(spec, EvalSpec(tasks=("siqa",), **own))


@pytest.mark.parametrize(
    ("task", "own", "message"),
    [
        ("gsm8k", {"rotation": 1}, "is no other order of its options: its questions list none"),
        ("boolq", {"rotation": 1}, "rotation=1 of task 'boolq' is no other order"),
        (
            "piqa",
            {"rotation": 2},
            "rotation=2 of task 'piqa' is no other order of its options: give less .* 2",
        ),
        ("piqa", {"rotation": -1}, "rotation=-1 "),
        ("gsm8k", {"scoring": "label"}, "task 'gsm8k' has no options to rank; scoring='label' takes"),
        ("piqa", {"scoring": "logits"}, "scoring='logits' must be 'generation', "),
        ("piqa", {"scoring": "label", "max_new_tokens": 9}, "no effect with scoring='label': leave them out"),
        ("piqa", {"scoring": "cloze_pmi", "temperature": 1.0}, "no effect with scoring='cloze_pmi'"),
        ("piqa", {"temperature": 1.0, "top_p": 1.1}, "top_p=1.1 must be less than or equal to 1"),
        ("piqa", {"temperature": 1.0, "top_p": 0.0}, "top_p=0.0 is too small to sample"),
        ("piqa", {"temperature": 0.001}, "temperature=0.001 is too small to sample; greedy is temperature=0"),
        (
            "piqa",
            {"top_p": 0.9},
            r"greedy decoding \(temperature=0\) has one text an item, no seed, no top_p",
        ),
    ],
)
def test_ways_of_asking_that_there_are_not(task, own, message):
    with pytest.raises(ValueError, match=message):
        EvalSpec(tasks=(task,), **own)
