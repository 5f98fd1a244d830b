"""Launches the Triton kernels that turn heads. A token's bits depend on that token alone."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.rope.kernel import rope as rope_kernel
from kernels.rope.kernel import rope_paged_write as rope_paged_write_kernel
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FP8 = torch.float8_e4m3fn
MAX_HEAD_DIM, MAX_HEADS = 512, 256


def rope(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Turn every head by its token's position.

    Args:
        heads: [T, H, head_dim] bf16, f16 or f32, head_dim even; tokens and heads may lie apart.
        cosine: [T, 1, head_dim] of that dtype, from ``rope_tables``.
        signed_sine: likewise.

    Returns:
        [T, H, head_dim].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    return _turned("heads", heads, cosine, signed_sine, backward=False)


def rope_backward(gradient: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """gradient: [T, H, head_dim] of what ``rope`` returned -> [T, H, head_dim] of the heads; arguments as there."""
    return _turned("gradient", gradient, cosine, signed_sine, backward=True)


def _turned(argument: str, heads: Tensor, cosine: Tensor, signed_sine: Tensor, *, backward: bool) -> Tensor:
    _require_heads(argument, heads)
    _require_tables(heads, cosine, signed_sine)
    tokens, count, width = heads.shape
    out = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    if out.numel():
        config = tuned("rope", "rope", heads=count)
        rope_kernel[(tokens * -(-count // config["HEADS"]),)](
            heads, cosine, signed_sine, out, count, width // 2, heads.stride(0), heads.stride(1),
            cosine.stride(0), signed_sine.stride(0), BACKWARD=backward, HALF=_block(width // 2), **config,
        )  # fmt: skip
    return out


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
    """Turn queries and keys, and store keys and values, in one pass.

    Args:
        query: [T, heads, head_dim] bf16, f16 or f32, head_dim even; as the next two, it may be a slice of one
            projection's output.
        key: [T, kv_heads, head_dim] of that dtype.
        value: likewise.
        cosine: [T, 1, head_dim] of that dtype, from ``rope_tables``.
        signed_sine: likewise.
        slots: [T] i64, ``page * page_size + offset``, each below the number of slots; a negative one is not written.
        pages: [2, kv_heads, page_count, page_size, head_dim] of that dtype or f8e4m3, one layer's cache; changed.
        scales: [2, kv_heads] or [2, 1] f32, of keys and of values: f8 pages hold the value divided by its scale, no
            farther from zero than 448. Without it they hold the value; other pages take none.

    Returns:
        The turned queries, [T, heads, head_dim].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require_heads("query", query)
    _require_tables(query, cosine, signed_sine)
    tokens, count, width = query.shape
    require("key", key, dtypes=(query.dtype,), shape=(tokens, None, width), beside=query)
    within("key's heads", key.shape[1], 1, MAX_HEADS)
    require("value", value, dtypes=(query.dtype,), shape=key.shape, beside=query)
    require("slots", slots, dtypes=(torch.int64,), shape=(tokens,), beside=query)
    _require_pages(pages, key, scales)
    turned = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if tokens:
        kv_count, steps = key.shape[1], _scale_steps(scales)
        rope_paged_write_kernel[(tokens,)](
            query, key, value, cosine, signed_sine, slots, pages, scales if scales is not None else cosine, turned,
            count, kv_count, width // 2, *query.stride()[:2], *key.stride()[:2], *value.stride()[:2],
            cosine.stride(0), signed_sine.stride(0), pages.stride(0), pages.stride(1), *steps,
            SCALED=scales is not None, HEADS=_block(count), KV_HEADS=_block(kv_count), HALF=_block(width // 2),
            **tuned("rope", "rope_paged_write", heads=count),
        )  # fmt: skip
    return turned


def _scale_steps(scales: Tensor | None) -> tuple[int, int]:
    """From keys to values, and from head to head."""
    if scales is None:
        return 0, 0
    return scales.stride(0), scales.stride(1) if scales.shape[1] > 1 else 0


def _require_heads(argument: str, heads: Tensor) -> None:
    require(argument, heads, dtypes=DTYPES, shape=(None, None, None))
    within(f"{argument}'s last dimension", heads.shape[2], 2, MAX_HEAD_DIM)
    within(f"{argument}'s heads", heads.shape[1], 0 if argument == "heads" else 1, MAX_HEADS)
    if heads.shape[2] % 2:
        raise ArgumentError(argument, f"has the shape {list(heads.shape)}; accepted: an even last dimension")


def _require_tables(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> None:
    shape = (heads.shape[0], 1, heads.shape[2])
    for argument, table in (("cosine", cosine), ("signed_sine", signed_sine)):
        require(argument, table, dtypes=(heads.dtype,), shape=shape, beside=heads)


def _require_pages(pages: Tensor, key: Tensor, scales: Tensor | None) -> None:
    shape = (2, key.shape[1], None, None, key.shape[2])
    require("pages", pages, dtypes=(key.dtype, FP8), shape=shape, beside=key, contiguous=True)
    if scales is None:
        return
    if pages.dtype is not FP8:
        raise ArgumentError("scales", f"are given for {pages.dtype} pages; accepted: none")
    shared = scales.shape[1:] == (1,)
    require("scales", scales, dtypes=(torch.float32,), shape=(2, 1 if shared else key.shape[1]), beside=key)


def _block(count: int) -> int:
    return 1 << (count - 1).bit_length()
