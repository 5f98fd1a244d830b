"""In torch's operators, on any device, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: Tensor | None = None,
) -> None:
    """One AdamW step in place, tensor by tensor."""
    root = (1 - betas[1] ** step) ** 0.5
    for parameter, gradient, mean, square in zip(parameters, gradients, first, second, strict=True):
        slope = gradient.float() if scale is None else gradient.float() * scale
        mean.lerp_(slope, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(slope, slope, value=1 - betas[1])
        length = square.sqrt().div_(root).add_(eps)
        value = parameter.float()  # itself if it is float32, and then all is done in place
        value.mul_(1 - rate * weight_decay).addcdiv_(mean, length, value=-rate / (1 - betas[0] ** step))
        if value is not parameter:
            parameter.copy_(value)
