"""The truth: the same decoder in float64, over one whole sequence, with the weights as they are held.

Activations are not rounded to 8 bits here, so the compiled step is close to it but not equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from kernels.decoder.binding import Shape

Update = tuple[Tensor, Tensor, float]


def decoder_reference(
    shape: Shape,
    weights: Mapping[str, Tensor],
    ids: Tensor,
    updates: Mapping[tuple[int, str], Update] | None = None,
) -> Tensor:
    """Logits after every token.

    Args:
        shape: of the model.
        weights: float64 tensors: embedding, head, final_norm, frequencies, and per layer ``0.input_norm``,
            ``0.post_norm``, ``0.q_proj`` … ``0.down_proj``; ``0.query_norm`` and ``0.key_norm`` where heads are normed.
        ids: [T] i64.
        updates: (layer, target) -> (A [rank, in], B [out, rank], scale).

    Returns:
        [T, vocabulary] float64.
    """
    hidden = weights["embedding"][ids]
    positions = torch.arange(len(ids), dtype=torch.float64)
    angles = positions[:, None] * weights["frequencies"]
    for layer in range(shape.layers):
        hidden = hidden + _attend(shape, weights, layer, hidden, angles, updates or {})
        inputs = _norm(hidden, weights[f"{layer}.post_norm"], shape.eps)
        gate, up = (_linear(weights, layer, name, inputs, updates or {}) for name in ("gate_proj", "up_proj"))
        hidden = hidden + _linear(weights, layer, "down_proj", functional.silu(gate) * up, updates or {})
    return _norm(hidden, weights["final_norm"], shape.eps) @ weights["head"].T


def _attend(
    shape: Shape,
    weights: Mapping[str, Tensor],
    layer: int,
    hidden: Tensor,
    angles: Tensor,
    updates: Mapping[tuple[int, str], Update],
) -> Tensor:
    inputs = _norm(hidden, weights[f"{layer}.input_norm"], shape.eps)
    query, key, value = (
        _linear(weights, layer, name, inputs, updates).view(len(inputs), -1, shape.width).transpose(0, 1)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    if f"{layer}.query_norm" in weights:
        query = _norm(query, weights[f"{layer}.query_norm"], shape.eps)
        key = _norm(key, weights[f"{layer}.key_norm"], shape.eps)
    query, key = _rotate(query, angles), _rotate(key, angles)
    group = shape.heads // shape.kv_heads
    key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    scores = query @ key.transpose(1, 2) * (shape.width**-0.5 if shape.scale is None else shape.scale)
    scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(len(inputs), -1)
    return _linear(weights, layer, "o_proj", mixed, updates)


def _linear(
    weights: Mapping[str, Tensor], layer: int, name: str, inputs: Tensor, updates: Mapping[tuple[int, str], Update]
) -> Tensor:
    outputs = inputs @ weights[f"{layer}.{name}"].T
    if (layer, name) in updates:
        down, up, scale = updates[layer, name]
        outputs = outputs + scale * (inputs @ down.T @ up.T)
    return outputs


def _norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden / (hidden.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _rotate(heads: Tensor, angles: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
