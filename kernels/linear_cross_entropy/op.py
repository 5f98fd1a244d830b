"""Cross entropy of a frozen output head, by whichever implementation fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.registry import chosen


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Negative log-probability of each target under ``softmax(hidden @ weight.T)``.

    Args:
        hidden: [N, width], the rows whose next token counts.
        weight: [vocab, width], the frozen head; it gets no gradient.
        targets: [N] i64, the next tokens; negative for rows that do not count: their loss is 0.
        weights: [N] f32 on the rows' losses; None for 1.

    Returns:
        [N] float32, differentiable in ``hidden``. All logits never exist at once.
    """
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, weights)  # type: ignore[no-untyped-call]
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward keeps d loss / d hidden (the size of ``hidden``), so that backward is one multiplication."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        shape = {"width": hidden.shape[1], "vocabulary": weight.shape[0]}
        losses: Tensor
        if ctx.needs_input_grad[0]:
            losses, _, gradient = chosen("linear_cross_entropy_gradient", hidden, **shape)(
                hidden, weight, targets, weights
            )
            ctx.save_for_backward(gradient)
        else:
            losses, _ = chosen("linear_cross_entropy", hidden, **shape)(hidden, weight, targets)
        return losses if weights is None else losses * weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (per_row,) = ctx.saved_tensors
        return (per_row * gradients[0].unsqueeze(1)).to(per_row.dtype), None, None, None
