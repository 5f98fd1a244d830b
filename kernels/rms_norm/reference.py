"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden: [..., width], weight: [width] -> [..., width] float64."""
    exact = hidden.double()
    return exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def add_rms_norm_reference(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """hidden, residual: [rows, width] -> the norm of the sum as the dtype holds it, and the sum, in float64."""
    summed = hidden.double() + residual.double()
    return rms_norm_reference(summed.to(hidden.dtype), weight, eps), summed


def rms_norm_backward_reference(
    gradient: Tensor, hidden: Tensor, weight: Tensor, eps: float, weight_gradient: bool = False
) -> tuple[Tensor, ...]:
    """gradient, hidden: [rows, width] -> [rows, width] and, if wanted, [width], by autograd in float64."""
    exact, scale = hidden.double().requires_grad_(), weight.double().requires_grad_()
    with torch.enable_grad():
        normed = exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * scale
        found = torch.autograd.grad(normed, (exact, scale), gradient.double())
    return found if weight_gradient else found[:1]
