"""Contracts of attention over pages: rows that decode, chunks, and the storing of new keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kernels.attention_spec import softmax_beside_sinks
from kernels.paged_attention.reference import paged_rows_reference
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F16, F32, FP8 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn


def _problem(
    name: str,
    lengths: Sequence[int],
    contexts: Sequence[int],
    heads: tuple[int, int],
    width: int,
    page_size: int,
    dtype: torch.dtype = BF16,
    held: torch.dtype | None = None,
    window: int | None = None,
    sinks: bool = False,
) -> Case:
    """A batch of sequences with ``lengths`` new rows whose last is the last of ``contexts``.

    ``heads``: of queries, and of keys; ``held``: the pages' dtype if it differs from the query's.
    """
    blocks = -(-max(contexts, default=0) // page_size)

    def make(maker: Maker) -> Arguments:
        starts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
        count = len(contexts) * blocks
        pages = maker.normal(2, heads[1], count + 1, page_size, width, dtype=dtype)
        return {
            "query": maker.normal(starts[-1], heads[0], width, dtype=dtype),
            "pages": pages if held is None else pages.to(held),
            "table": maker.permutation(count + 1)[:count].view(len(contexts), blocks),
            "contexts": maker.tensor(list(contexts)),
            "starts": maker.tensor(starts),
            "scale": width**-0.5,
            "window": window,
            "sinks": maker.normal(heads[0], dtype=F32) if sinks else None,
            "scales": None if held is None else maker.normal(2, heads[1], dtype=F32).abs() + 0.5,
        }

    most = window or max(contexts, default=0)
    spans = list(zip(lengths, contexts, strict=True))
    pairs = sum(min(most, place + 1) for length, context in spans for place in range(context - length, context))
    read = sum(min(context, most + length - 1) for length, context in spans)
    kept = 2 * heads[1] * width * read * (held or dtype).itemsize
    asked = 2 * heads[0] * width * sum(lengths) * dtype.itemsize
    return Case(name, make, Work(kept + asked, 4 * heads[0] * width * pairs, exponentials=heads[0] * pairs))


def _plain(
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
    """One sequence after another, each of its products whole."""
    held = pages if scales is None else (pages.float() * scales[..., None, None, None]).to(query.dtype)
    out, ends = torch.zeros_like(query), starts.tolist()
    kv_heads, (heads, width) = pages.shape[1], query.shape[1:]
    for number, context in enumerate(contexts.tolist()):
        rows = slice(ends[number], ends[number + 1])
        if not context or rows.start == rows.stop:
            continue
        keys, values = held[:, :, table[number].long()].flatten(2, 3)[:, :, :context]
        grouped = query[rows].transpose(0, 1).reshape(kv_heads, -1, width)
        scores = (grouped @ keys.transpose(1, 2)).float().view(heads, -1, context) * scale
        length = scores.shape[1]
        seen = torch.ones(length, context, dtype=torch.bool, device=query.device).tril(context - length)
        if window is not None:
            seen = seen.triu(context - length - window + 1)
        scores = scores.masked_fill(~seen, float("-inf"))
        weights = softmax_beside_sinks(scores, None if sinks is None else sinks[:, None, None]).to(query.dtype)
        found = (weights.view(kv_heads, -1, context) @ values).view(heads, length, width)
        out[rows] = found.transpose(0, 1)
    return out


def _gathered(query: Tensor, pages: Tensor, table: Tensor, contexts: Tensor, **_: object) -> Tensor:
    """torch's fused attention of decoding rows, over copies of their pages."""
    held = pages[:, :, table.long()].flatten(3, 4).transpose(1, 2).to(query.dtype)
    inside = torch.arange(held.shape[3], device=query.device) < contexts[:, None]
    out = functional.scaled_dot_product_attention(
        query.unsqueeze(2), held[0], held[1], attn_mask=inside[:, None, None], enable_gqa=True
    )
    return out.squeeze(2)


def _whole(query: Tensor, pages: Tensor, table: Tensor, starts: Tensor, **_: object) -> Tensor:
    """torch's fused attention of sequences of one length without a cached prefix, over copies of their pages."""
    count = table.shape[0]
    held = pages[:, :, table.long()].flatten(3, 4).transpose(1, 2)
    asked = query.view(count, -1, *query.shape[1:]).transpose(1, 2)
    out = functional.scaled_dot_product_attention(asked, held[0], held[1], is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).reshape(query.shape)


