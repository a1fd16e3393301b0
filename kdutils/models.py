"""Students and teachers: where they are, how they are loaded, which numbers they compute in.

One loading path for the mini family, hub ids, local folders and GGUF files. Code that a model brings
along is never run, weights are read from safetensors or GGUF alone, and a model's own generation settings
are not read at all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging as transformers_logging

from kdutils import losses
from kdutils.data.model_files import ADAPTER_NEEDS_MERGING, Location, ModelError, files_digest, locate
from kdutils.encoding import Batch, start_ids
from kdutils.head import Head, error_of_head, head_of
from kdutils.io import disk
from kdutils.items import prompt
from kdutils.mini.family import MINI_MODELS
from kdutils.spec import RunSpec

LORA_TARGETS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "up_proj",
    "down_proj",
)  # as the authors: no o_proj, no gate_proj
LARGE_PARAMETERS = 20_000_000  # from here on bf16 pays on a CPU (measured at 135M; below 1M it does not)
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
SAME_TOKENIZER = (  # remedy where the vocabulary is one and its use is not
    "copy tokenizer.json and tokenizer_config.json of the teacher into a copy of the student's folder and "
    "name that as the student, or use method='seqkd'"
)
GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
UNREADABLE = (OSError, ValueError, struct.error, SafetensorError)  # what reading a model may raise
Made = TypeVar("Made")


@dataclass(frozen=True)
class Policy:
    """On what and in which numbers a model computes."""

    device: str
    weights: torch.dtype
    autocast: torch.dtype | None  # matrix products run in it, if it is not None
    attention: str
    checkpointing: bool = False  # activations are computed again in the backward pass: slower, less memory
    compiled: str = ""  # backend of torch.compile for the decoder, "" for none

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Autocast where the policy has one."""
        if self.autocast is None:
            yield
        else:
            with torch.autocast(torch.device(self.device).type, dtype=self.autocast):
                yield


@dataclass
class LoadedModel:
    """A model ready to compute, with its tokenizer."""

    name: str
    network: nn.Module  # a causal language model, perhaps wrapped by peft
    tokenizer: PreTrainedTokenizerBase
    policy: Policy

    is_sharded = False  # whether other processes hold parts of it, see kdutils.devices.fsdp

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model itself, without the wrapper of an adapter."""
        return self.network.get_base_model() if hasattr(self.network, "get_base_model") else self.network

    @property
    def head(self) -> Head:
        """The output head, over all its rows."""
        return head_of(self.causal)

    @functools.cached_property
    def n_parameters(self) -> int:
        """Of the causal language model; tied weights count once."""
        return self.causal.num_parameters()

    @property
    def vocabulary_size(self) -> int:
        """Length of the tokenizer, to which output heads are cut."""
        return len(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """What fills a batch; it may equal EOS, since masks come from lengths."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def hidden_states(self, input_ids_BT: Tensor) -> Tensor:
        """Final hidden states (batch, positions, width), after the last norm.

        Rows are padded on the right, if at all. What a token sees stands to its left, so padding needs no
        mask, and attention without one is faster; the states at padding itself mean nothing.
        """
        with self.policy.computing():
            output = self.causal.get_decoder()(input_ids=input_ids_BT.to(self.policy.device), use_cache=False)
        return output.last_hidden_state

    def scoring_states(self, batch: Batch) -> Tensor:
        """The hidden states (N, H) that score the batch's scored tokens, in their row-major order."""
        hidden_BTH = self.hidden_states(batch.input_ids_BT)
        return losses.shifted(hidden_BTH, batch.scored_BT.to(hidden_BTH.device))

    def gathered(self, compute: Callable[[], Made]) -> Made:
        """What `compute` makes of this model by calling its decoder, or parts of it, itself."""
        return compute()

    def without_gradients(self, compute: Callable[[], Made]) -> Made:
        """What `compute` makes of this model, with no more than generating needs."""
        with torch.inference_mode():  # a sixth faster than no_grad for tiny models
            return compute()


