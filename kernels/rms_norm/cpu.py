"""RMS norm in torch's operators, on any device: the norm accumulates in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.rms_norm.op import rms_norm as chosen_rms_norm


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden: [..., width], weight: [width] -> [..., width]."""
    return functional.rms_norm(hidden, (hidden.shape[-1],), weight, eps)


def add_rms_norm(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """hidden, residual: [rows, width] -> the norm of their sum in this moment's numerics, and the sum."""
    summed = hidden + residual
    return chosen_rms_norm(summed, weight, eps), summed


def rms_norm_backward(gradient: Tensor, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """gradient, hidden: [..., width] -> the gradient of ``hidden``, in half the operators that autograd would need."""
    width, sum_dtype = hidden.shape[-1], torch.promote_types(hidden.dtype, torch.float32)
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=sum_dtype)
    inverse = torch.rsqrt(length.square_().div_(width).add_(eps))
    scaled = gradient * weight
    along = (scaled * hidden).sum(-1, keepdim=True, dtype=sum_dtype)
    pull = (along * inverse**3).div_(-width).to(hidden.dtype)
    return torch.addcmul(scaled.mul_(inverse.to(hidden.dtype)), hidden, pull)
