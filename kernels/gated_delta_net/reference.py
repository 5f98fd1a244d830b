"""The truth: one sequence, one token after another, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.gated_delta_net.states import DeltaShape, DeltaWeights


def gated_delta_net_reference(
    mixed: Tensor,
    decay: Tensor,
    write: Tensor,
    weights: DeltaWeights,
    shape: DeltaShape,
    inputs: Tensor | None = None,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One sequence's tokens, from an empty state or from a given one.

    Args:
        mixed: [T, channels], queries, keys and values before the convolution.
        decay: [T, value_heads], what each token says about forgetting.
        write: [T, value_heads], what it says about writing.
        weights: of the layer.
        shape: of the layer.
        inputs: [taps - 1, channels], the inputs before.
        memory: [value_heads, key_dim, value_dim], the state before.

    Returns:
        [T, value_heads, value_dim], and the inputs and the state after; all float64.
    """
    past, keys = shape.taps - 1, shape.key_heads * shape.key_dim
    inputs = torch.zeros(past, shape.channels).double() if inputs is None else inputs.double()
    held = torch.cat([inputs, mixed.double()])
    if memory is None:
        memory = torch.zeros(shape.value_heads, shape.key_dim, shape.value_dim)
    state, out = memory.double(), []
    for t in range(len(mixed)):
        filtered = torch.nn.functional.silu((held[t : t + shape.taps] * weights.filters.double()).sum(0))
        query, key, value = filtered.split([keys, keys, shape.value_heads * shape.value_dim])
        query, key = (_unit(part.view(shape.key_heads, shape.key_dim)) for part in (query, key))
        share = shape.value_heads // shape.key_heads
        query, key = (part.repeat_interleave(share, 0) for part in (query * shape.key_dim**-0.5, key))
        forget = -weights.rate.double() * torch.nn.functional.softplus(decay[t].double() + weights.bias.double())
        state = state * forget.exp()[:, None, None]
        told = torch.einsum("hk,hkv->hv", key, state)
        change = (value.view(shape.value_heads, shape.value_dim) - told) * write[t].double().sigmoid()[:, None]
        state = state + key[:, :, None] * change[:, None, :]
        out.append(torch.einsum("hk,hkv->hv", query, state))
    return torch.stack(out), held[len(held) - past :], state


def _unit(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt((vectors * vectors).sum(-1, keepdim=True) + 1e-6)
