"""Paged attention in torch operators whose number does not grow with the number of decoding sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.attention_spec import AttentionSpec, softmax_beside_sinks
from kernels.exact_attention import exact_attention
from kernels.paged_attention import native
from kernels.paged_attention.plan import BatchPlan, DecodeGroup, PrefillChunk

BLOCK_QUERIES = 256


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


def paged_attention(query: Tensor, pages: Tensor, plan: BatchPlan, spec: AttentionSpec | None = None) -> Tensor:
    """Causal attention of each new token over its own sequence's pages, its own key included.

    Args:
        query: [tokens, heads, head_dim], rotated.
        pages: one layer's cache, already holding this step's keys and values (``write_pages``).
        plan: which rows and pages belong together.
        spec: of this layer; plain attention with the scale ``head_dim ** -0.5`` unless given.

    Returns:
        [tokens, heads, head_dim] in the query's dtype. Heads ``g * heads // kv_heads …`` share key-value head ``g``.
    """
    spec = AttentionSpec(query.shape[-1] ** -0.5) if spec is None else spec
    if plan.spans is not None:
        return exact_attention(query, pages[0], pages[1], plan.spans, spec)
    if not plan.prefill and len(plan.decode) == 1 and plan.decode[0].rows is None:
        return _decode(query, pages, plan.decode[0], spec)
    out = torch.empty_like(query)
    for group in plan.decode:
        rows = group.rows
        if rows is None:
            rows = torch.arange(query.shape[0], device=query.device)
        out.index_copy_(0, rows, _decode(query.index_select(0, rows), pages, group, spec))
    for chunk in plan.prefill:
        stop = chunk.start + chunk.length
        out[chunk.start : stop] = _prefill(query[chunk.start : stop], pages, chunk, spec)
    return out


def _decode(query: Tensor, pages: Tensor, group: DecodeGroup, spec: AttentionSpec) -> Tensor:
    """query: [R, heads, D] -> [R, heads, D]; the C kernel, or else one batched product over (kv head, sequence)."""
    if spec.window is None and spec.sinks is None:
        out = native.decode(query, pages, group.pages, group.contexts, spec.scale)
        if out is not None:
            return out
    return _decode_in_torch(query, pages, group, spec)


def _decode_in_torch(query: Tensor, pages: Tensor, group: DecodeGroup, spec: AttentionSpec) -> Tensor:
    rows, heads, width = query.shape
    kv_heads = pages.shape[1]
    table, mask = (group.pages, group.mask) if spec.window is None else _windowed(group, pages.shape[3], spec.window)
    held = pages.index_select(2, table).view(2, kv_heads, rows, -1, width)
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, width).transpose(0, 1)
    scores = torch.matmul(grouped, held[0].transpose(-1, -2)).float()
    sinks = None if spec.sinks is None else spec.sinks.view(kv_heads, 1, -1, 1)
    weights = softmax_beside_sinks(torch.add(mask, scores, alpha=spec.scale), sinks).to(query.dtype)
    return torch.matmul(weights, held[1]).transpose(0, 1).reshape(rows, heads, width)


def _windowed(group: DecodeGroup, page_size: int, window: int) -> tuple[Tensor, Tensor]:
    """The pages [R * W] that hold each row's last ``window`` tokens, and the mask [R, 1, W * page_size] of the rest."""
    contexts = group.contexts.long().unsqueeze(1)
    tables = group.pages.view(len(contexts), -1)
    count = min(tables.shape[1], -(-(window - 1) // page_size) + 1)
    first = (contexts - window).clamp(min=0) // page_size
    blocks = first + torch.arange(count, device=contexts.device)
    places = first * page_size + torch.arange(count * page_size, device=contexts.device)
    seen = (places < contexts) & (places >= contexts - window)
    mask = torch.zeros(seen.shape, device=contexts.device).masked_fill_(~seen, float("-inf"))
    return tables.gather(1, blocks.clamp(max=tables.shape[1] - 1)).flatten(), mask.unsqueeze(1)


def _prefill(query: Tensor, pages: Tensor, chunk: PrefillChunk, spec: AttentionSpec) -> Tensor:
    """query: [L, heads, D] -> [L, heads, D]; scores in float32, which torch's fused CPU attention does faster."""
    dtype = torch.float32 if query.dtype is torch.bfloat16 and query.device.type == "cpu" else query.dtype
    first, page_size = spec.first_seen(chunk.context - chunk.length) // pages.shape[3], pages.shape[3]
    held = pages.index_select(2, chunk.pages[first:]).view(2, pages.shape[1], -1, pages.shape[4])
    held = held[:, :, : chunk.context - first * page_size].to(dtype)
    upcast = query.transpose(0, 1).to(dtype)
    if spec.window is None and spec.sinks is None:
        return _fused(upcast, held, None, spec.scale).to(query.dtype)
    parts = []
    for start in range(0, chunk.length, BLOCK_QUERIES):
        part = upcast[:, start : start + BLOCK_QUERIES]
        earliest = chunk.context - chunk.length + start
        keys = slice(spec.first_seen(earliest) - first * page_size, earliest + part.shape[1] - first * page_size)
        parts.append(_block(part, held[:, :, keys], spec))
    return torch.cat(parts).to(query.dtype)


def _block(query: Tensor, held: Tensor, spec: AttentionSpec) -> Tensor:
    """query: [heads, L, D], held: [2, kv_heads, K, D], ending with the last query's own key -> [L, heads, D]."""
    heads, length, width = query.shape
    kv_heads, keys = held.shape[1:3]
    seen = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril_(keys - length)
    if spec.window is not None:
        seen.triu_(keys - length - spec.window + 1)
    if spec.sinks is None:
        return _fused(query, held, seen, spec.scale)
    grouped = query.reshape(kv_heads, -1, length, width)
    scores = torch.matmul(grouped, held[0].transpose(-1, -2).unsqueeze(1)).float().mul_(spec.scale)
    scores.masked_fill_(~seen, float("-inf"))
    weights = softmax_beside_sinks(scores, spec.sinks.view(kv_heads, -1, 1, 1)).to(query.dtype)
    return torch.matmul(weights, held[1].unsqueeze(1)).reshape(heads, length, width).transpose(0, 1)


def _fused(query: Tensor, held: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """query: [heads, L, D], held: [2, kv_heads, K, D], seen: [L, K] or None for causal -> [L, heads, D]."""
    (heads, length, _), (kv_heads, keys) = query.shape, held.shape[1:3]
    if seen is None and keys != length:
        seen = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    out = functional.scaled_dot_product_attention(
        query.unsqueeze(0),
        held[0].unsqueeze(0),
        held[1].unsqueeze(0),
        attn_mask=seen,
        is_causal=seen is None,
        scale=scale,
        enable_gqa=heads != kv_heads,
    )
    return out[0].transpose(0, 1)
