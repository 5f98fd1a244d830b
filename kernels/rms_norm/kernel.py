"""Residual addition and RMS norm in one pass over each row, and the way back."""

import triton
import triton.language as tl


@triton.jit
def add_rms_norm(
    hidden, residual, weight, normed, summed, rows, width, eps,
    hidden_stride, head_stride, residual_stride,
    HEADS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    place = row // HEADS * hidden_stride + row % HEADS * head_stride + column
    values = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        values += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(summed.dtype.element_ty)
        tl.store(summed + row * width + column, rounded, mask=inside)
        # The next layer adds to the rounded sum, so the norm is of that sum too.
        values = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, axis=1) / width + eps)
    scale = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    result = values * inverse[:, None] * scale
    tl.store(normed + row * width + column, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm_backward(
    gradient, hidden, weight, hidden_gradient, weight_partials, rows, width, eps,
    gradient_stride, hidden_stride, rows_per_program,
    WEIGHT_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    partial = tl.zeros((BLOCK,), tl.float32)
    first = program * rows_per_program
    for row in range(first, tl.minimum(first + rows_per_program, rows)):
        values = tl.load(hidden + row * hidden_stride + column, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(gradient + row * gradient_stride + column, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(values * values, axis=0) / width + eps)
        direction = values * inverse
        if WEIGHT_GRADIENT:
            partial += incoming * direction
        scaled = incoming * scale
        along = tl.sum(scaled * direction, axis=0) / width
        outgoing = (scaled - direction * along) * inverse
        tl.store(hidden_gradient + row * width + column, outgoing.to(hidden_gradient.dtype.element_ty), mask=inside)
    if WEIGHT_GRADIENT:
        tl.store(weight_partials + program * width + column, partial, mask=inside)
