"""AdamW's state over one flat vector: all adapter weights stand one after another, so a step is one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.adamw import adamw


class FlatAdamW:
    """What AdamW keeps between steps; the step itself is ``kernels.adamw``, with torch's betas and epsilon.

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
        """Change ``parameters`` ([n] f32) in place by one step along ``gradient`` ([n] f32)."""
        self.steps += 1
        adamw(
            [parameters],
            [gradient],
            [self.first],
            [self.second],
            step=self.steps,
            rate=learning_rate,
            weight_decay=self._weight_decay,
        )


def clip_gradient(gradient: Tensor, max_norm: float) -> float:
    """Scale ``gradient`` down in place to ``max_norm`` if it is longer; its length before that."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > max_norm:
        gradient.mul_(max_norm / norm)
    return norm
