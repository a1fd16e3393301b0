"""What is trained on: prompts, masks, end tokens, and which items are refused."""

import itertools
import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
import tiny
import torch

from kdutils import encoding, models
from kdutils.constants import MATH_TASKS
from kdutils.data import evaluate, model_files, sources
from kdutils.data.item_files import default_response, item_of
from kdutils.data.sources import DataError
from kdutils.items import Item, alpaca, fingerprint
from kdutils.spec import EvalSpec

TOKENIZER = tiny.tokenizer()


def items(n=6):
    return [item_of(record, where="test") for record in tiny.records(n)]


def encoded(protocol="careful", tokenizer=TOKENIZER, max_tokens=96, n=6):
    return encoding.encode(items(n), tokenizer, max_tokens=max_tokens, protocol=protocol)


def scored_text(batch, row, tokenizer=TOKENIZER):
    return tokenizer.decode(batch.input_ids_BT[row][batch.scored_BT[row]])


def test_prompt_is_the_authors_to_the_blank():
    text = alpaca("Add 1 and 2.")
    assert text.startswith(
        "Below is an instruction that describes a task. Write a response that appropriately "
    )
    assert text.endswith(
        "### Instruction:\n                Add 1 and 2.\n\n                ### Response:\n" + " " * 16
    )


def test_careful_scores_response_and_eos_and_nothing_else():
    batch = encoding.collate(encoded(), range(6), pad_id=TOKENIZER.pad_token_id)
    for row, item in enumerate(items()):
        assert scored_text(batch, row) == f"{item.response} <eos>"
    assert not batch.scored_BT[:, 0].any()
    assert (batch.scored_BT.sum(1) < batch.attention_BT.sum(1)).all()


def test_paper_scores_every_real_token_but_the_first():
    batch = encoding.collate(encoded("paper"), range(6), pad_id=TOKENIZER.pad_token_id)
    assert torch.equal(batch.scored_BT.sum(1), batch.attention_BT.sum(1) - 1)
    assert not (batch.scored_BT & ~batch.attention_BT.bool()).any()


def test_protocols_differ_in_the_mask_alone():
    careful, paper = (encoding.collate(encoded(p), range(6), pad_id=2) for p in ("careful", "paper"))
    assert torch.equal(careful.input_ids_BT, paper.input_ids_BT)
    assert torch.equal(careful.attention_BT, paper.attention_BT)
    assert (careful.scored_BT <= paper.scored_BT).all()


