"""Attention on a CPU, for models whose query heads share key heads."""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask


def grouped_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    mask_B1TS: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **unused: object,
) -> tuple[Tensor, None]:
    """As transformers' eager attention: softmax(QK' * scaling + mask) V, as (B, T, H, D).

    T queries, S keys and values; H query heads, of which H / K share each of the K key heads. Eager
    attention copies keys and values for each query head, at every token that is decoded. Here the heads that
    share a key head are further queries of it.
    """
    n_rows, n_keys, n_queries = len(query_BHTD), key_BKSD.shape[1], query_BHTD.shape[2]
    query = query_BHTD.reshape(n_rows, n_keys, -1, query_BHTD.shape[3])
    scores = (query @ key_BKSD.mT).view(n_rows, n_keys, -1, n_queries, key_BKSD.shape[2]) * scaling
    if mask_B1TS is not None:
        scores = scores + mask_B1TS[:, :, None]
    shares = scores.softmax(-1, dtype=torch.float32).to(value_BKSD.dtype)
    shares = nn.functional.dropout(shares, dropout, module.training)
    found = shares.flatten(2, 3) @ value_BKSD
    return found.view_as(query_BHTD).transpose(1, 2).contiguous(), None


GROUPED = "grouped"  # its name among transformers' implementations
AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
