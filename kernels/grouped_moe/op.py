"""Mixtures of experts, by whichever implementation fits."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.grouped_moe import cpu
from kernels.grouped_moe.unit import SWIGLU, GatedUnit
from kernels.registry import chosen as implementation


def route(scores: Tensor, each: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token by a softmax over all.

    Args:
        scores: [rows, experts].
        each: how many a token gets.
        normalised: whether their shares add up to one.

    Returns:
        Shares [rows, each] f32, the largest first, and the experts [rows, each] i64.
    """
    if torch.is_grad_enabled() and scores.requires_grad:
        return cpu.route(scores, each, normalised)
    both: tuple[Tensor, Tensor] = implementation("route", scores, experts=scores.shape[1])(scores, each, normalised)
    return both


def grouped_moe(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    unit: GatedUnit = SWIGLU,
) -> Tensor:
    """The weighted sum of each token's experts, added in the order in which it chose them.

    Where a gradient is wanted, torch computes it expert by expert.

    Args:
        x: [rows, hidden].
        gate_up: [experts, 2 ffn, hidden], gates in front.
        down: [experts, hidden, ffn].
        chosen: [rows, each] i64, each token's experts.
        weights: [rows, each], their shares.
        gate_up_bias: [experts, 2 ffn], or None.
        down_bias: [experts, hidden], or None.
        unit: between the two products.

    Returns:
        [rows, hidden] of x's dtype.
    """
    arguments = (x, gate_up, down, chosen, weights, gate_up_bias, down_bias, unit)
    if torch.is_grad_enabled() and any(one.requires_grad for one in (x, gate_up, down, weights)):
        return cpu.grouped_moe(*arguments)
    total: Tensor = implementation("grouped_moe", x, experts=len(down))(*arguments)
    return total
