"""The truth, in float64: products with the numbers that are held."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.quantized_linear.held import LARGEST_E4M3, HeldMatrix


def quantized_linear_reference(x: Tensor, weight: HeldMatrix, bias: Tensor | None = None) -> Tensor:
    """x: [rows, columns], weight: of any kind, bias: [outputs] -> [rows, outputs] float64."""
    product = x.double() @ weight.dense(torch.float64).T
    return product if bias is None else product + bias.double()


def held_floats_reference(values: Tensor, weight: HeldMatrix, dtype: torch.dtype) -> Tensor:
    """The matrix [outputs, columns] in float64; ``values`` are its own."""
    return weight.dense(torch.float64)


def scaled_linear_reference(x: Tensor, x_scales: Tensor, weight: HeldMatrix, bias: Tensor | None = None) -> Tensor:
    """x: e4m3 [rows, columns], x_scales: [rows] -> [rows, outputs] float64."""
    return quantized_linear_reference(x.double() * x_scales.double()[:, None], weight, bias)


def quantize_rows_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [rows, columns] -> what e4m3 has to hold, not rounded to it, and the scales of the rows, in float64."""
    scales = (x.double().abs().amax(1) / LARGEST_E4M3).clamp_min(1e-30)
    return x.double() / scales[:, None], scales
