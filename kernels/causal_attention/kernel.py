"""The way back through packed causal attention: every sum is one program's, so two runs give the same bits."""

import triton
import triton.language as tl

from kernels.paged_attention.kernel import LOG2E, tile_of


@triton.jit
def output_shares(
    out, gradient, shares, rows,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """For each row of [rows, WIDTH] how much its output points along the gradient."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_D)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    at = row[:, None] * WIDTH + column[None, :]
    mine = tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(shares + row, tl.sum(mine * incoming, 1), mask=row < rows)


@triton.jit
def sweep_keys(
    asked, incoming, total, share, sums, keys, values, begin, low, high, length, token, key_stride, value_stride,
    scale, window,
    MASKED: tl.constexpr, HAS_WINDOW: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    step, column = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    for start in tl.range(low, high, BLOCK_N):
        place = start + step
        # One wide address for a block, and offsets within it that fit 32 bits: they cost half the registers.
        key_at = keys + (begin + start) * key_stride + (step[:, None] * key_stride + column[None, :])
        value_at = values + (begin + start) * value_stride + (step[:, None] * value_stride + column[None, :])
        if MASKED or BLOCK_D != WIDTH:
            inside = (place < length)[:, None] & (column < WIDTH)[None, :]
            key = tl.load(key_at, mask=inside, other=0.0)
            value = tl.load(value_at, mask=inside, other=0.0)
        else:
            key = tl.load(key_at)
            value = tl.load(value_at)
        scores = tl.dot(asked, tl.trans(key), input_precision=PRECISION, out_dtype=tl.float32)
        if MASKED:
            seen = place[None, :] <= token[:, None]
            if HAS_WINDOW:
                seen &= token[:, None] - place[None, :] < window
            scores = tl.where(seen, scores, float("-inf"))
        weights = tl.exp2(scores * scale - total[:, None])
        pulls = tl.dot(incoming, tl.trans(value), input_precision=PRECISION, out_dtype=tl.float32)
        pulls = weights * (pulls - share[:, None])
        sums = tl.dot(pulls.to(key.dtype), key, sums, input_precision=PRECISION, out_dtype=tl.float32)
    return sums


@triton.jit
def query_gradient(
    gradient, query, keys, values, starts, totals, shares, out,
    sequences, heads, query_stride, query_head_stride, key_stride, key_head_stride, value_stride, value_head_stride,
    scale, window,
    HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a tile of consecutive tokens of one segment, each with the query heads that share a key-value head."""
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(1)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    _, begin, length, first = tile_of(starts, sequences, tile, TOKENS, BLOCK_S)
    if first >= length:
        return
    begin = begin.to(tl.int64)
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    token = first + row // GROUP
    valid = (row < TOKENS * GROUP) & (token < length)
    head = kv_head * GROUP + row % GROUP
    held = valid[:, None] & (column < WIDTH)[None, :]
    flat = (begin + token) * heads + head
    at = (begin + token)[:, None] * query_stride + head[:, None] * query_head_stride + column[None, :]
    asked = tl.load(query + at, mask=held, other=0.0)
    incoming = tl.load(gradient + flat[:, None] * WIDTH + column[None, :], mask=held, other=0.0)
    total = tl.load(totals + flat, mask=valid, other=0.0) * LOG2E
    share = tl.load(shares + flat, mask=valid, other=0.0)
    key_head, value_head = keys + kv_head * key_head_stride, values + kv_head * value_head_stride
    behind = tl.minimum(first + TOKENS, length)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    low = tl.maximum(first - window + 1, 0) // BLOCK_N * BLOCK_N if HAS_WINDOW else 0
    if not HAS_WINDOW:
        low = (first + 1) // BLOCK_N * BLOCK_N
        sums = sweep_keys(
            asked, incoming, total, share, sums, key_head, value_head, begin, 0, low, length, token,
            key_stride, value_stride, scale * LOG2E, window,
            False, False, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
    sums = sweep_keys(
        asked, incoming, total, share, sums, key_head, value_head, begin, low, behind, length, token,
        key_stride, value_stride, scale * LOG2E, window,
        True, HAS_WINDOW, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    tl.store(out + flat[:, None] * WIDTH + column[None, :], (sums * scale).to(out.dtype.element_ty), mask=held)


@triton.jit
def sweep_queries(
    key, value, sums, query, gradient, totals, shares, begin, low, high, length, place,
    heads, kv_head, query_stride, query_head_stride, scale, window,
    OF_KEYS: tl.constexpr, MASKED: tl.constexpr, HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products are transposed, [keys, rows]: so the weights are the left factor of the next one as they are.

    Rows that no token has add nothing: their gradient, total and share are zero.
    """
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + row % GROUP
    for start in tl.range(low, high, TOKENS):
        token = start + row // GROUP
        valid = (row < TOKENS * GROUP) & (token < length)
        held = valid[:, None] if BLOCK_D == WIDTH else valid[:, None] & (column < WIDTH)[None, :]
        flat = row // GROUP * heads + head
        at = (row // GROUP * query_stride + head * query_head_stride)[:, None] + column[None, :]
        asked = tl.load(query + (begin + start) * query_stride + at, mask=held, other=0.0)
        base = (begin + start) * heads
        incoming = tl.load(gradient + base * WIDTH + (flat[:, None] * WIDTH + column[None, :]), mask=held, other=0.0)
        total = tl.load(totals + base + flat, mask=valid, other=0.0) * LOG2E
        scores = tl.dot(key, tl.trans(asked), input_precision=PRECISION, out_dtype=tl.float32)
        if MASKED:
            seen = place[:, None] <= token[None, :]
            if HAS_WINDOW:
                seen &= token[None, :] - place[:, None] < window
            scores = tl.where(seen, scores, float("-inf"))
        weights = tl.exp2(scores * scale - total[None, :])
        if OF_KEYS:
            share = tl.load(shares + base + flat, mask=valid, other=0.0)
            pulls = tl.dot(value, tl.trans(incoming), input_precision=PRECISION, out_dtype=tl.float32)
            pulls = weights * (pulls - share[None, :])
            sums = tl.dot(pulls.to(key.dtype), asked, sums, input_precision=PRECISION, out_dtype=tl.float32)
        else:
            sums = tl.dot(weights.to(key.dtype), incoming, sums, input_precision=PRECISION, out_dtype=tl.float32)
    return sums


@triton.jit
def key_value_gradient(
    gradient, query, keys, values, starts, totals, shares, key_out, value_out,
    sequences, heads, kv_heads, query_stride, query_head_stride, key_stride, key_head_stride,
    value_stride, value_head_stride, scale, window,
    HAS_WINDOW: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a tile of one segment's keys and values, over all rows of the group that see them.

    Values first, then keys: both sums at once would leave registers for small tiles only, and the weights are cheap.
    """
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(1)
    _, begin, length, first = tile_of(starts, sequences, tl.program_id(0), BLOCK_N, BLOCK_S)
    if first >= length:
        return
    begin = begin.to(tl.int64)
    place, column = first + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    held = (place < length)[:, None] & (column < WIDTH)[None, :]
    key_at = ((begin + place) * key_stride)[:, None] + kv_head * key_head_stride + column[None, :]
    value_at = ((begin + place) * value_stride)[:, None] + kv_head * value_head_stride + column[None, :]
    key = tl.load(keys + key_at, mask=held, other=0.0)
    value = tl.load(values + value_at, mask=held, other=0.0)
    if HAS_WINDOW:
        whole = tl.minimum(first + BLOCK_N - 1 + window, length)
    else:
        # From there on every token sees all of these keys.
        whole = tl.minimum(first + tl.cdiv(BLOCK_N - 1, TOKENS) * TOKENS, length)
    for side in tl.static_range(2):
        sums = sweep_queries(
            key, value, tl.zeros((BLOCK_N, BLOCK_D), tl.float32), query, gradient, totals, shares, begin,
            first, whole, length, place, heads, kv_head, query_stride, query_head_stride, scale * LOG2E, window,
            side == 1, True, HAS_WINDOW, GROUP, WIDTH, BLOCK_M, BLOCK_D, PRECISION,
        )  # fmt: skip
        if not HAS_WINDOW:
            sums = sweep_queries(
                key, value, sums, query, gradient, totals, shares, begin,
                whole, length, length, place, heads, kv_head, query_stride, query_head_stride, scale * LOG2E, window,
                side == 1, False, False, GROUP, WIDTH, BLOCK_M, BLOCK_D, PRECISION,
            )  # fmt: skip
        at = ((begin + place) * kv_heads + kv_head)[:, None] * WIDTH + column[None, :]
        if side == 1:
            tl.store(key_out + at, (sums * scale).to(key_out.dtype.element_ty), mask=held)
        else:
            tl.store(value_out + at, sums.to(value_out.dtype.element_ty), mask=held)
