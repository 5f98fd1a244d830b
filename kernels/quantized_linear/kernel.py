"""Rows times a matrix that is held in 8 or 4 bits, which become floats in registers on their way to the matrix unit.

The matrix is the left factor, so that its rows fill the matrix instruction even where there is one token. Sums run over
parts of the columns of one size, and the parts are added in order: by one program, or by ``add_parts``.
"""

import triton
import triton.language as tl


@triton.jit
def _floats(words, j: tl.constexpr, KIND: tl.constexpr, HAS_MINIMA: tl.constexpr):
    """The numbers of chunk ``j`` in words of int16 -> bfloat16, exactly."""
    if KIND == "int8":
        # 128 + the lower seven bits, minus 128 or, if the sign is set, 256.
        byte = words >> (8 * (j % 2))
        lower = ((byte & 0x7F) | 0x4300).to(tl.bfloat16, bitcast=True)
        result = lower - ((byte & 0x80) | 0x4300).to(tl.bfloat16, bitcast=True)
    elif KIND == "int4":
        # 128 + q has q in the last bits of its mantissa.
        bits = ((words >> (4 * j)) & 15) | 0x4300
        result = bits.to(tl.bfloat16, bitcast=True) - (128.0 if HAS_MINIMA else 136.0)
    else:
        # Sign, exponent and mantissa of e2m1 at their places in bfloat16, whose exponents are 126 larger.
        nibble = words >> (4 * j)
        bits = ((nibble & 8) << 12) | ((nibble & 7) << 6)
        result = bits.to(tl.bfloat16, bitcast=True) * 8.507059173023462e37
    return result


@triton.jit
def _scale(word, number: tl.constexpr, BITS: tl.constexpr):
    """Scale ``number`` of those that a word holds -> float32 [rows of the matrix, 1]."""
    if BITS == 8:
        scale = (word >> (8 * number)).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
    else:
        scale = (word >> (16 * number)).to(tl.int16).to(tl.float16, bitcast=True)
    return scale.to(tl.float32)[:, None]


