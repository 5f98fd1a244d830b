"""Launches the Triton kernels of paged attention. A row's bits depend on its own sequence alone: no tile on the batch.

Under exact numerics both kernels sum up in one order (the table's rules for ``exact`` share block and split), so a
token gets the same bits whether it is decoded or stands in a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.numerics import exact
from kernels.paged_attention.kernel import attend as attend_kernel
from kernels.paged_attention.kernel import merge_splits as merge_splits_kernel
from kernels.paged_attention.kernel import paged_decode as paged_decode_kernel
from kernels.paged_attention.kernel import write_pages as write_pages_kernel
from kernels.tuned import Config, tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FP8 = torch.float8_e4m3fn
MAX_WIDTH, MAX_GROUP, MAX_SEQUENCES = 256, 128, 65_535


def paged_decode(
    query: Tensor,
    pages: Tensor,
    table: Tensor,
    contexts: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    scales: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of the sequences that have exactly one row; the rows of others are left alone.

    The grid follows from the shapes, so a recorded launch may be replayed with other contexts, tables and starts.

    Args:
        query: [tokens, heads, head_dim] bf16, f16 or f32, rotated.
        pages: one layer's cache [2, kv_heads, page_count, page_size, head_dim] of query's dtype, or fp8 e4m3.
        table: [sequences, max_pages] i32, each sequence's pages in order; behind its last they are not read.
        contexts: [sequences] i32, tokens of each sequence, its new one included; one with 0 gets zeros.
        starts: [sequences + 1] i32, each sequence's first row, then the end of the last.
        scale: factor on the scores, above 0.
        window: how many tokens each token sees, itself included; None for all.
        sinks: [heads], a score that each head's softmax counts besides; None for none.
        scales: [2, kv_heads] f32, factors of keys and of values in the pages; None for 1.
        out: [tokens, heads, head_dim] of query's dtype, written where a sequence has one row; made unless given.

    Returns:
        ``out``.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    out = _fitting(query, pages, table, contexts, starts, scale, window, sinks, scales, out)
    sequences, max_pages = table.shape
    heads, width = query.shape[1:]
    kv_heads, page_size = pages.shape[1], pages.shape[3]
    if not query.shape[0] or not sequences:
        return out
    group = heads // kv_heads
    config = attend_config("paged_decode", width, pages, group, page_size)
    splits = -(-max_pages * page_size // config["SPLIT"])
    sums = torch.empty((sequences, splits, heads, width), dtype=torch.float32, device=query.device)
    levels = torch.empty((sequences, splits, heads, 2), dtype=torch.float32, device=query.device)
    shared = {"HAS_WINDOW": window is not None, "HAS_SCALES": scales is not None, "GROUP": group, "WIDTH": width}
    if splits:
        paged_decode_kernel[(splits, kv_heads, sequences)](
            query, pages[0], pages[1], table, contexts, starts, query if scales is None else scales[0], sums, levels,
            max_pages, heads, splits, query.stride(0), query.stride(1), pages.stride(1), pages.stride(1),
            width, width, scale, window or 0,
            **shared, PAGE_SIZE=page_size, BLOCK_D=block(width), PRECISION=precision(query), **config,
        )  # fmt: skip
    merging = tuned("paged_attention", "merge_splits", width=width)
    merge_splits_kernel[(-(-heads // merging["HEADS"]), sequences)](
        sums, levels, contexts, starts, query if sinks is None else sinks, query if scales is None else scales[1], out,
        heads, splits, out.stride(0), window or 0,
        HAS_SINKS=sinks is not None, **shared, SPLIT=config["SPLIT"], BLOCK_D=block(width), **merging,
    )  # fmt: skip
    return out


def paged_prefill(
    query: Tensor,
    pages: Tensor,
    table: Tensor,
    contexts: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
    scales: Tensor | None = None,
    out: Tensor | None = None,
    skip_single: bool = False,
    logsumexp: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention of chunks of several sequences, of any lengths; the last row of a chunk is its context's last.

    Args:
        query: as for ``paged_decode``, as are the arguments not named here.
        pages: already holding the chunks' own keys and values.
        table: [sequences, max_pages] i32.
        contexts: [sequences] i32, tokens of each sequence, its chunk included.
        starts: [sequences + 1] i32.
        scale: factor on the scores.
        window: how many tokens each token sees.
        sinks: [heads].
        scales: [2, kv_heads] f32.
        out: written but for the rows that no sequence has; made unless given.
        skip_single: whether sequences with one row are left to ``paged_decode``.
        logsumexp: whether the logarithm of each softmax's total, sinks included, is wanted.

    Returns:
        ``out``; with ``logsumexp`` also [tokens, heads] f32.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    out = _fitting(query, pages, table, contexts, starts, scale, window, sinks, scales, out)
    tokens, heads, width = query.shape
    sequences, max_pages = table.shape
    kv_heads = pages.shape[1]
    totals = torch.empty((tokens, heads), dtype=torch.float32, device=query.device) if logsumexp else None
    if tokens and sequences:
        config = attend_config("attend", width, pages, heads // kv_heads, pages.shape[3])
        tiles = tokens // (config["BLOCK_M"] // (heads // kv_heads)) + sequences
        attend_kernel[(tiles, kv_heads)](
            query, pages[0], pages[1], table, contexts, starts, query if sinks is None else sinks,
            query if scales is None else scales[0], query if scales is None else scales[1],
            out, query if totals is None else totals,
            sequences, max_pages, heads, query.stride(0), query.stride(1), pages.stride(1), pages.stride(1),
            width, width, out.stride(0), scale, window or 0,
            HAS_SINKS=sinks is not None, HAS_WINDOW=window is not None, HAS_SCALES=scales is not None,
            HAS_LOGSUMEXP=totals is not None, SKIP_SINGLE=skip_single, PAGED=True, PAGE_SIZE=pages.shape[3],
            GROUP=heads // kv_heads, WIDTH=width, BLOCK_S=block(sequences), BLOCK_D=block(width),
            PRECISION=precision(query), **config,
        )  # fmt: skip
    return out if totals is None else (out, totals)


def write_pages(key: Tensor, value: Tensor, pages: Tensor, slots: Tensor, scales: Tensor | None = None) -> None:
    """Store a step's keys and values.

    Args:
        key: [tokens, kv_heads, head_dim] bf16, f16 or f32, rotated.
        value: [tokens, kv_heads, head_dim] of the same dtype.
        pages: one layer's cache [2, kv_heads, page_count, page_size, head_dim] of that dtype or fp8 e4m3; changed.
        slots: [tokens] i64 or i32, ``page * page_size + offset``; a row with a negative one is not stored.
        scales: [2, kv_heads] f32, by which keys and values are divided; None for 1.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("key", key, dtypes=DTYPES, shape=(None, None, None))
    tokens, kv_heads, width = key.shape
    require("value", value, dtypes=(key.dtype,), shape=key.shape, beside=key)
    _require_pages(key, pages, kv_heads, width)
    require("slots", slots, dtypes=(torch.int64, torch.int32), shape=(tokens,), beside=key)
    _require_scales(key, scales, kv_heads)
    if tokens:
        write_pages_kernel[(tokens,)](
            key, value, pages[0], pages[1], slots, key if scales is None else scales, kv_heads,
            key.stride(0), key.stride(1), value.stride(0), value.stride(1), pages.stride(1),
            HAS_SCALES=scales is not None, WIDTH=width, HEADS=1 << (kv_heads - 1).bit_length(), BLOCK_D=block(width),
            **tuned("paged_attention", "write_pages"),
        )  # fmt: skip


