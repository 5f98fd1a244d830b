"""A weighted sum of adapters as one adapter: ranks one after another, weights and scales taken into B."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.models.adapters import Adapter


def combine(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """One adapter whose update is the sum of the parts' updates, each times its weight.

    Args:
        parts: adapters of one model, format and device; ranks and targets may differ.

    Returns:
        An adapter with scale 1; a projection has the ranks of the parts that change it, added up.
    """
    pairs: dict[tuple[int, str], list[tuple[Tensor, Tensor]]] = {}
    for adapter, weight in parts:
        for key, (down, up) in adapter.weights.items():
            pairs.setdefault(key, []).append((down, up * (adapter.scale * weight)))
    weights = {
        key: (torch.cat([down for down, _ in found]), torch.cat([up for _, up in found], 1))
        for key, found in pairs.items()
    }
    rank = max(down.shape[0] for down, _ in weights.values())
    targets = tuple(dict.fromkeys(target for adapter, _ in parts for target in adapter.targets))
    return Adapter(rank, float(rank), targets, weights)
