"""RMS norm, by whichever implementation fits, with a backward of its own for a frozen weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.numerics import exact, refuse_gradients
from kernels.registry import answering, chosen


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm every row: ``hidden / sqrt(mean(hidden²) + eps) * weight``.

    Differentiable in ``hidden`` unless exact; the weight is frozen and gets no gradient.

    Args:
        hidden: [..., width].
        weight: [width] of the same dtype; or f32, and the norm is computed in f32 and rounded once.
        eps: added to the mean square.

    Returns:
        [..., width] of hidden's dtype.
    """
    found = answering("rms_norm", hidden, width=hidden.shape[-1])
    if weight.dtype is not hidden.dtype and found.backend != "triton":
        return rms_norm(hidden.to(weight.dtype), weight, eps).to(hidden.dtype)
    if exact():
        refuse_gradients(hidden, weight)
    elif torch.is_grad_enabled() and hidden.requires_grad:
        result: Tensor = _RmsNorm.apply(hidden, weight, eps)  # type: ignore[no-untyped-call]
        return result
    normed: Tensor = found.load()(hidden, weight, eps)
    return normed


def add_rms_norm(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add, then norm; differentiable in both, by an addition and ``rms_norm``.

    Args:
        hidden: [rows, width].
        residual: [rows, width] of the same dtype.
        weight: [width], as of ``rms_norm``.
        eps: added to the mean square.

    Returns:
        The norm [rows, width] of the sum as it is rounded, and that sum [rows, width].
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or residual.requires_grad):
        summed = hidden + residual
        return rms_norm(summed, weight, eps), summed
    both: tuple[Tensor, Tensor] = chosen("add_rms_norm", hidden, width=hidden.shape[-1])(hidden, residual, weight, eps)
    return both


class _RmsNorm(torch.autograd.Function):
    """Keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.eps = eps
        normed: Tensor = chosen("rms_norm", hidden, width=hidden.shape[-1])(hidden, weight, eps)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight = ctx.saved_tensors
        width = hidden.shape[-1]
        backward = chosen("rms_norm_backward", hidden, width=width)
        flat = hidden.reshape(-1, width), gradients[0].contiguous().view(-1, width)
        return backward(flat[1], flat[0], weight, ctx.eps).view(hidden.shape), None, None
