"""The truth, in float64: one masked softmax over the whole packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention_spec import AttentionSpec


def causal_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    shared_prefix: int = 0,
    spec: AttentionSpec | None = None,
) -> Tensor:
    """query: [T, heads, D], key and value: [T, kv_heads, D] -> [T, heads, D] float64; every segment sees the prefix."""
    spec = AttentionSpec(query.shape[-1] ** -0.5) if spec is None else spec
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.double().repeat_interleave(groups, 1) for tensor in (key, value))
    lengths = torch.tensor([shared_prefix, *segment_lengths])
    segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    order = torch.arange(query.shape[0])
    together = (segment[:, None] == segment[None, :]) | (segment[None, :] == 0)
    allowed = together & (order[:, None] >= order[None, :])
    if spec.window is not None:
        places = torch.cat([torch.arange(length) + (shared_prefix if n else 0) for n, length in enumerate(lengths)])
        allowed &= places[:, None] - places[None, :] < spec.window
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) * spec.scale
    scores = scores.masked_fill(~allowed, float("-inf"))
    sinks = scores.new_full((query.shape[1],), -torch.inf) if spec.sinks is None else spec.sinks.double()
    weights = torch.cat((scores, sinks[:, None, None].expand(-1, len(order), 1)), -1).softmax(-1)[..., :-1]
    return torch.einsum("hqk,khd->qhd", weights, value)


def causal_attention_backward_reference(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    totals: Tensor,
    segment_lengths: Sequence[int],
    spec: AttentionSpec | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of query, key and value by autograd in float64; what the forward pass kept is not looked at."""
    exact = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    with torch.enable_grad():
        result = causal_attention_reference(exact[0], exact[1], exact[2], segment_lengths, 0, spec)
        return torch.autograd.grad(result, exact, gradient.double())
