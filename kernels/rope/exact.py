"""The C kernel as a function of tensors: a position's cosines and sines have the same bits in any batch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import needed


def exact_angles(positions: Tensor, frequencies: Tensor, variant: str | None = None) -> tuple[Tensor, Tensor]:
    """positions: [T] i64, frequencies: [planes] f32 -> cosines and sines of their products, [T, planes] f32 each.

    Raises:
        RuntimeError: if there are no compiled kernels here.
    """
    positions, frequencies = positions.contiguous(), frequencies.float().contiguous()
    out = torch.empty(2, len(positions), len(frequencies))
    needed().function("rope_angles", variant)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (positions, frequencies, out)),
        ctypes.c_int64(len(positions)),
        ctypes.c_int64(len(frequencies)),
    )
    return out[0], out[1]
