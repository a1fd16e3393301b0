"""States and gradients written out for tiny decoders: as exact as those of transformers, where it fits."""

import dataclasses
import statistics

import pytest
import tiny
import torch

from kdutils import data, losses, models, trunk
from kdutils.runspec import RunSpec

# With and without biases; two heads of keys; three layers.
NAMES = ["mini-qwen-36k", "mini-qwen-14k", "mini-llama-66k", "mini-qwen-296k", "mini-llama-400k"]
LENGTHS = {  # of rows, each with how many tokens are never scored
    "unequal rows in no order": [(9, 5), (31, 12), (4, 2), (30, 29), (12, 1), (31, 3)],
    "every token but the first": [(20, 1), (7, 1), (2, 1)],
    "one row": [(17, 9)],
    "rows of which nothing is scored": [(12, 12), (25, 20), (6, 6)],
}


def a_batch(lengths):
    """Random tokens; rows are right-padded by token 0."""
    draw = torch.Generator().manual_seed(len(lengths))
    token_ids = [torch.randint(1, 500, (length,), generator=draw).tolist() for length, _ in lengths]
    names, unscored = [str(row) for row in range(len(lengths))], [n for _, n in lengths]
    return data.batch_of(names, token_ids, unscored, pad_id=0)


def by_transformers(model, batch):
    return losses.shifted(model.hidden_states(batch.input_ids_BT), batch.scored_BT)


def written_out(model, batch):
    return trunk.states(model, trunk.laid_out(model, batch))


def with_gradients(model, batch, states_of):
    """States, and the gradient of a fixed function of them by every weight of the decoder."""
    model.network.requires_grad_(True).zero_grad(set_to_none=True)
    states_NH = states_of(model, batch)
    direction = torch.randn(states_NH.shape, generator=torch.Generator().manual_seed(1)).to(states_NH)
    (states_NH * direction).sum().backward()
    weights = model.causal.get_decoder().named_parameters()
    return {"states": states_NH.detach()} | {name: w.grad.clone() for name, w in weights}


def distance(found, exact):
    """Largest difference, in parts of the largest entry; rows without entries have none."""
    return float((found - exact).abs().max() / exact.abs().max()) if exact.numel() else 0.0


@pytest.mark.parametrize("name", NAMES)
def test_states_and_gradients_are_as_exact_as_those_of_transformers(name):
    """Both in float32 against transformers in float64: each close, and on average no further than twice."""
    model, distances = models.load(name, trains_all=True), {"ours": [], "theirs": []}
    for lengths in LENGTHS.values():
        batch = a_batch(lengths)
        model.network.double()
        exact = with_gradients(model, batch, by_transformers)
        assert all(values.abs().max() > 0 for values in exact.values())
        model.network.float()
        found = {
            "ours": with_gradients(model, batch, written_out),
            "theirs": with_gradients(model, batch, by_transformers),
        }
        for way, own in found.items():
            distances[way] += [distance(own[key], values) for key, values in exact.items()]
    assert max(distances["ours"]) < 3e-5
    assert statistics.mean(distances["ours"]) < 2 * statistics.mean(distances["theirs"])


def test_biases_of_the_compared_models_are_not_all_zero():
    bias = models.load(NAMES[0]).causal.model.layers[0].self_attn.q_proj.bias
    assert bias.abs().max() > 0.01


@torch.no_grad()
def test_no_state_depends_on_padding_or_on_a_later_token():
    model, batch = models.load(NAMES[0]), a_batch(LENGTHS["unequal rows in no order"])
    before = trunk.scoring_states(model, batch)
    padded = torch.where(batch.attention_BT == 1, batch.input_ids_BT, 77)
    assert torch.equal(before, trunk.scoring_states(model, dataclasses.replace(batch, input_ids_BT=padded)))
    row, last = 1, LENGTHS["unequal rows in no order"][1][0] - 2  # its last token that something follows
    changed = batch.input_ids_BT.clone()
    changed[row, last] = (changed[row, last] + 1) % 500
    after = trunk.scoring_states(model, dataclasses.replace(batch, input_ids_BT=changed))
    moved = (before != after).any(1)
    place = int(batch.scored_BT[: row + 1].sum()) - 1
    assert moved.tolist() == [number == place for number in range(len(before))]


@torch.no_grad()
def test_groups_change_no_state_by_more_than_rounding(monkeypatch):
    model, batch = models.load(NAMES[3]), a_batch(LENGTHS["unequal rows in no order"])
    found = {}
    for tokens in (0, 1 << 30):  # as many groups as there are lengths, and one
        monkeypatch.setattr(trunk, "GROUP_TOKENS", tokens)
        found[len(trunk.laid_out(model, batch).groups)] = trunk.scoring_states(model, batch)
    assert sorted(found) == [1, 5]
    assert distance(found[1], found[5]) < 2e-6


@torch.no_grad()
def test_rotations_are_those_of_the_module_at_any_length():
    model = models.load("mini-qwen-36k")
    decoder = model.causal.get_decoder()
    for length in (5, trunk.LEAST_POSITIONS + 30, 40):  # made, made anew, taken from what is there
        cos, sin = decoder.rotary_emb(torch.ones(1), torch.arange(length)[None])
        found_TKP = trunk.rotation(model, length, 3)
        wanted_TP = torch.complex(*(x[0, :, : x.shape[-1] // 2] for x in (cos, sin)))
        assert torch.equal(found_TKP, wanted_TP[:, None].expand(-1, 3, -1))


@torch.no_grad()
def test_a_batch_without_scored_tokens_has_no_states():
    model = models.load(NAMES[0])
    assert trunk.scoring_states(model, a_batch([(9, 4)]).unscored()).shape == (0, 32)


@pytest.fixture
def model():
    return models.load(NAMES[0])


@pytest.mark.parametrize("changes", tiny.OTHER_DECODERS)
def test_another_kind_of_decoder_is_left_to_transformers(model, changes):
    assert trunk.is_written_out(model)
    for name, value in changes.items():
        setattr(model.causal.config, name, value)
    assert not trunk.is_written_out(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": torch.bfloat16},
        {"autocast": torch.bfloat16},
        {"device": "cuda"},
        {"checkpointing": True},
        {"compiled": "inductor"},
    ],
)
def test_another_way_of_computing_is_left_to_transformers(model, changes):
    assert not trunk.is_written_out(
        dataclasses.replace(model, policy=dataclasses.replace(model.policy, **changes))
    )


def test_a_large_model_or_one_with_an_adapter_is_left_to_transformers(model, monkeypatch):
    lora = models.add_adapter(
        model, RunSpec(student=NAMES[0], method="sft", domain="math", adapter="lora"), seed=0
    )
    assert not trunk.is_written_out(lora)
    other = models.load(NAMES[0])
    monkeypatch.setattr(trunk, "LARGE_PARAMETERS", 30_000)
    assert not trunk.is_written_out(other)


def test_attention_too_large_to_be_kept_is_left_to_transformers(model, monkeypatch):
    batch, asked = a_batch(LENGTHS["one row"]), []
    whole = models.LoadedModel.hidden_states
    monkeypatch.setattr(models.LoadedModel, "hidden_states", lambda *given: asked.append(1) or whole(*given))
    with torch.no_grad():
        ours = trunk.scoring_states(model, batch)
    assert not asked
    monkeypatch.setattr(trunk, "LARGEST_ATTENTION", 4 * 2 * 2 * 17**2 - 1)  # bytes, heads, layers
    with torch.no_grad():
        assert distance(ours, trunk.scoring_states(model, batch)) < 2e-6
    assert asked
