"""The truth, in float64: expert by expert."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.grouped_moe.unit import SWIGLU, GatedUnit


def route_reference(scores: Tensor, each: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """scores: [rows, experts] -> the likeliest experts' shares [rows, each] float64, and the experts [rows, each]."""
    shares, chosen = torch.softmax(scores.double(), -1).topk(each)
    return (shares / shares.sum(-1, keepdim=True) if normalised else shares), chosen


def grouped_moe_reference(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    unit: GatedUnit = SWIGLU,
) -> Tensor:
    """x: [rows, hidden] -> [rows, hidden] float64."""
    exact, out = x.double(), torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for expert in range(len(down)):
        both = exact @ gate_up[expert].double().T
        if gate_up_bias is not None:
            both = both + gate_up_bias[expert].double()
        gate, up = both.chunk(2, 1)
        if unit.limit is not None:
            gate, up = gate.clamp(max=unit.limit), up.clamp(-unit.limit, unit.limit)
        found = (gate * torch.sigmoid(gate * unit.sharpness) * (up + unit.offset)) @ down[expert].double().T
        if down_bias is not None:
            found = found + down_bias[expert].double()
        out += found * (weights.double() * (chosen == expert)).sum(1, keepdim=True)
    return out
