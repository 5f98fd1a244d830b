"""Each token's clipped policy loss, and its slope in the token's log-probability."""

import triton
import triton.language as tl


@triton.jit
def policy_terms(
    cross_entropies, targets, old, advantages, weights, reference, losses, factors, rows, clip_low, clip_high, kl,
    HAS_REFERENCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    logprob = -tl.load(cross_entropies + row, mask=inside, other=0.0)
    advantage = tl.load(advantages + row, mask=inside, other=0.0)
    weight = tl.load(weights + row, mask=inside, other=0.0)
    ratio = tl.exp(logprob - tl.load(old + row, mask=inside, other=0.0))
    clipped = tl.minimum(tl.maximum(ratio, 1.0 - clip_low), 1.0 + clip_high)
    # A NaN in either must reach the loss: a comparison would lose it.
    loss = -tl.minimum(ratio * advantage, clipped * advantage, propagate_nan=tl.PropagateNan.ALL)
    stopped = ((advantage > 0.0) & (ratio > 1.0 + clip_high)) | ((advantage < 0.0) & (ratio < 1.0 - clip_low))
    slope = tl.where(stopped, 0.0, -ratio * advantage)
    if HAS_REFERENCE:
        apart = tl.load(reference + row, mask=inside, other=0.0) - logprob
        share = tl.exp(apart)
        loss += kl * (share - apart - 1.0)
        slope += kl * (1.0 - share)
    counts = tl.load(targets + row, mask=inside, other=-1) >= 0
    tl.store(losses + row, tl.where(counts, loss * weight, 0.0), mask=inside)
    # The head's gradient is of the negative log-probability.
    tl.store(factors + row, tl.where(counts, -slope * weight, 0.0), mask=inside)
