"""The truth, in float64: one masked softmax over the whole packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def causal_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], shared_prefix: int = 0
) -> Tensor:
    """query: [T, heads, D], key and value: [T, kv_heads, D] -> [T, heads, D] float64; every segment sees the prefix."""
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.double().repeat_interleave(groups, 1) for tensor in (key, value))
    lengths = torch.tensor([shared_prefix, *segment_lengths])
    segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    order = torch.arange(query.shape[0])
    together = (segment[:, None] == segment[None, :]) | (segment[None, :] == 0)
    allowed = together & (order[:, None] >= order[None, :])
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
