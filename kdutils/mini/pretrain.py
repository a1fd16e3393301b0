"""Pretraining of the mini models: `python -m kdutils.mini.pretrain --out DIR` makes all nine folders.

A curriculum of lessons, the same for every model, each until it is learned or the model has read its share;
one thread a model, two models at a time.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3_5TextConfig

from kdutils.encoding import cuts
from kdutils.io import disk
from kdutils.mini.family import MINI_MODELS, MODEL_FOLDER, MiniModel
from kdutils.mini.texts import LESSONS, generate_texts, lesson_sizes
from kdutils.mini.tokenizer import ANSWERS, CONTEXT, FIRST_NUMBER, build_tokenizer
from kdutils.mini.world import WORLD_SEED

STEP_TOKENS = 768
PASS_TOKENS = 150  # cost of a pass through the model, see encoding.cuts
WARM_UP_STEPS = 60  # of every lesson
CONSTANT_SHARE = 0.6  # of the last lesson's steps; then the learning rate falls to 2 % linearly
DECISION_WEIGHT = 4.0  # of a label, a letter, a yes or no in the loss: one token of twenty, and the point
NUMBER_WEIGHT = 3.0  # of operands and results: what stands beside a sign
ATTEMPTS = 8  # of a model that misses a required lesson: with another order of texts, other first weights
BAR_PASSES = 150  # over which the share of right decisions is taken that ends a lesson
CONFIGS = {"qwen": Qwen2Config, "llama": LlamaConfig, "hybrid": Qwen3_5TextConfig}
ROPE_THETA = 10_000.0
EMBEDDING_STD = 0.1
ATTENTION_END = 0.08  # of o_proj: 1 / sqrt(inputs) times this
LIKENESS = 2.0  # strength of the other layers' looks at like tokens
PERIODS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)  # of the waves in the embeddings of numbers
DECAYS, STEPS = (0.1, 1.0), (0.001, 0.1)  # of Gated DeltaNet at first: no head forgets within a text
HABIT = 4.5  # strength of the first layer's look back, see _give_habits
DECISIONS = (*ANSWERS, *"ABCDE", "true", "false")


def build_model(model: MiniModel, *, pad: int, eos: int, generator: torch.Generator) -> PreTrainedModel:
    """The untrained model in fp32; its weights depend on `generator` alone.

    Matrices are normal with standard deviation 1 / sqrt(inputs), embeddings with EMBEDDING_STD; norms are
    one, biases zero. What ends a layer's two halves is smaller or zero. Half of the heads begin with a
    habit: see `_give_habits`.
    """
    tokens = {"pad_token_id": pad, "bos_token_id": None, "eos_token_id": eos}
    config = CONFIGS[model.architecture](
        vocab_size=model.rows,
        hidden_size=model.hidden,
        intermediate_size=model.intermediate,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        **_particulars(model),
        **tokens,
    )
    network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("dt_bias"):  # a softplus makes it a step, from 0.001 to 0.1
                weights.uniform_(*np.log(STEPS), generator=generator).exp_().expm1_().log_()
            elif name.endswith("A_log"):
                weights.uniform_(*DECAYS, generator=generator).log_()
            elif name.endswith("bias"):
                weights.zero_()
            elif weights.ndim == 1:
                pass  # norms: as their class sets them, which may be to zero
            elif "embed" in name:
                weights.normal_(0.0, EMBEDDING_STD, generator=generator)
                _give_waves(weights, generator)
            elif name.endswith("down_proj.weight"):
                weights.zero_()
            else:
                ends_attention = name.endswith(("o_proj.weight", "out_proj.weight"))
                std = weights[0].numel() ** -0.5 * (ATTENTION_END if ends_attention else 1.0)
                weights.normal_(0.0, std, generator=generator)
        _give_habits(network, model)
    return network


def _particulars(model: MiniModel) -> dict[str, object]:
    """What the configuration of one architecture alone has."""
    if model.architecture != "hybrid":
        return {"attention_bias": True} if model.architecture == "llama" else {}  # Qwen2 has them anyway
    widths = ("head_dim", "linear_key_head_dim", "linear_value_head_dim")
    kinds = ["full_attention" if i == 1 else "linear_attention" for i in range(model.layers)]
    return {
        "layer_types": kinds,  # with attention in the last layer no better (CALIBRATION.md)
        "partial_rotary_factor": 1.0,
        **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), model.heads),
        **dict.fromkeys(widths, model.hidden // model.heads),
    }


def _give_waves(embedding_VH: Tensor, generator: torch.Generator) -> None:
    """Numbers begin with embeddings that are sums of waves over 0 to 99, and a part of their own.

    So larger models represent numbers after much more text than these read (Kantamneni and Tegmark 2025,
    arXiv:2502.00873); a sum is then turning by an angle.
    """
    angle_NP = 2 * torch.pi * torch.arange(100)[:, None] / torch.tensor(PERIODS)
    waves_NQ = torch.cat([angle_NP.cos(), angle_NP.sin()], dim=1) / len(PERIODS) ** 0.5
    mixed_QH = torch.empty(waves_NQ.shape[1], embedding_VH.shape[1])
    mixed_QH.normal_(0.0, EMBEDDING_STD, generator=generator)
    own_NH = embedding_VH[FIRST_NUMBER : FIRST_NUMBER + 100]
    own_NH.copy_(0.8 * waves_NQ @ mixed_QH + 0.6 * own_NH)


def _give_habits(network: PreTrainedModel, model: MiniModel) -> None:
    """Every second head of the first layer looks at the token before, of the others at tokens like its own.

    The label of an option is the token before it. Left to themselves models of this size need thousands of
    steps to find that, or do not find it (CALIBRATION.md).
    """
    width, group = model.hidden // model.heads, model.heads // model.key_heads
    # How far a position turns each pair of inputs.
    rate_W = ROPE_THETA ** -(torch.arange(0, width, 2) / width)
    for i, layer in enumerate(network.model.layers):
        if hasattr(layer, "linear_attn"):
            _give_likeness(layer.linear_attn, model)
            continue
        attention = layer.self_attn
        query_AWH = attention.q_proj.weight.view(model.heads, -1, model.hidden)[:, :width]  # without gates
        key_AWH = attention.k_proj.weight.view(model.key_heads, width, -1)
        if i > 0:
            is_slow_W = (rate_W < 0.05).repeat(2)  # pairs that hardly turn: alike, however far apart
            query_AWH[::2] = LIKENESS * key_AWH.repeat_interleave(group, 0)[::2] * is_slow_W[:, None]
            continue
        query_AWH[::2] = 0.0
        key_AWH *= 0.2
        back_W = torch.cat([rate_W.cos(), -rate_W.sin()])  # turned by one position
        attention.q_proj.bias.view(model.heads, width)[::2] = HABIT * back_W
        attention.k_proj.bias.view(model.key_heads, width)[:, : width // 2] = HABIT


def _give_likeness(linear: nn.Module, model: MiniModel) -> None:
    """Every second head of Gated DeltaNet begins to ask for what tokens like its own wrote."""
    projection_AWH, taps_AW1N = (
        weights[: 2 * model.hidden].unflatten(0, (2, model.heads, -1))
        for weights in (linear.in_proj_qkv.weight, linear.conv1d.weight)
    )
    projection_AWH[0, ::2] = projection_AWH[1, ::2]  # queries: those of keys
    taps_AW1N[:, ::2] = torch.tensor([0.0] * 3 + [1.0])  # of the token itself


def encode_texts(
    n: int, rng: random.Random, answered: dict[str, float] | None = None, knows: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """All token ids of the texts of `generate_texts`, each closed by EOS, and where each text begins.

    One end more than texts: text i is `ids[starts[i] : starts[i + 1]]`.
    """
    tokenizer = build_tokenizer()
    rows = tokenizer(list(generate_texts(n, rng, answered, knows)), return_attention_mask=False)["input_ids"]
    starts = np.cumsum([0] + [len(row) + 1 for row in rows])
    ids = np.concatenate([np.array([*row, tokenizer.eos_token_id], dtype=np.int16) for row in rows])
    return ids, starts


def plan_batches(starts: np.ndarray, sizes: list[int]) -> list[list[range]]:
    """lesson -> step -> its texts, about STEP_TOKENS together; `sizes` say how many a lesson has."""
    plan, begin = [], 0
    for size in sizes:
        batches, first = [], begin
        for i in range(begin, begin + size):
            if starts[i + 1] - starts[first] >= STEP_TOKENS or i == begin + size - 1:
                batches.append(range(first, i + 1))
                first = i + 1
        plan.append(batches)
        begin += size
    return plan


class LessonNotLearnedError(Exception):
    """The texts of a required lesson ended before its bar was reached."""


def train_model(
    model: MiniModel, ids: np.ndarray, starts: np.ndarray, *, pad: int, eos: int, seed: int, required: int = 0
) -> tuple[PreTrainedModel, list[float]]:
    """The model after its lessons, and the loss (nats a token) of every step.

    A lesson ends at the bar or with its texts, the same for all models; the last is read to its end, and only
    there the learning rate falls. LessonNotLearnedError: one of the first `required` lessons ended below its
    bar.
    """
    network = build_model(model, pad=pad, eos=eos, generator=torch.Generator().manual_seed(seed))
    sizes = lesson_sizes(model.texts)
    plan = plan_batches(starts, sizes)
    optimiser = _optimiser(network, model.learning_rate)
    tokenizer = build_tokenizer()
    decision_V = torch.zeros(model.rows, dtype=torch.bool)
    decision_V[tokenizer.convert_tokens_to_ids(list(DECISIONS))] = True
    is_sign_V = torch.zeros(model.rows, dtype=torch.bool)
    is_sign_V[tokenizer.convert_tokens_to_ids(list("+-*/="))] = True
    losses = []
    for lesson, batches in enumerate(plan):
        last = lesson == len(plan) - 1
        unseen_V = _unseen(ids[: starts[sum(sizes[: lesson + 1])]], model.rows, pad)
        decided: deque[Tensor] = deque(maxlen=BAR_PASSES)  # which decisions of a step were right
        for step, batch in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = model.learning_rate * _rate_share(step, len(batches) if last else None)
            texts = [torch.from_numpy(ids[starts[i] : starts[i + 1]].astype(np.int64)) for i in batch]
            texts.sort(key=len, reverse=True)
            # Texts of all kinds make a step; those of one length go through the model together.
            weights = [_weights(text, decision_V, is_sign_V) for text in texts]
            total, step_loss = sum(float(weight.sum()) for weight in weights), 0.0
            for start, stop in cuts([len(text) for text in texts], len(texts), PASS_TOKENS):
                # padded on the right: causal attention never sees a pad, and the loss leaves it out
                ids_BT = pad_sequence(texts[start:stop], batch_first=True, padding_value=pad)
                weight_N = pad_sequence(weights[start:stop], batch_first=True).flatten()
                logits_BTV = network(input_ids=ids_BT, use_cache=False).logits[:, :-1]
                logits_NV = logits_BTV.masked_fill(unseen_V, float("-inf")).flatten(0, 1)
                target_N = ids_BT[:, 1:].flatten()  # position t predicts token t + 1
                losses_N = F.cross_entropy(logits_NV, target_N, reduction="none")
                loss = (losses_N * weight_N).sum() / total
                loss.backward()
                step_loss += loss.item()
                asked_N = decision_V[target_N]
                decided.append(logits_NV.detach()[asked_N].argmax(-1) == target_N[asked_N])
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(step_loss)
            # No text is read twice: what was right before its step was right on a new text.
            is_full = len(decided) == BAR_PASSES
            if not last and is_full and float(torch.cat(tuple(decided)).float().mean()) >= LESSONS[lesson][1]:
                break
        else:
            if lesson < required:
                raise LessonNotLearnedError(f"lesson {lesson + 1} of {model.name} with seed {seed}")
    return network, losses


def _weights(text_T: Tensor, decision_V: Tensor, is_sign_V: Tensor) -> Tensor:
    """What each token of a text but the first weighs in the loss: decisions and terms more."""
    signs_T = is_sign_V[text_T]
    beside_T = signs_T[:-1].clone()  # of token t + 1: whether one stands before it, or after it
    beside_T[:-1] |= signs_T[2:]
    beside_T &= ~signs_T[1:]
    weight_T = torch.where(decision_V[text_T[1:]], DECISION_WEIGHT, 1.0)
    return torch.where(beside_T, NUMBER_WEIGHT, weight_T)


def _rate_share(step: int, n_steps: int | None) -> float:
    """Share of the learning rate: every lesson warms up; one of `n_steps`, the last, ends at 2 %."""
    left = 1.0 if n_steps is None else (n_steps - step) / (n_steps * (1 - CONSTANT_SHARE))
    return min((step + 1) / WARM_UP_STEPS, 1.0, max(0.02, left))


def _unseen(ids: np.ndarray, rows: int, pad: int) -> Tensor:
    """True for tokens that no lesson so far has held.

    The softmax leaves them out: otherwise every step would push their embeddings in one direction, until they
    are all alike.
    """
    unseen_V = torch.ones(rows, dtype=torch.bool)
    unseen_V[torch.from_numpy(np.unique(ids).astype(np.int64))] = False
    unseen_V[pad] = False  # a padded target has no weight, but minus infinity times zero is not a number
    return unseen_V


def _optimiser(network: PreTrainedModel, rate: float) -> torch.optim.AdamW:
    matrices = [weights for weights in network.parameters() if weights.ndim > 1]
    vectors = [weights for weights in network.parameters() if weights.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def rebuild_one(name: str, out: Path) -> str:
    """Pretrain one model in this process and save its folder, whole or not at all; a line to print."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # without it some steps take many times as long
    started, model, tokenizer = time.perf_counter(), MINI_MODELS[name], build_tokenizer()
    ends = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id}
    for seed in range(WORLD_SEED, WORLD_SEED + ATTEMPTS):
        rng = random.Random(f"mini/pretraining/{seed}/{name}")
        ids, starts = encode_texts(model.texts, rng, model.answered, model.knows)
        try:
            how = {"seed": seed, "required": model.required_lessons}
            network, losses = train_model(model, ids, starts, **how, **ends)
            break
        except LessonNotLearnedError as missed:
            print(f"{missed} ended below its bar; beginning anew", flush=True)
    else:
        raise SystemExit(f"{name} missed a required lesson in {ATTEMPTS} attempts; see CALIBRATION.md")
    network.generation_config.max_length = None
    disk.write_model(out / name, network.to(torch.bfloat16), tokenizer)
    n = network.num_parameters()
    return f"{name}: {n} parameters, loss {np.mean(losses[-50:]):.3f}, {time.perf_counter() - started:.0f} s"


def main() -> None:
    """Folders of the family under --out, largest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--names", nargs="+", default=list(MINI_MODELS), choices=list(MINI_MODELS))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    largest_first = sorted(asked.names, key=lambda name: -MINI_MODELS[name].hidden * MINI_MODELS[name].layers)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for job in as_completed([pool.submit(rebuild_one, name, asked.out) for name in largest_first]):
            print(job.result(), flush=True)


if __name__ == "__main__":
    main()
