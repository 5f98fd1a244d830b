"""Contract of the product whose sums have one order; in ``fast`` numerics torch's own product answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.linear.reference import linear_reference
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def _problem(rows: int, outputs: int, columns: int, dtype: torch.dtype, bias: bool = False) -> Case:
    """A case x [rows, columns] times weight [outputs, columns]."""

    def make(maker: Maker) -> Arguments:
        drawn = {"x": maker.normal(rows, columns, dtype=dtype), "weight": maker.normal(outputs, columns, dtype=dtype)}
        return {**drawn, "bias": maker.normal(outputs, dtype=dtype) if bias else None}

    moved = (rows * columns + outputs * columns + rows * outputs) * dtype.itemsize
    name = f"{rows}x{outputs}x{columns}-{str(dtype).removeprefix('torch.')}{'-bias' if bias else ''}"
    return Case(name, make, Work(moved, flops=2 * rows * outputs * columns))


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight, bias)


SMALL = (
    (0, 32, 64, BF16, False),
    (1, 1, 1, BF16, True),
    (1, 96, 576, BF16, True),
    (67, 70, 100, BF16, False),
    (130, 33, 192, F16, True),
    (600, 300, 128, BF16, False),
    (65, 40, 70, F32, True),
)
LARGE = (
    *((rows, *size, BF16) for rows in (1, 16, 128) for size in ((6144, 4096), (4096, 14336))),
    (1, 128_256, 4096, BF16),
    (8192, 28672, 4096, BF16),
    (8192, 4096, 14336, BF16),
)

SPECS = (
    Spec(
        name="linear",
        operator="linear",
        summary="x @ weight.T + bias, a row's sums in one order in any batch",
        gpu="kernels.linear.gpu:linear",
        reference=linear_reference,
        plain=_plain,
        cases=tuple(_problem(*size) for size in SMALL),
        shapes=tuple(_problem(*size) for size in LARGE),
        gates=(Gate("linear", tensor_cores=("HGMMA",)),),
        peers={"cuBLAS": _plain},
    ),
)

_EXACT = frozenset({"exact"})

IMPLEMENTATIONS = {
    "linear": (
        Implementation("triton", "kernels.linear.gpu:linear", frozenset({"cuda"}), frozenset({BF16, F16, F32}), _EXACT),
        Implementation("c", "kernels.linear.exact:exact_linear", frozenset({"cpu"}), numerics=_EXACT),
        Implementation("torch", "kernels.linear.cpu:linear"),
    ),
}
