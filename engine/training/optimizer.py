"""AdamW over one flat vector: all adapter weights stand one after another, so a step is a dozen operators in all."""

from __future__ import annotations

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class FlatAdamW:
    """AdamW with decoupled weight decay, as ``torch.optim.AdamW`` computes it.

    Attributes:
        first: running mean of the gradient, [n] f32.
        second: running mean of its square, [n] f32.
        steps: how many steps were taken.
    """

    def __init__(self, parameters: Tensor, *, weight_decay: float) -> None:
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self.steps = 0
        self._weight_decay = weight_decay

    def step(self, parameters: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """Change ``parameters`` ([n] f32) in place by one step along ``gradient`` ([n] f32, overwritten)."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETA_1)
        self.second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        root_correction = (1 - BETA_2**self.steps) ** 0.5
        denominator = torch.sqrt(self.second, out=gradient).div_(root_correction).add_(EPSILON)
        parameters.mul_(1 - learning_rate * self._weight_decay)
        parameters.addcdiv_(self.first, denominator, value=-learning_rate / (1 - BETA_1**self.steps))


def clip_gradient(gradient: Tensor, max_norm: float) -> float:
    """Scale ``gradient`` down in place to ``max_norm`` if it is longer; its length before that."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > max_norm:
        gradient.mul_(max_norm / norm)
    return norm
