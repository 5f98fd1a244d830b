"""Packed causal attention with a hand-written backward: few large matrix products instead of a fused CPU kernel.

torch's fused attention is slow in bfloat16 on the CPU, above all backward. Here every block of queries is two batched
matrix products in the tensors' own dtype (accumulated in float32) around a softmax that computes in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention_spec import AttentionSpec, softmax_beside_sinks
from kernels.exact_attention import exact_attention, plan_spans
from kernels.numerics import exact

BLOCK_QUERIES = 128
KEPT_ELEMENTS = 2**24


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
        [T, heads, head_dim]; differentiable in all three inputs. The attention weights are kept for backward while
        they are at most ``KEPT_ELEMENTS``, else computed again.
    """
    spec = AttentionSpec(query.shape[-1] ** -0.5) if spec is None else spec
    if exact():
        return _exact(query, key, value, segment_lengths, shared_prefix, spec)
    plain = spec.window is None and spec.sinks is None and not shared_prefix
    wants_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if query.dtype is torch.float32 and plain and not wants_gradient:
        return _fused(query, key, value, segment_lengths, spec.scale)
    blocks = list(_blocks(segment_lengths, shared_prefix, spec))
    result: Tensor = _CausalAttention.apply(query, key, value, blocks, spec)  # type: ignore[no-untyped-call]
    return result


def _exact(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], prefix: int, spec: AttentionSpec
) -> Tensor:
    """Each token is a page of its own, so that segments may share the prefix's."""
    shared = list(range(prefix))
    spans = [(prefix, prefix, shared)] if prefix else []
    begin = prefix
    for length in lengths:
        spans.append((length, prefix + length, [*shared, *range(begin, begin + length)]))
        begin += length
    keys, values = (rows.transpose(0, 1).unsqueeze(2) for rows in (key, value))
    return exact_attention(query, keys, values, plan_spans(*zip(*spans, strict=True)), spec)


