"""From final hidden states to logits: weights, bias, scale and soft cap.

Every logit that kdutils computes, of student and teacher, comes from a `Head`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

# Attribute of a model's config -> the power of it that multiplies the logits.
SCALES = {
    "logit_scale": 1,  # Cohere
    "lm_head_multiplier": 1,  # Falcon-H1
    "output_multiplier": 1,  # Muse
    "logits_scaling": -1,  # Granite, MiniCPM3
}
OTHER_POWERS = {("hyperclovax", "logits_scaling"): 1, ("mpt", "logit_scale"): 0}  # by model type
# Attribute of a model's config that holds the soft cap, if it is not None.
SOFT_CAPS = (
    "final_logit_softcapping",  # Gemma 2, 3, 3n and 4, VaultGemma, NanoChat
    "logits_soft_cap",  # RecurrentGemma
    "output_logit_soft_cap",  # xLSTM
)


class Head(NamedTuple):
    """Logits are cap(scale * (hidden @ weight.T + bias)), where cap(x) = soft_cap * tanh(x / soft_cap)."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def cut(self, n_rows: int) -> Head:
        """The head of the first `n_rows` tokens alone."""
        bias_V = None if self.bias_V is None else self.bias_V[:n_rows]
        return self._replace(weight_VH=self.weight_VH[:n_rows], bias_V=bias_V)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., H), in the dtype of the weights (under autocast in its)."""
        return self.shaped(F.linear(hidden.to(self.weight_VH.dtype), self.weight_VH, self.bias_V))

    def shaped(self, products: Tensor) -> Tensor:
        """Scale and cap of `products` = hidden @ weight.T + bias; `products` itself if there is neither."""
        if self.scale != 1:
            products = products * self.scale
        return products if self.soft_cap is None else (products / self.soft_cap).tanh() * self.soft_cap

    def slope_of_cap(self, logits: Tensor) -> Tensor | None:
        """Derivative of the soft cap where it gave these logits; None without a cap."""
        return None if self.soft_cap is None else 1 - (logits / self.soft_cap).square()


def head_of(network: PreTrainedModel) -> Head:
    """The output head of a causal language model; its weights are the embedding's where the two are tied."""
    config, layer = network.config.get_text_config(), network.get_output_embeddings()
    scale = 1.0
    for name, power in SCALES.items():
        if getattr(config, name, None) is not None:
            scale *= getattr(config, name) ** OTHER_POWERS.get((config.model_type, name), power)
    caps = [cap for name in SOFT_CAPS if (cap := getattr(config, name, None)) is not None]
    return Head(layer.weight, getattr(layer, "bias", None), scale, caps[0] if caps else None)
