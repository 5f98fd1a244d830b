"""SwiGLU in two torch operators, or in one C kernel that gives a value the same bits in any batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.pointwise.exact import exact_pointwise


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] -> [..., ffn]; differentiable."""
    return functional.silu(gate) * up


def exact_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] bf16 or f32 on the CPU -> [..., ffn]; without gradients."""
    return exact_pointwise("silu", gate, up)


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """gradient, gate, up: [..., ffn] -> the gradients of ``gate`` and ``up``, by torch."""
    halves = gate.detach().requires_grad_(), up.detach().requires_grad_()
    with torch.enable_grad():
        found = torch.autograd.grad(swiglu(*halves), halves, gradient)
    return found[0], found[1]