def policy_for(n_parameters: int, *, device: str | None = None, trains_all: bool = False) -> Policy:
    """How a model of that size computes on this machine.

    CUDA: bf16 and SDPA. CPU: float32 for tiny models; bf16 with eager attention for large ones, whose
    backward is faster than SDPA's there. Weights that are all trained stay float32, since a bf16 weight
    loses updates below 1/256 of its size; then products alone are in bf16.

    Two switches, off until set, change speed and memory and results by rounding only:
    KDUTILS_CHECKPOINTING=1, and KDUTILS_COMPILE=inductor (or another backend of torch.compile). Neither has
    been measured on CUDA yet.
    """
    policy = _policy_of_size(n_parameters, device=device, trains_all=trains_all)
    switches = {"checkpointing": os.environ.get("KDUTILS_CHECKPOINTING", "0") == "1"}
    return replace(policy, **switches, compiled=os.environ.get("KDUTILS_COMPILE", ""))


def _policy_of_size(n_parameters: int, *, device: str | None, trains_all: bool) -> Policy:
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    is_cuda = torch.device(device).type == "cuda"
    if not is_cuda and n_parameters < LARGE_PARAMETERS:
        return Policy(device, torch.float32, None, "sdpa")
    attention = "sdpa" if is_cuda else "eager"
    if trains_all:
        return Policy(device, torch.float32, torch.bfloat16, attention)
    return Policy(device, torch.bfloat16, None, attention)