@triton.jit
def few_bits_linear(
    x, values, scales, minima, row_scales, bias, out, rows, outputs, columns, x_stride, row_scales_stride, blocks,
    KIND: tl.constexpr, CHUNK: tl.constexpr, PER_SCALE: tl.constexpr, SCALE_BITS: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_ROW_SCALES: tl.constexpr, HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr,
    APART: tl.constexpr, PART: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    held = tl.minimum(output, outputs - 1)
    exists = row[None, :] < rows
    column = tl.arange(0, CHUNK)
    width: tl.constexpr = 2 * CHUNK if KIND == "int8" else CHUNK
    x_row = x + row[None, :].to(tl.int64) * x_stride + column[:, None]
    values_row = values + held[:, None] * width + column[None, :]
    step = tl.cast(outputs, tl.int64)
    if HAS_MINIMA:
        ones = tl.full((BLOCK_N, CHUNK), 1.0, x.dtype.element_ty)

    first_part, last_part = 0, tl.cdiv(blocks, PART)
    if APART:
        first_part = tl.program_id(2)
        last_part = first_part + 1
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for part in range(first_part, last_part):
        sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        first = part * PART
        last = tl.minimum(first + PART, blocks)
        if PER_SCALE:
            scale_at = scales + first * step + held
            word = tl.load(scale_at)
        if HAS_MINIMA:
            minimum_at = minima + first * step + held
            low = tl.load(minimum_at)
        for block in range(first, last):
            # Scales are read a block ahead: they feed no matrix instruction, so nothing else fetches them early.
            if PER_SCALE:
                scale_at += outputs
                next_word = tl.load(scale_at, mask=(held < outputs) & (block + 1 < last), other=0)
            if HAS_MINIMA:
                minimum_at += outputs
                next_low = tl.load(minimum_at, mask=(held < outputs) & (block + 1 < last), other=0)
            values_at = values_row + block * step * width
            x_at = x_row + block * 4 * CHUNK
            for j in tl.static_range(4):
                if j == 0 or (KIND == "int8" and j == 2):
                    words = tl.load(values_at + j // 2 * CHUNK)
                weights = _floats(words, j, KIND, HAS_MINIMA).to(x.dtype.element_ty)
                if WHOLE:
                    inputs = tl.load(x_at + j * CHUNK, mask=exists, other=0.0)
                else:
                    inside = (block * 4 + j) * CHUNK + column < columns
                    inputs = tl.load(x_at + j * CHUNK, mask=exists & inside[:, None], other=0.0)
                if PER_SCALE == 0:
                    sums = tl.dot(weights, inputs, sums, input_precision="ieee")
                else:
                    if j % PER_SCALE == 0:
                        group = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
                        if HAS_MINIMA:
                            inputs_sum = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
                    group = tl.dot(weights, inputs, group, input_precision="ieee")
                    if HAS_MINIMA:
                        # The group's sum of inputs, by the matrix unit, which has it where it is needed.
                        inputs_sum = tl.dot(ones, inputs, inputs_sum, input_precision="ieee")
                    if j % PER_SCALE == PER_SCALE - 1:
                        sums += group * _scale(word, j // PER_SCALE, SCALE_BITS)
                        if HAS_MINIMA:
                            sums += inputs_sum * _scale(low, j // PER_SCALE, SCALE_BITS)
            if PER_SCALE:
                word = next_word
            if HAS_MINIMA:
                low = next_low
        total += sums
    stored = exists & (output[:, None] < outputs)
    at = row[None, :].to(tl.int64) * outputs + output[:, None]
    if APART:
        tl.store(out + tl.program_id(2).to(tl.int64) * rows * outputs + at, total, mask=stored)
    else:
        scale = tl.full((BLOCK_N, 1), 1.0, tl.float32)
        if HAS_ROW_SCALES:
            scale = tl.load(row_scales + held[:, None] * row_scales_stride)
        result = _finished(total, scale, bias + held[:, None], HAS_BIAS)
        tl.store(out + at, result.to(out.dtype.element_ty), mask=stored)


@triton.jit
def held_floats(
    values, scales, minima, row_scales, out, outputs, columns, row_scales_stride,
    KIND: tl.constexpr, CHUNK: tl.constexpr, PER_SCALE: tl.constexpr, SCALE_BITS: tl.constexpr,
    HAS_MINIMA: tl.constexpr, HAS_ROW_SCALES: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(1).to(tl.int64)
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    held, chunk = tl.minimum(output, outputs - 1), tl.arange(0, CHUNK)
    width: tl.constexpr = 2 * CHUNK if KIND == "int8" else CHUNK
    at = block * outputs + held
    if PER_SCALE:
        word = tl.load(scales + at)
    if HAS_MINIMA:
        low = tl.load(minima + at)
    for j in tl.static_range(4):
        if j == 0 or (KIND == "int8" and j == 2):
            words = tl.load(values + at[:, None] * width + j // 2 * CHUNK + chunk[None, :])
        numbers = _floats(words, j, KIND, HAS_MINIMA).to(tl.float32)
        if PER_SCALE:
            numbers *= _scale(word, j // PER_SCALE, SCALE_BITS)
        if HAS_MINIMA:
            numbers += _scale(low, j // PER_SCALE, SCALE_BITS)
        if HAS_ROW_SCALES:
            numbers *= tl.load(row_scales + held * row_scales_stride)[:, None]
        column = (block * 4 + j) * CHUNK + chunk
        stored = (output < outputs)[:, None] & (column < columns)[None, :]
        tl.store(
            out + output[:, None].to(tl.int64) * columns + column[None, :], numbers.to(out.dtype.element_ty), stored
        )


@triton.jit
def _finished(total, scale, bias_at, HAS_BIAS: tl.constexpr):
    """``total * scale + bias``, with one rounding wherever it is computed."""
    if HAS_BIAS:
        none = tl.zeros_like(total)
        total = tl.fma(total, scale + none, tl.load(bias_at).to(tl.float32) + none)
    else:
        total = total * scale
    return total


@triton.jit
def add_parts(
    partials, x_scales, row_scales, bias, out, rows, outputs, row_scales_stride, parts,
    HAS_X_SCALES: tl.constexpr, HAS_ROW_SCALES: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = output < outputs
    held = tl.minimum(output, outputs - 1)
    total = tl.zeros((BLOCK,), tl.float32)
    step = tl.cast(rows, tl.int64) * outputs
    for part in range(0, parts):
        total += tl.load(partials + part * step + row * outputs + output, mask=inside, other=0.0)
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_ROW_SCALES:
        scale = tl.load(row_scales + held * row_scales_stride)
    if HAS_X_SCALES:
        scale *= tl.load(x_scales + row)
    result = _finished(total, scale, bias + held, HAS_BIAS)
    tl.store(out + row * outputs + output, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scaled_linear(
    x, x_scales, weight, row_scales, bias, out, rows, outputs, columns, x_stride, row_scales_stride,
    HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr, APART: tl.constexpr, PART: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    held = tl.minimum(output, outputs - 1)
    exists = row[None, :] < rows
    column = tl.arange(0, BLOCK_K)
    x_row = x + row[None, :].to(tl.int64) * x_stride + column[:, None]
    weight_row = weight + held[:, None].to(tl.int64) * columns + column[None, :]
    blocks = tl.cdiv(columns, BLOCK_K)
    first_part, last_part = 0, tl.cdiv(blocks, PART)
    if APART:
        first_part = tl.program_id(2)
        last_part = first_part + 1
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for part in range(first_part, last_part):
        sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        first = part * PART
        for block in range(first, tl.minimum(first + PART, blocks)):
            if WHOLE:
                left = tl.load(weight_row + block * BLOCK_K)
                right = tl.load(x_row + block * BLOCK_K, mask=exists, other=0.0)
            else:
                inside = block * BLOCK_K + column < columns
                left = tl.load(weight_row + block * BLOCK_K, mask=inside[None, :], other=0.0)
                right = tl.load(x_row + block * BLOCK_K, mask=exists & inside[:, None], other=0.0)
            # The matrix unit adds products of fp8 with few bits; a block's sum is added in float32.
            sums += tl.dot(left, right)
        total += sums
    stored = exists & (output[:, None] < outputs)
    at = row[None, :].to(tl.int64) * outputs + output[:, None]
    if APART:
        tl.store(out + tl.program_id(2).to(tl.int64) * rows * outputs + at, total, mask=stored)
    else:
        scale = tl.load(row_scales + held[:, None] * row_scales_stride)
        scale = scale * tl.load(x_scales + row[None, :], mask=exists, other=0.0)
        result = _finished(total, scale, bias + held[:, None], HAS_BIAS)
        tl.store(out + at, result.to(out.dtype.element_ty), mask=stored)


@triton.jit
def quantize_rows(x, values, scales, columns, x_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    numbers = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    # Divisions are rounded as IEEE has it, so that every device quantises alike.
    scale = tl.maximum(tl.div_rn(tl.max(tl.abs(numbers), axis=0), 448.0), 1e-30)
    held = tl.minimum(tl.maximum(tl.div_rn(numbers, scale + tl.zeros_like(numbers)), -448.0), 448.0)
    tl.store(values + row * columns + column, held.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)
