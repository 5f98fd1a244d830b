"""The truth, in float64."""

from __future__ import annotations

from torch import Tensor


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: [..., in], weight: [out, in], bias: [out] -> [..., out] float64."""
    product = x.double() @ weight.double().T
    return product if bias is None else product + bias.double()
