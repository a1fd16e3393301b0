"""Models that are taught and asked through their chat template."""

import dataclasses

import pytest
import tiny
from test_conventions import answer_by_card
from transformers import AutoModelForCausalLM

import kdutils
from kdutils import encoding, models
from kdutils.data.model_files import ModelError
from kdutils.data.sources import load_items, resolved
from kdutils.runs.inputs import Inputs, check

TURNS = "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end>{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}<assistant> {% endif %}"
MARKS = ("<user>", "<assistant>", "<end>")


def save(folder, *, template=TEMPLATE, **options):
    """A tiny model whose tokenizer has a chat template; its own EOS is another token than ends a turn."""
    path = tiny.save_model(folder, extra=MARKS, **options)
    tokenizer = models.load_tokenizer(path)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    places = {name: save(folder / name, seed=seed) for seed, name in enumerate(("student", "teacher"))}
    other = TEMPLATE.replace("<assistant>", "Response")
    return places | {
        "other": save(folder / "other", template=other),
        "data": tiny.write_data(folder / "data"),
    }


def a_spec(chats, student="student", teacher="teacher", **fields):
    own = {"method": "fkl", "teacher": chats[teacher], "teacher_tuned": False, "prompt": "chat"}
    return tiny.spec(chats[student], chats["data"], **own | fields)


def test_what_ends_a_turn_is_the_end_of_a_response(chats):
    tokenizer = models.load_tokenizer(chats["student"], "chat")
    assert (tokenizer.eos_token, models.load_tokenizer(chats["student"]).eos_token) == ("<end>", "<eos>")
    items = load_items(a_spec(chats), "train")[:1]
    encoded = encoding.encode(items, tokenizer, max_tokens=96, protocol="careful", prompt="chat")
    ids, n_unscored = encoded[0]["input_ids"], encoded[0]["n_unscored"]
    question = tokenizer(items[0].question)["input_ids"]
    marks = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(list(MARKS)), strict=True))
    assert ids[:n_unscored] == [marks["<user>"], *question, marks["<end>"], marks["<assistant>"]]
    assert ids[n_unscored:] == [*tokenizer(items[0].response)["input_ids"], marks["<end>"]]


def test_a_chat_is_distilled_saved_and_asked_as_one(chats, tmp_path, monkeypatch):
    spec = a_spec(chats)
    found = kdutils.run(spec, out=tmp_path, evaluation=tiny.EVALUATION)
    assert len(found.items) == 5 and found.folder.path.name == resolved(spec).run_id
    assert models.load_tokenizer(str(found.folder.model)).eos_token == "<end>"
    saved = AutoModelForCausalLM.from_pretrained(found.folder.model)
    end = models.load_tokenizer(chats["student"]).convert_tokens_to_ids("<end>")
    assert saved.generation_config.eos_token_id == end  # where `generate` of transformers ends, too
    first = found.items.iloc[0]
    question = next(item.question for item in load_items(spec, "test") if item.id == first["item_id"])
    assert answer_by_card(found, question, monkeypatch) == first["text"]
    alpaca = kdutils.run(dataclasses.replace(spec, prompt="alpaca"), out=tmp_path, evaluation=tiny.EVALUATION)
    assert alpaca.folder.path != found.folder.path


def test_a_prompt_is_the_same_every_day_and_without_thinking(tmp_path):
    says = "{{ strftime_now('%d %b %Y') }} {{ date_string }} {{ enable_thinking }} {{ thinking }}"
    tokenizer = models.load_tokenizer(save(tmp_path / "m", template=says + TEMPLATE), "chat")
    assert encoding.chat_text(tokenizer, "What").startswith("26 Jul 2024 26 Jul 2024 False False")


def test_thinking_that_a_template_begins_is_ended(tmp_path):
    tokenizer = models.load_tokenizer(save(tmp_path / "m", template=TEMPLATE + "<think> "), "chat")
    text = encoding.chat_text(tokenizer, "What", add_generation_prompt=True)
    assert text.endswith("<assistant> <think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('only tools') }}", r"takes no question and answer \(only tools\)"),
        (TEMPLATE.replace("message.content", "message.content | upper"), "changes the text of an answer"),
        (TEMPLATE.replace("<end>", "<|fin|>"), "'<|fin|>', is unknown to the tokenizer"),
    ],
)
def test_a_model_without_a_usable_template_is_refused_before_any_work(chats, tmp_path, template, says):
    place = save(tmp_path / "m", template=template)
    with pytest.raises(ModelError, match=f"{says}.*use prompt='alpaca', or an instruct model"):
        kdutils.run(a_spec({**chats, "bare": place}, student="bare"), out=tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


def test_two_templates_are_not_compared_token_by_token(chats):
    with pytest.raises(ModelError, match="make other tokens of item"):
        check(Inputs.of(a_spec(chats, teacher="other"), tiny.EVALUATION))
    check(Inputs.of(a_spec(chats, teacher="other", method="seqkd"), tiny.EVALUATION))
    check(Inputs.of(a_spec(chats, teacher="other", prompt="alpaca"), tiny.EVALUATION))


def test_another_template_is_another_run(tmp_path):
    place, data = save(tmp_path / "m"), tiny.write_data(tmp_path / "data")
    specs = [tiny.spec(place, data, prompt=prompt) for prompt in ("chat", "alpaca")]
    before = [resolved(spec).run_id for spec in specs]
    file = tmp_path / "m" / "chat_template.jinja"
    file.write_text(file.read_text().replace("<end>", "<end> "))
    after = [resolved(spec).run_id for spec in specs]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]
