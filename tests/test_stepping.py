"""The step written out for tiny decoders: what transformers computes, up to rounding, where it fits."""

import dataclasses

import pytest
import tiny
import torch

from kdutils import data, generate, models, stepping, trunk

QUESTIONS = [record["question"] for record in tiny.records(7)] + ["What is 1 plus 2 plus 3 plus 4 ?"]
NAMES = ["mini-qwen-36k", "mini-llama-66k", "mini-qwen-296k"]  # with and without biases; two key heads


def prompts(model):
    return data.prompt_ids(QUESTIONS, model.tokenizer)


def stepped(model, prompts, continuation):
    """Hidden states at the last token of the prompts and at those of `continuation`, the same for all."""
    step = stepping.stepper(model, prompts, len(continuation))
    return torch.stack(
        [step.read(), *(step(torch.full((len(prompts),), token)) for token in continuation)], dim=1
    )


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_steps_give_the_states_of_whole_sequences(name):
    """After prompts of unequal length, each against its own forward pass without cache or padding."""
    model, continuation = models.load(name), [7, 30, 8, 120, 9, 44]
    found_BTH = stepped(model, prompts(model), continuation)
    for prompt, found_TH in zip(prompts(model), found_BTH, strict=True):
        whole_TH = model.hidden_states(torch.tensor([prompt + continuation]))[0, len(prompt) - 1 :]
        assert torch.allclose(found_TH, whole_TH, rtol=1e-4, atol=1e-4 * float(whole_TH.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_those_of_the_general_way(name, monkeypatch):
    """Sampled and greedy; texts end at different times, so rows leave the batch on the way."""
    model, keys = models.load(name), [str(row) for row in range(len(QUESTIONS))]
    ways = [{}, {"temperature": 1.0, "keys": keys}]
    quick = [generate.generate(model, prompts(model), max_new_tokens=60, **way) for way in ways]
    assert len({len(text.token_ids) for text in quick[1]}) > 2
    monkeypatch.setattr(stepping, "stepper", lambda *args: None)
    assert quick == [generate.generate(model, prompts(model), max_new_tokens=60, **way) for way in ways]


def test_steps_follow_the_weights_as_they_are_now():
    """A student samples while it is trained."""
    model = models.load(NAMES[0])
    before = generate.generate(model, prompts(model), max_new_tokens=12)
    with torch.no_grad():
        model.causal.get_decoder().layers[0].mlp.up_proj.weight.mul_(-1.0)
    assert generate.generate(model, prompts(model), max_new_tokens=12) != before


def fits(model):
    return stepping.stepper(model, [[5, 6, 7]], 4) is not None


@pytest.mark.parametrize("changes", tiny.OTHER_DECODERS)
def test_another_kind_of_decoder_is_left_to_transformers(changes):
    model = models.load(NAMES[0])
    assert fits(model)
    for name, value in changes.items():
        setattr(model.causal.config, name, value)
    assert not fits(model)


def test_another_precision_or_size_is_left_to_transformers(monkeypatch):
    model = models.load(NAMES[0])
    bfloat16 = dataclasses.replace(model.policy, weights=torch.bfloat16)
    assert not fits(dataclasses.replace(model, policy=bfloat16))
    monkeypatch.setattr(trunk, "LARGE_PARAMETERS", 30_000)
    assert not fits(model)


def test_prompts_whose_attention_is_too_large_to_be_kept_go_through_transformers(monkeypatch):
    model = models.load(NAMES[0])
    assert stepping.stepper(model, [[5] * 40] * 3, 4) is not None
    monkeypatch.setattr(trunk, "LARGEST_ATTENTION", 4 * 2 * 2 * 3 * 40**2 - 1)  # bytes, heads, layers, rows
    assert stepping.stepper(model, [[5] * 40] * 3, 4) is None
    assert stepping.stepper(model, [[5] * 39] * 3, 4) is not None
