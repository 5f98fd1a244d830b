"""Contracts of a frozen head with cross entropy: losses alone, and with the gradient of the hidden rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.linear_cross_entropy import cpu
from kernels.linear_cross_entropy.reference import (
    linear_cross_entropy_gradient_reference,
    linear_cross_entropy_reference,
)
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32


def problem(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype = BF16, factors: bool = False, products: int = 0
) -> Case:
    """Some targets are negative; ``products``: how many products of the head's size are computed, of large problems."""

    def make(maker: Maker) -> Arguments:
        arguments: Arguments = {
            "hidden": maker.normal(rows, width, dtype=dtype),
            "weight": maker.normal(vocabulary, width, dtype=dtype, scale=2 * width**-0.5),
            "targets": maker.integers(-vocabulary // 4, vocabulary, rows, dtype=torch.int64),
        }
        return {**arguments, "factors": maker.normal(rows, dtype=F32)} if factors else arguments

    moved = dtype.itemsize * (vocabulary * width + rows * width * products)
    work = Work(moved, 2 * products * rows * width * vocabulary) if products else None
    return Case(f"{rows}x{width}x{vocabulary}-{str(dtype).removeprefix('torch.')}", make, work)


def _logits_and_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What is done without a kernel: all logits, then the loss."""
    return functional.cross_entropy(functional.linear(hidden, weight).float(), targets, reduction="none")


SMALL = ((0, 16, 40, BF16), (1, 24, 90, F32), (1, 24, 90, BF16), (21, 72, 300, F32), (70, 130, 257, BF16))
BIG = (4096, 128256)
TENSOR_CORES = ("HGMMA", "HMMA")

SPECS = (
    Spec(
        name="linear_cross_entropy",
        operator="linear_cross_entropy",
        summary="cross entropy of a frozen head, without its logits",
        gpu="kernels.linear_cross_entropy.gpu:linear_cross_entropy",
        reference=linear_cross_entropy_reference,
        plain=cpu.linear_cross_entropy,
        cases=tuple(problem(*size) for size in SMALL),
        shapes=tuple(problem(rows, *BIG, products=1) for rows in (8192, 16)),
        gates=(Gate("head_tiles", tensor_cores=TENSOR_CORES), Gate("head_losses", wide_loads=False)),
        peers={"logits": _logits_and_loss},
    ),
    Spec(
        name="linear_cross_entropy_gradient",
        operator="linear_cross_entropy",
        summary="the same, with the gradient of the hidden rows",
        gpu="kernels.linear_cross_entropy.gpu:linear_cross_entropy_gradient",
        reference=linear_cross_entropy_gradient_reference,
        plain=cpu.linear_cross_entropy_gradient,
        cases=tuple(problem(*size, factors=size[0] != 1) for size in SMALL),
        # One chunk: more rows are more of them.
        shapes=(problem(1024, *BIG, products=2),),
        gates=(
            Gate("head_tiles", tensor_cores=TENSOR_CORES),
            Gate("head_losses", wide_loads=False),
            Gate("head_logit_gradient"),
            Gate("head_hidden_gradient", tensor_cores=TENSOR_CORES),
        ),
    ),
)

_GPU = frozenset({"cuda"})
_FLOATS = frozenset({BF16, torch.float16, F32})
_BOTH = frozenset({"fast", "exact"})

IMPLEMENTATIONS = {
    "linear_cross_entropy": (
        Implementation("triton", "kernels.linear_cross_entropy.gpu:linear_cross_entropy", _GPU, _FLOATS),
        Implementation("torch", "kernels.linear_cross_entropy.cpu:linear_cross_entropy", numerics=_BOTH),
    ),
    "linear_cross_entropy_gradient": (
        Implementation("triton", "kernels.linear_cross_entropy.gpu:linear_cross_entropy_gradient", _GPU, _FLOATS),
        Implementation("torch", "kernels.linear_cross_entropy.cpu:linear_cross_entropy_gradient", numerics=_BOTH),
    ),
}
