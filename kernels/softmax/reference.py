"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_reference(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width] float64."""
    return torch.softmax(x.double(), -1)


def log_softmax_reference(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width] float64."""
    return torch.log_softmax(x.double(), -1)


def log_sum_exp_reference(x: Tensor) -> Tensor:
    """x: [..., width] -> [...] float64."""
    return torch.logsumexp(x.double(), -1)


def logprob_gather_reference(logits: Tensor, targets: Tensor, entropy: bool = False) -> tuple[Tensor, ...]:
    """logits: [N, width], targets: [N] -> log-probabilities, normalisers, entropies if wanted: [N] float64 each."""
    logarithms = log_softmax_reference(logits)
    picked = logarithms.gather(1, targets.clamp(min=0).unsqueeze(1))[:, 0].masked_fill(targets < 0, 0.0)
    found = picked, log_sum_exp_reference(logits)
    terms = torch.where(logarithms.isfinite(), logarithms.exp() * logarithms, 0.0)
    return (*found, -terms.sum(1)) if entropy else found
