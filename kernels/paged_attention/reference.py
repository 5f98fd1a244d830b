"""The truth: each new token attends, in float64, to the keys of its own sequence up to itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention_spec import AttentionSpec


def paged_attention_reference(
    query: Tensor,
    pages: Tensor,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    page_tables: Sequence[Sequence[int]],
    spec: AttentionSpec | None = None,
) -> Tensor:
    """query: [tokens, heads, D], pages: [2, kv_heads, page_count, page_size, D] -> [tokens, heads, D] float64."""
    kv_heads, page_size = pages.shape[1], pages.shape[3]
    heads, width = query.shape[1:]
    spec = AttentionSpec(width**-0.5) if spec is None else spec
    out, row = [], 0
    for length, context, table in zip(query_lengths, context_lengths, page_tables, strict=True):
        begin = spec.first_seen(context - length)
        slots = [table[place // page_size] * page_size + place % page_size for place in range(begin, context)]
        seen = pages.flatten(2, 3)[:, :, slots].double()
        for position in range(context - length, context):
            held = seen[:, :, spec.first_seen(position) - begin : position + 1 - begin]
            key, value = held.repeat_interleave(heads // kv_heads, 1)
            scores = torch.einsum("hkd,hd->hk", key, query[row].double()) * spec.scale
            sinks = scores.new_full((heads, 1), -torch.inf) if spec.sinks is None else spec.sinks.double()[:, None]
            weights = torch.cat((scores, sinks), 1).softmax(-1)[:, :-1]
            out.append(torch.einsum("hk,hkd->hd", weights, value))
            row += 1
    return torch.stack(out)


def paged_rows_reference(
    query: Tensor,
    pages: Tensor,
    table: Tensor,
    contexts: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    scales: Tensor | None = None,
) -> Tensor:
    """The same for the tensors that the kernels take (``gpu.paged_prefill``), every sequence answered; float64.

    A row of a sequence with no tokens is zero.
    """
    held = pages.double() if scales is None else pages.double() * scales.double()[..., None, None, None]
    counts, ends, tables = contexts.tolist(), starts.tolist(), table.tolist()
    out = query.new_zeros(query.shape, dtype=torch.float64)
    spec = AttentionSpec(scale, window, sinks)
    for number, context in enumerate(counts):
        rows = slice(ends[number], ends[number + 1])
        if context and rows.start < rows.stop:
            lengths = [rows.stop - rows.start]
            out[rows] = paged_attention_reference(query[rows], held, lengths, [context], [tables[number]], spec)
    return out
