"""Rotary embedding in four torch operators: the rotated half is the vector rolled by half, the sign is in the sine.

No fused multiply-add: so the float32 result is transformers' own, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn


def apply_rope(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """heads: [T, H, head_dim], tables from ``rope_tables`` -> [T, H, head_dim] rotated; differentiable."""
    return heads * cosine + heads.roll(heads.shape[-1] // 2, -1) * signed_sine


def rope_backward(gradient: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """gradient: [T, H, head_dim] of the rotated heads -> [T, H, head_dim] of the heads: the turn the other way."""
    return gradient * cosine + (gradient * signed_sine).roll(gradient.shape[-1] // 2, -1)


def rope_paged_write(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    signed_sine: Tensor,
    slots: Tensor,
    pages: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """Turn queries and keys, write keys and values into the pages; rows without a slot are left out first."""
    kept = slots >= 0
    write_turned(key[kept], value[kept], cosine[kept], signed_sine[kept], slots[kept], pages, scales)
    return apply_rope(query, cosine, signed_sine)


def write_turned(
    key: Tensor, value: Tensor, cosine: Tensor, signed_sine: Tensor, slots: Tensor, pages: Tensor, scales: Tensor | None
) -> None:
    """Turn the keys and store them and the values, each in a slot of its own; shapes as of the operator."""
    for side, heads in enumerate((apply_rope(key, cosine, signed_sine), value)):
        stored = heads if scales is None else heads / scales[side].unsqueeze(1)
        flat = pages[side].flatten(1, 2)
        if pages.dtype is FP8:
            most = torch.finfo(FP8).max
            # Bits are copied: torch moves no rows of this dtype.
            flat, stored = flat.view(torch.uint8), stored.clamp(-most, most).to(FP8).view(torch.uint8)
        flat.index_copy_(1, slots, stored.transpose(0, 1))
