"""As torch has them, or under exact numerics the C kernels whose rows do not know each other."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import needed
from kernels.numerics import exact, refuse_gradients


def softmax(x: Tensor) -> Tensor:
    """x: [..., width] f32 -> [..., width] f32, shares that sum to 1."""
    if not exact():
        return torch.softmax(x, -1)
    rows = _rows(x)
    out = torch.empty(x.shape)
    _call("softmax", rows, out)
    return out


def log_sum_exp(x: Tensor) -> Tensor:
    """x: [..., width] f32 -> [...] f32, the logarithm of the sum of the exponentials."""
    if not exact():
        return torch.logsumexp(x, -1)
    rows = _rows(x)
    out = torch.empty(x.shape[:-1])
    _call("log_sum_exp", rows, out)
    return out


def _rows(x: Tensor) -> Tensor:
    refuse_gradients(x)
    if x.dtype is not torch.float32:
        raise TypeError(f"the exact softmax is of float32, not of {x.dtype}")
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _call(name: str, rows: Tensor, out: Tensor) -> None:
    needed().function(name)(
        ctypes.c_void_p(rows.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(len(rows)),
        ctypes.c_int64(rows.shape[1]),
        ctypes.c_int64(rows.stride(0)),
    )
