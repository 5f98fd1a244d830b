"""The truth, in float64, by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.linear_cross_entropy.reference import linear_cross_entropy_reference


def policy_terms(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    reference: Tensor | None,
    clip_low: float,
    clip_high: float,
    kl: float,
) -> Tensor:
    """Loss of each token from its log-probabilities now, when sampled, and under the reference; all [n].

    ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl * (exp(d) - d - 1)`` with ``r = exp(now - old)`` and
    ``d = reference - now``.
    """
    ratios = (logprobs - old).exp()
    clipped = ratios.clamp(1 - clip_low, 1 + clip_high)
    losses = -torch.minimum(ratios * advantages, clipped * advantages)
    if reference is not None:
        apart = reference - logprobs
        losses = losses + kl * (apart.exp() - apart - 1)
    return losses


def policy_loss_reference(
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
    """Losses, log-probabilities and the hidden rows' gradient by autograd, in float64."""
    rows = hidden.detach().double().requires_grad_()
    exact = None if reference is None else reference.double()
    with torch.enable_grad():
        losses, _ = linear_cross_entropy_reference(rows, weight, targets)
        terms = policy_terms(-losses, old.double(), advantages.double(), exact, clip_low, clip_high, kl)
        terms = torch.where(targets < 0, 0.0, terms * weights.double())
        (gradient,) = torch.autograd.grad(terms.sum(), rows)
    return terms.detach(), -losses.detach(), gradient