def _write_problem(
    name: str, rows: int, heads: int, width: int, page_size: int, dtype: torch.dtype, held: torch.dtype
) -> Case:
    def make(maker: Maker) -> Arguments:
        blocks = -(-rows // page_size) + 1
        return {
            "key": maker.normal(rows, heads, width, dtype=dtype),
            "value": maker.normal(rows, heads, width, dtype=dtype),
            "pages": maker.normal(2, heads, blocks, page_size, width, dtype=dtype).to(held),
            "slots": maker.permutation(blocks * page_size, dtype=torch.int64)[:rows],
            "scales": None if held is dtype else maker.normal(2, heads, dtype=F32).abs() + 0.5,
        }

    return Case(name, make, Work(2 * rows * heads * width * (dtype.itemsize + held.itemsize)))


def _write_plain(key: Tensor, value: Tensor, pages: Tensor, slots: Tensor, scales: Tensor | None = None) -> None:
    flat = pages.flatten(2, 3)
    for side, new in enumerate((key, value)):
        kept = new if scales is None else new.float() / scales[side, :, None]
        flat[side].view(torch.uint8)[:, slots] = kept.to(pages.dtype).transpose(0, 1).contiguous().view(torch.uint8)


def _write_reference(key: Tensor, value: Tensor, pages: Tensor, slots: Tensor, scales: Tensor | None = None) -> Tensor:
    written = pages.double()
    flat = written.flatten(2, 3)
    for side, new in enumerate((key, value)):
        kept = new.double() if scales is None else new.double() / scales[side, :, None].double()
        flat[side][:, slots] = kept.clamp(-448, 448).transpose(0, 1) if scales is not None else kept.transpose(0, 1)
    return flat.view(pages.shape)


_ONE = ([1, 1, 1], [70, 0, 261])
_MIXED = ([1, 20, 0, 7, 1], [33, 20, 0, 90, 1])
LLAMA = ((32, 8), 128, 16)

SPECS = (
    Spec(
        name="paged_decode",
        operator="paged_attention",
        summary="attention of one new token per sequence over its pages",
        gpu="kernels.paged_attention.gpu:paged_decode",
        reference=paged_rows_reference,
        plain=_plain,
        cases=(
            _problem("none", [], [], (4, 2), 16, 4),
            _problem("single", [1], [1], (2, 2), 64, 16),
            _problem("bf16", *_ONE, (6, 2), 64, 16),
            _problem("f32-odd", *_ONE, (3, 1), 24, 3, F32, window=50, sinks=True),
            _problem("f16-window", *_ONE, (4, 1), 128, 16, F16, window=20),
            _problem("fp8-sinks", *_ONE, (8, 2), 64, 16, held=FP8, sinks=True),
            _problem("wide", [1], [40], (2, 1), 256, 16),
        ),
        shapes=(
            _problem("128x1024", [1] * 128, [1024] * 128, *LLAMA),
            _problem("16x4096", [1] * 16, [4096] * 16, *LLAMA),
            _problem("1x8192", [1], [8192], *LLAMA),
            _problem("128x1024-fp8", [1] * 128, [1024] * 128, *LLAMA, held=FP8),
            _problem("128x1024-window-sinks", [1] * 128, [1024] * 128, (64, 8), 64, 16, window=128, sinks=True),
            _problem("16x4096-wide", [1] * 16, [4096] * 16, (16, 8), 256, 16),
        ),
        gates=(
            Gate("paged_decode", tensor_cores=("HMMA", "HGMMA")),
            Gate("merge_splits"),
        ),
        peers={"sdpa": _gathered},
    ),
    Spec(
        name="paged_prefill",
        operator="paged_attention",
        summary="causal attention of chunks of sequences over their pages",
        gpu="kernels.paged_attention.gpu:paged_prefill",
        reference=paged_rows_reference,
        plain=_plain,
        cases=(
            _problem("none", [], [], (4, 2), 16, 4),
            _problem("single", [1], [1], (2, 2), 64, 16),
            _problem("bf16", *_MIXED, (6, 2), 64, 16),
            _problem("f32-odd", *_MIXED, (3, 1), 24, 3, F32, window=20, sinks=True),
            _problem("f16-window", [40, 3], [150, 3], (8, 2), 128, 16, F16, window=70),
            _problem("fp8-sinks", *_MIXED, (8, 2), 64, 16, held=FP8, sinks=True),
            _problem("wide", [40], [60], (2, 1), 256, 16),
        ),
        shapes=(
            _problem("8192", [8192], [8192], *LLAMA),
            _problem("4x2048", [2048] * 4, [2048] * 4, *LLAMA),
            _problem("8192-fp8", [8192], [8192], *LLAMA, held=FP8),
            _problem("8192-window-sinks", [8192], [8192], (64, 8), 64, 16, window=128, sinks=True),
            _problem("2048-wide", [2048], [2048], (16, 8), 256, 16),
        ),
        gates=(Gate("attend", tensor_cores=("HGMMA",)),),
        peers={"sdpa": _whole},
    ),
    Spec(
        name="write_pages",
        operator="paged_attention",
        summary="new keys and values to their slots",
        gpu="kernels.paged_attention.gpu:write_pages",
        reference=_write_reference,
        plain=_write_plain,
        cases=(
            _write_problem("none", 0, 2, 16, 4, BF16, BF16),
            _write_problem("single", 1, 1, 64, 16, BF16, BF16),
            _write_problem("odd", 7, 3, 24, 3, F32, F32),
            _write_problem("fp8", 9, 2, 64, 16, BF16, FP8),
        ),
        shapes=(
            _write_problem("8192", 8192, 8, 128, 16, BF16, BF16),
            _write_problem("128-fp8", 128, 8, 128, 16, BF16, FP8),
        ),
        writes=("pages",),
        gates=(Gate("write_pages"),),
    ),
)

_GPU = frozenset({"cuda"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, F16, F32})

IMPLEMENTATIONS = {
    "paged_decode": (Implementation("triton", "kernels.paged_attention.gpu:paged_decode", _GPU, _FLOATS, _BOTH),),
    "paged_prefill": (Implementation("triton", "kernels.paged_attention.gpu:paged_prefill", _GPU, _FLOATS, _BOTH),),
    "write_pages": (Implementation("triton", "kernels.paged_attention.gpu:write_pages", _GPU, _FLOATS, _BOTH),),
}
