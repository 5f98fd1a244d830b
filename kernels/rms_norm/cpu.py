"""RMS norm as torch's operator, which accumulates in float32, with a backward of its own for a frozen weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.numerics import exact
from kernels.rms_norm.exact import exact_rms_norm


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden: [..., width], weight: [width] of the same dtype -> ``hidden / sqrt(mean(hidden²) + eps) * weight``.

    Differentiable in ``hidden``; the weight is frozen and gets no gradient.
    """
    if exact():
        return exact_rms_norm(hidden, weight, eps)
    if torch.is_grad_enabled() and hidden.requires_grad:
        result: Tensor = _RmsNorm.apply(hidden, weight, eps)  # type: ignore[no-untyped-call]
        return result
    return functional.rms_norm(hidden, (hidden.shape[-1],), weight, eps)


class _RmsNorm(torch.autograd.Function):
    """Keeps its input alone, and goes back in half the operators that autograd would need."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.eps = eps
        return functional.rms_norm(hidden, (hidden.shape[-1],), weight, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight = ctx.saved_tensors
        width, wide = hidden.shape[-1], torch.promote_types(hidden.dtype, torch.float32)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=wide)
        inverse = torch.rsqrt(length.square_().div_(width).add_(ctx.eps))
        scaled = gradients[0] * weight
        along = (scaled * hidden).sum(-1, keepdim=True, dtype=wide)
        pull = (along * inverse**3).div_(-width).to(hidden.dtype)
        return torch.addcmul(scaled.mul_(inverse.to(hidden.dtype)), hidden, pull), None, None
