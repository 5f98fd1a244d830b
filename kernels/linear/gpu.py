"""Launches the Triton product. A row has the same bits in any batch: more rows change the tile, no sum's order."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import require
from kernels.linear.kernel import linear as linear_kernel
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """``x @ weight.T + bias`` with sums in float32.

    Every tile has at least 64 rows, so that one kind of matrix instruction computes a row in every batch; those of
    rows that are not there are not loaded.

    Args:
        x: [..., in] bf16, f16 or f32.
        weight: [out, in] of the same dtype.
        bias: [out] of the same dtype, or None.
        float32_out: give float32 instead of rounding to x's dtype.

    Returns:
        [..., out].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    flat = x.reshape(-1, x.shape[-1])
    require("x", flat, dtypes=DTYPES, shape=(None, None))
    require("weight", weight, dtypes=(x.dtype,), shape=(None, flat.shape[1]), beside=x)
    outputs, columns = weight.shape
    if bias is not None:
        require("bias", bias, dtypes=(x.dtype,), shape=(outputs,), beside=x, contiguous=True)
    rows = len(flat)
    out = torch.empty((rows, outputs), dtype=torch.float32 if float32_out else x.dtype, device=x.device)
    if rows and outputs:
        config = tuned("linear", "linear", bytes=x.element_size(), rows=rows, outputs=outputs)
        grid = -(-rows // config["BLOCK_M"]) * -(-outputs // config["BLOCK_N"])
        linear_kernel[(grid,)](
            flat, weight, weight if bias is None else bias, out, rows, outputs, columns, flat.stride(0),
            weight.stride(0), HAS_BIAS=bias is not None, WHOLE=columns % config["BLOCK_K"] == 0, **config,
        )  # fmt: skip
    return out.view(*x.shape[:-1], outputs)
