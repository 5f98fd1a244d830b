"""SwiGLU in two torch operators."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] (views are fine) -> ``silu(gate) * up``; differentiable."""
    return functional.silu(gate) * up
