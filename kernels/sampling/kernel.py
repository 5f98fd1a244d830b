"""Drawing without sorting: three passes over the vocabulary, split over programs, then a search among what is left.

Weights are ``exp(x / T - max / T)``, between 0 and 1, so their bits as integers have their order. The passes find the
largest logit, how many weights lie above each power of two with their sums, and gather those that may be kept. The
search then looks among these, one program per row, for the largest weight at which a count or a sum passes a goal:
three times, for top-k, for top-p and for the number drawn.
"""

import triton
import triton.language as tl

LEVELS = tl.constexpr(32)
GREEDY_BELOW = tl.constexpr(1e-5)


@triton.jit
def _cuts(top_ks, top_ps, row, vocabulary):
    """Top-k and top-p of a row, whether top-k counts, and whether anything cuts the row's distribution."""
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row).to(tl.float64)
    counted = (top_k > 0) & (top_k < vocabulary)
    return top_k, top_p, counted, counted | (top_p < 1.0)


@triton.jit
def _weights(logits, at, vocabulary, largest, temperature):
    x = tl.load(logits + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
    return tl.exp(tl.div_rn(x, temperature) - tl.div_rn(largest, temperature))


@triton.jit
def _row_maximum(maxima, row, chunks, CHUNKS: tl.constexpr):
    chunk = tl.arange(0, CHUNKS)
    return tl.max(tl.load(maxima + row * chunks + chunk, mask=chunk < chunks, other=float("-inf")), axis=0)


@triton.jit
def sample_statistics(logits, maxima, sums, places, vocabulary, stride, CHUNK: tl.constexpr):
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + row * stride + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
    largest = tl.max(x, axis=0)
    anchor = tl.where(largest == float("-inf"), 0.0, largest)
    out = row * tl.num_programs(0) + chunk
    tl.store(maxima + out, largest)
    tl.store(sums + out, tl.sum(tl.exp(x - anchor).to(tl.float64), axis=0))
    tl.store(places + out, tl.min(tl.where(x == largest, at, vocabulary), axis=0))


@triton.jit
def sample_levels(
    logits, temperatures, top_ks, top_ps, min_ps, maxima, masses, level_counts, level_masses, vocabulary, stride,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    chunk, row, chunks = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(0)
    temperature = tl.load(temperatures + row)
    if temperature >= GREEDY_BELOW:
        largest = _row_maximum(maxima, row, chunks, CHUNKS)
        _k, _p, _counted, cut = _cuts(top_ks, top_ps, row, vocabulary)
        out = row * chunks + chunk
        start = chunk * CHUNK
        if cut:
            level = tl.arange(0, LEVELS)
            threshold = tl.where(level == LEVELS - 1, 0.0, tl.exp2(-1.0 - level))
            counts = tl.zeros((LEVELS, PART), tl.int32)
            above = tl.zeros((LEVELS, PART), tl.float32)
            every = tl.zeros((PART,), tl.float64)
            for first in range(start, tl.minimum(start + CHUNK, vocabulary), PART):
                own = _weights(logits + row * stride, first + tl.arange(0, PART), vocabulary, largest, temperature)
                over = own[None, :] > threshold[:, None]
                counts += over.to(tl.int32)
                above += tl.where(over, own[None, :], 0.0)
                every += own.to(tl.float64)
            tl.store(masses + out, tl.sum(every, axis=0))
            tl.store(level_counts + out * LEVELS + level, tl.sum(counts, axis=1))
            tl.store(level_masses + out * LEVELS + level, tl.sum(above, axis=1))
        else:
            floor = tl.load(min_ps + row)
            own = _weights(logits + row * stride, start + tl.arange(0, CHUNK), vocabulary, largest, temperature)
            tl.store(masses + out, tl.sum(tl.where(own >= floor, own, 0.0).to(tl.float64), axis=0))


@triton.jit
def sample_candidates(
    logits, temperatures, top_ks, top_ps, min_ps, maxima, masses, level_counts, level_masses, keys, ids, candidates,
    vocabulary, stride,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    chunk, row, chunks = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(0)
    temperature = tl.load(temperatures + row)
    top_k, top_p, counted, cut = _cuts(top_ks, top_ps, row, vocabulary)
    if (temperature >= GREEDY_BELOW) & cut:
        largest = _row_maximum(maxima, row, chunks, CHUNKS)
        level = tl.arange(0, LEVELS)
        each = tl.arange(0, CHUNKS)
        cell = (row * chunks + each[:, None]) * LEVELS + level[None, :]
        counts = tl.load(level_counts + cell, mask=(each < chunks)[:, None], other=0)
        above = tl.sum(tl.load(level_masses + cell, mask=(each < chunks)[:, None], other=0.0), axis=0)
        total = tl.sum(tl.load(masses + row * chunks + each, mask=each < chunks, other=0.0), axis=0)
        threshold = tl.where(level == LEVELS - 1, 0.0, tl.exp2(-1.0 - level))
        # The sums by level are of float32: a little more than the goal is asked of them.
        free = (top_k <= 0) | (top_k >= vocabulary)
        by_count = counted & (tl.sum(counts, axis=0) >= top_k)
        by_mass = free & (above.to(tl.float64) >= top_p * total * 1.0001)
        # How many there are above a least share is enough to know only where top-p needs no sum of the top k.
        by_share = (free | (top_p >= 1.0)) & (threshold < tl.load(min_ps + row))
        enough = by_count | by_mass | by_share
        lowest = tl.min(tl.where(enough, level, LEVELS - 1), axis=0)
        chosen = tl.sum(tl.where(level[None, :] == lowest, counts, 0), axis=1)
        behind = tl.sum(tl.where(each < chunk, chosen, 0), axis=0)
        tl.store(candidates + row, tl.sum(chosen, axis=0), mask=chunk == 0)
        least = tl.sum(tl.where(level == lowest, threshold, 0.0), axis=0)
        start = chunk * CHUNK
        for first in range(start, tl.minimum(start + CHUNK, vocabulary), PART):
            at = first + tl.arange(0, PART)
            own = _weights(logits + row * stride, at, vocabulary, largest, temperature)
            kept = own > least
            place = row * vocabulary + behind + tl.cumsum(kept.to(tl.int32), axis=0) - 1
            tl.store(keys + place, own.to(tl.int32, bitcast=True), mask=kept)
            tl.store(ids + place, at, mask=kept)
            behind += tl.sum(kept.to(tl.int32), axis=0)


@triton.jit
def _search(keys, count, goal, BY_COUNT: tl.constexpr, STRICT: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key at which the keys from it on reach the goal; how many are above it, their sum, and its equals."""
    lane = tl.arange(0, BLOCK)
    least = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    most = tl.full((BLOCK,), 0, tl.int32)
    for first in range(0, count, BLOCK):
        inside = first + lane < count
        key = tl.load(keys + first + lane, mask=inside, other=0)
        least = tl.minimum(least, tl.where(inside, key, 0x7FFFFFFF))
        most = tl.maximum(most, key)
    low, high = tl.min(least, axis=0), tl.max(most, axis=0)
    while low < high:
        middle = low + (high - low + 1) // 2
        found = tl.zeros((BLOCK,), tl.float64)
        next_up = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
        next_down = tl.full((BLOCK,), 0, tl.int32)
        for first in range(0, count, BLOCK):
            inside = first + lane < count
            key = tl.load(keys + first + lane, mask=inside, other=0)
            over = inside & (key >= middle)
            weight = tl.full((BLOCK,), 1.0, tl.float64) if BY_COUNT else key.to(tl.float32, bitcast=True).to(tl.float64)
            found += tl.where(over, weight, 0.0)
            next_up = tl.minimum(next_up, tl.where(over, key, 0x7FFFFFFF))
            next_down = tl.maximum(next_down, tl.where(over, 0, key))
        reached = tl.sum(found, axis=0)
        enough = reached > goal if STRICT else reached >= goal
        # To keys that are there, so that few candidates take few rounds; never more than a key has bits.
        low = tl.where(enough, tl.min(next_up, axis=0), low)
        high = tl.where(enough, high, tl.max(next_down, axis=0))
    above = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float64)
    equals = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, count, BLOCK):
        key = tl.load(keys + first + lane, mask=first + lane < count, other=-1)
        above += (key > low).to(tl.int32)
        mass += tl.where(key > low, key.to(tl.float32, bitcast=True).to(tl.float64), 0.0)
        equals += (key == low).to(tl.int32)
    return low, tl.sum(above, axis=0), tl.sum(mass, axis=0), tl.sum(equals, axis=0)


@triton.jit
def _at_least(keys, count, floor, BLOCK: tl.constexpr):
    """How many weights are no less than ``floor``, and their sum."""
    lane = tl.arange(0, BLOCK)
    number = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, count, BLOCK):
        weight = tl.load(keys + first + lane, mask=first + lane < count, other=0).to(tl.float32, bitcast=True)
        kept = (first + lane < count) & (weight >= floor)
        number += kept.to(tl.int32)
        mass += tl.where(kept, weight, 0.0).to(tl.float64)
    return tl.sum(number, axis=0), tl.sum(mass, axis=0)


@triton.jit
def _choose_cut(keys, ids, count, whole, top_k, top_p, counted, floor, draw, best, BLOCK: tl.constexpr):
    """The token of a row that keeps its most likely ones, and its share of what is kept."""
    # More than there are candidates: one of top-k, top-p and min-p cuts, and says what the rest sums to.
    length = count + 1
    total = whole
    if counted:
        length = tl.minimum(top_k, count)
        key, above, mass, equals = _search(keys, count, length.to(tl.float64), True, False, BLOCK)
        total = mass + (length - above).to(tl.float64) * key.to(tl.float32, bitcast=True).to(tl.float64)
    if top_p < 1.0:
        goal = top_p * total
        key, above, mass, equals = _search(keys, count, goal, False, False, BLOCK)
        weight = key.to(tl.float32, bitcast=True).to(tl.float64)
        more = tl.minimum(tl.ceil((goal - mass) / weight).to(tl.int32), equals)
        if above + more < length:
            length = above + more
            total = mass + more.to(tl.float64) * weight
    if floor > 0.0:
        number, mass = _at_least(keys, count, floor, BLOCK)
        if number < length:
            length = number
            total = mass
    if length < 1:
        length = 1
        total = total * 0.0 + 1.0
    goal = draw * total
    key, above, mass, equals = _search(keys, count, goal, False, True, BLOCK)
    weight = key.to(tl.float32, bitcast=True).to(tl.float64)
    number = tl.minimum(tl.floor((goal - mass) / weight).to(tl.int32), tl.minimum(equals, length - above) - 1)
    number = tl.maximum(number, 0)
    lane = tl.arange(0, BLOCK)
    seen = above * 0
    token = best
    for first in range(0, count, BLOCK):
        inside = first + lane < count
        equal = tl.load(keys + first + lane, mask=inside, other=-1) == key
        order = seen + tl.cumsum(equal.to(tl.int32), axis=0) - 1
        hit = equal & (order == number)
        found = tl.max(tl.where(hit, tl.load(ids + first + lane, mask=inside, other=0), -1), axis=0)
        token = tl.where(found >= 0, found, token)
        seen += tl.sum(equal.to(tl.int32), axis=0)
    # Rounding of the last bit could name a token behind those that are kept: the most likely one always is.
    beyond = above >= length
    return tl.where(beyond, best, token), tl.where(beyond, 1.0, weight) / total


@triton.jit
def _choose_whole(
    logits, masses, vocabulary, chunks, largest, temperature, floor, draw, CHUNK: tl.constexpr, CHUNKS: tl.constexpr
):
    """The token of a row that keeps all but what min-p takes away, and its share."""
    each = tl.arange(0, CHUNKS)
    mass = tl.load(masses + each, mask=each < chunks, other=0.0)
    total = tl.sum(mass, axis=0)
    goal = draw * total
    passed = (tl.cumsum(mass, axis=0) <= goal) & (each < chunks)
    last = tl.max(tl.where(mass > 0.0, each, 0), axis=0)
    chunk = tl.minimum(tl.sum(passed.to(tl.int32), axis=0), last)
    rest = goal - tl.sum(tl.where(each < chunk, mass, 0.0), axis=0)
    lane = tl.arange(0, CHUNK)
    own = _weights(logits, chunk * CHUNK + lane, vocabulary, largest, temperature)
    own = tl.where(own >= floor, own, 0.0).to(tl.float64)
    behind = tl.max(tl.where(own > 0.0, lane, 0), axis=0)
    place = tl.minimum(tl.sum((tl.cumsum(own, axis=0) <= rest).to(tl.int32), axis=0), behind)
    return chunk * CHUNK + place, tl.sum(tl.where(lane == place, own, 0.0), axis=0) / total


@triton.jit
def _uniform(seed, position):
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    first, second, _third, _fourth = tl.philox(seed, low, high, low * 0, low * 0)
    bits = (first.to(tl.uint64) << 21) ^ (second.to(tl.uint64) >> 11)
    return bits.to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def sample_choose(
    logits, temperatures, top_ks, top_ps, min_ps, seeds, positions, maxima, sums, places, masses, keys, ids, candidates,
    tokens, logprobs, shaped, vocabulary, chunks, stride,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    each = tl.arange(0, CHUNKS)
    cell = row * chunks + each
    maximum = tl.load(maxima + cell, mask=each < chunks, other=float("-inf"))
    largest = tl.max(maximum, axis=0)
    rescaled = tl.load(sums + cell, mask=each < chunks, other=0.0) * tl.exp(maximum - largest).to(tl.float64)
    normaliser = tl.sum(rescaled, axis=0)
    place = tl.load(places + cell, mask=(each < chunks) & (maximum == largest), other=vocabulary)
    best = tl.min(place, axis=0)
    # A NaN or an infinity in the row makes the sum one.
    good = (normaliser >= 1.0) & (normaliser < float("inf"))
    token = tl.where(good, best, 0)
    share = normaliser * 0.0 + 1.0
    temperature = tl.load(temperatures + row)
    if good & (temperature >= GREEDY_BELOW):
        top_k, top_p, counted, cut = _cuts(top_ks, top_ps, row, vocabulary)
        floor = tl.load(min_ps + row)
        draw = _uniform(tl.load(seeds + row), tl.load(positions + row))
        if cut:
            whole = tl.sum(tl.load(masses + cell, mask=each < chunks, other=0.0), axis=0)
            token, share = _choose_cut(
                keys + row * vocabulary, ids + row * vocabulary, tl.load(candidates + row), whole,
                top_k, top_p, counted, floor, draw, best, BLOCK,
            )  # fmt: skip
        else:
            token, share = _choose_whole(
                logits + row * stride, masses + row * chunks, vocabulary, chunks, largest, temperature, floor, draw,
                CHUNK, CHUNKS,
            )  # fmt: skip
    x = tl.load(logits + row * stride + token).to(tl.float32)
    logprob = x - largest - tl.log(normaliser.to(tl.float32))
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(logprobs + row, tl.where(good, logprob, float("nan")))
    tl.store(shaped + row, tl.where(good, tl.log(share.to(tl.float32)), float("nan")))
