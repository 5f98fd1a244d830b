"""Packed causal attention by whichever implementation fits, differentiable in queries, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import cpu
from kernels.causal_attention.whole_rows import whole_rows
from kernels.numerics import exact, refuse_gradients
from kernels.registry import answering


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    shared_prefix: int = 0,
    spec: AttentionSpec | None = None,
) -> Tensor:
    """Each token attends to the shared prefix and to the tokens of its own segment up to itself.

    Args:
        query: [T, heads, head_dim].
        key: [T, kv_heads, head_dim].
        value: [T, kv_heads, head_dim].
        segment_lengths: lengths of the sequences that lie one after another behind the prefix.
        shared_prefix: length of the prefix at the start of the batch that every segment continues; it and the
            segments sum to T.
        spec: of this layer; plain attention with the scale ``head_dim ** -0.5`` unless given.

    Returns:
        [T, heads, head_dim]; differentiable in all three inputs, but not under exact numerics.
    """
    wanted = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    found = answering("causal_attention", query, width=query.shape[-1], gradient=int(wanted))
    if found.backend != "triton":
        return cpu.causal_attention(query, key, value, segment_lengths, shared_prefix, spec)
    if exact():
        refuse_gradients(query, key, value)
    if wanted:
        lengths = tuple(segment_lengths)
        result: Tensor = _Packed.apply(query, key, value, lengths, shared_prefix, spec)  # type: ignore[no-untyped-call]
        return result
    out: Tensor = found.load()(query, key, value, segment_lengths, shared_prefix, spec)
    return out


class _Packed(torch.autograd.Function):
    """Keeps its inputs, its result and one number per row and head; of a shared prefix once."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: tuple[int, ...],
        prefix: int,
        spec: AttentionSpec | None,
    ) -> Tensor:
        from kernels.causal_attention.gpu import attend_packed

        ctx.rows, ctx.lengths, ctx.spec = whole_rows(lengths, prefix, len(query), query.device), lengths, spec
        if ctx.rows is None:
            out, totals = attend_packed(query, key, value, lengths, spec)
        else:
            asked, keys, values = (ctx.rows.spread(tensor) for tensor in (query, key, value))
            found = attend_packed(asked, keys, values, ctx.rows.lengths, spec)
            out, totals = (ctx.rows.gather(tensor) for tensor in found)
        ctx.save_for_backward(query, key, value, out, totals)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from kernels.causal_attention.gpu import causal_attention_backward

        incoming, rows, lengths = gradients[0].contiguous(), ctx.rows, ctx.lengths
        kept = ctx.saved_tensors
        if rows is not None:
            incoming, lengths = rows.spread_gradient(incoming), rows.lengths
            kept = [rows.spread(tensor) for tensor in kept]
        query, key, value, out, totals = kept
        grown = causal_attention_backward(incoming, query, key, value, out, totals, lengths, ctx.spec)
        if rows is not None:
            d_query, d_key, d_value = (rows.gather_gradient(tensor) for tensor in grown)
            grown = d_query, d_key, d_value
        return *grown, None, None, None
