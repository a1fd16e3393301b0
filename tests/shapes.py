"""Model folders as the hub serves them: vocabularies of Qwen2.5 and Llama 3 to the row, networks of a layer.

The tokenizers are byte-level BPE with the real lengths, special tokens and rules of splitting, but with few
merges: the tokens that the tests' texts need stand at the upper end of the vocabulary, and what is between
them and the bytes is never used.
"""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from kdutils.items import alpaca

QWEN_ROWS = {"student": 151_936, "teacher": 152_064}  # of Qwen2.5 0.5B to 3B, and of 7B and 14B
QWEN_LENGTH = 151_665  # of the tokenizer of all of them
LLAMA_ROWS = LLAMA_LENGTH = 128_256
FOLDERS = {  # the size at the end of a name is that of the model whose shapes these are
    ("qwen", "student"): "qwen-shape-0.5B",
    ("qwen", "teacher"): "qwen-shape-7B",
    ("llama", "student"): "llama-shape-1B",
    ("llama", "teacher"): "llama-shape-8B",
}

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|special_{n}|>" for n in range(19))]
LLAMA_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(254)),
]
QWEN_TOKENIZER = {
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}
LLAMA_TOKENIZER = {  # neither has the hub's a pad token
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|end_of_text|>",
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def save_folders(root: Path) -> None:
    """Student and teacher of both families under `root`, and items under `root`/data."""
    tiny.write_data(root / "data", n_train=12, n_other=3)
    qwen, llama = (_tokenizer(split) for split in (QWEN_SPLIT, LLAMA_SPLIT))
    for (family, role), name in FOLDERS.items():
        folder = root / name
        network = _network(family, role)
        network.generation_config.max_length = None
        network.save_pretrained(folder)
        if family == "qwen":
            _save_tokenizer(folder, qwen, QWEN_LENGTH, QWEN_SPECIAL, QWEN_TOKENIZER)
        else:
            _save_tokenizer(folder, llama, LLAMA_LENGTH, LLAMA_SPECIAL, LLAMA_TOKENIZER)


def _network(family: str, role: str) -> torch.nn.Module:
    """A random model. Rows of a Qwen head that stand for no token win wherever the head is not cut."""
    sizes = {"student": {"hidden_size": 16}, "teacher": {"hidden_size": 32}}[role] | {
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": role == "student",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0 if role == "student" else 1)
        if family == "llama":
            ends = {"bos_token_id": LLAMA_LENGTH - 256, "eos_token_id": LLAMA_LENGTH - 255}
            return LlamaForCausalLM(LlamaConfig(vocab_size=LLAMA_ROWS, **sizes, **ends))
        ends = {"bos_token_id": QWEN_LENGTH - 22, "eos_token_id": QWEN_LENGTH - 22}
        network = Qwen2ForCausalLM(Qwen2Config(vocab_size=QWEN_ROWS[role], **sizes, **ends))
    with torch.no_grad():
        padding = network.get_output_embeddings().weight[QWEN_LENGTH:]
        n_pairs, width = len(padding) // 2, padding.shape[1]
        towards = 5 * torch.randn(n_pairs, width, generator=torch.Generator().manual_seed(2))
        padding[:n_pairs], padding[n_pairs : 2 * n_pairs] = towards, -towards  # one of each two is positive
    return network


def _tokenizer(split: str) -> Tokenizer:
    """A small byte-level BPE that knows the words of the tests' items."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    records = tiny.records(40)
    texts = [alpaca(record["question"]) for record in records]
    made.train_from_iterator(texts + [record["rationale"] for record in records], trainer)
    return made


def _save_tokenizer(folder: Path, small: Tokenizer, length: int, special: list[str], settings: dict) -> None:
    """`small`, its merged tokens moved up, filled up to `length`, as tokenizer.json and its settings."""
    content = json.loads(small.to_str())
    known = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    n_plain = length - len(special)
    unused = [f"<unused {number}>" for number in range(n_plain - len(known))]
    tokens = [*known[:256], *unused, *known[256:]]
    content["model"]["vocab"] = {token: place for place, token in enumerate(tokens)}
    made = Tokenizer.from_str(json.dumps(content))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if "add_bos_token" not in settings:
        bos = (settings["bos_token"], n_plain)
        template = processors.TemplateProcessing(f"{bos[0]} $A", f"{bos[0]} $A {bos[0]} $B", [bos])
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    made.save(str(folder / "tokenizer.json"))
    added = {
        str(n_plain + place): {"content": token, "special": True, "normalized": False}
        | {"lstrip": False, "rstrip": False, "single_word": False}
        for place, token in enumerate(special)
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added} | settings))
