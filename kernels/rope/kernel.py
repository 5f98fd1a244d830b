"""Turning heads by their positions: alone, there and back, and on the way into paged memory."""

import triton
import triton.language as tl


@triton.jit
def _table(table, token, stride, plane, half):
    """Both halves [1, HALF] of a token's row."""
    place = table + token * stride + plane
    known = plane < half
    first = tl.load(place, mask=known, other=0.0).to(tl.float32)
    return first, tl.load(place + half, mask=known, other=0.0).to(tl.float32)


@triton.jit
def _halves(heads, place, half, inside):
    first = tl.load(heads + place, mask=inside, other=0.0).to(tl.float32)
    return first, tl.load(heads + place + half, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _keep(out, place, half, first, second, inside):
    tl.store(out + place, first.to(out.dtype.element_ty), mask=inside)
    tl.store(out + place + half, second.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rope(
    heads, cosine, sine, out, count, half, token_stride, head_stride, cosine_stride, sine_stride,
    BACKWARD: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    groups = tl.cdiv(count, HEADS)
    token = (tl.program_id(0) // groups).to(tl.int64)
    head = tl.program_id(0) % groups * HEADS + tl.arange(0, HEADS)[:, None]
    plane = tl.arange(0, HALF)[None, :]
    inside = (head < count) & (plane < half)
    cosine_1, cosine_2 = _table(cosine, token, cosine_stride, plane, half)
    sine_1, sine_2 = _table(sine, token, sine_stride, plane, half)
    first, second = _halves(heads, token * token_stride + head * head_stride + plane, half, inside)
    if BACKWARD:
        turned_1, turned_2 = first * cosine_1 + second * sine_2, second * cosine_2 + first * sine_1
    else:
        turned_1, turned_2 = first * cosine_1 + second * sine_1, second * cosine_2 + first * sine_2
    _keep(out, (token * count + head) * 2 * half + plane, half, turned_1, turned_2, inside)


@triton.jit
def rope_paged_write(
    query, key, value, cosine, sine, slots, pages, scales, turned, count, kv_count, half,
    query_token_stride, query_head_stride, key_token_stride, key_head_stride, value_token_stride, value_head_stride,
    cosine_stride, sine_stride, side_stride, page_head_stride, scale_side_stride, scale_head_stride,
    SCALED: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    plane = tl.arange(0, HALF)[None, :]
    cosine_1, cosine_2 = _table(cosine, token, cosine_stride, plane, half)
    sine_1, sine_2 = _table(sine, token, sine_stride, plane, half)

    head = tl.arange(0, HEADS)[:, None]
    inside = (head < count) & (plane < half)
    first, second = _halves(query, token * query_token_stride + head * query_head_stride + plane, half, inside)
    turned_1, turned_2 = first * cosine_1 + second * sine_1, second * cosine_2 + first * sine_2
    _keep(turned, (token * count + head) * 2 * half + plane, half, turned_1, turned_2, inside)

    slot = tl.load(slots + token)
    head = tl.arange(0, KV_HEADS)[:, None]
    # A negative slot is a padding row's: it is turned and goes nowhere.
    inside = (head < kv_count) & (plane < half) & (slot >= 0)
    place = head.to(tl.int64) * page_head_stride + slot * 2 * half + plane
    first, second = _halves(key, token * key_token_stride + head * key_head_stride + plane, half, inside)
    turned_1, turned_2 = first * cosine_1 + second * sine_1, second * cosine_2 + first * sine_2
    first, second = _halves(value, token * value_token_stride + head * value_head_stride + plane, half, inside)
    if SCALED:
        scale = scales + head * scale_head_stride
        of_key = tl.load(scale, mask=head < kv_count, other=1.0)
        of_value = tl.load(scale + scale_side_stride, mask=head < kv_count, other=1.0)
        turned_1, turned_2 = turned_1 / of_key, turned_2 / of_key
        first, second = first / of_value, second / of_value
    _keep(pages, place, half, turned_1, turned_2, inside)
    _keep(pages + side_stride, place, half, first, second, inside)
