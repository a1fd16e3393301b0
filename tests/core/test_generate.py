"""Decoding: batching cannot change a text, only EOS ends it, a model's own settings are not read."""

import json
import os
from pathlib import Path

import pytest
import tiny
import torch

from kdutils import encoding, models
from kdutils.data import sources
from kdutils.generation import Decoder, decode, drawn, generate
from kdutils.noise import noise_keys, random_bits
from kdutils.runs import answers, ranking
from kdutils.runs.answers import texts_and_likeliest
from kdutils.runs.ranking import option_logprobs

QUESTIONS = [record["question"] for record in tiny.records(9)] + ["What is 1 plus 2 plus 3 plus 4 ?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Untied and far from flat, so that texts differ from each other and no choice is a matter of rounding.
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-20k", seed=3, tied=False, spread=0.4)


@pytest.fixture(scope="module")
def model(folder):
    return models.load(folder)


def prompts(model):
    return encoding.prompt_ids(QUESTIONS, model.tokenizer)


def test_greedy_in_a_batch_equals_one_at_a_time(model):
    together = generate(model, prompts(model), max_new_tokens=20)
    alone = [generate(model, [prompt], max_new_tokens=20)[0] for prompt in prompts(model)]
    assert together == alone
    assert len({tuple(text.token_ids) for text in together}) > 1  # not all the same text


def test_greedy_is_the_argmax_of_a_plain_forward(model):
    prompt = prompts(model)[0]
    (text,) = generate(model, [prompt], max_new_tokens=8)
    ids = list(prompt)
    for token in text.token_ids:
        logits_V = model.network(torch.tensor([ids])).logits[0, -1, : model.vocabulary_size]
        assert int(logits_V.argmax()) == token
        ids.append(token)


def test_sampling_depends_on_its_key_alone(model):
    keys = [f"item-{row}/0" for row in range(len(QUESTIONS))]
    how = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5}
    together = generate(model, prompts(model), keys=keys, **how)
    small = generate(model, prompts(model), keys=keys, batch_rows=3, **how)
    backwards = generate(model, prompts(model)[::-1], keys=keys[::-1], **how)[::-1]
    assert together == small == backwards
    assert together != generate(model, prompts(model), keys=keys, **how | {"seed": 6})
    twin = generate(model, [prompts(model)[0]] * 2, keys=["item-0/0", "item-0/1"], **how)
    assert twin[0] == together[0]
    assert twin[0] != twin[1]


def test_a_draw_is_the_quantile_of_a_number_keyed_by_item_and_position():
    keys = ["a", "b", "c", "d"]
    for position in range(35):
        logits_BV = torch.randn(4, 9, generator=torch.Generator().manual_seed(position))
        bits_B1 = random_bits(noise_keys(5, keys, [position] * 4), 1)
        uniform_B1 = (((bits_B1 >> 11) & (2**53 - 1)).double() + 0.5) / 2**53
        wanted_B = (logits_BV.softmax(-1).double().cumsum(-1) < uniform_B1).sum(-1)
        assert torch.equal(drawn(logits_BV, 1.0, keys, 5, position), wanted_B)
        assert torch.equal(drawn(logits_BV[2:], 1.0, keys[2:], 5, position), wanted_B[2:])


def test_a_nucleus_is_of_the_fewest_tokens_that_reach_its_probability():
    keys, top_p = ["a", "b", "c", "d"], 0.7
    for position in range(35):
        logits_BV = torch.randn(4, 9, generator=torch.Generator().manual_seed(position))
        shares_BV = (logits_BV / 1.5).softmax(-1).double()
        for row in shares_BV:
            kept, total = [], 0.0
            for token in row.argsort(descending=True).tolist():
                if total < top_p:
                    kept.append(token)
                    total += float(row[token])
            row[[token for token in range(9) if token not in kept]] = 0.0
        wanted_B = drawn((shares_BV / shares_BV.sum(-1, keepdim=True)).log(), 1.0, keys, 5, position)
        assert torch.equal(drawn(logits_BV, 1.5, keys, 5, position, top_p=top_p), wanted_B)
        assert torch.equal(
            drawn(logits_BV, 1.5, keys, 5, position, top_p=1.0), drawn(logits_BV, 1.5, keys, 5, position)
        )


