"""Our evaluator against lm-evaluation-harness: the same texts, the same rankings, item by item."""

import json
import re
import sys
from dataclasses import replace

import pytest
import tiny
import torch
from conftest import missing
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from kdutils import encoding, evaluate, generation, models
from kdutils.bench import lm_eval_check
from kdutils.constants import DOMAIN_TASKS
from kdutils.data import sources
from kdutils.items import prompt
from kdutils.runs import experiment
from kdutils.spec import EvalSpec, RunSpec

STUDENT = "mini-qwen-105k"
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
    return experiment.item_rows(student, items, evaluation, run_id=asked.run_id)[0]


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["math", "commonsense"])
def test_greedy_texts_are_the_same(lm_eval, student, domain):
    evaluation = EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=N[domain], max_new_tokens=24)
    table = lm_eval_check.compare(student, spec(domain), evaluation)
    assert len(table) >= 200
    assert table["item"].is_unique
    assert table["equal"].all(), table[~table["equal"]].to_string()
    assert table["same_answer"].all()
    assert table["ours"].nunique() > 10  # they are texts of these items


@pytest.mark.slow
def test_texts_end_by_eos_and_by_the_limit(lm_eval, student):
    evaluation = EvalSpec(tasks=("multiarith",), items_per_task=40, max_new_tokens=14)
    rows = item_rows(student, spec(), evaluation)
    assert 0 < rows["truncated"].sum() < len(rows)
    assert lm_eval_check.compare(student, spec(), evaluation)["equal"].all()


@pytest.mark.slow
@pytest.mark.parametrize("tokens", lm_eval_check.TOKENS)
@pytest.mark.parametrize(("domain", "n"), [("math", 200), ("commonsense", 25)])
def test_rankings_are_the_same(lm_eval, student, domain, n, tokens):
    # Also with tokens of its own: to the mini family's tokenizer blanks are nothing.
    evaluation = EvalSpec(tasks=DOMAIN_TASKS[domain], items_per_task=n).ranking()
    table = lm_eval_check.compare(student, spec(domain), evaluation, tokens=tokens)
    found = lm_eval_check.summary(table).set_index("measure")
    assert found.index.tolist() == ["ranking", "ranking_normalised"]
    assert (found["items"] >= 200).all()
    assert (found[["mismatches", "unexplained", "other_answer"]] == 0).all(axis=None), table.to_string()
    assert (found["largest_difference_nats"] < 1e-4).all()


@pytest.mark.slow
def test_their_accuracies_are_ours(lm_eval, student):
    evaluation = EvalSpec(tasks=("aqua", "boolq"), items_per_task=30, scoring="likelihood")
    for domain, task in (("math", "aqua"), ("commonsense", "boolq")):
        one = replace(evaluation, tasks=(task,))
        theirs = lm_eval_check.harness_rows(student, sources.test_items(spec(domain), one), one)
        ours = item_rows(student, spec(domain), one)
        assert (theirs["acc"] == ours["correct"]).all()
        assert (theirs["acc_norm"] == ours["correct_normalised"]).all()
        assert 0 < theirs["acc"].mean() < 1


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
    rows = lm_eval_check.harness_rows(tiny_model, items, RANKED)
    assert rows["prompt"].tolist() == [prompt(item.question) for item in items]
    for item, ids, pairs in zip(items, prompts, rows["tokens"], strict=True):
        texts = list(evaluate.options(item).values())
        own = tiny_model.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert pairs == [(ids, option) for option in own]
    table = lm_eval_check.compare(tiny_model, one, RANKED)
    assert table["equal"].all(), table.to_string()
    assert table["difference_nats"].max() < 1e-4
    assert table["ours"].nunique() > 2
    assert tiny_model.tokenizer.pad_token is None  # they set one, on a copy


def test_tokens_together_move_the_blanks_and_that_explains_a_mismatch(lm_eval, tiny_model, tmp_path):
    one = choices(tmp_path / "data")
    items = sources.test_items(one, RANKED)
    pairs = lm_eval_check.harness_rows(tiny_model, items, RANKED, tokens="together")["tokens"][0]
    decode = tiny_model.tokenizer.decode
    assert decode(pairs[0][0]).endswith("### Response:")
    assert decode(pairs[0][1]) == "\n" + 16 * " " + "the correct answer is answer1"
    assert "\u0120th" in tiny_model.tokenizer.convert_ids_to_tokens(pairs[0][1])  # across the boundary
    table = lm_eval_check.compare(tiny_model, one, RANKED, tokens="together")
    reasons = table.loc[~table["equal"], "reason"]
    assert len(reasons) > 0
    assert reasons.str.match(r"tokens: \d+ are scored there and \d+ here; with theirs ours is equal").all()
    assert table["difference_nats"].min() > 1


def test_a_models_own_generation_settings_are_put_aside_and_back(lm_eval, tiny_model, tmp_path):
    one = choices(tmp_path / "data")
    own = tiny_model.causal.generation_config
    assert own.repetition_penalty == 3.0
    table = lm_eval_check.compare(tiny_model, one, WRITTEN)
    assert table["equal"].all(), table.to_string()
    assert tiny_model.causal.generation_config is own


# --- a difference is found, and has its reason ----------------------------------------------------------


