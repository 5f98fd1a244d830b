"""Rotary embedding, by whichever implementation fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.registry import answering, chosen


def apply_rope(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Turn heads by their tokens' positions; differentiable in ``heads``.

    Args:
        heads: [T, H, head_dim].
        cosine: [T, 1, width], from ``rope_tables``; what lies behind that width of each head stays as it is.
        signed_sine: likewise.

    Returns:
        [T, H, head_dim].
    """
    width = cosine.shape[-1]
    if width < heads.shape[-1]:
        return torch.cat((apply_rope(heads[..., :width], cosine, signed_sine), heads[..., width:]), -1)
    found = answering("rope", heads)
    if torch.is_grad_enabled() and heads.requires_grad and found.backend != "torch":
        result: Tensor = _Rope.apply(heads, cosine, signed_sine)  # type: ignore[no-untyped-call]
        return result
    turned: Tensor = found.load()(heads, cosine, signed_sine)
    return turned


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
    """Turn a step's queries and keys, and store keys and values in the pages; without gradients.

    Args:
        query: [T, heads, head_dim].
        key: [T, kv_heads, head_dim].
        value: [T, kv_heads, head_dim].
        cosine: [T, 1, head_dim], from ``rope_tables``.
        signed_sine: likewise.
        slots: [T] i64, ``page * page_size + offset``; a negative one is not written.
        pages: [2, kv_heads, page_count, page_size, head_dim] of the queries' dtype or f8e4m3; changed in place.
        scales: [2, kv_heads] or [2, 1] f32: f8 pages hold the value divided by its scale.

    Returns:
        The turned queries, [T, heads, head_dim].
    """
    write = chosen("rope_paged_write", query)
    turned: Tensor = write(query, key, value, cosine, signed_sine, slots, pages, scales)
    return turned


class _Rope(torch.autograd.Function):
    """Keeps the tables alone: the way back is a turn the other way."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, signed_sine)
        turned: Tensor = chosen("rope", heads)(heads, cosine, signed_sine)
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        turn = chosen("rope_backward", gradients[0])
        return turn(gradients[0].contiguous(), *ctx.saved_tensors), None, None
