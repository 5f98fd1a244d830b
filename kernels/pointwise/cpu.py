"""As torch has them, or under exact numerics the C kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.numerics import exact
from kernels.pointwise.exact import exact_pointwise


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, of x's shape and dtype."""
    return exact_pointwise("silu", x) if exact() else functional.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, of x's shape and dtype."""
    return exact_pointwise("sigmoid", x) if exact() else torch.sigmoid(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, of x's shape and dtype."""
    return exact_pointwise("gelu_tanh", x) if exact() else functional.gelu(x, approximate="tanh")


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, of x's shape and dtype."""
    return exact_pointwise("softplus", x) if exact() else functional.softplus(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, of x's shape and dtype."""
    return exact_pointwise("tanh", x) if exact() else torch.tanh(x)
