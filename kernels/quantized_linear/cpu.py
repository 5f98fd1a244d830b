"""Products with held matrices in torch's operators, on any device: the matrix becomes floats at each use."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.linear import linear
from kernels.quantized_linear.held import LARGEST_E4M3, HeldMatrix
from kernels.registry import chosen


def quantized_linear(x: Tensor, weight: HeldMatrix, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """x: [rows, columns], bias: [outputs] of its dtype -> [rows, outputs] in it, or in float32 if ``float32_out``."""
    return linear(x, floats(weight, x.dtype), bias, float32_out=float32_out)


def floats(weight: HeldMatrix, dtype: torch.dtype) -> Tensor:
    """The matrix [outputs, columns] in floats, by whichever implementation fits."""
    if weight.kind == "e4m3":
        return weight.dense(dtype)
    matrix: Tensor = chosen("held_floats", weight.values)(weight.values, weight, dtype)
    return matrix


def held_floats(values: Tensor, weight: HeldMatrix, dtype: torch.dtype) -> Tensor:
    """The matrix [outputs, columns] in floats; ``values`` are its own."""
    return weight.dense(dtype)


def scaled_linear(
    x: Tensor,
    x_scales: Tensor,
    weight: HeldMatrix,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """x: e4m3 [rows, columns], x_scales: f32 [rows], weight: of e4m3 -> [rows, outputs] of ``dtype``."""
    factor = x.to(dtype) * x_scales.to(dtype)[:, None]
    return linear(factor, weight.dense(dtype), None if bias is None else bias.to(dtype))


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [rows, columns] -> its nearest in e4m3, and the scale of each row, f32."""
    exact = x.float()
    scales = (exact.abs().amax(1) / LARGEST_E4M3).clamp_min(1e-30)
    values = (exact / scales[:, None]).clamp_(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)
    return values, scales
