"""Tiny models and items for tests of training: sums of two digits, words as tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from kdutils.runspec import RunSpec

SENTENCES = """Below is an instruction that describes a task . Write response appropriately completes the
request ### Instruction : Response What plus ? The answer sum of and + ="""
WORDS = [*SENTENCES.split(), *map(str, range(19))]
CONFIGS = {"qwen": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def tokenizer(*, pad_is_eos: bool = False, extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Whitespace and punctuation split, every word of WORDS a token."""
    tokens = ["<eos>", "<unk>", *([] if pad_is_eos else ["<pad>"]), *dict.fromkeys(WORDS), *extra]
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(tokens[: 2 if pad_is_eos else 3])
    pad = "<eos>" if pad_is_eos else "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", unk_token="<unk>", pad_token=pad)


def save_model(
    folder: Path,
    *,
    kind: str = "qwen",
    hidden: int = 32,
    layers: int = 2,
    rows: int = 80,
    seed: int = 0,
    tied: bool = True,
    spread: float = 0.02,
    **options,
) -> str:
    """A random model with its tokenizer as a folder; returns its path."""
    words = tokenizer(**options)
    config_class, model_class = CONFIGS[kind]
    config = config_class(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=spread,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = model_class(config)
    network.generation_config.max_length = None
    network.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def records(n: int, *, start: int = 0, task: str = "addsub") -> list[dict[str, str]]:
    """Sums with a worked response; the same arguments give the same items."""
    found = []
    for number in range(start, start + n):
        left, right = number % 10, (number * 7 // 10) % 10
        rationale = f"The sum of {left} and {right} = {left + right} . The answer is {left + right} ."
        if number % 3 == 0:  # unequal lengths
            rationale = f"The answer is {left + right} ."
        found.append(
            {
                "id": f"{task}-{number}",
                "task": task,
                "question": f"What is {left} plus {right} ?",
                "answer": str(left + right),
                "rationale": rationale,
            }
        )
    return found


def write_data(folder: Path, *, n_train: int = 24, n_other: int = 6) -> str:
    """A data folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n, start in (("train", n_train, 0), ("validation", n_other, 200), ("test", n_other, 400)):
        lines = [json.dumps(record) for record in records(n, start=start)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def spec(student: str, data: str, **fields) -> RunSpec:
    """A short run on the tiny data."""
    fields = {
        "method": "sft",
        "train_items": 24,
        "validation_items": 6,
        "epochs": 2,
        "batch_size": 8,
    } | fields
    rate = {"learning_rate": 3e-3, "max_tokens": 96}
    return RunSpec(**{"student": student, "domain": "math", "data": data} | rate | fields)
