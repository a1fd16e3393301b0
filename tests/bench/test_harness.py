"""Our evaluator against lm-evaluation-harness: the same texts, the same rankings, item by item."""

import json
import re
import sys
from dataclasses import replace

import pytest
import tiny
from conftest import missing
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from kdutils import encoding, models
from kdutils.bench import lm_eval_check
from kdutils.constants import DOMAIN_TASKS
from kdutils.data import sources
from kdutils.data.options import options as options_of
from kdutils.items import alpaca
from kdutils.runs import answers, ranking
from kdutils.spec import EvalSpec, RunSpec

STUDENT = "mini-qwen-1.5B"
N = {"math": 35, "commonsense": 25}  # items a task: 210 and 200


@pytest.fixture(scope="module")
def lm_eval():
    """lm-evaluation-harness."""
    try:
        import lm_eval
    except ImportError:
        missing("bench", "lm-evaluation-harness is not installed (extra `bench`)")
    return lm_eval


@pytest.fixture(scope="module")
def student():
    return models.load(STUDENT)


def spec(domain="math", **fields):
    return RunSpec(**{"student": STUDENT, "method": "base", "domain": domain} | fields)


# --- the mini family: every answer is the same ----------------------------------------------------------


def item_rows(student, asked, evaluation):
    items = sources.test_items(asked, evaluation)
    return answers.rows_of(student, items, [evaluation], asked)[0][0]


@pytest.mark.parametrize("domain", ["math", "commonsense"])
def test_greedy_texts_are_the_same(lm_eval, student, domain):
    evaluation = EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=N[domain], max_new_tokens=24)
    table = lm_eval_check.compare(student, spec(domain), evaluation)
    assert len(table) >= 200
    assert table["item"].is_unique
    assert table["equal"].all(), table[~table["equal"]].to_string()
    assert table["ours"].nunique() > 10  # they are texts of these items


def test_texts_end_by_eos_and_by_the_limit(lm_eval, student):
    evaluation = EvalSpec(tasks=("multiarith",), items_per_task=40, max_new_tokens=14)
    rows = item_rows(student, spec(), evaluation)
    assert 0 < rows["truncated"].sum() < len(rows)
    assert lm_eval_check.compare(student, spec(), evaluation)["equal"].all()


@pytest.mark.parametrize(("domain", "n"), [("math", 200), ("commonsense", 25)])
def test_rankings_are_the_same(lm_eval, student, domain, n):
    evaluation = EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=n).ranking()
    table = lm_eval_check.compare(student, spec(domain), evaluation)
    assert (table["measure"].value_counts() >= 200).all()
    assert set(table["measure"]) == {"ranking", "ranking_normalised"}
    assert table["equal"].all(), table[~table["equal"]].to_string()
    assert table["difference_nats"].max() < 1e-4


def test_their_accuracies_are_ours(lm_eval, student):
    for domain, task in (("math", "aqua"), ("commonsense", "boolq")):
        one = EvalSpec(tasks=(task,), items_per_task=30, scoring="likelihood")
        theirs = lm_eval_check.harness_samples(student, sources.test_items(spec(domain), one), one)
        ours = item_rows(student, spec(domain), one)
        assert [sample["acc"] for sample in theirs] == ours["correct"].tolist()
        assert [sample["acc_norm"] for sample in theirs] == ours["correct_normalised"].tolist()
        assert 0 < ours["correct"].mean() < 1


# --- what is decided here, since its defaults ask another question --------------------------------------


