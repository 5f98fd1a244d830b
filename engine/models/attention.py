"""How a model's layers ask for attention, and the plain answer that needs no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import causal_attention


class Attention(Protocol):
    """What a forward pass calls once per layer. Queries and keys are rotated already."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, spec: AttentionSpec) -> Tensor:
        """query: [T, heads, head_dim], key and value: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        ...


class PackedCausalAttention:
    """Sequences one after another in the flat batch, each causal in itself; differentiable.

    Args:
        segment_lengths: tokens of each sequence; they sum to the batch's tokens.
    """

    def __init__(self, segment_lengths: Sequence[int]) -> None:
        self.segment_lengths = tuple(segment_lengths)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, spec: AttentionSpec) -> Tensor:
        """As ``Attention``."""
        return causal_attention(query, key, value, self.segment_lengths, spec=spec)
