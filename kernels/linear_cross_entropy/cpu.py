"""Head and loss in torch's operators, in chunks of rows: each chunk's logits become losses and gradient, then go."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_LOGITS = 2**24
"""How many logits exist at a time, at most."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [n] and normalisers [n], float32, of chunks of logits; on any device."""
    losses, normalisers, _ = _in_chunks(hidden, weight, targets, None, gradient=False)
    return losses, normalisers


def linear_cross_entropy_gradient(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, normalisers and the hidden rows' gradient, of chunks of logits; on any device."""
    return _in_chunks(hidden, weight, targets, factors, gradient=True)


def _in_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None, *, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows = max(1, CHUNK_LOGITS // weight.shape[0])
    counts = targets >= 0
    scales = counts.float() if factors is None else factors * counts
    losses, normalisers = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
    gradients = torch.empty_like(hidden) if gradient else hidden
    for first in range(0, len(hidden), rows):
        part = slice(first, first + rows)
        wanted = targets[part].clamp_min(0).unsqueeze(1)
        logits = functional.linear(hidden[part], weight).float()
        log_z = torch.logsumexp(logits, -1)
        losses[part] = (log_z - logits.gather(1, wanted).squeeze(1)) * counts[part]
        normalisers[part] = log_z
        if gradient:
            shares = logits.sub_(log_z.unsqueeze(1)).exp_()
            shares.scatter_add_(1, wanted, shares.new_full((len(wanted), 1), -1.0))
            shares.mul_(scales[part].unsqueeze(1))
            gradients[part] = shares.to(weight.dtype) @ weight
    return losses, normalisers, gradients
