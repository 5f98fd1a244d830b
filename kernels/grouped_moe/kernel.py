"""A mixture of experts over pairs of a token and one of its experts, sorted by expert: no padding, no atomics."""

import triton
import triton.language as tl


@triton.jit
def route(
    scores, weights, chosen, experts, scores_stride,
    EACH: tl.constexpr, NORMALISED: tl.constexpr, BLOCK: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    left = tl.load(scores + row * scores_stride + expert, mask=expert < experts, other=float("-inf")).to(tl.float32)
    largest = tl.max(left, axis=0)
    total = tl.sum(tl.exp(left - largest), axis=0)
    rank = tl.arange(0, KEPT)
    shares = tl.zeros((KEPT,), tl.float32)
    picked = tl.zeros((KEPT,), tl.int32)
    for number in tl.static_range(EACH):
        best = tl.max(left, axis=0)
        at = tl.argmax(left, axis=0)
        shares = tl.where(rank == number, tl.exp(best - largest), shares)
        picked = tl.where(rank == number, at, picked)
        left = tl.where(expert == at, float("-inf"), left)
    if NORMALISED:
        total = tl.sum(shares, axis=0)
    tl.store(weights + row * EACH + rank, shares / total, mask=rank < EACH)
    tl.store(chosen + row * EACH + rank, picked.to(tl.int64), mask=rank < EACH)


@triton.jit
def sort_by_expert(
    chosen, order, tile_experts, tile_firsts, tile_lasts, pairs, tiles, experts,
    BLOCK: tl.constexpr, BINS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    # A program for each expert: all count everybody's pairs, each puts its own where they belong, in their order.
    expert = tl.program_id(0)
    number, bins = tl.arange(0, BLOCK), tl.arange(0, BINS)
    counts = tl.zeros((BINS,), tl.int32)
    for start in range(0, pairs, BLOCK):
        inside = start + number < pairs
        counts += tl.histogram(tl.load(chosen + start + number, mask=inside, other=0).to(tl.int32), BINS, mask=inside)
    in_tiles = (counts + BLOCK_M - 1) // BLOCK_M
    first = tl.sum(tl.where(bins < expert, counts, 0), axis=0)
    last = first + tl.sum(tl.where(bins == expert, counts, 0), axis=0)
    first_tile = tl.sum(tl.where(bins < expert, in_tiles, 0), axis=0)
    placed = first
    for start in range(0, pairs, BLOCK):
        inside = start + number < pairs
        ours = (tl.load(chosen + start + number, mask=inside, other=0).to(tl.int32) == expert) & inside
        places = placed + tl.cumsum(ours.to(tl.int32), axis=0) - 1
        tl.store(order + places, start + number, mask=ours)
        placed += tl.sum(ours.to(tl.int32), axis=0)
    after = first_tile + (last - first + BLOCK_M - 1) // BLOCK_M
    for start in range(first_tile, after, BLOCK):
        tile = start + number
        tl.store(tile_experts + tile, expert + tl.zeros_like(tile), mask=tile < after)
        tl.store(tile_firsts + tile, first + (tile - first_tile) * BLOCK_M, mask=tile < after)
        tl.store(tile_lasts + tile, last + tl.zeros_like(tile), mask=tile < after)
    if expert == experts - 1:
        # There is room for the most tiles that there may be; those that are not needed are empty.
        for start in range(after, tiles, BLOCK):
            tile = start + number
            none = tl.zeros_like(tile)
            tl.store(tile_experts + tile, none, mask=tile < tiles)
            tl.store(tile_firsts + tile, none, mask=tile < tiles)
            tl.store(tile_lasts + tile, none, mask=tile < tiles)


@triton.jit
def expert_gate_up(
    x, weight, bias, out, order, tile_experts, tile_firsts, tile_lasts, ffn, columns, x_stride, each,
    sharpness, limit, offset,
    LIMITED: tl.constexpr, HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(1)
    first, last = tl.load(tile_firsts + tile), tl.load(tile_lasts + tile)
    if first >= last:
        return
    expert = tl.load(tile_experts + tile).to(tl.int64)
    place = first + tl.arange(0, BLOCK_M)
    exists = (place < last)[:, None]
    row = tl.load(order + place, mask=place < last, other=0) // each
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    held, column = tl.minimum(output, ffn - 1), tl.arange(0, BLOCK_K)
    half = tl.cast(ffn, tl.int64) * columns

    x_at = x + row[:, None].to(tl.int64) * x_stride + column[None, :]
    gate_at = weight + expert * 2 * half + held[None, :].to(tl.int64) * columns + column[:, None]
    up_at = gate_at + half
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, columns, BLOCK_K):
        if WHOLE:
            inputs = tl.load(x_at, mask=exists, other=0.0)
            gates, ups = tl.load(gate_at), tl.load(up_at)
        else:
            inside = start + column < columns
            inputs = tl.load(x_at, mask=exists & inside[None, :], other=0.0)
            gates = tl.load(gate_at, mask=inside[:, None], other=0.0)
            ups = tl.load(up_at, mask=inside[:, None], other=0.0)
        gate = tl.dot(inputs, gates, gate, input_precision="ieee")
        up = tl.dot(inputs, ups, up, input_precision="ieee")
        x_at += BLOCK_K
        gate_at += BLOCK_K
        up_at += BLOCK_K
    if HAS_BIAS:
        bias_at = bias + expert * 2 * ffn + held
        gate += tl.load(bias_at).to(tl.float32)[None, :]
        up += tl.load(bias_at + ffn).to(tl.float32)[None, :]
    if LIMITED:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
    active = gate / (1.0 + tl.exp(-gate * sharpness)) * (up + offset)
    at = out + place[:, None].to(tl.int64) * ffn + output[None, :]
    tl.store(at, active.to(out.dtype.element_ty), mask=exists & (output < ffn)[None, :])


@triton.jit
def expert_down(
    active, weight, bias, out, order, tile_experts, tile_firsts, tile_lasts, outputs, columns,
    HAS_BIAS: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(1)
    first, last = tl.load(tile_firsts + tile), tl.load(tile_lasts + tile)
    if first >= last:
        return
    expert = tl.load(tile_experts + tile).to(tl.int64)
    place = first + tl.arange(0, BLOCK_M)
    exists = (place < last)[:, None]
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    held, column = tl.minimum(output, outputs - 1), tl.arange(0, BLOCK_K)

    active_at = active + place[:, None].to(tl.int64) * columns + column[None, :]
    weight_at = weight + (expert * outputs + held[None, :]) * columns + column[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, columns, BLOCK_K):
        if WHOLE:
            left = tl.load(active_at, mask=exists, other=0.0)
            right = tl.load(weight_at)
        else:
            inside = start + column < columns
            left = tl.load(active_at, mask=exists & inside[None, :], other=0.0)
            right = tl.load(weight_at, mask=inside[:, None], other=0.0)
        sums = tl.dot(left, right, sums, input_precision="ieee")
        active_at += BLOCK_K
        weight_at += BLOCK_K
    if HAS_BIAS:
        sums += tl.load(bias + expert * outputs + held).to(tl.float32)[None, :]
    pair = tl.load(order + place, mask=place < last, other=0)
    at = out + pair[:, None].to(tl.int64) * outputs + output[None, :]
    tl.store(at, sums.to(out.dtype.element_ty), mask=exists & (output < outputs)[None, :])


@triton.jit
def combine(pairs, weights, out, outputs, EACH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = output < outputs
    sums = tl.zeros((BLOCK,), tl.float32)
    for number in tl.static_range(EACH):
        share = tl.load(weights + row * EACH + number).to(tl.float32)
        found = tl.load(pairs + (row * EACH + number) * outputs + output, mask=inside, other=0.0)
        sums += share * found.to(tl.float32)
    tl.store(out + row * outputs + output, sums.to(out.dtype.element_ty), mask=inside)
