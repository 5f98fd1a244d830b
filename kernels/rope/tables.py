"""Cosines and sines of a batch's positions, which every layer shares."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.numerics import exact
from kernels.rope.exact import exact_angles

Turns = tuple[Tensor, Tensor]
"""Cosine and signed sine of a batch's positions, as ``rope_tables`` gives them."""


def rope_tables(positions: Tensor, frequencies: Tensor, dtype: torch.dtype, magnitude: float = 1.0) -> Turns:
    """Cosine and signed sine of each position's angles.

    Args:
        positions: [T] i64.
        frequencies: [head_dim / 2] f32, radians per position.
        dtype: of the result.
        magnitude: factor on both.

    Returns:
        Two tensors [T, 1, head_dim]; the sine's first half is negated.
    """
    # A GPU computes every value by itself; on a CPU torch does not.
    if exact() and positions.device.type == "cpu":
        cosine, sine = exact_angles(positions, frequencies)
    else:
        angles = positions.to(frequencies.dtype).unsqueeze(1) * frequencies
        cosine, sine = angles.cos(), angles.sin()
    if magnitude != 1.0:
        cosine, sine = cosine * magnitude, sine * magnitude
    return (
        torch.cat((cosine, cosine), 1).to(dtype).unsqueeze(1),
        torch.cat((-sine, sine), 1).to(dtype).unsqueeze(1),
    )