def test_little_temperature_and_little_probability_write_the_greedy_texts(model):
    greedy = generate(model, prompts(model), max_new_tokens=12)
    how = {"max_new_tokens": 12, "keys": QUESTIONS}
    assert generate(model, prompts(model), temperature=1e-4, **how) == greedy
    assert generate(model, prompts(model), temperature=1.0, top_p=1e-9, **how) == greedy
    assert generate(model, prompts(model), temperature=1.0, **how) != greedy


def test_texts_of_a_prompt_are_written_together_as_alone_and_equal_tokens_are_read_once(model, monkeypatch):
    """Greedy, at two temperatures, and within a nucleus: each in its own way, whatever stands beside it."""
    ways = [(0.0, 1.0, 0), (0.7, 1.0, 3), (1.5, 1.0, 3), (1.0, 0.5, 4)]
    wanted = [(prompt, way) for way in ways for prompt in prompts(model)]
    keys = [f"{place}" for place in range(len(wanted))]
    read, whole = [], Decoder.read

    def counted(step, ids_BT, real_BT):
        read.append((tuple(ids_BT.shape), int(real_BT.sum())))
        return whole(step, ids_BT, real_BT)

    monkeypatch.setattr(Decoder, "read", counted)
    temperature, top_p, seed = zip(*[way for _, way in wanted], strict=True)
    how = {"temperature": temperature, "top_p": top_p, "seed": seed}
    together = generate(model, [prompt for prompt, _ in wanted], max_new_tokens=12, keys=keys, **how)
    (_, n_shared), ((n_rows, _), n_rest), (next_shape, _) = read[:3]
    shared = os.path.commonprefix(prompts(model))
    assert n_shared == len(shared) > 0
    assert (n_rows, n_rest) == (len(QUESTIONS), sum(len(prompt) - n_shared for prompt in prompts(model)))
    assert next_shape == (len(wanted), 1)
    for (prompt, (temperature, top_p, seed)), key, text in zip(wanted, keys, together, strict=True):
        how = {"temperature": temperature, "top_p": top_p, "seed": seed}
        assert generate(model, [prompt], max_new_tokens=12, keys=[key], **how) == [text]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_equal_models_draw_equal_texts(folder, model, top_p):
    how = {"max_new_tokens": 12, "temperature": 1.0, "top_p": top_p, "keys": QUESTIONS}
    texts = generate(model, prompts(model), **how)
    assert generate(models.load(folder), prompts(model), batch_rows=3, **how) == texts


