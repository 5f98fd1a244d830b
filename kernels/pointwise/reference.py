"""The truth, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda x: torch.sigmoid(x.double()),
    "silu": lambda x: functional.silu(x.double()),
    "gelu_tanh": lambda x: functional.gelu(x.double(), approximate="tanh"),
    "softplus": lambda x: functional.softplus(x.double()),
    "tanh": lambda x: torch.tanh(x.double()),
}
"""By name: [...] -> [...] float64."""
