"""Random networks of architectures that do something to their logits after the head."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

KINDS = {  # with what it does after the head, far from doing nothing
    "cohere": {"logit_scale": 0.25},
    "gemma3_text": {"head_dim": 16, "final_logit_softcapping": 4.0},
    "granite": {"logits_scaling": 0.25},
    "phi": {"num_key_value_heads": 2},  # a bias
}
MORE_KINDS = KINDS | {
    "falcon_h1": {"lm_head_multiplier": 0.25, "mamba_d_ssm": 32, "mamba_n_heads": 4},
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 4.0},
    "gptj": {"rotary_dim": 8},
    "granitemoeshared": {"logits_scaling": 0.25},
    "hyperclovax": {"logits_scaling": 0.25},
    "minicpm3": {"dim_model_base": 8, "q_lora_rank": 16, "kv_lora_rank": 16, "num_key_value_heads": 2}
    | {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "head_dim": 8},
    "mpt": {"logit_scale": 0.25, "d_model": 32, "n_heads": 2, "n_layers": 2},  # which it does not use
    "nanochat": {"final_logit_softcapping": 4.0},
    "recurrent_gemma": {"logits_soft_cap": 4.0},
    "xlstm": {"output_logit_soft_cap": 4.0},
}


def network_of(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random network of that kind; its bias, if it has one, is far from zero."""
    sizes = {"vocab_size": 80, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    attention = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    ends = {"pad_token_id": 2, "eos_token_id": 0, "bos_token_id": None}  # as tiny.tokenizer has them
    how = sizes | attention | ends | {"initializer_range": 0.3} | MORE_KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **how)).eval()
        if (bias := network.get_output_embeddings().bias) is not None:
            torch.nn.init.normal_(bias, std=1.5)
    return network
