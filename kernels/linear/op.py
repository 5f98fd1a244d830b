"""The product, by whichever implementation fits this moment's numerics."""

from __future__ import annotations

from torch import Tensor

from kernels.numerics import exact, refuse_gradients
from kernels.registry import chosen


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """x: [..., in], weight: [out, in], bias: [out] of one dtype -> [..., out] in it, or in float32 if ``float32_out``.

    Differentiable, except under exact numerics.
    """
    if exact():
        refuse_gradients(x, weight, bias)
    product: Tensor = chosen("linear", x, columns=x.shape[-1])(x, weight, bias, float32_out=float32_out)
    return product
