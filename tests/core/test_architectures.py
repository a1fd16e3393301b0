"""Models of other kinds than Qwen and Llama: right, or refused in our words before work."""

import dataclasses
import shutil

import architectures
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from kdutils import models
from kdutils.data import logit_checks, sources
from kdutils.data.model_files import ModelError
from kdutils.mini.family import MODEL_FOLDER
from kdutils.runs import answers, experiment, ranking, teacher_outputs
from kdutils.runs.inputs import Inputs, check
from kdutils.spec import EvalSpec, RunSpec


def other_model(folder, config):
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL_FOLDER / "mini-qwen-0.5B" / name, folder)
    return str(folder)


SIZES = {"vocab_size": 640, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
SMALL = SIZES | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("n_positions", [48, 100, 512])
@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_items_beyond_learned_positions_are_refused_before_work(tmp_path, kind, n_positions):
    config = {
        "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=n_positions, **SIZES),
        "opt": transformers.OPTConfig(
            ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=n_positions, **SMALL
        ),
    }[kind]
    student = other_model(tmp_path, config)
    spec = RunSpec(student=student, method="sft", domain="math", train_items=16, validation_items=0)
    asked = Inputs.of(sources.resolved(spec), EvalSpec(tasks=("addsub",), items_per_task=4))
    if n_positions == 512:
        check(asked)
        return
    with pytest.raises(ModelError, match=rf"has {n_positions} learned positions, .* up to \d+ tokens: lower"):
        check(asked)


def test_without_sdpa_attention_is_eager(tmp_path):
    config = transformers.Gemma2Config(
        **SMALL, intermediate_size=64, num_key_value_heads=1, head_dim=16, attn_implementation="eager"
    )
    assert models.load(other_model(tmp_path, config)).policy.attention in ("eager", "sdpa")


@pytest.mark.parametrize(
    ("kind", "adapted"),
    [
        ("Llama", {"q_proj", "k_proj", "v_proj", "up_proj", "down_proj"}),
        ("Phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("GPTNeoX", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_lora_finds_all_matrices_where_they_have_other_names(tmp_path, kind, adapted):
    config = getattr(transformers, f"{kind}Config")(**SMALL, intermediate_size=64)
    student = other_model(tmp_path / "student", config)
    spec = RunSpec(
        student=student,
        method="sft",
        domain="math",
        adapter="lora",
        train_items=8,
        validation_items=0,
        epochs=1,
    )
    run = experiment.run(
        spec, out=tmp_path / "out", evaluation=EvalSpec(tasks=("addsub",), items_per_task=1, max_new_tokens=2)
    )
    assert set(run.result["adapted"]) == adapted


def test_a_lora_that_cannot_be_is_refused_before_work(tmp_path):
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )
    student = other_model(tmp_path, config)
    spec = RunSpec(
        student=student, method="sft", domain="math", adapter="lora", train_items=8, validation_items=0
    )
    with pytest.raises(ModelError, match="no LoRA can be added .*; use lora_dropout=0.0 or adapter='full'"):
        check(Inputs.of(sources.resolved(spec), None))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_with_another_state_than_keys_and_values_is_asked_in_both_ways(tmp_path, temperature):
    config = transformers.Lfm2Config(
        **SMALL, intermediate_size=64, num_key_value_heads=1, layer_types=["conv", "full_attention"]
    )
    model = models.load(other_model(tmp_path, config))
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    options = [[[20, 21], [22]], [[23], [24, 25, 26]], [[27, 28], [29, 30]]]
    found = ranking.option_logprobs(model, prompts, options)
    for prompt, own, values in zip(prompts, options, found, strict=True):
        for option, value in zip(own, values, strict=True):
            with torch.no_grad():
                logits = model.network(torch.tensor([prompt + option])).logits[0, :, : model.vocabulary_size]
            logprobs = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
            wanted = logprobs.gather(1, torch.tensor(option)[:, None]).sum()
            assert value == pytest.approx(float(wanted), abs=1e-4)
            own = answers.texts_and_likeliest(model, [prompt], [option], max_new_tokens=1)[1]
            assert own == [logits[len(prompt) - 1 : -1].argmax(-1).tolist()]
    how = {"max_new_tokens": 12, "temperature": temperature}
    keys, references = ["a", "b", "c"], [own[0] for own in options]
    texts, likeliest = answers.texts_and_likeliest(model, prompts, references, keys=keys, **how)
    for prompt, key, own, *found in zip(prompts, keys, references, texts, likeliest, strict=True):
        alone = answers.texts_and_likeliest(model, [prompt], [own], keys=[key], **how)
        assert alone == ([found[0]], [found[1]])


def test_a_text_may_hold_any_line_separator(tmp_path):
    items = sources.load_items(RunSpec(student="mini-qwen-0.5B", method="sft", domain="math"), "train")[:2]
    responses = ["one\u2028two\u2029three\x85four\x0bfive\x1csix", "\r\nlast\n"]
    teacher_outputs.write_texts(tmp_path / "texts.jsonl", items, responses, [True, False])
    assert [
        item.response for item in teacher_outputs.read_texts(tmp_path / "texts.jsonl", items)
    ] == responses


def test_a_model_whose_logits_depend_on_padding_is_refused(tmp_path, monkeypatch):
    folder = other_model(tmp_path, architectures.tiny_config("bart"))
    with pytest.raises(ModelError, match="bart has logits that depend on how a row is padded and read"):
        models.load(folder)
    monkeypatch.setattr(models, "KNOWN", ("bart",))
    model, option = models.load(folder), [[20, 21, 22]]  # it would be wrong in silence
    alone = ranking.option_logprobs(model, [[5, 6, 7]], [option])
    together = ranking.option_logprobs(model, [[5, 6, 7], list(range(8, 30))], [option] * 2)
    assert together[0] != pytest.approx(alone[0], rel=1e-4)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_rounding_of_autocast_is_not_taken_for_padding(autocast):
    model = models.load("mini-qwen-3B", trains_all=True)
    model.policy = dataclasses.replace(model.policy, autocast=autocast)
    error, rounding = logit_checks.error_of_batches(model, [5, 6, 7, 8, 9, 10])
    assert error < rounding / 10


def positions_of(tmp_path, n_positions, **fields):
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=n_positions, **SIZES)
    spec = RunSpec(student=other_model(tmp_path, config), domain="math", **fields)
    asked = EvalSpec(tasks=("aqua",), items_per_task=4, scoring="likelihood")
    return Inputs.of(sources.resolved(spec), asked)


def test_what_is_neither_written_nor_trained_on_needs_no_positions(tmp_path):
    """Ranking writes nothing, and protocol `paper` cuts what it trains on."""
    check(positions_of(tmp_path, 110, method="base"))
    check(positions_of(tmp_path, 110, method="sft", protocol="paper", max_tokens=40))


def test_a_config_of_no_known_type_is_refused_in_our_words(tmp_path):
    inputs = positions_of(tmp_path, 512, method="sft")
    (tmp_path / "config.json").write_text('{"model_type": "none-of-them"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        check(inputs)


def test_weights_that_are_not_in_the_files_are_not_drawn_at_random(tmp_path):
    folder = shutil.copytree(MODEL_FOLDER / "mini-qwen-0.5B", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({other: w for other, w in weights.items() if other != name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{name} \(1 in all\) is not in its files; give a whole model"):
        models.load(str(folder))


def test_memory_that_runs_out_is_not_taken_for_an_architecture(tmp_path, monkeypatch):
    def runs_out(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(logit_checks, "error_of_head", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        models.load("mini-qwen-0.5B")
