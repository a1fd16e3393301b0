"""All causal architectures of transformers: right, or refused in our words."""

import architectures
import pytest

N_PARTS = 8
FAMILIAR = {
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "gemma2",
    "phi3",
    "gpt2",
    "gpt_neox",
    "olmo2",
    "cohere",
    "lfm2",
}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(N_PARTS))
def test_no_architecture_is_wrong_and_none_fails_in_other_words_than_ours(tmp_path, part):
    found = {}
    for kind in architectures.KINDS[part::N_PARTS]:
        found[kind] = architectures.outcome(kind, tmp_path / kind)
    assert {kind: what for kind, what in found.items() if what.startswith("wrong")} == {}
    familiar = {kind: what for kind, what in found.items() if kind in FAMILIAR}
    assert set(familiar.values()) <= {"right"}
    assert sum(what == "right" for what in found.values()) > len(found) / 3
