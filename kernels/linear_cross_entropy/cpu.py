"""Head and loss in chunks of rows: each chunk's logits become its losses and its hidden gradient, then are dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_LOGITS = 2**24


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-probability of each target under ``softmax(hidden @ weight.T)``.

    Args:
        hidden: [N, width], the rows whose next token counts.
        weight: [vocab, width], the frozen head; it gets no gradient.
        targets: [N] i64, the next tokens.

    Returns:
        [N] float32, differentiable in ``hidden``. At most ``CHUNK_LOGITS`` logits exist at a time.
    """
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward keeps d loss / d hidden (the size of ``hidden``), so that backward is one multiplication."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, CHUNK_LOGITS // weight.shape[0])
        wants_gradient = ctx.needs_input_grad[0]
        losses, gradients = [], []
        for chunk, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = functional.linear(chunk, weight).float()
            log_z = torch.logsumexp(logits, -1)
            losses.append(log_z - logits.gather(1, wanted.unsqueeze(1)).squeeze(1))
            if wants_gradient:
                probabilities = logits.sub_(log_z.unsqueeze(1)).exp_()
                probabilities.scatter_add_(1, wanted.unsqueeze(1), probabilities.new_full((len(wanted), 1), -1.0))
                gradients.append(probabilities.to(weight.dtype) @ weight)
        if wants_gradient:
            ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(hidden))
        return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (per_row,) = ctx.saved_tensors
        return (per_row * gradients[0].unsqueeze(1)).to(per_row.dtype), None, None
