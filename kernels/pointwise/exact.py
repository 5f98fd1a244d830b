"""The C kernel as a function of tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import needed
from kernels.numerics import refuse_gradients

FUNCTIONS = ("sigmoid", "silu", "gelu_tanh", "softplus", "tanh")
"""In the order of the enum in cpu.c."""
NAMES = {torch.bfloat16: "pointwise_bf16", torch.float32: "pointwise_f32"}


class CPointwise(ctypes.Structure):
    """Mirrors ``pointwise`` in cpu.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "times", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "x_stride", "times_stride", "function")),
    )


def exact_pointwise(function: str, x: Tensor, times: Tensor | None = None, variant: str | None = None) -> Tensor:
    """``function(x)``, or ``function(x) * times`` rounded once; each value the same wherever it stands.

    Args:
        function: one of ``FUNCTIONS``.
        x: [..., columns] bf16 or f32 on the CPU.
        times: of the same shape and dtype.
        variant: instruction set; the best unless given.

    Raises:
        TypeError: for other dtypes.
        RuntimeError: if a gradient is wanted, or there are no compiled kernels here.
    """
    refuse_gradients(x, times)
    if x.dtype not in NAMES or (times is not None and times.dtype is not x.dtype):
        raise TypeError(f"exact {function} is of bfloat16 or of float32, not of {x.dtype}")
    rows, factors = _rows(x), None if times is None else _rows(times)
    out = torch.empty(x.shape, dtype=x.dtype)
    asked = CPointwise(
        rows.data_ptr(),
        None if factors is None else factors.data_ptr(),
        out.data_ptr(),
        *rows.shape,
        rows.stride(0),
        0 if factors is None else factors.stride(0),
        FUNCTIONS.index(function),
    )
    needed().function(NAMES[x.dtype], variant)(ctypes.byref(asked))
    return out


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
    return rows if rows.stride(1) == 1 else rows.contiguous()
