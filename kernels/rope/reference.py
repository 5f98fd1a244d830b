"""The truth, in float64: dimension i and dimension i + head_dim / 2 are the plane that position p turns by p * f_i."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_reference(heads: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """heads: [T, H, head_dim], positions: [T], frequencies: [head_dim / 2] -> [T, H, head_dim] float64."""
    first, second = heads.double().chunk(2, -1)
    turn = torch.polar(torch.ones((), dtype=torch.float64), positions.double()[:, None, None] * frequencies.double())
    turned = torch.complex(first, second) * turn
    return torch.cat((turned.real, turned.imag), -1)