def test_eos_is_learned_where_pad_is_eos():
    tokenizer = tiny.tokenizer(pad_is_eos=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    batch = encoding.collate(encoded(tokenizer=tokenizer), range(6), pad_id=tokenizer.eos_token_id)
    for row in range(6):
        kept = batch.input_ids_BT[row][batch.scored_BT[row]]
        assert (kept == tokenizer.eos_token_id).sum() == 1
        assert kept[-1] == tokenizer.eos_token_id


def test_a_cut_response_gets_no_eos():
    one = items(1)[0]
    cut = Item(id="cut", task=one.task, question=one.question, answer="1", response=one.response, ended=False)
    table = encoding.encode([one, cut], TOKENIZER, max_tokens=96, protocol="careful")
    assert table[0]["input_ids"] == [*table[1]["input_ids"], TOKENIZER.eos_token_id]
    short = encoding.encode([cut], TOKENIZER, max_tokens=33, protocol="careful")
    assert len(short[0]["input_ids"]) == 33


def test_encoding_does_not_pickle_the_tokenizer(monkeypatch):
    """datasets would name its result by a hash of it, which takes seconds for that of Qwen2.5."""

    hashed, plain = [], encoding.datasets.fingerprint.Hasher.hash
    noted = staticmethod(lambda value: hashed.append(value) or plain(value))
    monkeypatch.setattr(encoding.datasets.fingerprint.Hasher, "hash", noted)
    assert len(encoded()) == 6
    assert not any(map(callable, hashed))


def test_prompts_to_generate_from_are_those_trained_on():
    table = encoded()
    heads = encoding.prompt_ids([item.question for item in items()], TOKENIZER)
    for row, head in zip(table, heads, strict=True):
        assert row["input_ids"][: len(head)] == head
        assert row["n_unscored"] == len(head)


@pytest.fixture
def kept(monkeypatch):
    """What is kept of tokenisers' work, empty at first."""
    monkeypatch.setattr(encoding, "_cached_tokens", {})
    return encoding._cached_tokens


@pytest.fixture
def folder(tmp_path):
    """A folder of the mini family's, which may be written to."""
    name = "mini-qwen-0.5B"
    copy = shutil.copytree(model_files.locate(name).source, tmp_path / "model", copy_function=shutil.copyfile)
    return Path(copy)


def test_tokens_are_found_once_and_handed_out_as_new_lists(folder, kept, monkeypatch):
    texts = [item.response for item in items()]
    tokenizer = models.load_tokenizer(str(folder))
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    first = encoding.token_ids(texts, tokenizer)
    assert first == expected
    for ids in first:
        ids.clear()  # whoever has them may do as they like
    again = models.load_tokenizer(str(folder))  # as the next run of a worker does
    monkeypatch.setattr(type(again), "__call__", lambda *texts, **options: pytest.fail("tokenised anew"))
    assert encoding.token_ids(texts, again) == expected


def test_a_tokenizer_whose_file_has_changed_is_asked_anew(folder, kept):
    texts = [alpaca("Add 1 and 2.")]
    before = encoding.token_ids(texts, models.load_tokenizer(str(folder)))
    file = folder / "tokenizer.json"
    stored = json.loads(file.read_text())
    vocabulary = stored["model"]["vocab"]
    one, two = (next(token for token, number in vocabulary.items() if number == n) for n in before[0][:2])
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(stored))
    after = encoding.token_ids(texts, models.load_tokenizer(str(folder)))
    assert before[0][:2] != after[0][:2]
    assert sorted(before[0][:2]) == sorted(after[0][:2])


def test_merges_are_part_of_a_model_where_the_tokenizer_is_read_from_them(folder):
    (folder / "merges.txt").write_text("a n\n")
    before = model_files.files_digest(str(folder))
    (folder / "merges.txt").write_text("h e\n")
    assert model_files.files_digest(str(folder)) == before  # tokenizer.json is what is read
    (folder / "tokenizer.json").unlink()
    before = model_files.files_digest(str(folder))
    (folder / "merges.txt").write_text("a n\n")
    assert model_files.files_digest(str(folder)) != before


def test_weights_are_no_part_of_what_a_tokenizer_is_known_by(folder):
    before = models.load_tokenizer(str(folder)).files_digest
    (folder / "model.safetensors").write_bytes(b"others")
    assert models.load_tokenizer(str(folder)).files_digest == before
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"a": 1}))
    assert models.load_tokenizer(str(folder)).files_digest != before


def test_no_more_is_kept_than_there_is_room_for(folder, kept, monkeypatch):
    tokenizer = models.load_tokenizer(str(folder))
    monkeypatch.setattr(encoding, "CACHED_TOKENS", 100)
    long = [" ".join(["1 + 2"] * 40), "3"]
    assert encoding.token_ids(long, tokenizer) == tokenizer(long, add_special_tokens=False)["input_ids"]
    assert len(kept) == 1  # what is too large alone is kept until there is something else
    encoding.token_ids(["1"], tokenizer)
    encoding.token_ids(["2"], tokenizer)
    assert [len(texts) for texts in kept.values()] == [1, 1]


def test_nothing_is_kept_of_a_tokenizer_without_files(kept):
    assert encoding.token_ids(["1"], TOKENIZER) == TOKENIZER(["1"], add_special_tokens=False)["input_ids"]
    assert encoding.token_ids([], TOKENIZER) == []
    assert not kept


