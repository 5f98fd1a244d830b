"""Launches AdamW over a list of tensors. A value's bits depend on its own gradient and moments alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kernels.adamw.kernel import adamw as adamw_kernel
from kernels.arguments import ArgumentError, require, within
from kernels.tuned import tuned

DTYPES = (torch.float32, torch.bfloat16)
ALIGNMENT = 16
#: The nearest to 1 below it that float32 holds.
MOST_BETA = 1 - 2**-24


def adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: Tensor | None = None,
) -> None:
    """One AdamW step in place, all tensors in one launch.

    The table of addresses is kept for as long as the tensors stay where they are, so a step that is captured in a graph
    must have run once before.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require(parameters, gradients, first, second)
    within("step", step, 1, 2**53)
    within("betas", min(betas), 0.0, MOST_BETA)
    within("betas", max(betas), 0.0, MOST_BETA)
    if not parameters:
        return
    device, leader = parameters[0].device, parameters[0]
    if scale is not None:
        require("scale", scale, dtypes=(torch.float32,), shape=(), beside=leader)
    config = tuned("adamw", "adamw", bits=leader.itemsize * 8)
    sizes = tuple(tensor.numel() for tensor in parameters)
    chunks = _chunks(sizes, config["BLOCK"], device)
    rows = zip(parameters, gradients, first, second, strict=True)
    table = tuple((*(tensor.data_ptr() for tensor in row), size) for row, size in zip(rows, sizes, strict=True))
    aligned = not any(address % ALIGNMENT for row in table for address in row[:4])
    if len(chunks):
        adamw_kernel[(len(chunks),)](
            _addresses(table, device), chunks, leader, gradients[0], first[0], first[0] if scale is None else scale,
            rate / (1 - betas[0] ** step), 1 - rate * weight_decay, betas[0], 1 - betas[0], betas[1], 1 - betas[1],
            (1 - betas[1] ** step) ** -0.5, eps, ALIGNED=aligned, SCALED=scale is not None, **config,
        )  # fmt: skip


def _require(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]
) -> None:
    lists = {"parameters": parameters, "gradients": gradients, "first": first, "second": second}
    accepted = {"first": DTYPES[:1], "second": DTYPES[:1]}
    for name, tensors in lists.items():
        if len(tensors) != len(parameters):
            raise ArgumentError(name, f"are {len(tensors)} tensors; accepted: {len(parameters)}, as the parameters")
        for index, (tensor, parameter) in enumerate(zip(tensors, parameters, strict=True)):
            one = f"{name}[{index}]"
            dtypes = accepted.get(name, (tensors[0].dtype,) if index else DTYPES)
            require(one, tensor, dtypes=dtypes, shape=parameter.shape, beside=parameters[0], contiguous=True)


@lru_cache(maxsize=16)
def _chunks(sizes: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    """[programs, 2] i32: which tensor, and which chunk of it."""
    counts = torch.tensor([-(-size // block) for size in sizes])
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    which = torch.arange(len(sizes)).repeat_interleave(counts)
    return torch.stack((which, torch.arange(len(which)) - starts), 1).int().to(device)


@lru_cache(maxsize=16)
def _addresses(table: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """[tensors, 5] i64: where parameter, gradient and moments begin, and how many values they have."""
    rows = torch.tensor(table, dtype=torch.int64)
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)
