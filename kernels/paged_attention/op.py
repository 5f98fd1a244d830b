"""Attention over pages by whichever implementation the plan was made for: the GPU's kernels, or torch and C."""

from __future__ import annotations

from torch import Tensor

from kernels.arguments import ArgumentError
from kernels.attention_spec import AttentionSpec
from kernels.numerics import refuse_gradients
from kernels.paged_attention import cpu
from kernels.paged_attention.plan import BatchPlan
from kernels.registry import chosen
from kernels.rope import Turns, apply_rope, rope_paged_write


def write_pages(pages: Tensor, key: Tensor, value: Tensor, plan: BatchPlan, scales: Tensor | None = None) -> None:
    """Store a step's keys and values.

    Args:
        pages: one layer's cache, [2, kv_heads, page_count, page_size, head_dim]; changed in place.
        key: [tokens, kv_heads, head_dim], rotated.
        value: [tokens, kv_heads, head_dim].
        plan: where each row goes.
        scales: [2, kv_heads] f32, factors of keys and of values in pages of fp8, which only a GPU serves.

    Raises:
        ArgumentError: naming an argument that does not fit.
    """
    if plan.tables is None:
        _refuse(scales)
        cpu.write_pages(pages, key, value, plan)
    else:
        chosen("write_pages", key)(key, value, pages, plan.slots, scales)


def turn_and_write(query: Tensor, key: Tensor, value: Tensor, turns: Turns, pages: Tensor, plan: BatchPlan) -> Tensor:
    """Turn a step's queries and keys by their positions, and store keys and values: on a GPU in one pass.

    Args:
        query: [tokens, heads, head_dim].
        key: [tokens, kv_heads, head_dim].
        value: [tokens, kv_heads, head_dim].
        turns: of the tokens' positions; tables narrower than a head turn its beginning, in a pass of its own.
        pages: one layer's cache, [2, kv_heads, page_count, page_size, head_dim]; changed in place.
        plan: where each row goes.

    Returns:
        The turned queries, [tokens, heads, head_dim].

    Raises:
        ArgumentError: naming an argument that does not fit.
    """
    if plan.tables is not None and turns[0].shape[-1] == query.shape[-1]:
        return rope_paged_write(query, key, value, *turns, plan.slots, pages)
    query, key = (apply_rope(heads, *turns) for heads in (query, key))
    write_pages(pages, key, value, plan)
    return query


def paged_attention(
    query: Tensor, pages: Tensor, plan: BatchPlan, spec: AttentionSpec | None = None, scales: Tensor | None = None
) -> Tensor:
    """Causal attention of each new token over its own sequence's pages, its own key included.

    Args:
        query: [tokens, heads, head_dim], rotated.
        pages: one layer's cache, already holding this step's keys and values (``write_pages``).
        plan: which rows and pages belong together.
        spec: of this layer; plain attention with the scale ``head_dim ** -0.5`` unless given.
        scales: as for ``write_pages``.

    Returns:
        [tokens, heads, head_dim] in the query's dtype. Heads ``g * heads // kv_heads …`` share key-value head ``g``.

    Raises:
        ArgumentError: naming an argument that does not fit.
        RuntimeError: if a gradient is wanted, which the GPU's kernels do not carry.
    """
    tables = plan.tables
    if tables is None:
        _refuse(scales)
        return cpu.paged_attention(query, pages, plan, spec)
    refuse_gradients(query, pages)
    spec = AttentionSpec(query.shape[-1] ** -0.5) if spec is None else spec
    arguments = (
        query,
        pages,
        tables.table,
        tables.contexts,
        tables.starts,
        spec.scale,
        spec.window,
        spec.sinks,
        scales,
    )
    out: Tensor | None = None
    if tables.shortest <= 1:
        out = chosen("paged_decode", query)(*arguments)
    if tables.longest > 1 or out is None:
        out = chosen("paged_prefill", query)(*arguments, out, skip_single=out is not None)
    return out


def _refuse(scales: Tensor | None) -> None:
    if scales is not None:
        raise ArgumentError("scales", "are given; accepted: None, for pages of fp8 are served on a GPU alone")
