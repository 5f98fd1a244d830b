"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """hidden: [n, width], weight: [vocabulary, width], targets: [n], negative for rows that do not count.

    Returns:
        Losses [n] and the logits' log-sum-exp [n], float64, differentiable in ``hidden``.
    """
    logits = hidden.double() @ weight.double().T
    normalisers = torch.logsumexp(logits, -1)
    chosen = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)
    return torch.where(targets < 0, 0.0, normalisers - chosen), normalisers


def linear_cross_entropy_gradient_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and log-sum-exp [n] float64, and ``factors * d loss / d hidden`` [n, width] by autograd."""
    rows = hidden.detach().double().requires_grad_()
    with torch.enable_grad():
        losses, normalisers = linear_cross_entropy_reference(rows, weight, targets)
        weighed = losses if factors is None else losses * factors.double()
        (gradient,) = torch.autograd.grad(weighed.sum(), rows)
    return losses.detach(), normalisers.detach(), gradient