def _fused(query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], scale: float) -> Tensor:
    """float32 without gradient: torch's fused attention is fast there, and gives transformers' results bit for bit."""
    split = (tensor.transpose(0, 1).split(list(segment_lengths), 1) for tensor in (query, key, value))
    out = [
        scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=scale, enable_gqa=True)
        for q, k, v in zip(*split, strict=True)
    ]
    return torch.cat(out, 2)[0].transpose(0, 1)


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) see the keys of ``prefix`` and those of [begin, stop), the last ones causally."""

    begin: int
    start: int
    stop: int
    prefix: slice

    @property
    def shared(self) -> int:
        return int(self.prefix.stop - self.prefix.start)

    @property
    def keys(self) -> int:
        return self.shared + self.stop - self.begin

    @property
    def weights(self) -> int:
        return (self.stop - self.start) * self.keys


def _blocks(segment_lengths: Sequence[int], shared_prefix: int, spec: AttentionSpec) -> Iterator[_Block]:
    segments = [(0, shared_prefix, 0)] if shared_prefix else []
    begin = shared_prefix
    for length in segment_lengths:
        segments.append((begin, begin + length, shared_prefix))
        begin += length
    for begin, end, prefix in segments:
        for start in range(begin, end, BLOCK_QUERIES):
            first = spec.first_seen(prefix + start - begin)
            seen = slice(min(first, prefix), prefix)
            yield _Block(begin + max(0, first - prefix), start, min(end, start + BLOCK_QUERIES), seen)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[_Block], spec: AttentionSpec
    ) -> Tensor:
        keeps = any(ctx.needs_input_grad) and query.shape[1] * sum(block.weights for block in blocks) <= KEPT_ELEMENTS
        heads = _Heads(query, key, value, blocks, spec)
        out = torch.empty_like(query)
        kept = []
        for block in blocks:
            weights = heads.weights(block)
            heads.scatter(out, block, weights @ heads.values(block))
            if keeps:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.spec = blocks, spec
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        heads = _Heads(query, key, value, ctx.blocks, ctx.spec)
        sum_dtype = torch.float64 if query.dtype is torch.float64 else torch.float32
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros(key.transpose(0, 1).shape, dtype=sum_dtype, device=key.device) for _ in range(2))
        for index, block in enumerate(ctx.blocks):
            weights = kept[index] if kept else heads.weights(block)
            d_out = heads.gather(gradients[0], block)
            d_weights = d_out @ heads.values(block).transpose(1, 2)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            heads.scatter(d_query, block, (d_scores @ heads.keys(block)).mul_(ctx.spec.scale))
            heads.add(d_key, block, (heads.gather(query, block) * ctx.spec.scale).transpose(1, 2) @ d_scores)
            heads.add(d_value, block, d_out.transpose(1, 2) @ weights)
        d_key, d_value = (grown.transpose(0, 1).to(key.dtype) for grown in (d_key, d_value))
        return d_query, d_key, d_value, None, None


class _Heads:
    """Blocks of the inputs as batches over the KV heads; the queries of a group stand below one another."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[_Block], spec: AttentionSpec
    ) -> None:
        self._spec = spec
        self._query, self._kv_heads = query, key.shape[1]
        self._key, self._value = key.transpose(0, 1), value.transpose(0, 1)
        rows = max(block.stop - block.start for block in blocks)
        columns = max(block.keys for block in blocks)
        steps = torch.arange(rows, device=query.device)[:, None] + columns
        distance = steps - torch.arange(columns + rows, device=query.device)
        hidden = (distance < 0) | (distance >= (spec.window or columns + rows))
        self._mask = query.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))

    def gather(self, tensor: Tensor, block: _Block) -> Tensor:
        """[T, heads, D] -> [kv_heads, group * queries, D]."""
        part = tensor[block.start : block.stop]
        count, _, width = part.shape
        return part.reshape(count, self._kv_heads, -1, width).permute(1, 2, 0, 3).reshape(self._kv_heads, -1, width)

    def scatter(self, tensor: Tensor, block: _Block, part: Tensor) -> None:
        """Inverse of ``gather``, into ``tensor``."""
        count, width = block.stop - block.start, part.shape[-1]
        target = tensor[block.start : block.stop].view(count, self._kv_heads, -1, width)
        target.copy_(part.view(self._kv_heads, -1, count, width).permute(2, 0, 1, 3))

    def keys(self, block: _Block) -> Tensor:
        """[kv_heads, keys, D]: those that the block sees."""
        return _seen(self._key, block)

    def values(self, block: _Block) -> Tensor:
        """[kv_heads, keys, D]: those that the block sees."""
        return _seen(self._value, block)

    def weights(self, block: _Block) -> Tensor:
        """[kv_heads, group * queries, keys]: the softmax of the block's scores."""
        query = self.gather(self._query, block) * self._spec.scale
        scores = query @ self.keys(block).transpose(1, 2)
        count = block.stop - block.start
        first = self._mask.shape[1] - self._mask.shape[0] - (block.keys - count)
        mask = self._mask[:count, first : first + block.keys]
        scores.view(-1, count, block.keys).add_(mask)
        return softmax_beside_sinks(scores, self._sinks(count))

    def _sinks(self, count: int) -> Tensor | None:
        """[kv_heads, group * count, 1]: the sink of each row of a block's scores."""
        sinks = self._spec.sinks
        return None if sinks is None else sinks.repeat_interleave(count).view(self._kv_heads, -1, 1)

    @staticmethod
    def add(total: Tensor, block: _Block, part: Tensor) -> None:
        """Add ``part`` [kv_heads, D, keys] where the block's keys stand in ``total`` [kv_heads, T, D]."""
        part = part.transpose(1, 2)
        if block.shared:
            total[:, block.prefix] += part[:, : block.shared]
        total[:, block.begin : block.stop] += part[:, block.shared :]


def _seen(heads: Tensor, block: _Block) -> Tensor:
    own = heads[:, block.begin : block.stop]
    return torch.cat((heads[:, block.prefix], own), 1) if block.shared else own
