"""The truth, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_cross_entropy_reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """hidden: [N, width], weight: [vocab, width], targets: [N] -> [N] float64, differentiable in ``hidden``."""
    log_probabilities = torch.log_softmax(hidden.double() @ weight.double().T, -1)
    return -log_probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