def load_tokenizer(model: str | Location) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by its name or where it is read from.

    Raises:
        ModelError: if it cannot be had, or has no EOS token.
    """
    located = locate(model)
    name, place = located.name, _plain(located, "tokenizer")
    options = {"trust_remote_code": False, **_offline(place)}
    try:
        if place.gguf_file is not None:
            tokenizer = AutoTokenizer.from_pretrained(place.source, gguf_file=place.gguf_file, **options)
            with _kept(place, "tokenizer") as folder:
                tokenizer.save_pretrained(folder)
        else:
            declared = get_tokenizer_config(place.source, **_offline(place)).get("tokenizer_class")
            # AutoTokenizer reads a Qwen2 folder that declares a generic class by Qwen2's own rules, and
            # most words become unknown. Its tokenizer.json says how to read it.
            kind = PreTrainedTokenizerFast if declared in GENERIC_TOKENIZERS else AutoTokenizer
            tokenizer = kind.from_pretrained(place.source, **options)
    except UNREADABLE as error:
        raise ModelError(_unobtainable(place, error)) from error
    # Where there are no files of a tokenizer, transformers makes an empty one without a word.
    if not set(tokenizer(prompt("1 + 2"))["input_ids"]) - set(tokenizer.all_special_ids):
        raise ModelError(f"{name} has no tokenizer that knows a word; give a model with its tokenizer files")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {name} has no EOS token: a student could not learn to stop")
    tokenizer.files_digest = _tokenizer_digest(located)  # by which encoding.token_ids knows it
    return tokenizer


def _tokenizer_digest(place: Location) -> str:
    """Of the local files that a tokenizer is read from, weights left out; "" for one of the hub."""
    source = Path(place.source)
    if place.gguf_file is not None or not source.is_dir():
        return files_digest(place)
    total = hashlib.sha256()
    for path in sorted(source.iterdir()):
        if path.suffix in TOKENIZER_SUFFIXES and path.name not in ("config.json", "generation_config.json"):
            total.update(path.name.encode() + bytes.fromhex(disk.sha256_once(path)))
    return total.hexdigest()


def load(
    model: str | Location,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trains_all: bool = False,
    device: str | None = None,
    stays_in_memory: bool = False,
) -> LoadedModel:
    """The model of that name or place with its own weights, in evaluation mode.

    Args:
        tokenizer: the model's own, if it is loaded already.
        device: on what it computes; None: the GPU if there is one.
        stays_in_memory: its weights are left in main memory, for somebody who moves them in parts.

    Raises:
        ModelError: if it cannot be had, is not a causal language model in safetensors or GGUF, or does to its
            logits what `Head` does not know.
    """
    located = locate(model)
    name, tokenizer = located.name, load_tokenizer(located) if tokenizer is None else tokenizer
    place = _plain(located, str(torch.float32 if trains_all else torch.bfloat16))
    kinds = {"trust_remote_code": False, "gguf_file": place.gguf_file, **_offline(place)}
    if place.gguf_file is None:
        kinds["use_safetensors"] = True
    try:
        with _without_progress_bar():
            dtype = "auto" if place.is_kept else torch.float32
            network = AutoModelForCausalLM.from_pretrained(place.source, dtype=dtype, **kinds)
    except UNREADABLE as error:
        raise ModelError(_unobtainable(place, error)) from error
    if getattr(network, "_hf_peft_config_loaded", False):  # of a hub repository that was not here before
        raise ModelError(f"{place.name} {ADAPTER_NEEDS_MERGING}")
    if place.layers is not None:
        _keep_layers(network, place.layers)
    if len(tokenizer) > network.get_output_embeddings().weight.shape[0]:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} entries, the output head fewer rows "
            f"({network.get_output_embeddings().weight.shape[0]}); give a model with its own tokenizer"
        )
    policy = policy_for(network.num_parameters(), device=device, trains_all=trains_all)
    network.set_attn_implementation(policy.attention)
    network = network.to(device="cpu" if stays_in_memory else policy.device, dtype=policy.weights).eval()
    token_ids = tokenizer(prompt("1 + 2"))["input_ids"][:8]
    error, rounding = error_of_head(network, token_ids, n_rows=len(tokenizer))
    if error > rounding:
        raise ModelError(
            f"{name}: {network.config.model_type} does more to its logits than kdutils knows: they would be "
            f"off by up to {error:.3g}, rounding explains {rounding:.3g}; give a model of another "
            "architecture, or add what its forward does after the head to kdutils/head.py"
        )
    if policy.checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    if policy.compiled:
        network.get_decoder().compile(backend=policy.compiled)
    if place.gguf_file is not None:
        _mark_as_plain(network)
        if policy.weights == torch.bfloat16 or trains_all:
            with _kept(place, str(policy.weights)) as folder:
                network.save_pretrained(folder, safe_serialization=True)
    return LoadedModel(name, network, tokenizer, policy)


# --- GGUF: reading one takes half a minute, so what was read is kept ----------------------------------------


@dataclass(frozen=True)
class _Plain(Location):
    """Where a model is read from; `is_kept` if that is our own plain copy of a GGUF file."""

    is_kept: bool = False


def _plain(place: Location, what: str) -> _Plain:
    """The kept copy of a GGUF file's tokenizer or weights (named by their dtype), else the place itself."""
    own = _Plain(place.name, place.source, place.gguf_file, place.layers)
    if place.gguf_file is None or not (folder := _kept_folder(place, what)).is_dir():
        return own
    return _Plain(place.name, str(folder), is_kept=True)


def _kept_folder(place: Location, what: str) -> Path:
    return disk.cache_path("gguf") / f"{files_digest(place)}-{what.removeprefix('torch.')}"


@contextlib.contextmanager
def _kept(place: Location, what: str) -> Iterator[Path]:
    """A folder to save a plain copy in, which appears whole; a full or read-only disk costs time alone."""
    try:
        with disk.folder_in_one_step(_kept_folder(place, what), replaces=False) as folder:
            yield folder
    except OSError:
        pass  # the model is loaded; the next one to ask reads the GGUF file again


def _keep_layers(network: PreTrainedModel, kept: Sequence[int]) -> None:
    """Cut the decoder to these of its layers, in place; they are numbered anew, as the KV cache needs."""
    decoder, config = network.get_decoder(), network.config
    decoder.layers = nn.ModuleList([decoder.layers[layer] for layer in kept])
    for number, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = number
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]