def test_samples_follow_the_softmax(model):
    """4,000 draws of a first token against its probabilities: chi-square within 4 standard deviations."""
    prompt, n, temperature = prompts(model)[1], 4_000, 3.0
    keys = [str(number) for number in range(n)]
    texts = generate(
        model, [prompt] * n, max_new_tokens=1, temperature=temperature, keys=keys, batch_rows=1_000
    )
    logits_V = model.network(torch.tensor([prompt])).logits[0, -1, : model.vocabulary_size].float()
    eos = model.tokenizer.eos_token_id
    drawn = torch.bincount(
        torch.tensor([text.token_ids[0] if text.token_ids else eos for text in texts]), minlength=80
    )
    expected = n * (logits_V / temperature).softmax(-1).detach()
    chi_square = float(((drawn[: len(expected)] - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1
    assert abs(chi_square - degrees) < 4 * (2 * degrees) ** 0.5


def test_only_eos_ends_a_text_and_the_limit_cuts_it(model):
    limit = generate(model, prompts(model), max_new_tokens=6)
    assert all(len(text.token_ids) <= 6 for text in limit)
    assert all(text.ended or len(text.token_ids) == 6 for text in limit)
    eos = model.tokenizer.eos_token_id
    often = generate(
        model,
        prompts(model),
        max_new_tokens=200,
        temperature=3.0,
        keys=[str(row) for row in range(len(QUESTIONS))],
    )
    assert sum(text.ended for text in often) > 5
    assert all(eos not in text.token_ids for text in often)


def test_padding_rows_of_the_head_are_never_chosen(model):
    assert model.vocabulary_size < model.head.weight_VH.shape[0]
    with torch.no_grad():
        rows = model.head.weight_VH[model.vocabulary_size :].clone()
        model.head.weight_VH[model.vocabulary_size :] = 1e3
    try:
        texts = generate(model, prompts(model), max_new_tokens=5)
    finally:
        with torch.no_grad():
            model.head.weight_VH[model.vocabulary_size :] = rows
    assert all(token < model.vocabulary_size for text in texts for token in text.token_ids)


def test_a_models_own_generation_settings_change_nothing(folder, model):
    odd = {"do_sample": True, "temperature": 9.0, "top_k": 3, "repetition_penalty": 5.0, "max_new_tokens": 1}
    path = Path(folder) / "generation_config.json"
    before = path.read_text() if path.exists() else None
    path.write_text(json.dumps(odd | {"eos_token_id": 7}))
    try:
        other = models.load(folder)
        assert generate(other, prompts(model), max_new_tokens=10) == generate(
            model, prompts(model), max_new_tokens=10
        )
    finally:
        path.unlink() if before is None else path.write_text(before)


def test_texts_leave_special_tokens_out(model):
    (text,) = generate(model, prompts(model)[:1], max_new_tokens=5)
    assert "<" not in decode(model, [text])[0]


def test_senseless_calls_are_refused(model):
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        generate(model, [[]], max_new_tokens=5)
    with pytest.raises(ValueError, match="needs one key for each prompt"):
        generate(model, prompts(model), max_new_tokens=5, temperature=1.0)


def test_likeliest_tokens_are_those_of_the_dense_logits_whatever_the_batch(tmp_path, monkeypatch):
    model = models.load(tiny.save_model(tmp_path / "tiny-20k", spread=0.3, seed=4))
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(r) for r in tiny.records(7)))
    items = sources.read_items(tmp_path / "items.jsonl")
    encoded = encoding.encode(items, model.tokenizer, max_tokens=200, protocol="careful")
    pairs = [(ids[:n], ids[n:]) for ids, n in zip(encoded["input_ids"], encoded["n_unscored"], strict=True)]
    heads, references = zip(*pairs, pairs[0], strict=True)  # the first twice
    texts, found = texts_and_likeliest(model, heads, references, max_new_tokens=3, batch_rows=3)
    assert texts == generate(model, heads, max_new_tokens=3)
    assert found == texts_and_likeliest(model, heads, references, max_new_tokens=3, batch_rows=1)[1]
    monkeypatch.setattr(answers, "REFERENCE_ROWS", 2)
    assert found == texts_and_likeliest(model, heads, references, max_new_tokens=3)[1]
    assert found[-1] == found[0]
    for record, tokens in zip(encoded, found, strict=False):
        logits = model.network(input_ids=torch.tensor([record["input_ids"]])).logits[0]
        dense = logits[:, : model.vocabulary_size].argmax(-1).tolist()
        assert tokens == dense[record["n_unscored"] - 1 : -1]
    with pytest.raises(ValueError, match="a reference has no tokens"):
        texts_and_likeliest(model, heads, [[], *references[1:]], max_new_tokens=3)
    with pytest.raises(ValueError, match="zip"):
        texts_and_likeliest(model, heads, references[1:], max_new_tokens=3)


# --- options ---------------------------------------------------------------------------------------------


def dense_logprob(model, prompt, option):
    with torch.no_grad():
        logits = model.network(torch.tensor([prompt + option])).logits[0, :, : model.vocabulary_size]
    logprobs = logits.log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(option) - 1)
    return sum(float(logprobs[place, token]) for place, token in zip(places, option, strict=True))


def test_options_are_scored_as_by_whole_sequences(model, monkeypatch):
    prompts = [[5, 6, 7, 8, 9], [10], [11, 12, 13]]
    options = [[[3], [4, 5], [6, 7, 8, 9]], [[20, 21]], [[7, 7, 7], [7, 7]]]
    for batch_rows in (1, 2, 64):
        monkeypatch.setattr(ranking, "BATCH_ROWS", batch_rows)
        found = option_logprobs(model, prompts, options)
        for prompt, own, values in zip(prompts, options, found, strict=True):
            assert values == pytest.approx([dense_logprob(model, prompt, each) for each in own], abs=1e-4)


@pytest.mark.parametrize(("prompts", "options"), [([[]], [[[1]]]), ([[1]], [[[]]])])
def test_options_without_tokens_are_refused(model, prompts, options):
    with pytest.raises(ValueError, match="nothing to score"):
        option_logprobs(model, prompts, options)
