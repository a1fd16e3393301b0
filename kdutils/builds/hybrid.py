"""Students with linear attention in most layers, converted from attention: GenDistill (arXiv:2603.26556).

One layer in n keeps its attention, in the middle of every n. In the others it is replaced by transformers'
Gated DeltaNet (Yang et al. 2025, arXiv:2412.06464); the source has Kimi Delta Attention, whose decays
are those of channels and not of heads. It begins with the layer's own matrices. The source's stages are:
`align` trains each layer to put out what the attention put out, given what the attention was given; `distil`
trains the whole by forward KL to the model as it was, on all tokens; the run's own training comes last.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, Qwen3_5TextConfig
from transformers.cache_utils import LinearAttentionLayer
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from kdutils import encoding, losses
from kdutils.data.model_files import ModelError
from kdutils.encoding import Batch
from kdutils.items import Item
from kdutils.models import KNOWN, LoadedModel
from kdutils.noise import generator, key_of, seeded
from kdutils.spec import RunSpec

DECAYS, TIME_STEPS = (1.0, 16.0), (1e-3, 0.1)  # at first, as in the source; a state decays by their product
ALIGN_STEPS, DISTIL_STEPS, ROWS = 200, 200, 16  # updates of either stage, items in each
ALIGN_RATE, DISTIL_RATE = 0.5, 0.1  # of AdamW, over the model's width (as in arXiv:2203.03466)


class State(LinearAttentionLayer):
    """What a Gated DeltaNet keeps of each text of a batch; of which texts can be selected."""

    def batch_select_indices(self, indices: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, dict):  # of tensors: a shallow copy of this layer has the same one
                setattr(self, name, dict(value))
        self.reorder_cache(indices)


class LinearAttention(Qwen3_5GatedDeltaNet):
    """Gated DeltaNet, called and cached as the attention of a layer is."""

    real_BT: Tensor | None = None  # 1 where a token read so far is real; None: padding is on the right

    def forward(
        self, hidden_states: Tensor, past_key_values: Cache | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """The layer's output (batch, positions, width) for these inputs."""
        layers, place = past_key_values.layers if past_key_values is not None else None, self.layer_idx
        if layers is not None and not isinstance(layers[place], State):
            layers[place] = State()
        real_BT = None if self.real_BT is None else self.real_BT[:, -hidden_states.shape[1] :]
        return super().forward(hidden_states, cache_params=past_key_values, attention_mask=real_BT), None


def check(n: float, n_layers: int | None = None) -> None:
    """Refuse to keep one attention in n of a model with so many layers; None: not known yet.

    Raises:
        ModelError: if n is not one of the numbers from 2 by which the layers can be divided.
    """
    told = f"student_build='hybrid' keeps the attention of one layer in build_compression={n}"
    if n != int(n) or n < 2:
        raise ModelError(f"{told}: give a whole number from 2")
    if n_layers is not None and n_layers % n:
        fit = [each for each in range(2, n_layers + 1) if n_layers % each == 0]
        remedy = f"give one of {fit}" if fit else "it needs a larger model"
        raise ModelError(f"{told}, and the layers are {n_layers}: {remedy}")


