"""AdamW for a list of tensors in one launch: a program takes one chunk of one tensor, whose addresses a table holds."""

import triton
import triton.language as tl


@triton.jit
def _step(
    parameter, gradient, first, second, offset, inside, scale,
    rate, kept, beta_1, rest_1, beta_2, rest_2, root, eps,
):  # fmt: skip
    slope = tl.load(gradient + offset, mask=inside).to(tl.float32) * scale
    mean = tl.load(first + offset, mask=inside) * beta_1 + slope * rest_1
    square = tl.load(second + offset, mask=inside) * beta_2 + slope * slope * rest_2
    value = tl.load(parameter + offset, mask=inside).to(tl.float32) * kept
    value -= rate * mean / (tl.sqrt(square) * root + eps)
    tl.store(first + offset, mean, mask=inside)
    tl.store(second + offset, square, mask=inside)
    tl.store(parameter + offset, value.to(parameter.dtype.element_ty), mask=inside)


@triton.jit
def adamw(
    addresses, chunks, parameter_like, gradient_like, state_like, scale,
    rate, kept, beta_1, rest_1, beta_2, rest_2, root, eps,
    ALIGNED: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    own = addresses + tl.load(chunks + program * 2) * 5
    start = tl.load(chunks + program * 2 + 1).to(tl.int64) * BLOCK
    parameter, gradient = tl.load(own).to(parameter_like.dtype), tl.load(own + 1).to(gradient_like.dtype)
    first, second = tl.load(own + 2).to(state_like.dtype), tl.load(own + 3).to(state_like.dtype)
    count = tl.load(own + 4)
    if ALIGNED:
        parameter, gradient = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16)
        first, second = tl.multiple_of(first, 16), tl.multiple_of(second, 16)
    factor = 1.0
    if SCALED:
        factor = tl.load(scale)
    offset = start + tl.arange(0, BLOCK)
    # A full chunk needs no mask, whose unknown end would allow single values only.
    if start + BLOCK <= count:
        _step(
            parameter, gradient, first, second, offset, None, factor,
            rate, kept, beta_1, rest_1, beta_2, rest_2, root, eps,
        )  # fmt: skip
    else:
        _step(
            parameter, gradient, first, second, offset, offset < count, factor,
            rate, kept, beta_1, rest_1, beta_2, rest_2, root, eps,
        )  # fmt: skip