def _mark_as_plain(network: PreTrainedModel) -> None:
    """A model from GGUF holds plain weights, but is marked as quantised and so refuses to be saved."""
    network.hf_quantizer = None
    network.is_quantized = False
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config


def add_adapter(model: LoadedModel, spec: RunSpec, *, seed: int) -> LoadedModel:
    """The model with what `spec` trains made trainable: every weight, or a fresh LoRA in float32.

    peft draws the LoRA's weights from the global generator, which is therefore seeded for the duration.
    """
    if spec.adapter == "full":
        model.network.requires_grad_(True)
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=list(LORA_TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with seeded(seed):
        network = get_peft_model(model.network, config, autocast_adapter_dtype=True)
    return LoadedModel(model.name, network, model.tokenizer, model.policy)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators seeded for the duration and then as before, for libraries that use them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed formats three stacks where no GPU is
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


def learning_rate(spec: RunSpec) -> float:
    """The learning rate of a run: its own, else the model's default.

    The mini family's were set when it was calibrated; else the authors' 3e-4 for LoRA, 2e-5 for all weights.
    """
    if spec.learning_rate is not None:
        return spec.learning_rate
    if spec.student in MINI_MODELS:
        return MINI_MODELS[spec.student].fine_tuning_rate
    return 3e-4 if spec.adapter == "lora" else 2e-5


def check_pair(spec: RunSpec) -> None:
    """Nothing, if the two models of a run fit its method.

    Where logits are compared, both models read one sequence of tokens and predict its next token. So the
    tokens must be the same, and texts must begin (BOS or none) and end (EOS) with the same ones; heads may
    differ in padding rows. See checks.check_all for how items are tokenised. Under seqkd all may differ: the
    teacher writes texts by its own tokenizer, the student reads them by its own.

    Raises:
        ModelError: naming the first token that differs, or both beginnings or ends, and the remedy.
    """
    if spec.teacher is None or spec.method == "seqkd":
        return
    student, teacher = (load_tokenizer(name) for name in (spec.student, spec.teacher))
    entries = student.get_vocab().items() ^ teacher.get_vocab().items()
    if differing := sorted({token for token, _ in entries}):
        raise ModelError(
            f"{spec.student} and {spec.teacher} have different vocabularies ({len(differing)} tokens, such "
            f"as {differing[0]!r}): {spec.method} compares their logits; use method='seqkd', or models of "
            "one family"
        )
    starts = [repr(one.bos_token) if start_ids(one) else "no BOS" for one in (student, teacher)]
    ends = [repr(one.eos_token) for one in (student, teacher)]
    for verb, (own, other) in {"begins": starts, "ends": ends}.items():
        if own != other:
            raise ModelError(
                f"{spec.student} {verb} texts with {own}, {spec.teacher} with {other}: {spec.method} "
                f"compares their logits on the same tokens; {SAME_TOKENIZER}"
            )


@contextlib.contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Workers load many models; the switch of `transformers` is global, so it is put back."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _offline(place: Location) -> dict[str, bool]:
    """A folder never needs the hub."""
    return {"local_files_only": True} if Path(place.source).is_dir() else {}


def _unobtainable(place: Location, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    if Path(place.source).is_dir():
        remedy = (
            "it may be half downloaded, damaged, or without weights in safetensors: fetch it again, or give "
            "another folder or .gguf file"
        )
    elif constants.HF_HUB_OFFLINE:
        remedy = (
            f"HF_HUB_OFFLINE is set and it is not in the cache: unset it, run `hf download {place.name}` "
            "where there is a network, or give a folder"
        )
    else:
        remedy = (
            "check the name, log in with `hf auth login` if it is gated, or download it and give the folder; "
            "HF_HUB_OFFLINE=1 saves the attempts where there is no network"
        )
    return f"model {place.name} cannot be loaded ({type(error).__name__}: {reason}); {remedy}"
