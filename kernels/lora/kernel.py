"""Low-rank updates of rows that belong to several adapters: down to the rank in pieces of K, then up in place.

A program takes BLOCK_M neighbouring rows and SLOTS programs share the adapters found among them: of the rows, the first
one of each adapter stands for it. So the grid depends on the batch's size alone, and rows may come in any order.
"""

import triton
import triton.language as tl


@triton.jit
def _weights(entry, like):
    address = tl.load(entry)
    # Launchers refuse other addresses; without the hint loads would take 2 bytes at a time.
    return tl.multiple_of(address.to(tl.pointer_type(like.dtype.element_ty)), 16)


@triton.jit
def lora_shrink(
    inputs, owners, entries, partials, tokens, width, adapters, input_stride, split,
    RANKS: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1).to(tl.int64)
    projection = tl.program_id(2) // (RANKS // BLOCK_R)
    lowest = tl.program_id(2) % (RANKS // BLOCK_R) * BLOCK_R
    projections = tl.num_programs(2) // (RANKS // BLOCK_R)
    lane = tl.arange(0, BLOCK_M)
    row = (tl.program_id(0) // SLOTS).to(tl.int64) * BLOCK_M + lane
    owner = tl.load(owners + row, mask=row < tokens, other=-1)
    place = lowest + tl.arange(0, BLOCK_R)
    column = tl.arange(0, BLOCK_K)
    first, end = part * split, tl.minimum(part * split + split, width)
    entry = entries + projection * (2 + 3 * adapters)
    target = partials + ((part * projections + projection) * tokens + row[:, None]) * RANKS + place[None, :]
    for number in range(tl.program_id(0) % SLOTS, BLOCK_M, SLOTS):
        adapter = tl.sum(tl.where(lane == number, owner, 0), axis=0)
        mine = owner == adapter
        earlier = tl.sum((mine & (lane < number)).to(tl.int32), axis=0)
        if (adapter >= 0) & (earlier == 0):
            rank = tl.load(entry + 2 + 2 * adapters + adapter).to(tl.int32)
            if rank > lowest:
                down = _weights(entry + 2 + adapter, inputs)
                total = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
                for start in range(first, end, BLOCK_K):
                    at = start + column
                    x = tl.load(
                        inputs + row[:, None] * input_stride + at[None, :],
                        mask=mine[:, None] & (at < end)[None, :], other=0.0,
                    )  # fmt: skip
                    a = tl.load(
                        down + place[None, :].to(tl.int64) * width + at[:, None],
                        mask=(place < rank)[None, :] & (at < end)[:, None], other=0.0,
                    )  # fmt: skip
                    total = tl.dot(x, a, total, input_precision="ieee")
                tl.store(target, total, mask=mine[:, None] & (place < rank)[None, :])


@triton.jit
def lora_expand(
    partials, owners, entries, factors, outputs, tokens, adapters, output_stride, parts,
    RANKS: tl.constexpr, UNIT: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    projection = tl.program_id(2)
    projections = tl.num_programs(2)
    entry = entries + projection * (2 + 3 * adapters)
    # Divided and multiplied so that the compiler knows what they are multiples of, and loads 16 bytes at a time.
    begin = tl.load(entry) // UNIT * UNIT
    width = tl.load(entry + 1).to(tl.int32) // UNIT * UNIT
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    if tl.program_id(1) * BLOCK_N < width:
        lane = tl.arange(0, BLOCK_M)
        row = (tl.program_id(0) // SLOTS).to(tl.int64) * BLOCK_M + lane
        owner = tl.load(owners + row, mask=row < tokens, other=-1)
        small = partials + (projection * tokens + row[:, None]) * RANKS
        apart = projections.to(tl.int64) * tokens * RANKS
        target = outputs + row[:, None] * output_stride + begin + column[None, :]
        for number in range(tl.program_id(0) % SLOTS, BLOCK_M, SLOTS):
            adapter = tl.sum(tl.where(lane == number, owner, 0), axis=0)
            mine = owner == adapter
            earlier = tl.sum((mine & (lane < number)).to(tl.int32), axis=0)
            if (adapter >= 0) & (earlier == 0):
                rank = tl.load(entry + 2 + 2 * adapters + adapter).to(tl.int32) // UNIT * UNIT
                if rank > 0:
                    up = _weights(entry + 2 + adapters + adapter, outputs)
                    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
                    for lowest in range(0, rank, BLOCK_R):
                        place = lowest + tl.arange(0, BLOCK_R)
                        wanted = mine[:, None] & (place < rank)[None, :]
                        reduced = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
                        for part in range(0, parts):
                            reduced += tl.load(small + part * apart + place[None, :], mask=wanted, other=0.0)
                        b = tl.load(
                            up + column[None, :].to(tl.int64) * rank + place[:, None],
                            mask=(column < width)[None, :] & (place < rank)[:, None], other=0.0,
                        )  # fmt: skip
                        # Rounded in between as two products of the working dtype would be.
                        total = tl.dot(reduced.to(b.dtype), b, total, input_precision="ieee")
                    inside = mine[:, None] & (column < width)[None, :]
                    base = tl.load(target, mask=inside, other=0.0).to(tl.float32)
                    result = base + total * tl.load(factors + adapter)
                    tl.store(target, result.to(outputs.dtype.element_ty), mask=inside)
