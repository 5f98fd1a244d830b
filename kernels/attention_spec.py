"""What a layer's attention is besides causal: the words that every attention operator understands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionSpec:
    """How a layer attends.

    Attributes:
        scale: factor on the products of queries and keys.
        window: how many tokens each token sees, itself included; None for all before it.
        sinks: [heads], a score of each head that takes its share of the softmax and contributes nothing; frozen.
    """

    scale: float
    window: int | None = None
    sinks: Tensor | None = None

    def first_seen(self, position: int) -> int:
        """The earliest position that the token at ``position`` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)


def softmax_beside_sinks(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the last dimension in which each head's sink takes part, without the sink's own share.

    Args:
        scores: [..., keys].
        sinks: broadcastable to [..., 1], or None.

    Returns:
        [..., keys] in the scores' dtype.
    """
    if sinks is None:
        return torch.softmax(scores, -1)
    column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, column), -1), -1)[..., :-1]