def kept_layers(n_layers: int, n: float) -> list[int]:
    """The layers that keep their attention: the middle one (of two the first) of every n."""
    return list(range((int(n) - 1) // 2, n_layers, int(n)))


def attentions(network: nn.Module, n: float) -> dict[str, nn.Module]:
    """The attention of each layer that is to lose it, by name.

    Raises:
        ModelError: if `n` does not fit the model, or that is neither a Llama nor a Qwen2.
    """
    found = {name: x for name, x in network.named_modules() if name.endswith(".self_attn")}
    if (kind := network.config.model_type) not in KNOWN:  # others have norms of queries or scales, too
        raise ModelError(f"student_build='hybrid' does not know the layers of a {kind}; use a llama or qwen2")
    check(n, len(found))
    kept = kept_layers(len(found), n)
    return {name: each for i, (name, each) in enumerate(found.items()) if i not in kept}


def linear(network: nn.Module, attention: nn.Module) -> LinearAttention:
    """A Gated DeltaNet with the matrices of an attention, and otherwise new weights; heads share no keys."""
    own, width, like = network.config, attention.head_dim, attention.o_proj.weight
    heads = like.shape[1] // width
    config = Qwen3_5TextConfig(
        hidden_size=own.hidden_size,
        num_hidden_layers=own.num_hidden_layers,
        layer_types=["linear_attention"] * own.num_hidden_layers,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=width,
        linear_value_head_dim=width,
        rms_norm_eps=own.rms_norm_eps,
    )
    made = LinearAttention(config, attention.layer_idx)
    made.activation = None  # of the convolution, as in the source
    shared = heads * width // attention.k_proj.out_features
    own_parts = [
        part.weight.view(-1, width, own.hidden_size).repeat_interleave(times, 0).flatten(0, 1)
        for part, times in ((attention.q_proj, 1), (attention.k_proj, shared), (attention.v_proj, shared))
    ]
    with torch.no_grad():
        made.in_proj_qkv.weight.copy_(torch.cat(own_parts))
        made.out_proj.weight.copy_(like)
        made.conv1d.weight.zero_()[..., -1] = 1.0  # a token's own
        made.A_log.uniform_(*DECAYS).log_()
        made.dt_bias.uniform_(*np.log(TIME_STEPS)).exp_().expm1_().log_()  # a softplus makes it a time step
    return made.to(like)


def mixers(network: nn.Module, n: float) -> dict[str, LinearAttention]:
    """What comes in the place of each attention of `attentions`, not yet there, by its name."""
    return {name: linear(network, attention) for name, attention in attentions(network, n).items()}


def install(network: nn.Module, mixers: dict[str, LinearAttention]) -> None:
    """Put these in the place of the attention of that name.

    A cache is then made of the model's configuration, as kdutils.generation does; an empty DynamicCache(), or
    one of fixed size, fails.
    """
    for name, mixer in mixers.items():
        network.set_submodule(name, mixer)
    network.get_decoder().keeps_states = True  # see kdutils.generation.Decoder
    network.get_decoder().register_forward_pre_hook(_tell_padding, with_kwargs=True)


def _tell_padding(decoder: nn.Module, args: tuple, given: dict[str, Any]) -> None:
    """Layers are told by a mask of their own kind where padding is, and an attention's does not say it."""
    for module in decoder.modules():
        if isinstance(module, LinearAttention):
            module.real_BT = given.get("attention_mask")


def convert(student: LoadedModel, spec: RunSpec, items: Sequence[Item]) -> None:
    """Replace the attention of all layers but one in `spec.build_compression`, aligned on these items.

    `hybrid_distilled` then distils the whole on them, too.
    """
    with seeded(key_of(spec.seed, "hybrid")):
        made = mixers(student.causal, spec.build_compression)
    align(student, made, spec, items)
    is_distilled = spec.student_build == "hybrid_distilled"
    before = replace(student, network=copy.deepcopy(student.network)) if is_distilled else None
    install(student.causal, made)
    if before is not None:
        distil(student, before, spec, items)


def _updates(
    student: LoadedModel,
    spec: RunSpec,
    items: Sequence[Item],
    own: list[nn.Parameter],
    rate: float,
    n: int,
    what: str,
) -> Iterator[Batch]:
    """The batches of n updates of these weights, each by the gradients that are there when it is over.

    `what` names the batches that are drawn. All tokens are scored. The rate, over the model's width, falls to
    zero along a cosine.
    """
    optimiser = torch.optim.AdamW(own, lr=rate / student.causal.config.hidden_size, weight_decay=0.0)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n)
    encoded = encoding.encode(items, student.tokenizer, **spec.encoding | {"prompt_in_loss": True})
    drawing = generator(spec.seed, "hybrid", what)
    for _ in range(n):
        rows = torch.randint(len(encoded), (ROWS,), generator=drawing).tolist()
        yield encoding.collate(encoded, rows, pad_id=student.pad_id)
        optimiser.step()
        student.causal.zero_grad()  # so that none is left to the training's first step
        optimiser.zero_grad()
        rates.step()


@torch.enable_grad()
def align(
    student: LoadedModel, mixers: dict[str, LinearAttention], spec: RunSpec, items: Sequence[Item]
) -> list[float]:
    """Train the mixers to do what the attention does in the model as it is; each update's error.

    The error of a layer is the square of what is missing over that of what the attention puts out, summed
    over real tokens. Layers do not meet, since each is given what the attention there was given.

    Raises:
        ModelError: if the error is not finite at the end.
    """
    passed: dict[str, tuple[Tensor, Tensor]] = {}

    def noted(name: str):
        def note(_: nn.Module, args: tuple, given: dict[str, Any], output: tuple) -> None:
            passed[name] = given["hidden_states"].detach(), output[0].detach()

        return note

    layers = dict(student.causal.named_modules())
    hooks = [layers[name].register_forward_hook(noted(name), with_kwargs=True) for name in mixers]
    own, errors = [w for mixer in mixers.values() for w in mixer.parameters()], []
    for batch in _updates(student, spec, items, own, ALIGN_RATE, ALIGN_STEPS, "items"):
        with torch.no_grad():
            student.hidden_states(batch.input_ids_BT)
        real_BT = batch.attention_BT.bool().to(student.policy.device)
        terms = []
        for name, mixer in mixers.items():  # one after the other, so that the graph of one is in memory
            x_BTH, y_BTH = passed.pop(name)
            with student.policy.computing():
                missing_NH = (mixer(x_BTH)[0] - y_BTH)[real_BT].float()
            whole = y_BTH[real_BT].float().square().sum().clamp_min(torch.finfo(torch.float32).tiny)
            term = missing_NH.square().sum() / whole
            (term / len(mixers)).backward()
            terms.append(float(term.detach()))
        errors.append(sum(terms) / len(terms))
    for hook in hooks:
        hook.remove()
    return _finite(student, errors, "aligned")


@torch.enable_grad()
def distil(student: LoadedModel, before: LoadedModel, spec: RunSpec, items: Sequence[Item]) -> list[float]:
    """Train the student, converted, to predict what the model `before` does; each update's nats a token.

    Of prompts and responses. Embeddings, head and the attention that is left stay as they are.

    Raises:
        ModelError: if the divergence is not finite at the end.
    """
    network, found = student.causal, []
    apart = [network.get_input_embeddings(), network.get_output_embeddings()]
    apart += [x for name, x in network.named_modules() if name.endswith(".self_attn")]
    fixed = {id(w) for x in apart if not isinstance(x, LinearAttention) for w in x.parameters()}
    own = [w for w in network.parameters() if id(w) not in fixed]
    for batch in _updates(student, spec, items, own, DISTIL_RATE, DISTIL_STEPS, "distilled"):
        with torch.no_grad():
            states_NH = before.scoring_states(batch)
        with student.policy.computing():
            own_NH, how = student.scoring_states(batch), {"kind": "forward_kl", "temperature": 1.0}
            how |= {"vocabulary_size": student.vocabulary_size, "scale_by_temperature_squared": False}
            loss = losses.divergence(own_NH, student.head, states_NH, before.head, **how)
        (loss.total / loss.n_tokens).backward()
        nn.utils.clip_grad_norm_(own, spec.max_grad_norm)
        found.append(float(loss.total.detach() / loss.n_tokens))
    return _finite(student, found, "distilled")


def _finite(student: LoadedModel, found: list[float], done: str) -> list[float]:
    if not math.isfinite(found[-1]):
        raise ModelError(f"{student.name}: linear attention cannot be {done}, its error became {found[-1]}")
    return found
