"""Launches the policy loss: the head's kernels, and between them one that turns log-probabilities into slopes."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import require, within
from kernels.linear_cross_entropy.gpu import chunks, exponentials, hidden_gradient, require_head, scores
from kernels.policy_loss.kernel import policy_terms
from kernels.tuned import tuned


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
    """Each token's loss, log-probability, and the gradient of the hidden rows; two products of the head's size.

    Args:
        hidden: [n, width] bf16, f16 or f32.
        weight: [vocabulary, width] of the same dtype, the frozen head.
        targets: [n] i64, the sampled tokens; negative for rows that do not count.
        old: [n] f32, their log-probabilities when they were sampled.
        advantages: [n] f32.
        weights: [n] f32, what a token's loss counts.
        reference: [n] f32, their log-probabilities under the reference model; None for no KL term.
        clip_low: how far below 1 the ratio still pulls, 0 to 1.
        clip_high: how far above 1, from 0 on.
        kl: factor of the KL term, from 0 on.

    Returns:
        Losses [n] f32, log-probabilities [n] f32 (0 for rows that do not count), and the gradient of the losses' sum
        [n, width] of hidden's dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require_head(hidden, weight, targets)
    named = {"old": old, "advantages": advantages, "weights": weights, "reference": reference}
    for name, tensor in named.items():
        if tensor is not None:
            require(name, tensor, dtypes=(torch.float32,), shape=targets.shape, beside=hidden, contiguous=True)
    within("clip_low", clip_low, 0, 1)
    within("clip_high", clip_high, 0, float("inf"))
    within("kl", kl, 0, float("inf"))
    losses, factors, cross_entropies = (
        torch.empty(targets.shape, dtype=torch.float32, device=hidden.device) for _ in range(3)
    )
    outgoing = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    room = exponentials(hidden, weight)
    config = tuned("policy_loss", "policy_terms", rows=len(hidden))
    for part in chunks(len(hidden), len(weight)):
        found = scores(hidden[part], weight, targets[part], room)
        cross_entropies[part] = found.losses
        rows = part.stop - part.start
        policy_terms[(-(-rows // config["BLOCK"]),)](
            found.losses, targets[part], old[part], advantages[part], weights[part],
            found.losses if reference is None else reference[part], losses[part], factors[part],
            rows, clip_low, clip_high, kl, HAS_REFERENCE=reference is not None, **config,
        )  # fmt: skip
        hidden_gradient(found, room, weight, targets[part], factors[part], outgoing[part])
    return losses, cross_entropies.neg_(), outgoing
