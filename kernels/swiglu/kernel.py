"""The gated activation in one pass, and the way back."""

import triton
import triton.language as tl


@triton.jit
def swiglu(
    gate, up, out, rows, width, gate_stride, up_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % across * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    opening = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    result = opening * tl.sigmoid(opening) * values
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(
    gradient, gate, up, gate_gradient, up_gradient, rows, width,
    gradient_stride, gate_stride, up_stride, out_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(width, BLOCK)
    row = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) % across * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    incoming = tl.load(gradient + row * gradient_stride + column, mask=inside, other=0.0).to(tl.float32)
    opening = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(opening)
    active = opening * share
    of_gate = incoming * values * (share + active * (1.0 - share))
    place = row * out_stride + column
    tl.store(gate_gradient + place, of_gate.to(gate_gradient.dtype.element_ty), mask=inside)
    tl.store(up_gradient + place, (incoming * active).to(up_gradient.dtype.element_ty), mask=inside)
