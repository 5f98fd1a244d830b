"""Drawing tokens, by whichever implementation fits."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kernels.registry import chosen


class Sampled(NamedTuple):
    """One token per row, and what it was worth.

    Attributes:
        tokens: [n] i64.
        logprobs: [n] f32 under the model's own distribution; NaN in a row that holds a NaN or +inf, or -inf
            alone: its token means nothing.
        shaped_logprobs: [n] f32 under the distribution that was drawn from: 0 where the draw was greedy.
    """

    tokens: Tensor
    logprobs: Tensor
    shaped_logprobs: Tensor


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Sampled:
    """Draw each row's token from (seed, position) alone, whoever shares the batch; arguments as of ``gpu.sample``."""
    function = chosen("sample", logits, vocabulary=logits.shape[-1])
    return Sampled(*function(logits, temperatures, top_ks, top_ps, min_ps, seeds, positions))
