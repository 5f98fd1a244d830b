"""The policy loss, by whichever implementation fits, with its backward, and what each token counts in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kernels.registry import chosen


class PolicyLoss(NamedTuple):
    """What a batch of sampled tokens gives.

    Attributes:
        losses: [n] f32, weighed; their sum is the batch's loss, differentiable in the hidden rows.
        logprobs: [n] f32 of the tokens now, without gradient; 0 for rows that do not count.
    """

    losses: Tensor
    logprobs: Tensor


def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    reference: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl: float = 0.0,
) -> PolicyLoss:
    """``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl * k3``, weighed, for each sampled token.

    ``r`` is the token's probability now over that when it was sampled, ``k3 = exp(d) - d - 1`` with ``d`` the
    reference's log-probability less the token's. Arguments as of ``kernels.policy_loss.gpu.policy_loss``; the head is
    frozen. GRPO clips both sides alike, DAPO has a larger ``clip_high``; ``row_weights`` has their normalisations.
    """
    losses, logprobs = _PolicyLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, old, advantages, weights, reference, clip_low, clip_high, kl
    )
    return PolicyLoss(losses, logprobs)


def row_weights(
    lengths: Sequence[int], normalise: Literal["token", "sequence"], device: torch.device | str = "cpu"
) -> Tensor:
    """What each token of sequences of such ``lengths`` counts, so that the weighed losses' sum is their mean.

    ``token``: every token alike, as DAPO has it. ``sequence``: every sequence alike, as GRPO has it.

    Returns:
        [sum of lengths] f32.
    """
    counts = torch.tensor(lengths, dtype=torch.int64)
    if normalise == "token":
        return torch.full((sum(lengths),), 1 / max(1, sum(lengths)), device=device)
    filled = max(1, sum(1 for length in lengths if length))
    return (1 / (filled * counts.float())).repeat_interleave(counts).to(device)


class _PolicyLoss(torch.autograd.Function):
    """Forward keeps the gradient of the hidden rows (their size), so that backward is one multiplication."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        function = chosen("policy_loss", hidden, width=hidden.shape[1], vocabulary=weight.shape[0])
        losses, logprobs, gradient = function(hidden.detach(), weight, targets, *rest)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(logprobs)
        return losses, logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (per_row,) = ctx.saved_tensors
        return (per_row * gradients[0].unsqueeze(1)).to(per_row.dtype), *(None,) * 9
