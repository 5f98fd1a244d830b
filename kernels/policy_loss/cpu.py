"""The policy loss in torch's operators, on any device: log-probabilities, the loss's slope in them, then the head's."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.linear_cross_entropy.cpu import linear_cross_entropy, linear_cross_entropy_gradient
from kernels.policy_loss.reference import policy_terms


def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old: Tensor,
    advantages: Tensor,
    weights: Tensor,
    reference: Tensor | None,
    clip_low: float,
    clip_high: float,
    kl: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, log-probabilities and the hidden rows' gradient; the head's product is computed twice."""
    losses, _ = linear_cross_entropy(hidden, weight, targets)
    with torch.enable_grad():
        logprobs = (-losses).requires_grad_()
        terms = policy_terms(logprobs, old, advantages, reference, clip_low, clip_high, kl)
        terms = torch.where(targets < 0, 0.0, terms * weights)
        (slopes,) = torch.autograd.grad(terms.sum(), logprobs)
    _, _, gradient = linear_cross_entropy_gradient(hidden, weight, targets, -slopes)
    return terms.detach(), logprobs.detach(), gradient
