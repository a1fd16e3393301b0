"""All causal architectures of transformers: right, or refused in our words, as kdutils/README.md says."""

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


@pytest.mark.parametrize("part", range(N_PARTS))
def test_every_architecture_does_as_the_readme_says(tmp_path, part):
    kinds = architectures.KINDS[part::N_PARTS]
    found = {kind: architectures.group_of(architectures.outcomes(kind, tmp_path / kind)) for kind in kinds}
    shown = {kind: heading for heading, own in architectures.shown().items() for kind in own}
    assert found == {kind: shown.get(kind) for kind in kinds}


def test_the_readme_counts_what_it_names_and_nothing_is_wrong():
    groups = architectures.shown()
    assert sorted(kind for own in groups.values() for kind in own) == sorted(architectures.KINDS)
    assert architectures.README.read_text().endswith(architectures.table(groups))
    assert set(groups[architectures.RIGHT]) >= FAMILIAR
    assert [heading for heading in groups if heading.startswith(("wrong", "raw"))] == []
