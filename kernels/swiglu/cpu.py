"""SwiGLU in two torch operators, or under exact numerics in one C kernel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kernels.numerics import exact
from kernels.pointwise.exact import exact_pointwise


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] (views are fine) -> ``silu(gate) * up``; differentiable."""
    if exact():
        return exact_pointwise("silu", gate, up)
    return functional.silu(gate) * up
