"""Torch's operators, or under exact numerics on a CPU the C kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.numerics import exact
from kernels.pointwise.exact import exact_pointwise


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, of x's shape and dtype."""
    return exact_pointwise("silu", x) if _alone(x) else functional.silu(x)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, of x's shape and dtype."""
    return exact_pointwise("sigmoid", x) if _alone(x) else torch.sigmoid(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, of x's shape and dtype."""
    return exact_pointwise("gelu_tanh", x) if _alone(x) else functional.gelu(x, approximate="tanh")


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, of x's shape and dtype."""
    return exact_pointwise("softplus", x) if _alone(x) else functional.softplus(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, of x's shape and dtype."""
    return exact_pointwise("tanh", x) if _alone(x) else torch.tanh(x)


def _alone(x: Tensor) -> bool:
    """Whether our kernel must see to it that values do not know each other; on a GPU torch's do not."""
    return exact() and x.device.type == "cpu"
