"""Contracts of packed causal attention, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import cpu
from kernels.causal_attention.reference import causal_attention_backward_reference, causal_attention_reference
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
MAX_BACKWARD_WIDTH = 128


def _problem(
    name: str,
    lengths: Sequence[int],
    heads: tuple[int, int],
    width: int,
    dtype: torch.dtype = BF16,
    window: int | None = None,
    sinks: bool = False,
    backward: bool = False,
) -> Case:
    """Segments of ``lengths``; ``heads``: of queries, and of keys."""
    tokens = sum(lengths)

    def make(maker: Maker) -> Arguments:
        query, key, value = (maker.normal(tokens, count, width, dtype=dtype) for count in (heads[0], *heads[1:] * 2))
        scores = maker.normal(heads[0], dtype=F32) if sinks else None
        arguments: Arguments = {
            "query": query,
            "key": key,
            "value": value,
            "segment_lengths": tuple(lengths),
            "spec": AttentionSpec(width**-0.5, window, scores),
        }
        if not backward:
            return arguments
        out, totals = _kept(**arguments)
        return {
            **arguments,
            "gradient": maker.normal(tokens, heads[0], width, dtype=dtype),
            "out": out,
            "totals": totals,
        }

    most = window or max(lengths, default=0)
    pairs = sum(min(most, place + 1) for length in lengths for place in range(length))
    moved = tokens * width * dtype.itemsize * ((4 if backward else 2) * heads[0] + (4 if backward else 2) * heads[1])
    flops = (10 if backward else 4) * heads[0] * width * pairs
    return Case(name, make, Work(moved, flops, exponentials=heads[0] * pairs))


def _kept(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], spec: AttentionSpec
) -> tuple[Tensor, Tensor]:
    """What the forward pass keeps for the way back, a head at a time in float32; only shapes on ``meta``."""
    tokens, heads = query.shape[:2]
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    totals = torch.empty(tokens, heads, dtype=F32, device=query.device)
    if query.is_meta:
        return out, totals
    begin = 0
    for length in segment_lengths:
        rows = slice(begin, begin + length)
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        if spec.window is not None:
            seen = seen.triu(1 - spec.window)
        for head in range(heads):
            shared = head * key.shape[1] // heads
            scores = query[rows, head].float() @ key[rows, shared].float().t() * spec.scale
            scores = scores.masked_fill(~seen, float("-inf"))
            sink = scores.new_full((length,), float("-inf")) if spec.sinks is None else spec.sinks[head].expand(length)
            total = torch.logaddexp(scores.logsumexp(1), sink.float())
            out[rows, head] = ((scores - total[:, None]).exp() @ value[rows, shared].float()).to(query.dtype)
            totals[rows, head] = total
        begin += length
    return out, totals


def _plain(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], spec: AttentionSpec, **_: Any
) -> Tensor:
    if not len(query):
        return torch.empty_like(query)
    return cpu.causal_attention(query, key, value, segment_lengths, 0, spec)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], spec: AttentionSpec, **_: Any
) -> Tensor:
    """torch's fused attention of segments of one length."""
    asked, keys, values = (
        tensor.view(len(segment_lengths), segment_lengths[0], *tensor.shape[1:]).transpose(1, 2)
        for tensor in (query, key, value)
    )
    out = scaled_dot_product_attention(asked, keys, values, is_causal=True, scale=spec.scale, enable_gqa=True)
    return out.transpose(1, 2).reshape(query.shape)


def _backward(forward: Any, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    three = [arguments[name].detach().requires_grad_() for name in ("query", "key", "value")]
    with torch.enable_grad():
        result = forward(*three, arguments["segment_lengths"], arguments["spec"])
        if not len(result):
            return tuple(torch.empty_like(tensor) for tensor in three)
        return torch.autograd.grad(result, three, arguments["gradient"])


def _backward_plain(**arguments: Any) -> tuple[Tensor, ...]:
    return _backward(_plain, arguments)


def _backward_fused(**arguments: Any) -> tuple[Tensor, ...]:
    """Its forward pass too, which torch's autograd needs first."""
    return _backward(_fused, arguments)


def _cases(backward: bool) -> tuple[Case, ...]:
    return (
        _problem("none", [], (4, 2), 16, backward=backward),
        _problem("single", [1], (2, 2), 64, backward=backward),
        _problem("bf16", [150, 0, 9], (4, 2), 64, backward=backward),
        _problem("f32-odd", [70, 3], (3, 1), 24, F32, 20, True, backward=backward),
        _problem("f16-window-sinks", [140], (4, 1), 128, F16, 60, True, backward=backward),
    )


LLAMA = ((32, 8), 128)

SPECS = (
    Spec(
        name="causal_attention",
        operator="causal_attention",
        summary="causal attention of packed sequences",
        gpu="kernels.causal_attention.gpu:causal_attention",
        reference=causal_attention_reference,
        plain=_plain,
        cases=(*_cases(False), _problem("wide", [40], (2, 1), 256)),
        shapes=(_problem("8192", [8192], *LLAMA), _problem("4x2048", [2048] * 4, *LLAMA)),
        gates=(Gate("attend", tensor_cores=("HGMMA",)),),
        peers={"sdpa": _fused},
    ),
    Spec(
        name="causal_attention_backward",
        operator="causal_attention",
        summary="gradients of queries, keys and values of packed causal attention",
        gpu="kernels.causal_attention.gpu:causal_attention_backward",
        reference=causal_attention_backward_reference,
        plain=_backward_plain,
        cases=_cases(True),
        shapes=(
            _problem("8192", [8192], *LLAMA, backward=True),
            _problem("8192-window", [8192], (64, 8), 64, window=128, sinks=True, backward=True),
        ),
        gates=(
            Gate("output_shares"),
            Gate("query_gradient", tensor_cores=("HGMMA",)),
            Gate("key_value_gradient", tensor_cores=("HGMMA",)),
        ),
        peers={"sdpa forward and backward": _backward_fused},
    ),
)

_GPU = frozenset({"cuda"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, F16, F32})


def _served(shape: Mapping[str, int]) -> bool:
    """No gradient of wide heads, whose sums have no registers."""
    return not shape.get("gradient") or shape["width"] <= MAX_BACKWARD_WIDTH


IMPLEMENTATIONS = {
    "causal_attention": (
        Implementation("triton", "kernels.causal_attention.gpu:causal_attention", _GPU, _FLOATS, _BOTH, _served),
        Implementation("torch", "kernels.causal_attention.cpu:causal_attention", numerics=_BOTH),
    ),
    "causal_attention_backward": (
        Implementation("triton", "kernels.causal_attention.gpu:causal_attention_backward", _GPU, _FLOATS),
    ),
}
