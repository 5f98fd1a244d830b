"""A mixture of experts: every token goes through its own few."""

from __future__ import annotations

from torch import Tensor

from engine.models.layer import Layer
from kernels.grouped_moe import SWIGLU, GatedUnit, by_expert, grouped_moe


def is_grouped(layer: Layer) -> bool:
    """Whether the layer's experts lie in one tensor; in few bits each is a product of its own."""
    return ("experts_gate_up", 0) not in layer.packed and ("experts_down", 0) not in layer.packed


def mixture(layer: Layer, inputs: Tensor, chosen: Tensor, weights: Tensor, unit: GatedUnit = SWIGLU) -> Tensor:
    """The weighted sum of each token's experts.

    A token's result depends on its own row alone, wherever a product's rows do: its experts are added in the order in
    which it chose them, whoever else uses them.

    Args:
        layer: with the slots ``experts_gate_up`` and ``experts_down``.
        inputs: [T, hidden], normed.
        chosen: [T, K] i64, each token's experts.
        weights: [T, K], their shares.
        unit: between an expert's products.

    Returns:
        [T, hidden].
    """
    gate_up, down = layer.experts_gate_up, layer.experts_down
    if not is_grouped(layer):

        def one(expert: int, rows: Tensor) -> Tensor:
            gate, up = layer.project("experts_gate_up", rows, expert).chunk(2, 1)
            return layer.project("experts_down", unit(gate, up), expert)

        return by_expert(inputs, chosen, weights, len(down), one)
    first, second = (getattr(layer, f"{name}_bias", None) for name in ("experts_gate_up", "experts_down"))
    return grouped_moe(inputs, gate_up, down, chosen, weights, first, second, unit)
