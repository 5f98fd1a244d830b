"""The C kernel as a function of tensors, and what it needs to know of a step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention_spec import AttentionSpec
from kernels.native import needed
from kernels.numerics import refuse_gradients

FUNCTIONS = {torch.bfloat16: "exact_attention_bf16", torch.float32: "exact_attention_f32"}


class CQuestion(ctypes.Structure):
    """Mirrors ``question`` in cpu.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "keys", "values", "out", "spans", "pages", "sinks")),
        *(
            (name, ctypes.c_int64)
            for name in ("span_count", "heads", "kv_heads", "width", "page_count", "page_size", "blocks")
        ),
        *((name, ctypes.c_int64) for name in ("query_stride", "window")),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True)
class Spans:
    """Consecutive new tokens of each sequence of a batch.

    Attributes:
        spans: [S, 3] i64: first row in the batch, rows, tokens of the sequence once these are written.
        pages: [S, blocks] i64: each sequence's pages in order; what stands behind its last is not read.
    """

    spans: Tensor
    pages: Tensor


def plan_spans(lengths: Sequence[int], contexts: Sequence[int], tables: Sequence[Sequence[int]]) -> Spans:
    """The spans of a step.

    Args:
        lengths: new tokens of each sequence, one sequence after another in the batch.
        contexts: tokens of each sequence once the new ones are written.
        tables: pages of each sequence, in order.
    """
    blocks = max((len(table) for table in tables), default=0)
    pages = torch.zeros(len(tables), blocks, dtype=torch.int64)
    spans, first = [], 0
    for row, (length, context, table) in enumerate(zip(lengths, contexts, tables, strict=True)):
        pages[row, : len(table)] = torch.tensor(table, dtype=torch.int64)
        spans.append((first, length, context))
        first += length
    return Spans(torch.tensor(spans, dtype=torch.int64).reshape(-1, 3), pages)


def exact_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    spans: Spans,
    spec: AttentionSpec,
    variant: str | None = None,
) -> Tensor:
    """Each new token attends to its own sequence's keys up to its own.

    Args:
        query: [T, heads, head_dim], bfloat16 or float32, on the CPU.
        keys: [kv_heads, pages, page_size, head_dim] of the same dtype, this step's already among them.
        values: the same.
        spans: which rows and pages belong together.
        spec: of this layer.
        variant: instruction set; the best unless given.

    Returns:
        [T, heads, head_dim] in the query's dtype.

    Raises:
        TypeError: for other dtypes.
        RuntimeError: if a gradient is wanted, or there are no compiled kernels here.
        MemoryError: if there is none for the scores.
    """
    refuse_gradients(query, keys, values)
    name = FUNCTIONS.get(query.dtype)
    if name is None or keys.dtype is not query.dtype or values.dtype is not query.dtype:
        raise TypeError(f"exact attention is of bfloat16 or of float32, not of {query.dtype} over {keys.dtype}")
    tokens, heads, width = query.shape
    if query.stride(2) != 1 or query.stride(1) != width:
        query = query.contiguous()
    keys, values = keys.contiguous(), values.contiguous()
    sinks = None if spec.sinks is None else spec.sinks.float().contiguous()
    out = torch.empty(tokens, heads, width, dtype=query.dtype)
    question = CQuestion(
        *(tensor.data_ptr() for tensor in (query, keys, values, out, spans.spans, spans.pages)),
        None if sinks is None else sinks.data_ptr(),
        *(len(spans.spans), heads, keys.shape[0], width, keys.shape[1], keys.shape[2], spans.pages.shape[1]),
        *(query.stride(0), spec.window or 0),
        spec.scale,
    )
    if needed().function(name, variant)(ctypes.byref(question)):
        raise MemoryError("no memory for the attention scores")
    return out
