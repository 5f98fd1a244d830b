"""Launches the Triton kernels of the norm. A row's bits depend on that row alone: its width chooses the tile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.arguments import require, within
from kernels.rms_norm.kernel import add_rms_norm as add_rms_norm_kernel
from kernels.rms_norm.kernel import rms_norm_backward as rms_norm_backward_kernel
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_WIDTH = 32_768


def add_rms_norm(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add, then norm, in one pass over memory.

    Args:
        hidden: [rows, width] bf16, f16 or f32.
        residual: [rows, width] of the same dtype.
        weight: [width] of the same dtype or f32.
        eps: added to the mean square.

    Returns:
        The norm [rows, width] of the sum as it is rounded, and that sum [rows, width].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require(hidden, weight)
    require("residual", residual, dtypes=(hidden.dtype,), shape=hidden.shape, beside=hidden)
    normed, summed = (torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) for _ in range(2))
    _launch(hidden, residual, weight, eps, normed, summed)
    return normed, summed


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm every row, as ``add_rms_norm`` does.

    Args:
        hidden: [..., width] bf16, f16 or f32; of [tokens, heads, width] both may lie apart, as in a projection's slice.
        weight: [width] of the same dtype or f32.
        eps: added to the mean square.

    Returns:
        [..., width] of hidden's dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    rows = hidden if hidden.dim() == 3 else hidden.reshape(-1, hidden.shape[-1])
    _require(rows, weight, rows.dim())
    normed = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    _launch(rows, None, weight, eps, normed, normed)
    return normed


def rms_norm_backward(
    gradient: Tensor, hidden: Tensor, weight: Tensor, eps: float, weight_gradient: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The gradient of what was normed, and of the weight if it is wanted.

    Args:
        gradient: [rows, width], of the norm.
        hidden: [rows, width], what was normed.
        weight: [width] of the same dtype or f32.
        eps: as in the forward pass.
        weight_gradient: whether the weight is trained.

    Returns:
        [rows, width] of hidden's dtype; with ``weight_gradient`` also [width] float32, summed in a fixed order.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require(hidden, weight)
    require("gradient", gradient, dtypes=(hidden.dtype,), shape=hidden.shape, beside=hidden)
    rows, width = hidden.shape
    outgoing = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    config = dict(tuned("rms_norm", "rms_norm_backward", width=width))
    # Fixed by the number of rows, not by the device, so that a sum has the same order everywhere.
    each = max(1, -(-rows // config.pop("PROGRAMS")))
    programs = -(-rows // each) if rows else 0
    partials = torch.empty((programs, width) if weight_gradient else (1,), dtype=torch.float32, device=hidden.device)
    if rows:
        rms_norm_backward_kernel[(programs,)](
            gradient, hidden, weight, outgoing, partials, rows, width, eps, gradient.stride(0), hidden.stride(0), each,
            WEIGHT_GRADIENT=weight_gradient, BLOCK=_block(width), **config,
        )  # fmt: skip
    return (outgoing, partials.sum(0)) if weight_gradient else outgoing


def _launch(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, normed: Tensor, summed: Tensor
) -> None:
    """hidden: [rows, width] or [tokens, heads, width]."""
    *outer, width = hidden.shape
    rows, heads = math.prod(outer), 1 if hidden.dim() == 2 else outer[1]
    if not rows:
        return
    config = tuned("rms_norm", "add_rms_norm", width=width)
    other = hidden if residual is None else residual
    add_rms_norm_kernel[(-(-rows // config["ROWS"]),)](
        hidden, other, weight, normed, summed, rows, width, eps, hidden.stride(0), hidden.stride(-2), other.stride(0),
        HEADS=heads, HAS_RESIDUAL=residual is not None, BLOCK=_block(width), **config,
    )  # fmt: skip


def _require(hidden: Tensor, weight: Tensor, dimensions: int = 2) -> None:
    require("hidden", hidden, dtypes=DTYPES, shape=(None,) * dimensions)
    width = hidden.shape[-1]
    within("hidden's width", width, 1, MAX_WIDTH)
    dtypes = tuple(dict.fromkeys((hidden.dtype, torch.float32)))
    require("weight", weight, dtypes=dtypes, shape=(width,), beside=hidden, contiguous=True)


def _block(width: int) -> int:
    return 1 << max(4, (width - 1).bit_length())
