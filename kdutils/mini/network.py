"""The networks of the mini family: configurations, and untrained weights."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

from kdutils.mini.family import MiniModel
from kdutils.mini.tokenizer import CONTEXT

ROPE_THETA = 10_000.0
EMBEDDING_STD = 0.1
CONFIGS = {"qwen": Qwen2Config, "llama": LlamaConfig}


def config_of(model: MiniModel, *, pad: int, eos: int) -> PretrainedConfig:
    """The configuration as it ships: tied embeddings."""
    return CONFIGS[model.architecture](
        vocab_size=model.rows,
        hidden_size=model.hidden,
        intermediate_size=2 * model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=eos,
    )


def build_model(model: MiniModel, *, pad: int, eos: int, generator: torch.Generator) -> PreTrainedModel:
    """The untrained model in fp32; its weights depend on `generator` alone.

    Matrices are normal with standard deviation 1 / sqrt(inputs), embeddings with EMBEDDING_STD; norms
    are one, biases and the matrices that end a layer's two halves zero.
    """
    network = AutoModelForCausalLM.from_config(config_of(model, pad=pad, eos=eos), attn_implementation="sdpa")
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("bias"):
                weights.zero_()
            elif weights.ndim == 1:
                weights.fill_(1.0)
            elif "embed" in name:
                weights.normal_(0.0, EMBEDDING_STD, generator=generator)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                weights.zero_()  # each layer starts as the identity: tokens are not drowned in noise
            else:
                weights.normal_(0.0, weights.shape[1] ** -0.5, generator=generator)
    return network
