"""Contracts of the gated activation and of its gradient."""

from __future__ import annotations

import torch

from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work
from kernels.swiglu.cpu import swiglu, swiglu_backward
from kernels.swiglu.reference import swiglu_backward_reference, swiglu_reference

BF16, F32 = torch.bfloat16, torch.float32


def _problem(rows: int, width: int, dtype: torch.dtype, *, back: bool = False, measured: bool = False) -> Case:
    """Halves of one tensor [rows, 2 * width], as the projection leaves them; ``back``: and a gradient."""

    def make(maker: Maker) -> Arguments:
        gate, up = maker.normal(rows, 2 * width, dtype=dtype, scale=2.0).split(width, 1)
        gradient = {"gradient": maker.normal(rows, width, dtype=dtype)} if back else {}
        return {**gradient, "gate": gate, "up": up}

    work = Work((5 if back else 3) * rows * width * dtype.itemsize) if measured else None
    return Case(f"{rows}x{width}-{str(dtype).removeprefix('torch.')}", make, work)


SMALL = ((0, 64), (1, 1), (1, 4096), (7, 100), (5, 768), (3, 1531))
LARGE = ((1, 14336), (128, 14336), (8192, 14336))

SPECS = (
    Spec(
        name="swiglu",
        operator="swiglu",
        summary="silu(gate) * up",
        gpu="kernels.swiglu.gpu:swiglu",
        reference=swiglu_reference,
        plain=swiglu,
        cases=tuple(_problem(*size, dtype) for size in SMALL for dtype in (BF16, F32)),
        shapes=tuple(_problem(*size, BF16, measured=True) for size in LARGE),
        gates=(Gate("swiglu"),),
    ),
    Spec(
        name="swiglu_backward",
        operator="swiglu",
        summary="gradients of gate and up",
        gpu="kernels.swiglu.gpu:swiglu_backward",
        reference=swiglu_backward_reference,
        plain=swiglu_backward,
        cases=tuple(_problem(*size, dtype, back=True) for size in SMALL for dtype in (BF16, F32)),
        shapes=(_problem(8192, 14336, BF16, back=True, measured=True),),
        gates=(Gate("swiglu_backward"),),
    ),
)

_GPU = frozenset({"cuda"})
_CPU = frozenset({"cpu"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, torch.float16, F32})

IMPLEMENTATIONS = {
    "swiglu": (
        Implementation("triton", "kernels.swiglu.gpu:swiglu", _GPU, _FLOATS, _BOTH),
        Implementation("c", "kernels.swiglu.cpu:exact_swiglu", _CPU, numerics=frozenset({"exact"})),
        Implementation("torch", "kernels.swiglu.cpu:swiglu"),
    ),
    "swiglu_backward": (
        Implementation("triton", "kernels.swiglu.gpu:swiglu_backward", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.swiglu.cpu:swiglu_backward"),
    ),
}
