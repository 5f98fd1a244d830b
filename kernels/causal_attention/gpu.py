"""Launches the Triton kernels of packed causal attention: forward the one of paged attention, without pages.

So under exact numerics a token has the bits here that it has decoded. The way back has kernels of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.attention_spec import AttentionSpec
from kernels.causal_attention.kernel import key_value_gradient as key_value_gradient_kernel
from kernels.causal_attention.kernel import output_shares as output_shares_kernel
from kernels.causal_attention.kernel import query_gradient as query_gradient_kernel
from kernels.causal_attention.spec import MAX_BACKWARD_WIDTH
from kernels.causal_attention.whole_rows import whole_rows
from kernels.numerics import exact
from kernels.paged_attention.gpu import DTYPES, MAX_GROUP, MAX_WIDTH, attend_config, block, precision
from kernels.paged_attention.kernel import attend as attend_kernel
from kernels.tuned import tuned


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    shared_prefix: int = 0,
    spec: AttentionSpec | None = None,
) -> Tensor:
    """Each token attends to the shared prefix and to the tokens of its own segment up to itself; without gradients.

    Args:
        query: [T, heads, head_dim] bf16, f16 or f32; it and the next two may be slices of a projection's output.
        key: [T, kv_heads, head_dim] of the same dtype.
        value: likewise.
        segment_lengths: of the sequences one after another; with the prefix they sum to T.
        shared_prefix: tokens at the start that every segment continues; for the kernel each gets a copy.
        spec: of this layer; plain attention with the scale ``head_dim ** -0.5`` unless given.

    Returns:
        [T, heads, head_dim].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    rows = whole_rows(segment_lengths, shared_prefix, len(query), query.device)
    if rows is None:
        return attend_packed(query, key, value, segment_lengths, spec, totals=False)[0]
    query, key, value = (rows.spread(tensor) for tensor in (query, key, value))
    return rows.gather(attend_packed(query, key, value, rows.lengths, spec, totals=False)[0])


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    spec: AttentionSpec | None,
    *,
    totals: bool = True,
) -> tuple[Tensor, Tensor]:
    """``causal_attention`` of whole rows, and if wanted the logarithm of each softmax's total: [T, heads] f32."""
    spec = _fitting(query, key, value, segment_lengths, spec)
    tokens, heads, width = query.shape
    group = heads // key.shape[1]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    found = torch.empty((tokens if totals else 0, heads), dtype=torch.float32, device=query.device)
    if tokens:
        sequences, lengths = len(segment_lengths), tuple(segment_lengths)
        config = attend_config("attend", width, query, group, 1)
        # The exact kernel has registers for one stride of keys and values, and finds them as pages of one token.
        paged = exact()
        if paged and key.stride() != value.stride():
            key, value = key.contiguous(), value.contiguous()
        table = _rows(lengths, query.device) if paged else query
        attend_kernel[(tokens // (config["BLOCK_M"] // group) + sequences, key.shape[1])](
            query, key, value, table, _counts(lengths, query.device), _starts(lengths, query.device),
            query if spec.sinks is None else spec.sinks, query, query, out, found,
            sequences, max(lengths), heads, query.stride(0), query.stride(1), key.stride(1), value.stride(1),
            key.stride(0), value.stride(0), out.stride(0), spec.scale, spec.window or 0,
            HAS_SINKS=spec.sinks is not None, HAS_WINDOW=spec.window is not None, HAS_SCALES=False,
            HAS_LOGSUMEXP=totals, SKIP_SINGLE=False, PAGED=paged, PAGE_SIZE=1,
            GROUP=group, WIDTH=width, BLOCK_S=block(sequences), BLOCK_D=block(width),
            PRECISION=precision(query), **config,
        )  # fmt: skip
    return out, found


def causal_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    totals: Tensor,
    segment_lengths: Sequence[int],
    spec: AttentionSpec | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values; sinks are frozen.

    Args:
        gradient: [T, heads, head_dim], of the result.
        query: as in the forward pass, as are the next two.
        key: [T, kv_heads, head_dim].
        value: [T, kv_heads, head_dim].
        out: the result.
        totals: [T, heads] f32, from ``attend_packed``.
        segment_lengths: as in the forward pass.
        spec: likewise.

    Returns:
        [T, heads, head_dim], [T, kv_heads, head_dim] and the same again, in query's dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    spec = _fitting(query, key, value, segment_lengths, spec)
    within("query's head_dim", query.shape[2], 1, MAX_BACKWARD_WIDTH)
    tokens, heads, width = query.shape
    kv_heads, sequences = key.shape[1], len(segment_lengths)
    for name, tensor in (("gradient", gradient), ("out", out)):
        require(name, tensor, dtypes=(query.dtype,), shape=query.shape, beside=query, contiguous=True)
    require("totals", totals, dtypes=(torch.float32,), shape=(tokens, heads), beside=query, contiguous=True)
    grown = [torch.empty(like.shape, dtype=query.dtype, device=query.device) for like in (query, key, value)]
    if not tokens:
        return grown[0], grown[1], grown[2]
    shares = torch.empty((tokens, heads), dtype=torch.float32, device=query.device)
    sharing = tuned("causal_attention", "output_shares")
    output_shares_kernel[(-(-tokens * heads // sharing["ROWS"]),)](
        out, gradient, shares, tokens * heads, WIDTH=width, BLOCK_D=block(width), **sharing
    )
    group, starts = heads // kv_heads, _starts(tuple(segment_lengths), query.device)
    strides = (*query.stride()[:2], *key.stride()[:2], *value.stride()[:2], spec.scale, spec.window or 0)
    given = (gradient, query, key, value, starts, totals, shares)
    shared = {
        "HAS_WINDOW": spec.window is not None, "GROUP": group, "WIDTH": width, "BLOCK_S": block(sequences),
        "BLOCK_D": block(width), "PRECISION": precision(query),
    }  # fmt: skip
    config = _config("query_gradient", width, query, group)
    query_gradient_kernel[(tokens // (config["BLOCK_M"] // group) + sequences, kv_heads)](
        *given, grown[0], sequences, heads, *strides, **shared, **config
    )
    config = _config("key_value_gradient", width, query, group)
    key_value_gradient_kernel[(tokens // config["BLOCK_N"] + sequences, kv_heads)](
        *given, grown[1], grown[2], sequences, heads, kv_heads, *strides, **shared, **config
    )
    return grown[0], grown[1], grown[2]


def _config(kernel: str, width: int, query: Tensor, group: int) -> dict[str, int]:
    config = tuned("causal_attention", kernel, width=width, bits=8 * query.dtype.itemsize)
    return {**config, "BLOCK_M": max(config["BLOCK_M"], block(group))}


def _fitting(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], spec: AttentionSpec | None
) -> AttentionSpec:
    require("query", query, dtypes=DTYPES, shape=(None, None, None))
    tokens, heads, width = query.shape
    within("query's head_dim", width, 1, MAX_WIDTH)
    require("key", key, dtypes=(query.dtype,), shape=(tokens, None, width), beside=query)
    require("value", value, dtypes=(query.dtype,), shape=key.shape, beside=query)
    kv_heads = key.shape[1]
    if not kv_heads or heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise ArgumentError("query", f"has {heads} heads over {kv_heads}; accepted: 1 to {MAX_GROUP} to each of them")
    if sum(segment_lengths) != tokens:
        raise ArgumentError("segment_lengths", f"sum to {sum(segment_lengths)}; accepted: {tokens}, the query's tokens")
    spec = AttentionSpec(width**-0.5) if spec is None else spec
    within("spec's scale", spec.scale, 1e-9, 1e9)
    if spec.sinks is not None:
        require("sinks", spec.sinks, dtypes=DTYPES, shape=(heads,), beside=query)
    return spec


@lru_cache(maxsize=16)
def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """[segments + 1] i32 on the device; every layer of a batch asks for the same."""
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    starts[1:] = torch.tensor(lengths, dtype=torch.int32).cumsum(0)
    return _moved(starts, device)


@lru_cache(maxsize=16)
def _counts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """[segments] i32, their lengths."""
    return _moved(torch.tensor(lengths, dtype=torch.int32), device)


@lru_cache(maxsize=4)
def _rows(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """[segments, longest] i32, the row of each token; behind a segment's end they are not read."""
    return _starts(lengths, device)[:-1, None] + torch.arange(max(lengths), dtype=torch.int32, device=device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
