"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] -> [..., ffn] float64."""
    exact = gate.double()
    return exact / (1 + torch.exp(-exact)) * up.double()


def swiglu_backward_reference(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """gradient, gate, up: [..., ffn] -> the gradients of ``gate`` and ``up``, by autograd in float64."""
    halves = gate.double().requires_grad_(), up.double().requires_grad_()
    with torch.enable_grad():
        found = torch.autograd.grad(halves[0] * torch.sigmoid(halves[0]) * halves[1], halves, gradient.double())
    return found[0], found[1]
