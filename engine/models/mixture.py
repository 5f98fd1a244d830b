"""A mixture of experts: every token goes through its own few, one product per expert and projection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.models.layer import Layer
from kernels.swiglu import swiglu

Halves = Callable[[Tensor, Tensor], Tensor]


def mixture(layer: Layer, inputs: Tensor, chosen: Tensor, weights: Tensor, activation: Halves = swiglu) -> Tensor:
    """The weighted sum of each token's experts.

    A token's result depends on its own row alone, wherever a product's rows do: its experts are added in the order in
    which it chose them, whoever else uses them.

    Args:
        layer: with the slots ``experts_gate_up`` and ``experts_down``.
        inputs: [T, hidden], normed.
        chosen: [T, K] i64, each token's experts.
        weights: [T, K], their shares.
        activation: of the two halves [rows, ffn].

    Returns:
        [T, hidden].
    """
    each = chosen.shape[1]
    order = chosen.flatten().argsort(stable=True)
    sorted_inputs = inputs.index_select(0, order // each)
    counts = chosen.flatten().bincount(minlength=layer.experts_down.shape[0]).tolist()
    outputs = []
    for expert, rows in enumerate(sorted_inputs.split(counts)):
        if len(rows):
            gate, up = layer.project("experts_gate_up", rows, expert).chunk(2, 1)
            outputs.append(layer.project("experts_down", activation(gate, up), expert))
    places = order.argsort().view(-1, each)
    found = torch.cat(outputs)
    total = found.index_select(0, places[:, 0]) * weights[:, :1]
    for rank in range(1, each):
        total = total + found.index_select(0, places[:, rank]) * weights[:, rank : rank + 1]
    return total