def test_a_batch_of_rows_is_that_of_the_format_that_is_faster():
    names, n_unscored = ["a", "b", "c"], [2, 1, 3]
    token_ids = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14, 15, 16]]
    columns = {"id": names, "input_ids": token_ids, "n_unscored": n_unscored}
    plain = datasets.Dataset.from_dict(columns)
    for rows in ([0, 1, 2], [2, 0], [1]):
        chosen = ([column[row] for row in rows] for column in (names, token_ids, n_unscored))
        wanted = encoding.batch_of(*chosen, pad_id=4)
        for encoded_rows in (plain, plain.with_format("arrow")):
            found = encoding.collate(encoded_rows, rows, pad_id=4)
            assert found.ids == wanted.ids
            for name in ("input_ids_BT", "attention_BT", "scored_BT"):
                assert torch.equal(getattr(found, name), getattr(wanted, name))
                assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert found.input_ids_BT.tolist() == [token_ids[1]]
    assert found.scored_BT.tolist() == [[False, True, True, True, True]]


def lengths(parts):
    return [part.attention_BT.sum(1).tolist() for part in parts]


def cost(parts, pass_tokens):
    return sum(pass_tokens + part.input_ids_BT.numel() for part in parts)


def test_passes_hold_every_row_once_and_longest_first():
    batch = encoding.collate(encoded(), range(6), pad_id=TOKENIZER.pad_token_id)
    for how in ({"max_rows": 6}, {"max_rows": 4}, {"max_rows": 6, "pass_tokens": 0}):
        parts = batch.passes(**how)
        assert sorted(item for part in parts for item in part.ids) == sorted(batch.ids)
        assert sum(lengths(parts), []) == sorted(batch.attention_BT.sum(1).tolist(), reverse=True)
        assert all(len(part.ids) <= how["max_rows"] for part in parts)
        assert all(
            part.input_ids_BT.shape[1] == max(own) for part, own in zip(parts, lengths(parts), strict=True)
        )


@pytest.mark.parametrize("pass_tokens", [0, 5, 40, 200])
def test_no_other_way_to_cut_a_batch_costs_less(pass_tokens):
    """Against all 2^5 ways."""
    batch = encoding.collate(encoded(), range(6), pad_id=TOKENIZER.pad_token_id)
    (falling,) = lengths(batch.passes(max_rows=6))
    costs = []
    for is_cut in itertools.product([False, True], repeat=5):
        edges = [0, *(row + 1 for row, cut in enumerate(is_cut) if cut), 6]
        costs.append(sum(pass_tokens + (b - a) * falling[a] for a, b in itertools.pairwise(edges)))
    assert cost(batch.passes(max_rows=6, pass_tokens=pass_tokens), pass_tokens) == min(costs)


def test_where_passes_are_dear_there_are_no_more_than_there_must_be():
    batch = encoding.collate(encoded(), range(6), pad_id=TOKENIZER.pad_token_id)
    assert len(batch.passes(max_rows=6)) == 1
    assert len(batch.passes(max_rows=4)) == 2
    assert len(batch.passes(max_rows=1)) == 6


def test_too_long_an_item_is_refused_under_careful_and_cut_under_paper():
    with pytest.raises(DataError, match=r"item 'addsub-1' has \d+ tokens, more than max_tokens=38"):
        encoded(max_tokens=38)
    assert max(len(ids) for ids in encoded("paper", max_tokens=38)["input_ids"]) == 38


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "line 1: not a JSON object"),
        ('{"id": "a", "task": "svamp", "question": "q"}', "answer is missing"),
        ('{"id": "a", "task": "svamp", "question": " ", "answer": "1"}', "question is missing"),
        (
            '{"id": "a", "task": "svamp", "question": "q", "answer": "1", "response": 3}',
            "response is not text",
        ),
        ("", "holds no items"),
    ],
)
def test_malformed_items_are_refused(tmp_path, line, says):
    path = tmp_path / "train.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=says) as caught:
        sources.read_items(path)
    assert "train.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_refused(tmp_path):
    spec = tiny.spec("owner/model", tiny.write_data(tmp_path / "data"))
    with pytest.raises(DataError, match="unknown split 'dev'"):
        sources.load_items(spec, "dev")


