"""Softmax of short rows in one tile, of long ones in splits of a fixed size, and what is read off a row's sums."""

import triton
import triton.language as tl


@triton.jit
def softmax_rows(
    x, out, rows, width, stride,
    LOGARITHM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < width)
    values = tl.load(x + row * stride + column, mask=inside, other=float("-inf")).to(tl.float32)
    largest = tl.max(values, axis=1)
    # A row past the end holds nothing: its difference would be no number.
    distance = values - tl.where(row < rows, largest[:, None], 0.0)
    shares = tl.exp(distance)
    total = tl.sum(shares, axis=1)[:, None]
    result = distance - tl.log(total) if LOGARITHM else shares / total
    tl.store(out + row * width + column, result, mask=inside)


@triton.jit
def split_sums(
    x, partials, width, stride, splits, size,
    SPREAD: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    column = split * SPLIT + tl.arange(0, SPLIT)
    values = tl.load(x + row * stride + column, mask=column < width, other=float("-inf")).to(tl.float32)
    largest = tl.max(values, axis=0)
    # Where all is minus infinity, or something plus infinity, distances from it would be no numbers.
    distance = values - tl.where(tl.abs(largest) == float("inf"), 0.0, largest)
    shares = tl.exp(distance)
    place = partials + row * splits + split
    tl.store(place, largest)
    tl.store(place + size, tl.sum(shares, axis=0))
    if SPREAD:
        tl.store(place + 2 * size, tl.sum(tl.where(shares > 0.0, shares * distance, 0.0), axis=0))


@triton.jit
def _joined(partials, row, splits, size, SPREAD: tl.constexpr, SPLITS: tl.constexpr):
    """The largest value of a row, the sum of the exponentials of the distances from it, and their mean's numerator."""
    split = tl.arange(0, SPLITS)
    place = partials + row * splits + split
    largest = tl.load(place, mask=split < splits, other=float("-inf"))
    sums = tl.load(place + size, mask=split < splits, other=0.0)
    most = tl.max(largest, axis=0)
    most = tl.where(tl.abs(most) == float("inf"), 0.0, most)
    distance = largest - most
    # A split whose values are all minus infinity has the sum 0 and stays out.
    scale = tl.exp(tl.where(sums > 0.0, distance, 0.0))
    weighted = 0.0
    if SPREAD:
        spread = tl.load(place + 2 * size, mask=split < splits, other=0.0)
        weighted = tl.sum(tl.where(sums > 0.0, scale * (spread + distance * sums), 0.0), axis=0)
    return most, tl.sum(sums * scale, axis=0), weighted


@triton.jit
def softmax_splits(
    x, partials, out, width, stride, splits, size, blocks,
    LOGARITHM: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    most, total, _ = _joined(partials, row, splits, size, False, SPLITS)
    distance = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32) - most
    result = distance - tl.log(total) if LOGARITHM else tl.exp(distance) / total
    tl.store(out + row * width + column, result, mask=inside)


@triton.jit
def logprob_gather(
    logits, targets, partials, logprobs, normalisers, entropies, width, stride, splits, size,
    GATHER: tl.constexpr, SPREAD: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    most, total, weighted = _joined(partials, row, splits, size, SPREAD, SPLITS)
    logarithm = tl.log(total)
    tl.store(normalisers + row, most + logarithm)
    if GATHER:
        target = tl.load(targets + row)
        known = (target >= 0) & (target < width)
        own = tl.load(logits + row * stride + target, mask=known, other=float("nan")).to(tl.float32)
        tl.store(logprobs + row, tl.where(target < 0, 0.0, own - most - logarithm))
    if SPREAD:
        tl.store(entropies + row, logarithm - weighted / total)
