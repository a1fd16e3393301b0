"""Attention without copies of keys and values computes what eager attention does, where that is known."""

import pytest
import tiny
import torch
import transformers
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

from kdutils import generation, models
from kdutils.data.attention import GROUPED


@pytest.fixture(params=["qwen", "llama"])
def model(request, tmp_path):
    """Four query heads and two key heads: which belong together matters."""
    config_class, model_class = tiny.CONFIGS[request.param]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    sizes = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model_class(config_class(**sizes, **heads, bos_token_id=None)).save_pretrained(tmp_path / "tiny-20k")
    tiny.tokenizer().save_pretrained(tmp_path / "tiny-20k")
    return models.load(str(tmp_path / "tiny-20k"))


def outcome(model, attention, ids_BT, mask_BT):
    """Logits, and the gradients of their sum of squares at real tokens."""
    network = model.network
    network.set_attn_implementation(attention)
    logits = network(input_ids=ids_BT, attention_mask=mask_BT).logits
    weights = dict(network.named_parameters())
    loss = logits.square()[mask_BT.bool()].sum()
    return {"logits": logits[mask_BT.bool()].detach()} | dict(
        zip(weights, torch.autograd.grad(loss, weights.values()), strict=True)
    )


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_values_and_gradients_are_those_of_eager_attention(model, side):
    ids_BT, mask_BT = torch.randint(5, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask_BT[1, {"left": slice(0, 4), "right": slice(6, 9), "middle": slice(2, 5)}[side]] = 0
    found, expected = (outcome(model, each, ids_BT, mask_BT) for each in (GROUPED, "eager"))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()))


def test_texts_are_the_same_and_keys_are_not_copied(model, monkeypatch):
    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]]
    model.network.set_attn_implementation("eager")
    expected = generation.generate(model, prompts, max_new_tokens=10)
    for module in (modeling_llama, modeling_qwen2):
        monkeypatch.setattr(module, "repeat_kv", lambda *_: pytest.fail("keys or values are copied"))
    model.network.set_attn_implementation(GROUPED)
    assert generation.generate(model, prompts, max_new_tokens=10) == expected


def test_it_is_used_for_large_models_of_known_architectures_on_a_cpu_alone(tmp_path, monkeypatch):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 80}
    other = transformers.MistralConfig(**small, intermediate_size=64, num_key_value_heads=1)
    transformers.AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "other-20k")
    tiny.tokenizer().save_pretrained(tmp_path / "other-20k")
    folders = [tiny.save_model(tmp_path / "tiny-20k"), str(tmp_path / "other-20k")]
    cpu = models.Compute(device="cpu")
    assert [models.load(each, compute=cpu).policy.attention for each in folders] == ["sdpa", "sdpa"]
    monkeypatch.setattr(models, "LARGE_PARAMETERS", 1_000)
    found = [models.load(each, compute=cpu) for each in folders]
    assert [each.policy.attention for each in found] == [GROUPED, "eager"]
    assert [each.network.config._attn_implementation for each in found] == [GROUPED, "eager"]
