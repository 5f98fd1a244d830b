"""Attention over pages: one sweep over blocks of keys, split between programs for decoding, whole for chunks."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def sweep(
    asked, maximum, total, sums, keys, values, table, low, high, first, behind, seen_from, seen_to,
    key_stride, value_stride, scale,
    MASKED: tl.constexpr, PAGED: tl.constexpr, PAGE_SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Softmax's running maximum, total and weighted sums of the keys in [low, high), which block boundaries bound.

    Keys before ``first`` or from ``behind`` on are not read; a row sees those in [seen_from, seen_to).
    """
    step, column = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    for start in tl.range(low, high, BLOCK_N):
        place = start + step
        inside = (place >= first) & (place < behind)
        if PAGED:
            page = tl.load(table + place // PAGE_SIZE, mask=inside, other=0).to(tl.int64)
            slot = page * PAGE_SIZE + place % PAGE_SIZE
            at = (slot * key_stride)[:, None] + column[None, :]
            key_at, value_at = keys + at, values + at
        else:
            key_at = keys + ((table + place) * key_stride)[:, None] + column[None, :]
            value_at = values + ((table + place) * value_stride)[:, None] + column[None, :]
        if MASKED or BLOCK_D != WIDTH:
            held = inside[:, None] & (column < WIDTH)[None, :]
            key = tl.load(key_at, mask=held, other=0.0)
            value = tl.load(value_at, mask=held, other=0.0)
        else:
            key = tl.load(key_at)
            value = tl.load(value_at)
        scores = tl.dot(asked, tl.trans(key.to(asked.dtype)), input_precision=PRECISION, out_dtype=tl.float32)
        if MASKED:
            seen = (place[None, :] >= seen_from[:, None]) & (place[None, :] < seen_to[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        highest = tl.maximum(maximum, tl.max(scores, 1) * scale)
        # A row that has seen nothing yet has no maximum to subtract.
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores * scale - shift[:, None])
        shrunk = tl.exp2(maximum - shift)
        total = total * shrunk + tl.sum(weights, 1)
        sums = tl.dot(
            weights.to(asked.dtype), value.to(asked.dtype), sums * shrunk[:, None],
            input_precision=PRECISION, out_dtype=tl.float32,
        )  # fmt: skip
        maximum = highest
    return maximum, total, sums


@triton.jit
def merged(maximum, total, sums, other_maximum, other_total, other_sums):
    """Two sweeps as one. Which product is rounded first is written out, so that every kernel gets the same bits."""
    highest = tl.maximum(maximum, other_maximum)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    mine, others = tl.exp2(maximum - shift), tl.exp2(other_maximum - shift)
    total = tl.fma(total, mine, other_total * others)
    sums = tl.fma(sums, tl.broadcast_to(mine[:, None], sums.shape), other_sums * others[:, None])
    return highest, total, sums


@triton.jit
def finished(
    maximum, total, sums, sinks, value_scales, head, inside,
    HAS_SINKS: tl.constexpr, HAS_SCALES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """What a row attends to, and the logarithm (natural) of its softmax's total, the sink's share in it."""
    if HAS_SINKS:
        sink = tl.load(sinks + head, mask=inside, other=0.0).to(tl.float32) * LOG2E
        highest = tl.maximum(maximum, sink)
        shift = tl.where(highest == float("-inf"), 0.0, highest)
        mine = tl.exp2(maximum - shift)
        total = tl.fma(total, mine, tl.exp2(sink - shift))
        sums = sums * mine[:, None]
        maximum = highest
    empty = total == 0.0
    result = sums * tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, total))[:, None]
    if HAS_SCALES:
        result *= tl.load(value_scales + head // GROUP, mask=inside, other=0.0)[:, None]
    return result, tl.where(empty, float("-inf"), (maximum + tl.log2(tl.where(empty, 1.0, total))) * LN2)


@triton.jit
def paged_decode(
    query, keys, values, table, contexts, starts, key_scales, sums_out, levels_out,
    max_pages, heads, splits, query_stride, query_head_stride, key_head_stride, value_head_stride,
    key_stride, value_stride, scale, window,
    HAS_WINDOW: tl.constexpr, HAS_SCALES: tl.constexpr, PAGE_SIZE: tl.constexpr, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of one sequence's keys for the query heads that share a key-value head: rows of one product."""
    split, kv_head, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.load(starts + sequence)
    context = tl.load(contexts + sequence)
    first = tl.maximum(context - window, 0) if HAS_WINDOW else 0
    low, high = split * SPLIT, tl.minimum((split + 1) * SPLIT, context)
    if (tl.load(starts + sequence + 1) != row + 1) | (low >= high) | (low + SPLIT <= first):
        return
    member, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + member
    held = (member < GROUP)[:, None] & (column < WIDTH)[None, :]
    at = query + row.to(tl.int64) * query_stride + head[:, None] * query_head_stride + column[None, :]
    asked = tl.load(at, mask=held, other=0.0)
    if HAS_SCALES:
        scale *= tl.load(key_scales + kv_head)
    maximum, total, sums = sweep(
        asked, tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32),
        tl.zeros((BLOCK_M, BLOCK_D), tl.float32),
        keys + kv_head * key_head_stride, values + kv_head * value_head_stride,
        table + sequence.to(tl.int64) * max_pages, tl.maximum(low, first // BLOCK_N * BLOCK_N), high, first, context,
        tl.zeros((BLOCK_M,), tl.int32) + first, tl.zeros((BLOCK_M,), tl.int32) + context,
        key_stride, value_stride, scale * LOG2E,
        True, True, PAGE_SIZE, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
    )  # fmt: skip
    part = (sequence.to(tl.int64) * splits + split) * heads + head
    tl.store(sums_out + part[:, None] * WIDTH + column[None, :], sums, mask=held)
    tl.store(levels_out + part * 2, maximum, mask=member < GROUP)
    tl.store(levels_out + part * 2 + 1, total, mask=member < GROUP)


@triton.jit
def merge_splits(
    sums_in, levels_in, contexts, starts, sinks, value_scales, out, heads, splits, out_stride, window,
    HAS_SINKS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SCALES: tl.constexpr, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, SPLIT: tl.constexpr, HEADS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A sequence's splits from the first to the last; a sequence without tokens gets zeros."""
    sequence = tl.program_id(1)
    row = tl.load(starts + sequence)
    if tl.load(starts + sequence + 1) != row + 1:
        return
    context = tl.load(contexts + sequence)
    first = tl.maximum(context - window, 0) if HAS_WINDOW else 0
    head, column = tl.program_id(0) * HEADS + tl.arange(0, HEADS), tl.arange(0, BLOCK_D)
    inside = head < heads
    held = inside[:, None] & (column < WIDTH)[None, :]
    maximum, total = tl.full((HEADS,), float("-inf"), tl.float32), tl.zeros((HEADS,), tl.float32)
    sums = tl.zeros((HEADS, BLOCK_D), tl.float32)
    for split in tl.range(first // SPLIT, tl.cdiv(context, SPLIT), loop_unroll_factor=4):
        part = (sequence.to(tl.int64) * splits + split) * heads + head
        maximum, total, sums = merged(
            maximum, total, sums,
            tl.load(levels_in + part * 2, mask=inside, other=float("-inf")),
            tl.load(levels_in + part * 2 + 1, mask=inside, other=0.0),
            tl.load(sums_in + part[:, None] * WIDTH + column[None, :], mask=held, other=0.0),
        )  # fmt: skip
    result, _ = finished(
        maximum, total, sums, sinks, value_scales, head, inside, HAS_SINKS, HAS_SCALES, GROUP
    )  # fmt: skip
    at = out + row.to(tl.int64) * out_stride + head[:, None] * WIDTH + column[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=held)


@triton.jit
def tile_of(starts, sequences, tile, TOKENS: tl.constexpr, BLOCK_S: tl.constexpr):
    """The sequence whose tokens a tile of ``TOKENS`` has, its first row, its rows, and the tile's first token in it."""
    number = tl.arange(0, BLOCK_S)
    begins = tl.load(starts + number, mask=number < sequences, other=0)
    sequence = tl.sum(((begins // TOKENS + number <= tile) & (number < sequences)).to(tl.int32), 0) - 1
    begin = tl.load(starts + sequence)
    length = tl.load(starts + sequence + 1) - begin
    return sequence, begin, length, (tile - begin // TOKENS - sequence) * TOKENS


@triton.jit
def attend(
    query, keys, values, table, contexts, starts, sinks, key_scales, value_scales, out, logsumexp,
    sequences, max_pages, heads, query_stride, query_head_stride, key_head_stride, value_head_stride,
    key_stride, value_stride, out_stride, scale, window,
    HAS_SINKS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SCALES: tl.constexpr, HAS_LOGSUMEXP: tl.constexpr,
    SKIP_SINGLE: tl.constexpr, PAGED: tl.constexpr, PAGE_SIZE: tl.constexpr, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, SPLIT: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of consecutive tokens of one sequence, each with the query heads that share a key-value head.

    With ``SPLIT`` the keys are summed up as ``paged_decode`` and ``merge_splits`` do it, so a token gets the same bits.
    """
    TOKENS: tl.constexpr = BLOCK_M // GROUP
    # The last tiles see the most keys: they begin first.
    tile, kv_head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    sequence, begin, length, token = tile_of(starts, sequences, tile, TOKENS, BLOCK_S)
    if (token >= length) | ((length == 1) & SKIP_SINGLE):
        return
    context = tl.load(contexts + sequence) if PAGED else length
    earliest = context - length + token
    behind = tl.minimum(earliest + TOKENS, context)
    first = tl.maximum(earliest - window + 1, 0) if HAS_WINDOW else 0

    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    valid = (row < TOKENS * GROUP) & (token + row // GROUP < length)
    head = kv_head * GROUP + row % GROUP
    place = begin + token + row // GROUP
    held = valid[:, None] & (column < WIDTH)[None, :]
    at = query + place.to(tl.int64)[:, None] * query_stride + head[:, None] * query_head_stride + column[None, :]
    asked = tl.load(at, mask=held, other=0.0)
    position = earliest + row // GROUP
    seen_from = tl.maximum(position - window + 1, 0) if HAS_WINDOW else tl.zeros((BLOCK_M,), tl.int32)
    seen_to = position + 1  # of rows that no token has too: what they sum up is not stored
    key_head, value_head = keys + kv_head * key_head_stride, values + kv_head * value_head_stride
    where = table + sequence.to(tl.int64) * max_pages if PAGED else begin.to(tl.int64)
    if HAS_SCALES:
        scale *= tl.load(key_scales + kv_head)
    scale *= LOG2E

    maximum, total = tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    low = first // BLOCK_N * BLOCK_N
    if SPLIT > 0:
        for split in tl.range(first // SPLIT, tl.cdiv(behind, SPLIT)):
            other_maximum, other_total, other_sums = sweep(
                asked, tl.full((BLOCK_M,), float("-inf"), tl.float32), tl.zeros((BLOCK_M,), tl.float32),
                tl.zeros((BLOCK_M, BLOCK_D), tl.float32), key_head, value_head, where,
                tl.maximum(low, split * SPLIT), tl.minimum(behind, (split + 1) * SPLIT), first, behind,
                seen_from, seen_to, key_stride, value_stride, scale,
                True, PAGED, PAGE_SIZE, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
            maximum, total, sums = merged(maximum, total, sums, other_maximum, other_total, other_sums)
    else:
        # Blocks that every row sees whole, and around them those that the window and the diagonal cut.
        whole_from, whole_to = low, (earliest + 1) // BLOCK_N * BLOCK_N
        if HAS_WINDOW:
            whole_from = tl.maximum(low, tl.cdiv(tl.maximum(behind - window, 0), BLOCK_N) * BLOCK_N)
            maximum, total, sums = sweep(
                asked, maximum, total, sums, key_head, value_head, where, low, tl.minimum(whole_from, behind),
                first, behind, seen_from, seen_to, key_stride, value_stride, scale,
                True, PAGED, PAGE_SIZE, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
            )  # fmt: skip
        maximum, total, sums = sweep(
            asked, maximum, total, sums, key_head, value_head, where, whole_from, whole_to,
            first, behind, seen_from, seen_to, key_stride, value_stride, scale,
            False, PAGED, PAGE_SIZE, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
        maximum, total, sums = sweep(
            asked, maximum, total, sums, key_head, value_head, where, tl.maximum(whole_from, whole_to), behind,
            first, behind, seen_from, seen_to, key_stride, value_stride, scale,
            True, PAGED, PAGE_SIZE, WIDTH, BLOCK_N, BLOCK_D, PRECISION,
        )  # fmt: skip
    result, level = finished(
        maximum, total, sums, sinks, value_scales, head, valid, HAS_SINKS, HAS_SCALES, GROUP
    )  # fmt: skip
    at = out + place.to(tl.int64)[:, None] * out_stride + head[:, None] * WIDTH + column[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=held)
    if HAS_LOGSUMEXP:
        tl.store(logsumexp + place.to(tl.int64) * heads + head, level, mask=valid)


@triton.jit
def write_pages(
    key, value, keys, values, slots, scales, kv_heads, key_row_stride, key_head_stride, value_row_stride,
    value_head_stride, page_head_stride,
    HAS_SCALES: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row's keys and values to its slot; a row whose slot is negative goes nowhere."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    head, column = tl.arange(0, HEADS), tl.arange(0, BLOCK_D)[None, :]
    held = (head < kv_heads)[:, None] & (column < WIDTH)
    new_key = tl.load(key + row * key_row_stride + head[:, None] * key_head_stride + column, mask=held)
    new_value = tl.load(value + row * value_row_stride + head[:, None] * value_head_stride + column, mask=held)
    if HAS_SCALES:
        new_key /= tl.load(scales + head, mask=head < kv_heads, other=1.0)[:, None]
        new_value /= tl.load(scales + kv_heads + head, mask=head < kv_heads, other=1.0)[:, None]
    at = head[:, None].to(tl.int64) * page_head_stride + slot * WIDTH + column
    tl.store(keys + at, new_key.to(keys.dtype.element_ty), mask=held)
    tl.store(values + at, new_value.to(values.dtype.element_ty), mask=held)
