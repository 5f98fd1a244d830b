"""In torch's operators, on any device, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width]; differentiable."""
    return torch.softmax(_upcast(x), -1)


def log_softmax(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width]; differentiable."""
    return torch.log_softmax(_upcast(x), -1)


def log_sum_exp(x: Tensor) -> Tensor:
    """x: [..., width] -> [...]; differentiable."""
    return torch.logsumexp(_upcast(x), -1)


def logprob_gather(logits: Tensor, targets: Tensor, entropy: bool = False) -> tuple[Tensor, ...]:
    """logits: [N, width], targets: [N] -> log-probabilities, normalisers and, if wanted, entropies, [N] each."""
    upcast = _upcast(logits)
    normaliser = torch.logsumexp(upcast, -1)
    found = picked(upcast, targets, normaliser), normaliser
    return (*found, torch.special.entr(torch.softmax(upcast, -1)).sum(1)) if entropy else found


def picked(logits: Tensor, targets: Tensor, normaliser: Tensor) -> Tensor:
    """Log-probabilities [N] of the targets; 0 where there is none."""
    own = logits.gather(1, targets.clamp(min=0).unsqueeze(1))[:, 0]
    return (own - normaliser).masked_fill(targets < 0, 0.0)


def _upcast(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
