"""The C decode kernel as a function of tensors."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.native import library

MAX_WIDTH = 256
_FUNCTIONS = {torch.bfloat16: "decode_bf16", torch.float32: "decode_f32"}


def decode(query: Tensor, pages: Tensor, table: Tensor, contexts: Tensor, scale: float) -> Tensor | None:
    """Attention of one new token per sequence, or None where the kernel does not serve.

    Args:
        query: [R, heads, D] bf16 or f32 on the CPU.
        pages: one layer's cache, [2, kv_heads, page_count, page_size, D], contiguous.
        table: [R * P] i64, the page of each block of each sequence.
        contexts: [R] i32, tokens of each sequence, its new one included.
        scale: factor on the scores.

    Returns:
        [R, heads, D] in the query's dtype.
    """
    rows, heads, width = query.shape
    _, kv_heads, page_count, page_size, _ = pages.shape
    name = _FUNCTIONS.get(query.dtype)
    fits = width <= MAX_WIDTH and heads // kv_heads <= MAX_WIDTH
    if name is None or query.device.type != "cpu" or not fits or pages.dtype is not query.dtype:
        return None
    kernels = library()
    if kernels is None:
        return None
    query = query.contiguous()
    out = torch.empty_like(query)
    pointers = (query, pages[0], pages[1], table, contexts, out)
    sizes = (rows, heads, kv_heads, width, page_count, page_size, len(table) // rows)
    failed = kernels.function(name)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in pointers),
        *(ctypes.c_int64(size) for size in sizes),
        ctypes.c_float(scale),
    )
    if failed:
        raise MemoryError("no memory for the attention scores")
    return out
