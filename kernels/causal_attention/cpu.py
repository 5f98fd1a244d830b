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

BLOCK_QUERIES = 128
KEPT_ELEMENTS = 2**24


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int], shared_prefix: int = 0
) -> Tensor:
    """Each token attends to the shared prefix and to the tokens of its own segment up to itself.

    Args:
        query: [T, heads, head_dim].
        key: [T, kv_heads, head_dim].
        value: [T, kv_heads, head_dim].
        segment_lengths: lengths of the sequences that lie one after another behind the prefix.
        shared_prefix: length of the prefix at the start of the batch that every segment continues; it and the
            segments sum to T.

    Returns:
        [T, heads, head_dim]; differentiable in all three inputs. The attention weights are kept for backward while
        they are at most ``KEPT_ELEMENTS``, else computed again.
    """
    wants_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if query.dtype is torch.float32 and not shared_prefix and not wants_gradient:
        return _fused(query, key, value, segment_lengths)
    blocks = list(_blocks(segment_lengths, shared_prefix))
    result: Tensor = _CausalAttention.apply(query, key, value, blocks, shared_prefix)  # type: ignore[no-untyped-call]
    return result


def _fused(query: Tensor, key: Tensor, value: Tensor, segment_lengths: Sequence[int]) -> Tensor:
    """float32 without gradient: torch's fused attention is fast there, and gives transformers' results bit for bit."""
    split = (tensor.transpose(0, 1).split(list(segment_lengths), 1) for tensor in (query, key, value))
    out = [
        scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)
        for q, k, v in zip(*split, strict=True)
    ]
    return torch.cat(out, 2)[0].transpose(0, 1)


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) see the prefix and the keys [begin, stop), the last ones causally."""

    begin: int
    start: int
    stop: int
    prefix: int

    @property
    def keys(self) -> int:
        return self.prefix + self.stop - self.begin

    @property
    def weights(self) -> int:
        return (self.stop - self.start) * self.keys


def _blocks(segment_lengths: Sequence[int], shared_prefix: int) -> Iterator[_Block]:
    segments = [(0, shared_prefix, 0)] if shared_prefix else []
    begin = shared_prefix
    for length in segment_lengths:
        segments.append((begin, begin + length, shared_prefix))
        begin += length
    for begin, end, prefix in segments:
        for start in range(begin, end, BLOCK_QUERIES):
            yield _Block(begin, start, min(end, start + BLOCK_QUERIES), prefix)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[_Block], prefix: int) -> Tensor:
        keeps = any(ctx.needs_input_grad) and query.shape[1] * sum(block.weights for block in blocks) <= KEPT_ELEMENTS
        heads = _Heads(query, key, value, blocks)
        out = torch.empty_like(query)
        kept = []
        for block in blocks:
            weights = heads.weights(block)
            heads.scatter(out, block, weights @ heads.values(block))
            if keeps:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.prefix = blocks, prefix
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        heads = _Heads(query, key, value, ctx.blocks)
        wide = torch.float64 if query.dtype is torch.float64 else torch.float32
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros(key.transpose(0, 1).shape, dtype=wide, device=key.device) for _ in range(2))
        for index, block in enumerate(ctx.blocks):
            weights = kept[index] if kept else heads.weights(block)
            d_out = heads.gather(gradients[0], block)
            d_weights = d_out @ heads.values(block).transpose(1, 2)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            heads.scatter(d_query, block, (d_scores @ heads.keys(block)).mul_(heads.scale))
            heads.add(d_key, block, (heads.gather(query, block) * heads.scale).transpose(1, 2) @ d_scores)
            heads.add(d_value, block, d_out.transpose(1, 2) @ weights)
        d_key, d_value = (grown.transpose(0, 1).to(key.dtype) for grown in (d_key, d_value))
        return d_query, d_key, d_value, None, None


class _Heads:
    """Blocks of the inputs as batches over the KV heads; the queries of a group stand below one another.

    Attributes:
        scale: of the scores, 1 / sqrt(head_dim).
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[_Block]) -> None:
        self.scale = query.shape[-1] ** -0.5
        self._query, self._kv_heads = query, key.shape[1]
        self._key, self._value = key.transpose(0, 1), value.transpose(0, 1)
        rows = max(block.stop - block.start for block in blocks)
        columns = max(block.keys for block in blocks)
        hidden = torch.full((rows, rows), float("-inf"), dtype=query.dtype, device=query.device).triu_(1)
        self._mask = torch.cat((hidden.new_zeros(rows, columns), hidden), 1)

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
        query = self.gather(self._query, block) * self.scale
        scores = query @ self.keys(block).transpose(1, 2)
        count = block.stop - block.start
        first = self._mask.shape[1] - self._mask.shape[0] - (block.keys - count)
        mask = self._mask[:count, first : first + block.keys]
        scores.view(-1, count, block.keys).add_(mask)
        return torch.softmax(scores, -1)

    @staticmethod
    def add(total: Tensor, block: _Block, part: Tensor) -> None:
        """Add ``part`` [kv_heads, D, keys] where the block's keys stand in ``total`` [kv_heads, T, D]."""
        part = part.transpose(1, 2)
        if block.prefix:
            total[:, : block.prefix] += part[:, : block.prefix]
        total[:, block.begin : block.stop] += part[:, block.prefix :]


def _seen(heads: Tensor, block: _Block) -> Tensor:
    own = heads[:, block.begin : block.stop]
    return torch.cat((heads[:, : block.prefix], own), 1) if block.prefix else own
