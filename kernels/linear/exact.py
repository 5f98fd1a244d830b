"""The C kernel as a function of tensors: bfloat16 and float32 on the CPU, sums in float32 in one order."""

from __future__ import annotations

import ctypes
import threading

import torch
from torch import Tensor

from kernels.native import needed
from kernels.numerics import refuse_gradients

STEP = 32
"""Columns are filled up to a multiple of this in the room for activations; no variant needs more."""
FUNCTIONS = {torch.bfloat16: "linear_bf16", torch.float32: "linear_f32"}


class CProduct(ctypes.Structure):
    """Mirrors ``product`` in cpu.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "out", "room")),
        *((name, ctypes.c_int64) for name in ("tokens", "rows", "columns", "x_stride", "wide_out")),
    )


class _Room(threading.local):
    """One thread's room for activations as the kernel reads them."""

    def __init__(self) -> None:
        self._held = torch.empty(0)

    def address(self, values: int) -> int:
        if len(self._held) < values:
            self._held = torch.empty(values)
        return self._held.data_ptr()


_ROOM = _Room()


def exact_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, float32_out: bool = False, variant: str | None = None
) -> Tensor:
    """``x @ weight.T + bias`` where a row's result has the same bits in any batch.

    Args:
        x: [..., in], bfloat16 or float32, on the CPU.
        weight: [out, in] of the same dtype.
        bias: [out] of the same dtype.
        float32_out: give float32 instead of rounding to x's dtype.
        variant: instruction set; the best unless given.

    Raises:
        TypeError: for other dtypes, or mixed ones.
        RuntimeError: if a gradient is wanted, or there are no compiled kernels here.
    """
    refuse_gradients(x, weight, bias)
    name = FUNCTIONS.get(x.dtype)
    if name is None or weight.dtype is not x.dtype or (bias is not None and bias.dtype is not x.dtype):
        kinds = [tensor.dtype for tensor in (x, weight, bias) if tensor is not None]
        raise TypeError(f"exact products are of bfloat16 or of float32, all operands alike, not of {kinds}")
    columns, rows = weight.shape[1], weight.shape[0]
    flat = x.reshape(-1, columns)
    if columns > 1 and flat.stride(1) != 1:
        flat = flat.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty((*x.shape[:-1], rows), dtype=torch.float32 if float32_out else x.dtype)
    tokens = len(flat)
    product = CProduct(
        flat.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        _ROOM.address(tokens * (-(-columns // STEP) * STEP)),
        tokens,
        rows,
        columns,
        flat.stride(0),
        float32_out,
    )
    if tokens:
        needed().function(name, variant)(ctypes.byref(product))
    return out
