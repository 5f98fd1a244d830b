"""How a model's layers ask for attention, and the plain answer that needs no cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from engine.catalog import Recurrence
from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import causal_attention
from kernels.gated_delta_net import DeltaShape, DeltaWeights, gated_delta_net, new_states, plan_states
from kernels.rope import Turns, apply_rope


class Attention(Protocol):
    """What a forward pass calls once per layer."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, turns: Turns, spec: AttentionSpec
    ) -> Tensor:
        """Turn queries and keys by their positions, and attend.

        Args:
            layer: counts those that attend.
            query: [T, heads, head_dim].
            key: [T, kv_heads, head_dim].
            value: [T, kv_heads, head_dim].
            turns: of the batch's positions.
            spec: how the layer attends.

        Returns:
            [T, heads, head_dim].
        """
        ...


def delta_shape(sizes: Recurrence) -> DeltaShape:
    """A configuration's recurrent layers as their kernel names them."""
    return DeltaShape(sizes.key_heads, sizes.value_heads, sizes.key_dim, sizes.value_dim, sizes.taps)


@runtime_checkable
class Recurrent(Protocol):
    """What an ``Attention`` offers besides, if it can carry the states of recurrent layers."""

    def recur(
        self, layer: int, mixed: Tensor, decay: Tensor, write: Tensor, *, weights: DeltaWeights, shape: DeltaShape
    ) -> Tensor:
        """What each token reads from its sequence's state, as ``kernels.gated_delta_net``; ``layer`` counts those."""
        ...


class PackedCausalAttention:
    """Sequences one after another in the flat batch, each causal in itself; differentiable.

    Args:
        segment_lengths: tokens of each sequence; they sum to the batch's tokens.
    """

    def __init__(self, segment_lengths: Sequence[int]) -> None:
        self.segment_lengths = tuple(segment_lengths)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, turns: Turns, spec: AttentionSpec
    ) -> Tensor:
        """Turn queries and keys, and attend within each sequence."""
        query, key = (apply_rope(heads, *turns) for heads in (query, key))
        return causal_attention(query, key, value, self.segment_lengths, spec=spec)

    def recur(
        self, layer: int, mixed: Tensor, decay: Tensor, write: Tensor, *, weights: DeltaWeights, shape: DeltaShape
    ) -> Tensor:
        """Run the delta net; every sequence begins with an empty state."""
        count, device = len(self.segment_lengths), mixed.device
        plan = plan_states(self.segment_lengths, range(count), [True] * count, (), shape, device)
        return gated_delta_net(mixed, decay, write, weights, new_states(1, count, shape, device).layer(0), plan)
