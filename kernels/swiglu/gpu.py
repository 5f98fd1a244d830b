"""Launches the Triton kernels of the gated activation. A value's bits depend on its own gate and factor alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require
from kernels.swiglu.kernel import swiglu as swiglu_kernel
from kernels.swiglu.kernel import swiglu_backward as swiglu_backward_kernel
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``, rounded once.

    Args:
        gate: [..., ffn] bf16, f16 or f32; its rows may lie apart, as halves of a wider tensor do.
        up: of the same shape and dtype.

    Returns:
        [..., ffn] of that dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    flat = _rows("gate", gate)
    factors = _rows("up", up, flat, gate)
    out = torch.empty(flat.shape, dtype=gate.dtype, device=gate.device)
    if out.numel():
        config = tuned("swiglu", "swiglu", width=flat.shape[1])
        swiglu_kernel[_grid(flat, config)](flat, factors, out, *flat.shape, flat.stride(0), factors.stride(0), **config)
    return out.view(gate.shape)


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of ``gate`` and ``up``.

    Args:
        gradient: [..., ffn], of the result.
        gate: as in the forward pass.
        up: as in the forward pass.

    Returns:
        Two tensors [..., ffn]: the halves of one whose rows hold both, as the projection's output does.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    flat = _rows("gate", gate)
    factors, incoming = _rows("up", up, flat, gate), _rows("gradient", gradient, flat, gate)
    rows, width = flat.shape
    both = torch.empty((rows, 2 * width), dtype=gate.dtype, device=gate.device)
    halves = both[:, :width], both[:, width:]
    if both.numel():
        config = tuned("swiglu", "swiglu_backward", width=width)
        swiglu_backward_kernel[_grid(flat, config)](
            incoming, flat, factors, *halves, rows, width,
            incoming.stride(0), flat.stride(0), factors.stride(0), both.stride(0), **config,
        )  # fmt: skip
    whole = both.view(*gate.shape[:-1], 2 * width)
    return whole[..., :width], whole[..., width:]


def _rows(argument: str, values: Tensor, beside: Tensor | None = None, like: Tensor | None = None) -> Tensor:
    """values: [..., ffn] -> [rows, ffn], checked, of the shape and dtype of ``like`` if that is given."""
    if like is not None and values.shape != like.shape:
        raise ArgumentError(argument, f"has the shape {list(values.shape)}; accepted: {list(like.shape)}")
    if values.dim() == 0:
        raise ArgumentError(argument, "has no dimension; accepted: one or more")
    flat = values.flatten(0, -2) if values.dim() > 1 else values.unsqueeze(0)
    require(argument, flat, dtypes=DTYPES if like is None else (like.dtype,), shape=(None, None), beside=beside)
    return flat


def _grid(flat: Tensor, config: Mapping[str, int]) -> tuple[int]:
    rows, width = flat.shape
    return (-(-rows // config["ROWS"]) * -(-width // config["BLOCK"]),)