def _fitting(
    query: Tensor,
    pages: Tensor,
    table: Tensor,
    contexts: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None,
    sinks: Tensor | None,
    scales: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """``out``, made if there is none, once everything else is what the kernels take."""
    require("query", query, dtypes=DTYPES, shape=(None, None, None))
    heads, width = query.shape[1:]
    _require_pages(query, pages, None, width)
    kv_heads = pages.shape[1]
    if heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise ArgumentError("query", f"has {heads} heads over {kv_heads}; accepted: 1 to {MAX_GROUP} to each of them")
    require("table", table, dtypes=(torch.int32,), shape=(None, None), beside=query, contiguous=True)
    sequences = table.shape[0]
    within("table's sequences", sequences, 0, MAX_SEQUENCES)
    require("contexts", contexts, dtypes=(torch.int32,), shape=(sequences,), beside=query)
    require("starts", starts, dtypes=(torch.int32,), shape=(sequences + 1,), beside=query)
    within("scale", scale, 1e-9, 1e9)
    within("window", 1 if window is None else window, 1, 2**31 - 1)
    if sinks is not None:
        require("sinks", sinks, dtypes=(*DTYPES,), shape=(heads,), beside=query)
    _require_scales(query, scales, kv_heads)
    if out is None:
        return torch.empty(query.shape, dtype=query.dtype, device=query.device)
    require("out", out, dtypes=(query.dtype,), shape=query.shape, beside=query, contiguous=True)
    return out


def _require_pages(beside: Tensor, pages: Tensor, kv_heads: int | None, width: int) -> None:
    shape = (2, kv_heads, None, None, width)
    require("pages", pages, dtypes=(beside.dtype, FP8), shape=shape, beside=beside, contiguous=True)
    within("pages' head_dim", width, 1, MAX_WIDTH)


def _require_scales(beside: Tensor, scales: Tensor | None, kv_heads: int) -> None:
    if scales is not None:
        require("scales", scales, dtypes=(torch.float32,), shape=(2, kv_heads), beside=beside, contiguous=True)


def attend_config(kernel: str, width: int, keys: Tensor, group: int, page_size: int) -> Config:
    """The configuration of ``kernel`` for such keys; a group that is larger than its tile gets one that holds it."""
    kind, bits = "exact" if exact() else "fast", 8 * keys.dtype.itemsize
    config = tuned("paged_attention", kernel, width=width, bits=bits, numerics=kind, page_size=page_size)
    return {**config, "BLOCK_M": max(config["BLOCK_M"], block(group))}


def block(extent: int) -> int:
    """The power of two, from 16 on, that holds ``extent``."""
    return 1 << max(4, (extent - 1).bit_length())


def precision(query: Tensor) -> str:
    """How products of such tensors round their factors: those of float32 not at all."""
    return "ieee" if query.dtype is torch.float32 else "tf32"
