"""Contracts of the norm, alone, behind a residual addition, and backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.registry import Implementation
from kernels.rms_norm.reference import add_rms_norm_reference, rms_norm_backward_reference, rms_norm_reference
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

EPS = 1e-5
BF16, F32 = torch.bfloat16, torch.float32


def _problem(rows: int, width: int, dtype: torch.dtype, *names: str, work: int | None = None) -> Case:
    """A case with tensors [rows, width] called ``names``; ``work``: how many such tensors pass through memory."""

    def make(maker: Maker) -> Arguments:
        tensors = {name: maker.normal(rows, width, dtype=dtype) for name in names}
        return {**tensors, "weight": maker.normal(width, dtype=dtype), "eps": EPS}

    moved = None if work is None else Work((work * rows + 1) * width * dtype.itemsize)
    return Case(f"{rows}x{width}-{str(dtype).removeprefix('torch.')}", make, moved)


def _heads(tokens: int, heads: int, width: int, *, measured: bool = False) -> Case:
    """Queries as a slice of a projection's output that holds keys and values too, and a weight in float32."""

    def make(maker: Maker) -> Arguments:
        values = maker.normal(tokens, heads + 2, width)[:, :heads]
        return {"hidden": values, "weight": maker.normal(width, dtype=F32), "eps": EPS}

    moved = Work(2 * tokens * heads * width * BF16.itemsize) if measured else None
    return Case(f"{tokens}x{heads}x{width}-bfloat16", make, moved)


def _add_plain(hidden: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    summed = hidden + residual
    return functional.rms_norm(summed, (summed.shape[1],), weight, eps), summed


def _plain(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(hidden.to(weight.dtype), weight.shape, weight, eps).to(hidden.dtype)


def _backward_plain(gradient: Tensor, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    values = hidden.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(functional.rms_norm(values, (values.shape[1],), weight, eps), values, gradient)[0]


SMALL = ((0, 64), (1, 16), (3, 576), (37, 128), (5, 2500), (2, 4096))
LARGE = ((1, 4096), (128, 4096), (8192, 4096))

SPECS = (
    Spec(
        name="add_rms_norm",
        operator="rms_norm",
        summary="residual + hidden, and its RMS norm",
        gpu="kernels.rms_norm.gpu:add_rms_norm",
        reference=add_rms_norm_reference,
        plain=_add_plain,
        cases=tuple(_problem(*size, dtype, "hidden", "residual") for size in SMALL for dtype in (BF16, F32)),
        shapes=tuple(_problem(*size, BF16, "hidden", "residual", work=4) for size in LARGE),
        gates=(Gate("add_rms_norm"),),
    ),
    Spec(
        name="rms_norm",
        operator="rms_norm",
        summary="RMS norm",
        gpu="kernels.rms_norm.gpu:rms_norm",
        reference=rms_norm_reference,
        plain=_plain,
        cases=(*(_problem(*size, dtype, "hidden") for size in SMALL for dtype in (BF16, F32)), _heads(7, 3, 40)),
        shapes=(*(_problem(*size, BF16, "hidden", work=2) for size in LARGE), _heads(8192, 32, 128, measured=True)),
        gates=(Gate("add_rms_norm"),),
    ),
    Spec(
        name="rms_norm_backward",
        operator="rms_norm",
        summary="gradient of what was normed",
        gpu="kernels.rms_norm.gpu:rms_norm_backward",
        reference=rms_norm_backward_reference,
        plain=_backward_plain,
        cases=tuple(_problem(*size, dtype, "gradient", "hidden") for size in SMALL for dtype in (BF16, F32)),
        shapes=(_problem(8192, 4096, BF16, "gradient", "hidden", work=3),),
        gates=(Gate("rms_norm_backward"),),
    ),
)

_GPU = frozenset({"cuda"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, torch.float16, F32})

IMPLEMENTATIONS = {
    "add_rms_norm": (
        Implementation("triton", "kernels.rms_norm.gpu:add_rms_norm", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.rms_norm.cpu:add_rms_norm", numerics=_BOTH),
    ),
    "rms_norm": (
        Implementation("triton", "kernels.rms_norm.gpu:rms_norm", _GPU, _FLOATS, _BOTH),
        Implementation("c", "kernels.rms_norm.exact:exact_rms_norm", frozenset({"cpu"}), numerics=frozenset({"exact"})),
        Implementation("torch", "kernels.rms_norm.cpu:rms_norm"),
    ),
    "rms_norm_backward": (
        Implementation("triton", "kernels.rms_norm.gpu:rms_norm_backward", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.rms_norm.cpu:rms_norm_backward"),
    ),
}
