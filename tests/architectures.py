"""Every causal architecture of transformers that a tiny model can be made of, and what becomes of it.

`python tests/architectures.py` prints the table of kdutils/README.md.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kdutils import encoding, generation, losses, models
from kdutils.data.model_files import ModelError
from kdutils.items import Item
from kdutils.mini.family import MODEL_FOLDER

KINDS = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in transformers.CONFIG_MAPPING]
MOST_PARAMETERS = 3_000_000
SIZES = {  # value -> fields that have it, of those that a configuration has
    32: "hidden_size n_embd d_model dim word_embed_proj_dim embedding_size moe_intermediate_size "
    "expert_ffn_hidden_size",
    64: "intermediate_size ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim n_inner "
    "shared_expert_intermediate_size",
    4: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_experts "
    "num_local_experts n_routed_experts moe_num_experts mamba_n_heads",
    2: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "encoder_attention_heads num_key_value_heads num_kv_heads n_head_kv multi_query_group_num "
    "num_experts_per_tok moe_k moe_topk top_k_experts linear_num_key_heads "
    "linear_num_value_heads",
    16: "head_dim v_head_dim qk_nope_head_dim kv_channels qk_rope_head_dim kv_lora_rank "
    "q_lora_rank mamba_d_head",
    8: "state_size mamba_d_state rotary_dim hidden_size_per_layer_input linear_key_head_dim "
    "linear_value_head_dim",
    1: "n_group topk_group mamba_n_groups n_shared_experts eos_token_id bos_token_id",
    512: "max_position_embeddings n_positions n_ctx max_seq_len",
    544: "vocab_size vocab_size_per_layer_input",
    0: "pad_token_id",
}


def tiny_config(kind: str) -> transformers.PreTrainedConfig | None:
    """A configuration of that kind of model with few weights; None if none can be made from SIZES."""
    empty = transformers.CONFIG_MAPPING[kind]
    try:
        own = vars(empty())
        config = empty(**{name: n for n, names in SIZES.items() for name in names.split() if name in own})
        with torch.device("meta"):
            network = transformers.AutoModelForCausalLM.from_config(config)
    except Exception:  # each configuration has rules of its own
        return None
    return config if network.num_parameters() <= MOST_PARAMETERS else None


def outcome(kind: str, folder: Path) -> str:
    """`right`, `refused: ...` in our words, `wrong: ...`, or "" where no tiny model can be made.

    Raises:
        Exception: what is neither.
    """
    config = tiny_config(kind)
    if config is None:
        return ""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL_FOLDER / "mini-qwen-14k" / name, folder)
    try:
        model = models.load(str(folder), trains_all=True)
        if kind in models.KNOWN:
            models._check_logits(model, [5, 6, 7, 8, 9, 10], in_batches=True)
    except ModelError as error:
        return f"refused: {str(error).partition(': ')[2]}"
    return wrong(model) or "right"


def wrong(model: models.LoadedModel) -> str:
    """What of loss, gradient, texts and ranking is not that of the model asked row by row without a cache."""

    @torch.no_grad()
    def logprobs(ids: list[int]) -> torch.Tensor:
        logits = model.causal(torch.tensor([ids]), use_cache=False).logits[0, :, : model.vocabulary_size]
        return logits.double().log_softmax(-1)

    pairs = [
        ("1 plus 2 ?", "The answer is 3."),
        ("Tom has 4 apples and eats 1 .", "He has 3 . The answer is 3."),
    ]
    items = [
        Item(id=str(n), task="gsm8k", question=question, answer="3", response=response)
        for n, (question, response) in enumerate(pairs)
    ]
    encoded = encoding.encode(items, model.tokenizer, max_tokens=192, protocol="careful")
    batch = encoding.collate(encoded, [0, 1], pad_id=model.pad_id)
    targets_N = batch.input_ids_BT[batch.scored_BT]
    states_NH = model.scoring_states(batch)
    loss = losses.cross_entropy(states_NH, model.head, targets_N, vocabulary_size=model.vocabulary_size).total
    expected = 0.0
    for ids, n_unscored in zip(encoded["input_ids"][:], encoded["n_unscored"][:], strict=True):
        found = logprobs(ids)
        expected -= sum(float(found[place - 1, ids[place]]) for place in range(n_unscored, len(ids)))
    if abs(float(loss) - expected) > 1e-3 * expected:
        return f"wrong: loss {float(loss):.4f} for {expected:.4f}"
    loss.backward()
    if not any(w.grad is not None and w.grad.abs().sum() > 0 for w in model.network.parameters()):
        return "wrong: no gradient"
    prompts = encoding.prompt_ids([item.question for item in items], model.tokenizer)
    for prompt, text in zip(prompts, generation.generate(model, prompts, max_new_tokens=6), strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and (token := int(logprobs(ids)[-1].argmax())) != model.pad_id + 1:
            ids.append(token)  # EOS is the token after that of padding
        if ids[len(prompt) :] != list(text.token_ids):
            return f"wrong: text {text.token_ids} for {ids[len(prompt) :]}"
    options = [[[20, 21], [22]], [[23], [24, 25, 26]]]
    ranked = generation.option_logprobs(model, prompts, options)
    for prompt, own, values in zip(prompts, options, ranked, strict=True):
        for option, value in zip(own, values, strict=True):
            found = logprobs(prompt + option)[len(prompt) - 1 : -1]
            expected = float(found.gather(1, torch.tensor(option)[:, None]).sum())
            if abs(value - expected) > 1e-3 * abs(expected):
                return f"wrong: ranking {value:.4f} for {expected:.4f}"
    return ""


def main() -> None:
    """Print which architectures are right, and which refused, with counts."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found.setdefault(outcome(kind, Path(folder)).partition(":")[0], []).append(kind)
    for what, kinds in found.items():
        print(f"{what or 'no tiny model'} ({len(kinds)}): {', '.join(kinds)}", file=sys.stdout)


if __name__ == "__main__":
    main()
