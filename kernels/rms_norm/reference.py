"""The truth, in float64."""

from __future__ import annotations

from torch import Tensor


def rms_norm_reference(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden: [..., width], weight: [width] -> [..., width] float64."""
    exact = hidden.double()
    return exact / (exact.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
