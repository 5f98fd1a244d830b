"""Rows times the rows of a matrix; every sum runs over the columns in one order, whatever the tile."""

import triton
import triton.language as tl


@triton.jit
def linear(
    x, weight, bias, out, rows, outputs, columns, x_stride, weight_stride,
    HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    # Programs that run at the same time share a band of rows, and so find weights and activations in the cache.
    down, across = tl.cdiv(rows, BLOCK_M), tl.cdiv(outputs, BLOCK_N)
    band = tl.program_id(0) // (BAND * across)
    height = tl.minimum(down - band * BAND, BAND)
    within = tl.program_id(0) % (BAND * across)
    row = (band * BAND + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = within // height * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_K)

    # Rows that are not there cost no traffic; outputs that are not there repeat the last one and are not stored.
    exists = row[:, None] < rows
    x_at = x + row[:, None].to(tl.int64) * x_stride + column[None, :]
    weight_at = weight + tl.minimum(output, outputs - 1)[None, :].to(tl.int64) * weight_stride + column[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, columns, BLOCK_K):
        if WHOLE:
            left = tl.load(x_at, mask=exists, other=0.0)
            right = tl.load(weight_at)
        else:
            inside = start + column < columns
            left = tl.load(x_at, mask=exists & inside[None, :], other=0.0)
            right = tl.load(weight_at, mask=inside[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
        x_at += BLOCK_K
        weight_at += BLOCK_K
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    at = out + row[:, None].to(tl.int64) * outputs + output[None, :]
    tl.store(at, sums.to(out.dtype.element_ty), mask=exists & (output[None, :] < outputs))
