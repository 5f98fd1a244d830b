"""Paged attention in torch operators whose number does not grow with the number of decoding sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.paged_attention import native
from kernels.paged_attention.plan import BatchPlan, DecodeGroup, PrefillChunk


def write_pages(pages: Tensor, key: Tensor, value: Tensor, plan: BatchPlan) -> None:
    """Store a step's keys and values.

    Args:
        pages: one layer's cache, [2, kv_heads, page_count, page_size, head_dim]; changed in place.
        key: [tokens, kv_heads, head_dim], rotated.
        value: [tokens, kv_heads, head_dim].
        plan: where each row goes.
    """
    flat = pages.flatten(2, 3)
    flat[0].index_copy_(1, plan.slots, key.transpose(0, 1))
    flat[1].index_copy_(1, plan.slots, value.transpose(0, 1))


def paged_attention(query: Tensor, pages: Tensor, plan: BatchPlan, scale: float | None = None) -> Tensor:
    """Causal attention of each new token over its own sequence's pages, its own key included.

    Args:
        query: [tokens, heads, head_dim], rotated.
        pages: one layer's cache, already holding this step's keys and values (``write_pages``).
        plan: which rows and pages belong together.
        scale: factor on the scores; ``head_dim ** -0.5`` unless given.

    Returns:
        [tokens, heads, head_dim] in the query's dtype. Heads ``g * heads // kv_heads …`` share key-value head ``g``.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if not plan.prefill and len(plan.decode) == 1 and plan.decode[0].rows is None:
        return _decode(query, pages, plan.decode[0], scale)
    out = torch.empty_like(query)
    for group in plan.decode:
        rows = group.rows
        if rows is None:
            rows = torch.arange(query.shape[0], device=query.device)
        out.index_copy_(0, rows, _decode(query.index_select(0, rows), pages, group, scale))
    for chunk in plan.prefill:
        stop = chunk.start + chunk.length
        out[chunk.start : stop] = _prefill(query[chunk.start : stop], pages, chunk, scale)
    return out


def _decode(query: Tensor, pages: Tensor, group: DecodeGroup, scale: float) -> Tensor:
    """query: [R, heads, D] -> [R, heads, D]; the C kernel, or else one batched product over (kv head, sequence)."""
    out = native.decode(query, pages, group.pages, group.contexts, scale)
    return _decode_in_torch(query, pages, group, scale) if out is None else out


def _decode_in_torch(query: Tensor, pages: Tensor, group: DecodeGroup, scale: float) -> Tensor:
    rows, heads, width = query.shape
    kv_heads = pages.shape[1]
    held = pages.index_select(2, group.pages).view(2, kv_heads, rows, -1, width)
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, width).transpose(0, 1)
    scores = torch.matmul(grouped, held[0].transpose(-1, -2)).float()
    weights = torch.softmax(torch.add(group.mask, scores, alpha=scale), -1).to(query.dtype)
    return torch.matmul(weights, held[1]).transpose(0, 1).reshape(rows, heads, width)


def _prefill(query: Tensor, pages: Tensor, chunk: PrefillChunk, scale: float) -> Tensor:
    """query: [L, heads, D] -> [L, heads, D]; scores in float32, which torch's fused CPU attention does faster."""
    length, heads, width = query.shape
    kv_heads = pages.shape[1]
    dtype = torch.float32 if query.dtype is torch.bfloat16 and query.device.type == "cpu" else query.dtype
    held = pages.index_select(2, chunk.pages).view(2, kv_heads, -1, width)[:, :, : chunk.context].to(dtype)
    mask = None
    if chunk.context != length:
        mask = torch.ones(length, chunk.context, dtype=torch.bool, device=query.device)
        mask = mask.tril(chunk.context - length)
    out = functional.scaled_dot_product_attention(
        query.transpose(0, 1).to(dtype).unsqueeze(0),
        held[0].unsqueeze(0),
        held[1].unsqueeze(0),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=heads != kv_heads,
    )
    return out[0].transpose(0, 1).to(query.dtype)
