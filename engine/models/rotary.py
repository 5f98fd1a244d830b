"""Rotary frequencies of a model, stretched as it wants."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.catalog import RopeScaling


def rope_frequencies(head_dim: int, base: float, scaling: RopeScaling | None) -> Tensor:
    """[head_dim / 2] f32: radians per position of each plane.

    ``stored`` scaling divides by a tensor in the weights file, which ``load_model`` does.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / base**exponents
    if scaling is None or scaling.kind == "stored":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    kept = _kept_planes(head_dim, base, scaling) if scaling.kind == "yarn" else _kept_waves(frequencies, scaling)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _kept_waves(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: how much of each frequency stays, by the length of its wave."""
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return ((scaling.original_context / wavelengths - low) / (high - low)).clamp(0, 1)


def _kept_planes(head_dim: int, base: float, scaling: RopeScaling) -> Tensor:
    """YaRN: how much of each frequency stays, linear in the number of its plane between two bounds."""

    def plane(turns: float) -> float:
        """The plane that turns so many times within the trained context."""
        return head_dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = plane(scaling.high_frequency_factor), plane(scaling.low_frequency_factor)
    if scaling.whole_planes:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    return 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