def byte_level_tokenizer(*, adds_bos):
    """Bytes, and words with a blank before them as one token: text after text is not text with text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", letter) for letter in "tcai"] + [("t", "h"), ("\u0120t", "h"), ("\u0120", "\u0120")]
    tokens = ["<s>", "</s>", *alphabet, *(left + right for left, right in merges)]
    made = Tokenizer(tokenizer_models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module", params=["llama", "qwen"])
def tiny_model(request, tmp_path_factory):
    """A random model that reads bytes; the Llama has BOS before every text, and no padding token."""
    folder = tmp_path_factory.mktemp("models") / request.param
    # More rows than tokens: what pads the head is as likely as anything. Of these seeds rankings differ.
    seed = {"llama": 3, "qwen": 5}[request.param]
    tiny.save_model(folder, kind=request.param, rows=400, seed=seed, tied=False, spread=0.3)
    byte_level_tokenizer(adds_bos=request.param == "llama").save_pretrained(folder)
    settings = {"repetition_penalty": 3.0, "eos_token_id": [40, 41, 42], "no_repeat_ngram_size": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return models.load(str(folder))


def choices(folder, n=20):
    """A data folder with questions of two and of three options, and the spec of a model on it."""
    folder.mkdir()
    lines = []
    for number in range(n):
        offered = ["answer1", "answer2", "answer3"][: 2 + number % 2]
        question = f"Which is it, item {number}? " + ", ".join(f"{option}: {number}" for option in offered)
        record = {"id": f"item-{number}", "task": "siqa", "question": question, "answer": offered[0]}
        lines.append(json.dumps(record) + "\n")
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return spec("commonsense", data=str(folder))


RANKED = EvalSpec(tasks=("siqa",), items_per_task=20, scoring="likelihood")
WRITTEN = EvalSpec(tasks=("siqa",), items_per_task=20, max_new_tokens=10)


def test_tokens_apart_are_ours_bos_included(lm_eval, tiny_model, tmp_path):
    one = choices(tmp_path / "data")
    items = sources.test_items(one, RANKED)
    prompts = encoding.prompt_ids([item.question for item in items], tiny_model.tokenizer)
    assert (prompts[0][0] == tiny_model.tokenizer.bos_token_id) == ("llama" in tiny_model.name)
    encode = lm_eval_check._adapter(tiny_model, items, RANKED)._encode_pair
    samples = lm_eval_check.harness_samples(tiny_model, items, RANKED)
    for item, ids, sample in zip(items, prompts, samples, strict=True):
        assert {context for context, _ in sample["arguments"]} == {alpaca(item.question)}
        texts = list(options_of(item).values())
        own = tiny_model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert [encode(*pair) for pair in sample["arguments"]] == [(ids, option) for option in own]
    table = lm_eval_check.compare(tiny_model, one, RANKED)
    assert table["equal"].all(), table.to_string()
    assert table["difference_nats"].max() < 1e-4
    assert table["ours"].nunique() > 2
    assert tiny_model.tokenizer.pad_token is None  # they set one, on a copy


def test_a_models_own_generation_settings_are_put_aside_and_back(lm_eval, tiny_model, tmp_path):
    one = choices(tmp_path / "data")
    own = tiny_model.causal.generation_config
    assert own.repetition_penalty == 3.0
    table = lm_eval_check.compare(tiny_model, one, WRITTEN)
    assert table["equal"].all(), table.to_string()
    assert tiny_model.causal.generation_config is own


# --- a difference is found, and has its reason ----------------------------------------------------------


def test_a_wrong_evaluator_is_caught(lm_eval, tiny_model, tmp_path, monkeypatch, capsys):
    right = ranking.option_logprobs

    def without_the_last_token(model, prompts, options, **how):
        return right(model, prompts, [[option[:-1] for option in own] for own in options], **how)

    one = choices(tmp_path / "data")
    monkeypatch.setattr(ranking, "option_logprobs", without_the_last_token)
    table = lm_eval_check.compare(tiny_model, one, RANKED)
    assert not table["equal"].all()
    asked = ["--student", tiny_model.name, "--domain", "commonsense", "--data", one.data, "--items", "20"]
    assert lm_eval_check.main([*asked, "--max-new-tokens", "2"]) == 1
    assert re.search(r"ranking item-\d+:\n  ours   '.* > .*'\n  theirs '", capsys.readouterr().out)


# --- the command line -----------------------------------------------------------------------------------
def test_the_command_prints_what_was_compared(lm_eval, capsys):
    asked = ["--student", STUDENT, "--domain", "math", "--items", "3", "--max-new-tokens", "8"]
    assert lm_eval_check.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mini-qwen-1.5B, math of mini, float32"
    assert [line.split()[:3] for line in lines[2:]] == [
        ["text", "18", "0"],
        ["ranking", "3", "0"],
        ["ranking_normalised", "3", "0"],
    ]


def test_without_the_package_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert lm_eval_check.main(["--student", "mini-qwen-0.5B", "--domain", "math", "--items", "1"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "pip install 'kdutils[bench]'" in errors[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--student", "no-such", "--domain", "math"], "unknown model 'no-such'"),
        (
            ["--student", STUDENT, "--domain", "math", "--items", "0"],
            "items_per_task=0 must be greater than or equal to 1",
        ),
        (["--student", STUDENT, "--domain", "math", "--data", "/nowhere"], "/nowhere/test.jsonl is missing"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(asked, message, capsys):
    assert lm_eval_check.main(asked) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_questions_without_options_are_not_ranked(lm_eval, tmp_path, capsys):
    asked = ["--student", "mini-qwen-0.5B", "--domain", "math", "--items", "2", "--max-new-tokens", "2"]
    assert lm_eval_check.main([*asked, "--data", tiny.write_data(tmp_path / "data")]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["measure", "text"]


def test_sampled_texts_are_refused(student):
    with pytest.raises(ValueError, match=r"temperature=1\.0: sampled texts"):
        lm_eval_check.harness_samples(student, [], EvalSpec(tasks=("addsub",), temperature=1.0))


def test_a_task_holds_our_prompts_and_options_as_they_are():
    both = replace(RANKED, tasks=("boolq", "siqa"), items_per_task=2)
    items = sources.test_items(spec("commonsense"), both)
    config = lm_eval_check.task_config(items, both)
    records = list(config["custom_dataset"]()["test"])
    assert [record["prompt"] for record in records] == [alpaca(item.question) for item in items]
    assert records[2]["choices"] == list(options_of(items[2]).values())
    assert records[2]["target"] == f"the correct answer is {items[2].answer}"
    assert (config["target_delimiter"], config["num_fewshot"]) == ("", 0)