def test_the_fingerprint_sees_every_character(tmp_path):
    folder = tmp_path / "data"
    tiny.write_data(folder)
    before = sources.folder_digest(folder)
    text = (folder / "test.jsonl").read_text()
    (folder / "test.jsonl").write_text(text.replace("What", "what", 1))
    assert sources.folder_digest(folder) != before
    assert fingerprint(items(3)) != fingerprint(items(4))


def test_default_responses_are_those_of_llm_adapters():
    math = Item(id="a", task="svamp", question="q", answer="3", rationale="1 + 2 = 3. The answer is 3.")
    choice = Item(id="b", task="obqa", question="q", answer="answer2")
    assert default_response(math) == math.rationale
    assert default_response(choice) == "the correct answer is answer2"
    bare = Item(id="c", task="svamp", question="q", answer="3")
    assert default_response(bare) == "The answer is 3."  # as the strict reading finds it


def write_train(folder, **record):
    spec = tiny.spec("owner/model", tiny.write_data(folder), train_items=1)
    record = {"id": "a", "task": "gsm8k", "question": "1 + 2?", "answer": "3"} | record
    text = json.dumps({key: value for key, value in record.items() if value is not None})
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    return sources.load_items(spec, "train")[0]


@pytest.mark.parametrize(
    "response", ["#### 3", "It is 3", "the correct answer is 3", "The answer is 3, or so"]
)
def test_a_response_whose_answer_would_not_be_read_is_not_trained_on(tmp_path, response):
    with pytest.raises(DataError, match=r"item 'a' is trained .*end it with 'The answer is 3\.'"):
        write_train(tmp_path, response=response)


def test_a_rationale_before_a_keyword_is_refused_with_what_it_must_be(tmp_path):
    response = "Wood floats. the correct answer is answer2"
    with pytest.raises(DataError, match="it must be, with nothing before, 'the correct answer is answer2'"):
        write_train(tmp_path, task="arc_c", answer="answer2", response=response)


def test_a_key_that_is_misspelt_is_not_left_out(tmp_path):
    with pytest.raises(DataError, match="key 'rationle' is none of an item: is 'rationale' meant"):
        write_train(tmp_path, rationle="1 + 2 = 3. The answer is 3.")
    assert write_train(tmp_path, source="a book", response="The answer is 3.").answer == "3"


def test_a_wrong_rationale_is_trained_on(tmp_path):
    assert write_train(tmp_path, rationale="The answer is 4.").response == "The answer is 4."


def chat(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def test_a_chat_of_one_turn_is_an_item(tmp_path):
    turns = ("system", "Be brief."), ("user", "1 + 2?"), ("assistant", "The answer is 3.")
    item = write_train(tmp_path, question=None, messages=chat(*turns))
    assert (item.question, item.response) == ("Be brief.\n\n1 + 2?", "The answer is 3.")
    assert write_train(tmp_path, question=None, messages=chat(turns[1])).response == "The answer is 3."
    free = {
        "task": "dolly",
        "question": None,
        "answer": None,
        "messages": chat(("user", "Hi"), ("assistant", "Ho")),
    }
    assert write_train(tmp_path, **free).answer == "Ho"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "must be one user message"),
        ("Hi", "must be one user message"),
        (chat(("user", ["a"])), "content that is no text"),
        (chat(("user", "a"), ("assistant", " ")), "content that is no text"),
        ([{"from": "user", "value": "a"}], "name no role: give role and content"),
        (chat(("user", "a")), "question stands beside messages"),
    ],
)
def test_other_chats_are_refused(tmp_path, messages, says):
    question = "q" if "beside" in says else None
    with pytest.raises(DataError, match=f"train.jsonl, line 1: .*{says}"):
        write_train(tmp_path, question=question, messages=messages)


