"""Drawing by sorting, in torch's operators and float32 shares, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sampling.reference import sample_reference


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw each row's token by sorting; tokens and both log-probabilities as in ``Sampled``."""
    rows = logits.float()
    good = torch.isfinite(rows.amax(-1)) & ~rows.isnan().any(-1)
    tokens, logprobs, shaped = sample_reference(
        torch.where(good.unsqueeze(1), rows, 0.0), temperatures, top_ks, top_ps, min_ps, seeds, positions, torch.float32
    )
    return tokens, torch.where(good, logprobs, torch.nan), torch.where(good, shaped, torch.nan)
