"""The truth: the whole vocabulary sorted, in float64 unless asked otherwise.

One uniform number u in [0, 1) comes from (seed, position). A row that keeps the whole vocabulary (but for what min-p
takes away) is walked in the order of token ids, any other in the order of its shares, the lower id first among equals:
the first token whose running sum of kept shares passes u times their total is drawn. Gumbel noise would need a random
number per token; this needs one, and gives the same token on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""Temperatures below this are zero: dividing by them could overflow."""

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """seeds, positions: [n] i64 -> [n] float64 in [0, 1) with 53 random bits, by Philox-4x32 with ten rounds."""
    c0, c1 = positions & _LOW, positions >> 32 & _LOW
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = seeds & _LOW, seeds >> 32 & _LOW
    for _ in range(_ROUNDS):
        # Products wrap at 64 bits, which leaves the bits that are taken as they are.
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (right >> 32 & _LOW) ^ c1 ^ k0, right & _LOW, (left >> 32 & _LOW) ^ c3 ^ k1, left & _LOW
        k0, k1 = k0 + _WEYL[0] & _LOW, k1 + _WEYL[1] & _LOW
    return ((c0 << 21) ^ (c1 >> 11)).double() * 2.0**-53


def sample_reference(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields of ``Sampled``, for rows of finite or -inf logits; shares are computed in ``dtype``."""
    tokens, shaped = draw_sorted(logits, temperatures, top_ks, top_ps, min_ps, uniform(seeds, positions), dtype)
    logprobs = torch.log_softmax(logits.to(dtype), -1).gather(1, tokens.unsqueeze(1)).squeeze(1)
    return tokens, logprobs, shaped


def draw_sorted(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    draws: Tensor,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """The tokens [n] i64 that the uniform numbers ``draws`` [n] stand for, and their shaped log-probabilities."""
    rows, width = logits.shape
    greedy = temperatures < GREEDY_BELOW
    divisors = torch.where(greedy, 1.0, temperatures).unsqueeze(1)
    shares = torch.softmax(logits.to(dtype) / divisors, -1)
    limits = torch.where((top_ks <= 0) | (top_ks >= width), width, top_ks).unsqueeze(1)
    cut = (limits < width) | (top_ps < 1).unsqueeze(1)
    in_order = shares.sort(dim=-1, descending=True, stable=True)
    ids = torch.where(cut, in_order.indices, torch.arange(width, device=logits.device).expand(rows, -1))
    weights = shares.gather(1, ids).double()
    kept = (torch.arange(width, device=logits.device) < limits) | ~cut
    mass = torch.where(limits < width, (weights * kept).sum(-1, keepdim=True), 1.0)
    below = weights.cumsum(-1) - weights
    kept &= (below < top_ps.double().unsqueeze(1) * mass) | ~cut
    kept &= weights >= min_ps.double().unsqueeze(1) * weights.amax(-1, keepdim=True)
    kept[:, 0] |= cut[:, 0]
    weights = weights * kept
    ends = weights.cumsum(-1)
    total = ends[:, -1:]
    targets = torch.minimum(draws.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    places = (ends <= targets).sum(-1, keepdim=True).clamp_max(width - 1)
    drawn = ids.gather(1, places).squeeze(1)
    shaped = (weights.gather(1, places) / total).log().squeeze(1).to(dtype)
    return torch.where(greedy, logits.argmax(-1), drawn), torch.where(greedy, 0.0, shaped)
