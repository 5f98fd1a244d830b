"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_reference(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width] float64."""
    return torch.softmax(x.double(), -1)


def log_sum_exp_reference(x: Tensor) -> Tensor:
    """x: [..., width] -> [...] float64."""
    return torch.logsumexp(x.double(), -1)
