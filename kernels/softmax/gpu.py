"""Launches the Triton kernels of softmax. A row is split by its width alone: any batch gives it the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.softmax.kernel import logprob_gather as logprob_gather_kernel
from kernels.softmax.kernel import softmax_rows, softmax_splits, split_sums
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_WIDTH = 1 << 22


def softmax(x: Tensor) -> Tensor:
    """Shares that sum to 1.

    Args:
        x: [..., width] bf16, f16 or f32; rows may lie apart.

    Returns:
        [..., width] f32.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    return _normalised(x, logarithm=False)


def log_softmax(x: Tensor) -> Tensor:
    """The logarithms of ``softmax``, with its arguments."""
    return _normalised(x, logarithm=True)


def log_sum_exp(x: Tensor) -> Tensor:
    """x: [..., width] as of ``softmax`` -> [...] f32, the logarithm of the sum of the exponentials."""
    flat = _rows("x", x)
    return _read_off(flat, None, spread=False)[1].view(x.shape[:-1])


def logprob_gather(logits: Tensor, targets: Tensor, entropy: bool = False) -> tuple[Tensor, ...]:
    """What scoring needs of each row, from one pass over it.

    Args:
        logits: [N, width] bf16, f16 or f32; rows may lie apart.
        targets: [N] i64, below the width; a negative one stands for none.
        entropy: whether it is wanted too.

    Returns:
        [N] f32 each: the targets' log-probabilities (0 without a target), the rows' log-sum-exp and, if wanted, their
        entropies in nats.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    flat = _rows("logits", logits)
    require("logits", logits, dtypes=DTYPES, shape=(None, None))
    require("targets", targets, dtypes=(torch.int64,), shape=(len(flat),), beside=flat)
    return _read_off(flat, targets, spread=entropy)


def _normalised(x: Tensor, *, logarithm: bool) -> Tensor:
    flat = _rows("x", x)
    rows, width = flat.shape
    out = torch.empty(flat.shape, dtype=torch.float32, device=x.device)
    if not rows:
        return out.view(x.shape)
    if width <= tuned("softmax", "split_sums", width=width)["SPLIT"]:
        config = tuned("softmax", "softmax_rows", width=width)
        softmax_rows[(-(-rows // config["ROWS"]),)](
            flat, out, rows, width, flat.stride(0), LOGARITHM=logarithm, BLOCK=_block(width), **config
        )
    else:
        partials = _partials(flat, spread=False)
        config, splits = tuned("softmax", "softmax_splits", width=width), partials.shape[2]
        blocks = -(-width // config["BLOCK"])
        softmax_splits[(rows * blocks,)](
            flat, partials, out, width, flat.stride(0), splits, rows * splits, blocks,
            LOGARITHM=logarithm, SPLITS=_block(splits), **config,
        )  # fmt: skip
    return out.view(x.shape)


def _read_off(flat: Tensor, targets: Tensor | None, *, spread: bool) -> tuple[Tensor, ...]:
    """[rows] f32 each: log-probabilities (nothing without targets), normalisers and, with ``spread``, entropies."""
    rows, width = flat.shape
    found = tuple(torch.empty(rows, dtype=torch.float32, device=flat.device) for _ in range(3 if spread else 2))
    if rows:
        partials = _partials(flat, spread=spread)
        splits = partials.shape[2]
        logprob_gather_kernel[(rows,)](
            flat, targets if targets is not None else flat, partials, *found[:2], found[-1],
            width, flat.stride(0), splits, rows * splits,
            GATHER=targets is not None, SPREAD=spread, SPLITS=_block(splits),
            **tuned("softmax", "logprob_gather", width=width),
        )  # fmt: skip
    return found


def _partials(flat: Tensor, *, spread: bool) -> Tensor:
    """[2 or 3, rows, splits] f32: of each split the largest value, the sum of exponentials, their weighted sum."""
    rows, width = flat.shape
    config = tuned("softmax", "split_sums", width=width)
    splits = -(-width // config["SPLIT"])
    partials = torch.empty((3 if spread else 2, rows, splits), dtype=torch.float32, device=flat.device)
    split_sums[(rows * splits,)](flat, partials, width, flat.stride(0), splits, rows * splits, SPREAD=spread, **config)
    return partials


def _rows(argument: str, x: Tensor) -> Tensor:
    """x: [..., width] -> [rows, width], checked."""
    if x.dim() == 0:
        raise ArgumentError(argument, "has no dimension; accepted: one or more")
    flat = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
    require(argument, flat, dtypes=DTYPES, shape=(None, None))
    within(f"{argument}'s width", flat.shape[1], 1, MAX_WIDTH)
    return flat


def _block(count: int) -> int:
    return 1 << (count - 1).bit_length()
