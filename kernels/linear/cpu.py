"""The product as torch has it, on any device: sums may take another order when the batch has another shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """x: [..., in], weight: [out, in], bias: [out] of one dtype -> [..., out] in it, or float32 if ``float32_out``."""
    out = functional.linear(x, weight, bias)
    return out.to(torch.float32) if float32_out else out
