"""Logits by tiles that never leave the chip as logits: their maxima and sums, and what the way back needs of them.

A tile's exponentials are kept below the tile's own maximum, in the working dtype, so that they lose no more than a
probability of that dtype would. The second pass turns them into the gradient of the logits, the third multiplies.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(blocks_m, blocks_n, GROUP: tl.constexpr):
    """Which tile a program has: GROUP rows of tiles at a time, so that both operands stay in the L2 cache."""
    number = tl.program_id(0)
    group = number // (GROUP * blocks_n)
    height = tl.minimum(blocks_m - group * GROUP, GROUP)
    inside = number % (GROUP * blocks_n)
    return group * GROUP + inside % height, inside // height


@triton.jit
def head_tiles(
    hidden, weight, targets, exponentials, maxima, sums, picked, rows, vocabulary, width, hidden_stride, weight_stride,
    KEEP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    block_m, block_n = _tile(tl.cdiv(rows, BLOCK_M), tl.cdiv(vocabulary, BLOCK_N), GROUP)
    row = block_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    token = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, BLOCK_K)
    x_at = hidden + row[:, None] * hidden_stride + lane[None, :]
    w_at = weight + token[None, :].to(tl.int64) * weight_stride + lane[:, None]
    logits = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        near = start + lane < width
        x = tl.load(x_at + start, mask=(row < rows)[:, None] & near[None, :], other=0.0)
        w = tl.load(w_at + start, mask=(token < vocabulary)[None, :] & near[:, None], other=0.0)
        logits = tl.dot(x, w, logits, input_precision="ieee")
    logits = tl.where((token < vocabulary)[None, :], logits, float("-inf"))
    largest = tl.max(logits, axis=1)
    target = tl.load(targets + row, mask=row < rows, other=-1)
    here = (target >= block_n * BLOCK_N) & (target < tl.minimum(block_n * BLOCK_N + BLOCK_N, vocabulary))
    # Counted within the tile, in 32 bits: 64-bit comparisons would need more registers than there are.
    within = tl.where(here, target - block_n * BLOCK_N, -1).to(tl.int32)
    own = tl.sum(tl.where(tl.arange(0, BLOCK_N)[None, :] == within[:, None], logits, 0.0), axis=1)
    tl.store(picked + row, own, mask=here & (row < rows))
    shares = tl.exp(logits - largest[:, None])
    out = block_n.to(tl.int64) * rows + row
    tl.store(maxima + out, largest, mask=row < rows)
    tl.store(sums + out, tl.sum(shares, axis=1), mask=row < rows)
    if KEEP:
        place = exponentials + row[:, None] * vocabulary + token[None, :]
        inside = (row < rows)[:, None] & (token < vocabulary)[None, :]
        tl.store(place, shares.to(exponentials.dtype.element_ty), mask=inside)


@triton.jit
def head_losses(
    maxima, sums, picked, targets, losses, normalisers, rows, vocabulary, tiles, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    at = row
    for _tile in range(0, tiles):
        maximum = tl.load(maxima + at, mask=inside, other=0.0)
        share = tl.load(sums + at, mask=inside, other=1.0)
        at += rows
        raised = tl.maximum(largest, maximum)
        total = total * tl.exp(largest - raised) + share * tl.exp(maximum - raised)
        largest = raised
    normaliser = largest + tl.log(total)
    target = tl.load(targets + row, mask=inside, other=-1)
    own = tl.load(picked + row, mask=inside & (target >= 0) & (target < vocabulary), other=0.0)
    loss = tl.where(target < 0, 0.0, tl.where(target < vocabulary, normaliser - own, float("nan")))
    tl.store(losses + row, loss, mask=inside)
    tl.store(normalisers + row, normaliser, mask=inside)


@triton.jit
def head_logit_gradient(
    exponentials, maxima, picked, normalisers, targets, factors, rows, vocabulary,
    HAS_FACTORS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    normaliser = tl.load(normalisers + row)
    target = tl.load(targets + row)
    factor = tl.load(factors + row) if HAS_FACTORS else 1.0
    factor = tl.where(target < 0, 0.0, factor)
    own = tl.load(picked + row, mask=(target >= 0) & (target < vocabulary), other=0.0)
    place = exponentials + row * vocabulary + token
    share = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    largest = tl.load(maxima + (token // TILE).to(tl.int64) * rows + row, mask=inside, other=0.0)
    share *= tl.exp(largest - normaliser)
    # The target's from its logit itself, which was not rounded to the working dtype.
    gradient = tl.where(token == target, tl.exp(own - normaliser) - 1.0, share) * factor
    gradient = tl.where(factor == 0.0, 0.0, gradient)
    tl.store(place, gradient.to(exponentials.dtype.element_ty), mask=inside)


@triton.jit
def head_hidden_gradient(
    gradient, weight, out, rows, vocabulary, width, weight_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    block_m, block_n = _tile(tl.cdiv(rows, BLOCK_M), tl.cdiv(width, BLOCK_N), GROUP)
    row = block_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, BLOCK_K)
    g_at = gradient + row[:, None] * vocabulary + lane[None, :]
    w_at = weight + lane[:, None].to(tl.int64) * weight_stride + column[None, :]
    step = tl.cast(weight_stride, tl.int64) * BLOCK_K
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, vocabulary, BLOCK_K):
        near = start + lane < vocabulary
        g = tl.load(g_at + start, mask=(row < rows)[:, None] & near[None, :], other=0.0)
        w = tl.load(w_at, mask=near[:, None] & (column < width)[None, :], other=0.0)
        total = tl.dot(g, w, total, input_precision="ieee")
        w_at += step
    place = out + row[:, None] * width + column[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < width)[None, :])
