"""Tiny models and items for tests of training: sums of two digits, words as tokens."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from kdutils.data import sources
from kdutils.grid.study import PlannedRun
from kdutils.spec import EvalSpec, RunSpec

SENTENCES = """Below is an instruction that describes a task . Write response appropriately completes the
request ### Instruction : Response What plus ? The answer sum of and + ="""
WORDS = [*SENTENCES.split(), *map(str, range(19))]
CONFIGS = {"qwen": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
EVALUATION = EvalSpec(tasks=("addsub",), items_per_task=5, max_new_tokens=12)


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


def save_gguf(folder: Path, path: Path) -> str:
    """The Qwen2 model of a folder as a GGUF file with a byte-level tokenizer of its own; returns the path."""
    network = Qwen2ForCausalLM.from_pretrained(folder)
    config, weights = network.config, network.state_dict()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = ["<|endoftext|>", *(chr(c) for c in range(33, 127)), "\u0120", "\u010a", "ab"][
        : config.vocab_size
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
    }
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"model.layers.{layer}.{ours}.{kind}"] = f"blk.{layer}.{theirs}.{kind}"
    for name, tensor in weights.items():
        writer.add_tensor(names[name], tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


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


def save_study(root: Path) -> Path:
    """A student, a teacher and their items under `root`: tiny-20k, tiny-40k, data."""
    save_model(root / "tiny-20k", seed=0)
    save_model(root / "tiny-40k", hidden=48, rows=96, seed=1)
    write_data(root / "data")
    return root


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


def plan(root: Path) -> list[PlannedRun]:
    """A student distilled in two ways, its SFT and the plain model; the teacher's SFT is not planned."""
    student = save_model(root / "tiny-20k", seed=0)
    teacher = save_model(root / "tiny-40k", hidden=48, rows=96, seed=1)
    common = {"student": student, "domain": "math", "data": write_data(root / "data")}
    short = {"train_items": 16, "validation_items": 0, "epochs": 1, "batch_size": 8, "max_tokens": 96}
    specs = [
        RunSpec(method="fkl", teacher=teacher, **common, **short),
        RunSpec(method="seqkd", teacher=teacher, max_new_tokens=12, **common, **short),
        RunSpec(method="sft", **common, **short),
        RunSpec(method="base", **common),
    ]
    return [PlannedRun(spec, EVALUATION) for spec in specs]


def run_ids(planned: list[PlannedRun], *methods: str) -> list[str]:
    """Names of the runs of these methods in a plan."""
    return [sources.resolved(run.spec).run_id for run in planned if run.spec.method in methods]


def teacher_id(planned: list[PlannedRun]) -> str:
    """Name of the SFT run of the teacher in `plan`."""
    return sources.resolved(planned[0].spec).teacher_spec.run_id
