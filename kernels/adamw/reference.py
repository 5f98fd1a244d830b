"""The truth: torch's own optimizer, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def adamw_reference(
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
) -> tuple[Tensor, ...]:
    """torch's AdamW in float64 -> every parameter, every first and every second moment after the step, in float64."""
    changed = [torch.nn.Parameter(tensor.double()) for tensor in parameters]
    if not changed:
        return ()
    optimizer = torch.optim.AdamW(changed, rate, betas, eps, weight_decay, foreach=False)
    for parameter, gradient, mean, square in zip(changed, gradients, first, second, strict=True):
        parameter.grad = gradient.double() if scale is None else gradient.double() * scale.double()
        taken = torch.tensor(float(step - 1))
        state = {"step": taken, "exp_avg": mean.double(), "exp_avg_sq": square.double()}
        optimizer.state[parameter] = state
    optimizer.step()
    moments = [[optimizer.state[parameter][name] for parameter in changed] for name in ("exp_avg", "exp_avg_sq")]
    return (*(parameter.detach() for parameter in changed), *moments[0], *moments[1])
