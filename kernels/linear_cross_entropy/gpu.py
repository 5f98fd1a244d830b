"""Launches the Triton kernels of the frozen head with cross entropy.

The gradient goes over chunks of rows, each with the exponentials of its logits in the working dtype: two products in
all, nothing is computed twice, and a row's gradient is one program's sum over the vocabulary, in order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.arguments import require, within
from kernels.linear_cross_entropy.kernel import head_hidden_gradient, head_logit_gradient, head_losses, head_tiles
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CHUNK_VALUES = 2**27
"""How many exponentials exist at a time, at most."""
ROWS = 128
MAX_VOCABULARY = 2**24


class Scores(NamedTuple):
    """What the head says about some rows.

    Attributes:
        losses: [n] f32, negative log-probabilities of the targets; 0 where the target is negative, NaN beyond the head.
        normalisers: [n] f32, logarithms of the sums of the exponentials.
        picked: [n] f32, the targets' logits; anything where there is no target.
        maxima: [tiles, n] f32, of the tiles of logits.
        tile: tokens in a tile.
    """

    losses: Tensor
    normalisers: Tensor
    picked: Tensor
    maxima: Tensor
    tile: int


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-probability of each target under ``softmax(hidden @ weight.T)``.

    Args:
        hidden: [n, width] bf16, f16 or f32.
        weight: [vocabulary, width] of the same dtype.
        targets: [n] i64; negative for rows that do not count.

    Returns:
        Losses [n] f32 (0 for rows that do not count, NaN for targets beyond the head), and the logarithm of the sum of
        the exponentials of each row's logits, [n] f32.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require_head(hidden, weight, targets)
    found = scores(hidden, weight, targets, None)
    return found.losses, found.normalisers


def linear_cross_entropy_gradient(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-probability of each target, and the gradient of the hidden rows.

    Args:
        hidden: [n, width] bf16, f16 or f32.
        weight: [vocabulary, width] of the same dtype.
        targets: [n] i64; negative for rows that do not count.
        factors: [n] f32 on the rows' gradients; None for 1.

    Returns:
        Losses and normalisers as ``linear_cross_entropy``, and ``factor * d loss / d hidden`` [n, width] of hidden's
        dtype.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require_head(hidden, weight, targets)
    if factors is not None:
        require("factors", factors, dtypes=(torch.float32,), shape=targets.shape, beside=hidden, contiguous=True)
    losses, normalisers = (torch.empty(targets.shape, dtype=torch.float32, device=hidden.device) for _ in range(2))
    outgoing = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    room = exponentials(hidden, weight)
    for rows in chunks(len(hidden), len(weight)):
        found = scores(hidden[rows], weight, targets[rows], room)
        losses[rows], normalisers[rows] = found.losses, found.normalisers
        hidden_gradient(
            found, room, weight, targets[rows], None if factors is None else factors[rows], outgoing[rows]
        )  # fmt: skip
    return losses, normalisers, outgoing


def require_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Raise unless the head takes these.

    Raises:
        ArgumentError: naming the argument.
    """
    require("hidden", hidden, dtypes=DTYPES, shape=(None, None))
    require("weight", weight, dtypes=(hidden.dtype,), shape=(None, hidden.shape[1]), beside=hidden)
    within("weight's vocabulary", weight.shape[0], 1, MAX_VOCABULARY)
    require("targets", targets, dtypes=(torch.int64,), shape=(hidden.shape[0],), beside=hidden, contiguous=True)


def chunks(rows: int, vocabulary: int) -> list[slice]:
    """The chunks of rows whose exponentials fit in ``CHUNK_VALUES``."""
    most = max(1, CHUNK_VALUES // vocabulary)
    most = most - most % ROWS if most > ROWS else most
    return [slice(first, min(first + most, rows)) for first in range(0, rows, most)]


def exponentials(hidden: Tensor, weight: Tensor) -> Tensor:
    """Room for the exponentials of the largest chunk, [rows, vocabulary] of hidden's dtype."""
    rows = max((part.stop - part.start for part in chunks(len(hidden), len(weight))), default=0)
    return torch.empty((rows, len(weight)), dtype=hidden.dtype, device=hidden.device)


def scores(hidden: Tensor, weight: Tensor, targets: Tensor, room: Tensor | None) -> Scores:
    """The head on [n, width] rows; the exponentials of the logits go into ``room`` [at least n, vocabulary]."""
    (rows, width), vocabulary = hidden.shape, len(weight)
    config = tuned("linear_cross_entropy", "head_tiles", rows=rows, bytes=hidden.element_size())
    tiles = -(-vocabulary // config["BLOCK_N"])
    losses, normalisers, picked = (torch.empty(rows, dtype=torch.float32, device=hidden.device) for _ in range(3))
    maxima, sums = (torch.empty((tiles, rows), dtype=torch.float32, device=hidden.device) for _ in range(2))
    if rows:
        head_tiles[(-(-rows // config["BLOCK_M"]) * tiles,)](
            hidden, weight, targets, maxima if room is None else room, maxima, sums, picked,
            rows, vocabulary, width, hidden.stride(0), weight.stride(0), KEEP=room is not None, **config,
        )  # fmt: skip
        merging = tuned("linear_cross_entropy", "head_losses", rows=rows)
        head_losses[(-(-rows // merging["BLOCK"]),)](
            maxima, sums, picked, targets, losses, normalisers, rows, vocabulary, tiles, **merging
        )
    return Scores(losses, normalisers, picked, maxima, config["BLOCK_N"])


def hidden_gradient(
    found: Scores, room: Tensor, weight: Tensor, targets: Tensor, factors: Tensor | None, out: Tensor
) -> None:
    """Write ``factors * d loss / d hidden`` of rows that were scored with ``room`` into ``out`` [n, width]."""
    (rows, width), vocabulary = out.shape, len(weight)
    config = tuned("linear_cross_entropy", "head_logit_gradient", vocabulary=vocabulary)
    head_logit_gradient[(-(-vocabulary // config["BLOCK"]), rows)](
        room, found.maxima, found.picked, found.normalisers, targets, found.losses if factors is None else factors,
        rows, vocabulary, HAS_FACTORS=factors is not None, TILE=found.tile, **config,
    )  # fmt: skip
    config = tuned("linear_cross_entropy", "head_hidden_gradient", rows=rows, bytes=out.element_size())
    head_hidden_gradient[(-(-rows // config["BLOCK_M"]) * -(-width // config["BLOCK_N"]),)](
        room, weight, out, rows, vocabulary, width, weight.stride(0), **config
    )
