"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] -> [..., ffn] float64."""
    exact = gate.double()
    return exact / (1 + torch.exp(-exact)) * up.double()
