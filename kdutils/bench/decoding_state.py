"""What decoding keeps of a text and how long a new token takes, with and without linear attention.

`python -m kdutils.bench.decoding_state [--names NAME ...]` prints a row a model and length. What is
named `random` has the widths of Qwen2.5-0.5B and untrained weights: neither bytes nor seconds depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel, Qwen2Config, Qwen3_5TextConfig

from kdutils import models
from kdutils.grid.model_shapes import SHAPES

LENGTHS = (128, 512, 2_048)  # tokens of the text
REPEATS, NEW = 3, 16  # texts, and new tokens of each
RANDOM = {"random-qwen-0.5B": Qwen2Config, "random-hybrid-0.5B": Qwen3_5TextConfig}
NAMES = ("mini-qwen-0.5B", "mini-hybrid-0.5B", *RANDOM)


def random_model(name: str) -> PreTrainedModel:
    """An untrained model; the hybrid has attention in every fourth layer, and as many heads elsewhere."""
    shape = SHAPES["Qwen2.5-0.5B"]
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "vocab_size": shape.rows}
    sizes |= {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    sizes |= {"num_key_value_heads": shape.key_heads, "tie_word_embeddings": shape.is_tied}
    if RANDOM[name] is Qwen3_5TextConfig:
        sizes |= dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), shape.heads)
        widths = ("head_dim", "linear_key_head_dim", "linear_value_head_dim")
        sizes |= dict.fromkeys(widths, shape.hidden // shape.heads)
    return AutoModelForCausalLM.from_config(RANDOM[name](**sizes)).eval()


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of all keys and values, and of the states of linear attention."""
    kept = []
    for layer in cache.layers:
        is_linear = hasattr(layer, "recurrent_states")
        states = (layer.conv_states, layer.recurrent_states) if is_linear else ()
        kept += [each for state in states for each in state.values()] or [layer.keys, layer.values]
    return sum(tensor.nbytes for tensor in kept)


@torch.inference_mode()
def measure(network: PreTrainedModel, n_tokens: int) -> dict[str, float]:
    """Of a text of random tokens, continued greedily: bytes kept, median CPU seconds of a new token."""
    text_1T = torch.randint(
        network.config.vocab_size, (1, n_tokens), generator=torch.Generator().manual_seed(0)
    )
    first, following = [], []
    for _ in range(REPEATS):
        cache, ids_1T, n_bytes = DynamicCache(config=network.config), text_1T, 0
        for seconds in (first, *[following] * NEW):
            started = time.process_time()
            ids_1T = network(input_ids=ids_1T, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
            seconds.append(time.process_time() - started)
            n_bytes = n_bytes or cache_bytes(cache)
    medians = {"first_token_seconds": first, "next_token_seconds": following}
    return {"cache_bytes": n_bytes} | {name: pd.Series(times).median() for name, times in medians.items()}


def table(names: Sequence[str], lengths: Sequence[int] = LENGTHS) -> pd.DataFrame:
    """A row a model and length: `parameters` and what `measure` gives."""
    rows = []
    for name in names:
        network = random_model(name) if name in RANDOM else models.load(name).network
        about = {"model": name, "parameters": network.num_parameters()}
        rows += [about | {"tokens": n} | measure(network, n) for n in lengths]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--names", nargs="+", default=NAMES, choices=NAMES)
    print(table(parser.parse_args().names).to_string(index=False))