SUMS = EvalSpec(tasks=("addsub",), items_per_task=6, max_new_tokens=5)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A random model to which two words are equally likely everywhere, and the likeliest after a prompt."""
    folder = tmp_path_factory.mktemp("models") / "tied"
    model = models.load(tiny.save_model(folder, seed=3, tied=False, spread=0.4))
    first = encoding.prompt_ids([tiny.records(1, start=400)[0]["question"]], model.tokenizer)
    with torch.no_grad():
        hidden_H = model.hidden_states(torch.tensor(first))[0, -1]
        for word in ("Instruction", "request"):
            model.head.weight_VH[model.tokenizer.convert_tokens_to_ids(word)] = hidden_H * 10
    return model


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda first, other, rest: [other, *rest], r"rounding: after 0 tokens theirs is \S+ nats behind .*"),
        (lambda first, other, rest: ["plus", *rest], "unexplained"),  # neither of the two
        (lambda first, other, rest: [first, *rest, "plus"], "unexplained"),  # it went on
        (lambda first, other, rest: [first, *rest[:2]], "unexplained"),  # it stopped
    ],
)
def test_a_tie_and_a_real_difference_are_told_apart(tied, tmp_path, monkeypatch, changed, reason):
    one = spec(data=tiny.write_data(tmp_path / "data"))
    rows = item_rows(tied, one, SUMS)
    first, *rest = rows.loc[0, "text"].split()
    (other,) = {"Instruction", "request"} - {first}
    rows.loc[0, "text"] = " ".join(changed(first, other, rest))
    questions = [item.question for item in sources.test_items(one, SUMS)]
    rows["prompt_ids"] = encoding.prompt_ids(questions, tied.tokenizer)
    monkeypatch.setattr(lm_eval_check, "harness_rows", lambda *arguments, **options: rows)
    table = lm_eval_check.compare(tied, one, SUMS)
    assert table["equal"].tolist() == [False] + [True] * 5
    assert re.fullmatch(reason, table.loc[0, "reason"])
    assert (table.loc[1:, "reason"] == "").all()
    found = lm_eval_check.summary(table).iloc[0]
    assert (found["mismatches"], found["unexplained"]) == (1, int(reason == lm_eval_check.UNEXPLAINED))


def test_a_wrong_evaluator_is_caught(lm_eval, tiny_model, tmp_path, monkeypatch, capsys):
    right = generation.option_logprobs

    def without_the_last_token(model, prompts, options, **how):
        return right(model, prompts, [[option[:-1] for option in own] for own in options], **how)

    one = choices(tmp_path / "data")
    monkeypatch.setattr(generation, "option_logprobs", without_the_last_token)
    table = lm_eval_check.compare(tiny_model, one, RANKED)
    assert (table.loc[~table["equal"], "reason"] == lm_eval_check.UNEXPLAINED).any()
    asked = ["--student", tiny_model.name, "--domain", "commonsense", "--data", one.data, "--items", "20"]
    assert lm_eval_check.main([*asked, "--scoring", "likelihood"]) == 1
    assert "unexplained" in capsys.readouterr().out


# --- the command line -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_what_was_compared(lm_eval, capsys):
    asked = ["--student", STUDENT, "--domain", "math", "--items", "3", "--max-new-tokens", "8"]
    assert lm_eval_check.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mini-qwen-105k, math of mini, float32, tokens apart"
    assert [line.split()[:3] for line in lines[2:]] == [
        ["text", "18", "0"],
        ["ranking", "3", "0"],
        ["ranking_normalised", "3", "0"],
    ]


def test_without_the_package_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert lm_eval_check.main(["--student", "mini-qwen-14k", "--domain", "math", "--items", "1"]) == 2
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


def test_a_question_without_options_has_no_ranking(tmp_path, capsys):
    asked = ["--student", STUDENT, "--domain", "math", "--data", tiny.write_data(tmp_path / "data")]
    assert lm_eval_check.main([*asked, "--scoring", "likelihood"]) == 2
    assert "no task of the data has options" in capsys.readouterr().err


def test_sampled_texts_and_unknown_tokens_are_refused(student):
    sampled = EvalSpec(tasks=("addsub",), temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature=1\.0: sampled texts"):
        lm_eval_check.harness_rows(student, [], sampled)
    with pytest.raises(ValueError, match="tokens='joined' is unknown"):
        lm_eval_check.harness_rows(student, [], SUMS, tokens="joined")


def test_tasks_are_files_that_anyone_can_run(tmp_path):
    """The YAML and JSONL hold our prompt and options as they are."""
    items = sources.test_items(
        spec("commonsense"), replace(RANKED, tasks=("boolq", "siqa"), items_per_task=2)
    )
    both = replace(RANKED, tasks=("boolq", "siqa"))
    names = lm_eval_check.write_tasks(tmp_path, items, both)
    assert names == ["kdutils_boolq_likelihood", "kdutils_siqa_likelihood"]
    lines = [json.loads(line) for line in (tmp_path / f"{names[1]}.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [prompt(item.question) for item in items[2:]]
    assert lines[0]["choices"] == list(evaluate.options(items[2]).values())
    assert lines[0]["target"] == f"the correct answer is {items[2].answer}"
    config = json.loads((tmp_path / f"{names[1]}.yaml").read_text())
    assert (config["target_delimiter"], config["num_fewshot"]) == ("", 0)