def test_questions_of_ones_own_folder_are_held_against_all_that_may_be_trained_on(tmp_path):
    def record(name, question):
        return {"id": name, "task": "addsub", "question": question, "answer": "3"}

    trained = [
        "A ship has 4 sails and gets 2 more. How many are there?",
        "Tom eats 3 plums of 9. How many stay?",
    ]
    asked = [trained[0], "Tom eats 5 plums of 7. How many stay?", "Why is the sky blue at noon?"]
    tiny.write_data(tmp_path)
    for split, questions in (("train", trained), ("test", asked)):
        lines = [json.dumps(record(f"{split}-{row}", text)) for row, text in enumerate(questions)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    spec = tiny.spec("mini-qwen-0.5B", str(tmp_path), method="sft", train_items=1, validation_items=0)
    found = sources.test_items(spec, EvalSpec(tasks=("addsub",)))
    assert [item.contaminated for item in found] == ["exact", "masked", ""]  # though only one is trained on
    assert [item.question for item in found] == asked


def read_answer(folder, task, answer, **more):
    """The item that a file with that answer is read as."""
    record = {"id": "a", "task": task, "question": "q", "answer": answer} | more
    (folder / "test.jsonl").write_text(json.dumps(record) + "\n")
    return sources.read_items(folder / "test.jsonl")[0]


@pytest.mark.parametrize(
    ("task", "written", "means"),
    [
        ("gsm8k", "72", "72"),
        ("gsm8k", "72.0", "72.0"),  # scored right as it is
        ("gsm8k", "1,234", "1234"),
        ("gsm8k", "-12,345,678.90", "-12345678.90"),
        ("gsm8k", "#### 72", "72"),
        ("gsm8k", "He sells 1,072.\n#### 1,072", "1072"),
        ("svamp", "50%", "50"),
        ("svamp", "$5.00", "5.00"),
        ("svamp", "-$5", "-5"),
        ("svamp", "$-5", "-5"),
        ("svamp", "\u22127", "-7"),
        ("addsub", "+5", "5"),
        ("addsub", " .5 ", "0.5"),
        ("addsub", "5.", "5"),
        ("aqua", "(B)", "B"),
        ("aqua", "b", "B"),
        ("aqua", "C)", "C"),
        ("boolq", "True", "true"),
        ("arc_e", "Answer 2.", "answer2"),
        ("arc_e", "answer5", "answer5"),  # some have five options
    ],
)
def test_gold_answers_are_read_as_what_they_mean(tmp_path, task, written, means):
    item = read_answer(tmp_path, task, written)
    assert item.answer == means
    by_format = f"The answer is {means}." if task in MATH_TASKS else f"the correct answer is {means}"
    row = evaluate.score(item, by_format, n_tokens=3, ended=True)
    assert row["correct"] and row["correct_strict"]
    if task not in MATH_TASKS:
        assert item.response == by_format


@pytest.mark.parametrize(
    ("task", "answer", "form"),
    [
        *[("gsm8k", text, "a plain number, such as 1234 or -0.5") for text in ("nan", "inf", "1e5", "1/2")],
        *[("svamp", text, "a plain number") for text in ("1,23", "1.2.3", "--5", "-", "####", "3 and 4")],
        *[("aqua", text, r"one of \['A'") for text in ("F", "AB", "24")],
        *[("boolq", text, r"one of \['true', 'false'\]") for text in ("yes", "1")],
        *[("arc_e", text, r"one of \['answer1', .*'answer4'\]") for text in ("A", "answer9", "answer12")],
    ],
)
def test_answers_that_no_response_could_match_are_refused(tmp_path, task, answer, form):
    says = rf"test.jsonl, line 1: answer={re.escape(repr(answer))} is not as {task} is scored.*write {form}"
    with pytest.raises(DataError, match=says):
        read_answer(tmp_path, task, answer)


def test_instructions_have_any_answer(tmp_path):
    assert read_answer(tmp_path, "dolly", "nan, 50% \u2026").answer == "nan, 50% \u2026"
