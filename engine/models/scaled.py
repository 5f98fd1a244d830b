"""Weights stored as small numbers with scales beside them, back to floats: fp8 and MXFP4."""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of E2M1 by its three low bits; the fourth is the sign."""


def fp8_to_float(weight: Tensor, scale: Tensor, block: tuple[int, int] | None) -> Tensor:
    """Each number times its scale.

    Args:
        weight: [..., rows, columns] fp8.
        scale: one number for all; or [..., rows] or [..., rows, 1]; or [..., r, c], one for each block of rows by
            columns, the last of which may be cut off. Floats, or exponents (``e8m0``, or those as bytes).
        block: rows and columns of a block; None if it follows from the shapes, every block being whole.

    Returns:
        [..., rows, columns] float32.

    Raises:
        ValueError: if the scales do not fit the weight.
    """
    numbers, scales = weight.float(), exponents(scale) if scale.dtype is torch.uint8 else scale.float()
    if scales.numel() == 1:
        return numbers.mul_(scales.reshape(()))
    rows, columns = weight.shape[-2:]
    if scales.dim() == weight.dim() - 1 and scales.shape[-1] == rows:
        scales = scales.unsqueeze(-1)
    if scales.shape == (*weight.shape[:-1], 1):
        return numbers.mul_(scales)
    if scales.dim() != weight.dim() or scales.shape[:-2] != weight.shape[:-2]:
        raise ValueError(f"scales {tuple(scale.shape)} for a weight {tuple(weight.shape)}")
    high, wide = block or (-(-rows // scales.shape[-2]), -(-columns // scales.shape[-1]))
    if scales.shape[-2:] != (-(-rows // high), -(-columns // wide)):
        raise ValueError(f"scales {tuple(scale.shape)} for a weight {tuple(weight.shape)} in blocks of {high} x {wide}")
    by_row = scales.repeat_interleave(high, -2)[..., :rows, :]
    for index, start in enumerate(range(0, columns, wide)):  # no second copy of the weight's size
        numbers[..., start : start + wide] *= by_row[..., index : index + 1]
    return numbers


def mxfp4_to_float(blocks: Tensor, scales: Tensor) -> Tensor:
    """Blocks of 32 numbers of 4 bits (E2M1, the first in the low half of its byte) times a power of two.

    Args:
        blocks: [..., groups, 16] uint8.
        scales: [..., groups] uint8, exponents.

    Returns:
        [..., 32 groups] bfloat16, which holds every product exactly.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if blocks.shape[-1] != 16 or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"scales {tuple(scales.shape)} for blocks {tuple(blocks.shape)}")
    magnitudes = torch.tensor(FP4_VALUES, dtype=torch.bfloat16)
    table = torch.cat([magnitudes, -magnitudes])
    numbers = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], -1).flatten(-2)
    return numbers.mul_(exponents(scales).to(torch.bfloat16).unsqueeze(-1)).flatten(-2)


def exponents(scales: Tensor) -> Tensor:
    """Bytes of E8M0 as float32: 2 to the power of the byte less 127; 255 is not a number."""
    return scales.view(torch.float8_e8m0fnu).float()
