"""The C kernel as a function of tensors: a row's result has the same bits in any batch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import needed
from kernels.numerics import refuse_gradients

FUNCTIONS = {torch.bfloat16: "rms_norm_bf16", torch.float32: "rms_norm_f32"}


class CNorm(ctypes.Structure):
    """Mirrors ``norm`` in cpu.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "width", "x_stride")),
        ("eps", ctypes.c_float),
    )


def exact_rms_norm(hidden: Tensor, weight: Tensor, eps: float, variant: str | None = None) -> Tensor:
    """hidden: [..., width] bf16 or f32 on the CPU, weight: [width] of the same dtype -> [..., width].

    Raises:
        TypeError: for other dtypes.
        RuntimeError: if a gradient is wanted, or there are no compiled kernels here.
    """
    refuse_gradients(hidden, weight)
    if hidden.dtype not in FUNCTIONS or weight.dtype is not hidden.dtype:
        raise TypeError(f"the exact norm is of bfloat16 or of float32, not of {hidden.dtype} with {weight.dtype}")
    width = hidden.shape[-1]
    flat = hidden.reshape(-1, width)
    if flat.stride(1) != 1:
        flat = flat.contiguous()
    weight, out = weight.contiguous(), torch.empty(hidden.shape, dtype=hidden.dtype)
    norm = CNorm(flat.data_ptr(), weight.data_ptr(), out.data_ptr(), len(flat), width, flat.stride(0), eps)
    needed().function(FUNCTIONS[hidden.dtype], variant)(ctypes.byref(norm))
    return out
