"""Students and teachers: how they are loaded, and in which number formats they compute.

One loading path for the mini family, hub ids, local folders and GGUF files. Code of a model's repository is
never run, weights are read from safetensors or GGUF alone, and generation settings are not read at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils import losses
from kdutils.compute import DEFAULT, LARGE_PARAMETERS, Compute
from kdutils.data.attention import GROUPED
from kdutils.data.gguf_files import copy_of, keep_layers, saved_copy, unmark_quantised
from kdutils.data.model_files import Location, ModelError, locate
from kdutils.data.networks import read_network
from kdutils.data.tokenizers import load_tokenizer
from kdutils.encoding import Batch
from kdutils.head import Head, head_of
from kdutils.items import alpaca

KNOWN = ("llama", "qwen2")  # not tried in batches at every load: tests/core/test_sweep.py does
Result = TypeVar("Result")


@dataclass(frozen=True)
class Policy:
    """Device and number formats of one model."""

    device: str
    weights: torch.dtype
    autocast: torch.dtype | None  # of matrix products; None: that of the weights
    attention: str
    checkpointing: bool = False  # as Compute.activation_checkpointing
    compiled: str = ""  # as Compute.compile_backend

    def computing(self) -> contextlib.AbstractContextManager:
        """Autocast where the policy has one."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.autocast)


@dataclass
class LoadedModel:
    """A model ready to compute, with its tokenizer."""

    name: str
    network: nn.Module  # a causal language model, perhaps wrapped by peft
    tokenizer: PreTrainedTokenizerBase
    policy: Policy

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model itself, without the wrapper of an adapter."""
        return self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network

    @property
    def head(self) -> Head:
        """The output head, over all its rows."""
        return head_of(self.causal)

    @property
    def vocabulary_size(self) -> int:
        """Length of the tokenizer, to which output heads are cut."""
        return len(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """Token that fills a batch; it may equal EOS, since masks come from lengths."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def hidden_states(self, input_ids_BT: Tensor) -> Tensor:
        """Final hidden states (batch, positions, width), after the last norm, of rows padded on the right.

        Attention is causal, so padding on the right needs no mask (faster); states at padding mean nothing.
        """
        with self.policy.computing():
            output = self.causal.get_decoder()(input_ids=input_ids_BT.to(self.policy.device), use_cache=False)
        return output.last_hidden_state

    def scoring_states(self, batch: Batch) -> Tensor:
        """The hidden states (N, H) that score the batch's scored tokens, in their row-major order."""
        hidden_BTH = self.hidden_states(batch.input_ids_BT)
        return losses.shifted(hidden_BTH, batch.scored_BT.to(hidden_BTH.device))

    def trained(self) -> dict[str, Tensor]:
        """What training changes, by name; the optimiser steps those that require gradients."""
        return {name: w for name, w in self.network.named_parameters() if w.requires_grad}

    def before_update(self, step: int, n_steps: int) -> None:
        """Called when the gradient of a step is whole, before it is clipped; see kdutils.adapters."""

    def after_update(self) -> None:
        """Called when the values of `trained` have changed."""

    def penalty(self, batch: Batch) -> Tensor | None:
        """A term of the loss, nats, that does not come from predictions; see kdutils.penalties."""

    def side_states(self, batch: Batch) -> Tensor | None:
        """As `scoring_states`, whose pass it was, of a side network; None without one."""

    def gathered(self, compute: Callable[[], Result]) -> Result:
        """The result of `compute`, which calls the decoder itself; see kdutils.devices.fsdp."""
        return compute()

    def without_gradients(self, compute: Callable[[], Result]) -> Result:
        """The result of `compute` in inference mode, for generation, whose growing cache is not compiled."""
        eager = torch.compiler.set_stance("force_eager") if self.policy.compiled else contextlib.nullcontext()
        with torch.inference_mode(), eager:  # a sixth faster than no_grad for tiny models
            return compute()


def policy_for(n_parameters: int, *, compute: Compute = DEFAULT, trains_all: bool = False) -> Policy:
    """Device and number formats of a model of that size on this machine.

    CUDA: bf16 and SDPA. CPU: float32 for tiny models; for large ones data.attention, and bf16 where
    `Compute.uses_bfloat16`. Weights that are all trained stay float32, since a bf16 weight loses updates
    below 1/256 of its size; only matrix products are in bf16 then.
    """
    device = compute.device or ("cuda" if torch.cuda.is_available() else "cpu")
    is_cuda = torch.device(device).type == "cuda"
    in_bfloat16 = is_cuda or n_parameters >= LARGE_PARAMETERS and compute.uses_bfloat16(device)
    weights = torch.bfloat16 if in_bfloat16 and not trains_all else torch.float32
    autocast = torch.bfloat16 if in_bfloat16 and trains_all else None
    attention = "sdpa" if is_cuda or n_parameters < LARGE_PARAMETERS else GROUPED
    switches = compute.activation_checkpointing, compute.compile_backend
    return Policy(device, weights, autocast, attention, *switches)


def load(
    model: str | Location,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    prompt: str = "alpaca",
    trains_all: bool = False,
    compute: Compute = DEFAULT,
    stays_in_memory: bool = False,
) -> LoadedModel:
    """The model of that name or place with its own weights, in evaluation mode.

    Args:
        tokenizer: the model's own, if it is loaded already.
        prompt: as in data.tokenizers.load_tokenizer.
        trains_all: all weights will be trained, so they are in float32.
        stays_in_memory: leave its weights in main memory, to be moved in parts (kdutils.devices.fsdp).

    Raises:
        ModelError: if it cannot be loaded, or its logits are not what we compute (see data.logit_checks).
    """
    located = locate(model)
    name, tokenizer = located.name, tokenizer or load_tokenizer(located, prompt)
    rounds = not trains_all and policy_for(LARGE_PARAMETERS, compute=compute).weights == torch.bfloat16
    copied = torch.bfloat16 if rounds else torch.float32
    copy = copy_of(located, str(copied))
    place = copy or located
    network = read_network(place, dtype=torch.float32 if copy is None else "auto", name=name)
    if place.layers is not None:
        keep_layers(network, place.layers)
    if len(tokenizer) > (n_rows := len(network.get_output_embeddings().weight)):
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} entries, the output head fewer rows ({n_rows}); "
            "give a model with its own tokenizer"
        )
    policy = policy_for(network.num_parameters(), compute=compute, trains_all=trains_all)
    if policy.attention == GROUPED and network.config.model_type not in KNOWN:
        policy = replace(policy, attention="eager")  # others may cap or add to what is computed there
    try:
        network.set_attn_implementation(policy.attention)
    except ValueError:  # an architecture without it
        policy = replace(policy, attention="eager")
        network.set_attn_implementation(policy.attention)
    network = network.to(device="cpu" if stays_in_memory else policy.device, dtype=policy.weights).eval()
    model = LoadedModel(name, network, tokenizer, policy)
    in_batches = not stays_in_memory and network.config.model_type not in KNOWN
    from kdutils.data.logit_checks import check_logits  # which imports this module

    check_logits(model, tokenizer(alpaca("1 + 2"))["input_ids"][:8], in_batches=in_batches)
    if policy.checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    if policy.compiled:
        network.get_decoder().compile(backend=policy.compiled)
    if place.gguf_file is not None:
        unmark_quantised(network)
        if policy.weights == copied:
            with saved_copy(place, str(copied)) as folder:
                network.save_pretrained(folder, safe_serialization=True)
    return model


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA has a class for it, the CPU allocator a RuntimeError that says so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
