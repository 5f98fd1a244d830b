"""Products with matrices in few bits, by whichever implementation fits; differentiable in the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.numerics import exact, refuse_gradients
from kernels.quantized_linear.cpu import floats
from kernels.quantized_linear.held import HeldMatrix
from kernels.registry import chosen


def quantized_linear(x: Tensor, weight: HeldMatrix, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """``x @ weight.T + bias``; with a matrix in fp8 the rows are rounded to fp8 too, each with a scale of its own.

    Args:
        x: [..., columns]; the matrix is frozen, the rows may want a gradient, except under exact numerics.
        weight: the matrix.
        bias: [outputs] of x's dtype, or None.
        float32_out: give float32 instead of rounding to x's dtype.

    Returns:
        [..., outputs].
    """
    flat = x.reshape(-1, weight.columns)
    if exact():
        refuse_gradients(x)
    elif torch.is_grad_enabled() and x.requires_grad:
        product: Tensor = _Product.apply(flat, weight, bias, float32_out)  # type: ignore[no-untyped-call]
        return product.view(*x.shape[:-1], weight.outputs)
    return _product(flat, weight, bias, float32_out).view(*x.shape[:-1], weight.outputs)


def _product(flat: Tensor, weight: HeldMatrix, bias: Tensor | None, float32_out: bool) -> Tensor:
    if weight.kind == "e4m3":
        values, scales = chosen("quantize_rows", flat, columns=weight.columns)(flat)
        dtype = torch.float32 if float32_out else flat.dtype
        scaled: Tensor = chosen("scaled_linear", values)(values, scales, weight, bias, dtype=dtype)
        return scaled
    product: Tensor = chosen("quantized_linear", flat, rows=len(flat))(flat, weight, bias, float32_out=float32_out)
    return product


class _Product(torch.autograd.Function):
    """Keeps the matrix alone."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, weight: HeldMatrix, bias: Tensor | None, float32_out: bool) -> Tensor:
        ctx.weight, ctx.dtype = weight, flat.dtype
        return _product(flat, weight, bias, float32_out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradients[0].to(ctx.dtype)
        return gradient @ floats(ctx.weight, ctx.dtype), None, None, None
