"""Mixtures of experts in torch's operators, on any device: one product per expert and projection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.grouped_moe.unit import SWIGLU, GatedUnit
from kernels.linear import linear
from kernels.softmax import softmax


def route(scores: Tensor, each: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """scores: [rows, experts] -> the shares [rows, each] f32 of the likeliest experts, and these [rows, each] i64."""
    weights, chosen = softmax(scores.float()).topk(each)
    return (weights / weights.sum(-1, keepdim=True) if normalised else weights), chosen


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
    """The weighted sum of each token's experts, expert by expert; differentiable."""

    def one(expert: int, rows: Tensor) -> Tensor:
        both = linear(rows, gate_up[expert], None if gate_up_bias is None else gate_up_bias[expert])
        gate, up = both.chunk(2, 1)
        return linear(unit(gate, up), down[expert], None if down_bias is None else down_bias[expert])

    return by_expert(x, chosen, weights.to(x.dtype), down.shape[0], one)


def by_expert(x: Tensor, chosen: Tensor, weights: Tensor, experts: int, one: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The weighted sum of each token's experts, whatever an expert is.

    A token's result depends on its own row alone, wherever an expert's rows do: its experts are added in the order in
    which it chose them, whoever else uses them.

    Args:
        x: [rows, hidden].
        chosen: [rows, each] i64.
        weights: [rows, each] of x's dtype.
        experts: how many there are.
        one: an expert's number and its rows [n, hidden] -> [n, hidden].

    Returns:
        [rows, hidden].
    """
    each = chosen.shape[1]
    order = chosen.flatten().argsort(stable=True)
    sorted_rows = x.index_select(0, order // each)
    counts = chosen.flatten().bincount(minlength=experts).tolist()
    outputs = [one(expert, rows) for expert, rows in enumerate(sorted_rows.split(counts)) if len(rows)]
    places = order.argsort().view(-1, each)
    found = torch.cat(outputs) if outputs else x
    total = found.index_select(0, places[:, 0]) * weights[:, :1]
    for rank in range(1, each):
        total = total + found.index_select(0, places[:, rank]) * weights[:, rank : rank + 1]
    return total
