"""Contract of AdamW over a list of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.adamw.cpu import adamw
from kernels.adamw.reference import adamw_reference
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32


def _problem(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    parameter: torch.dtype,
    gradient: torch.dtype,
    *,
    scaled: bool = False,
    measured: bool = False,
) -> Case:
    """A step somewhere on the way, with moments as large as the gradients make them."""

    def make(maker: Maker) -> Arguments:
        return {
            "parameters": [maker.normal(*shape, dtype=parameter) for shape in shapes],
            "gradients": [maker.normal(*shape, dtype=gradient, scale=0.1) for shape in shapes],
            "first": [maker.normal(*shape, dtype=F32, scale=0.03) for shape in shapes],
            "second": [maker.normal(*shape, dtype=F32, scale=0.1).square() for shape in shapes],
            "step": 7,
            "rate": 0.01,
            "weight_decay": 0.1,
            "scale": maker.normal(dtype=F32) if scaled else None,
        }

    size = sum(torch.Size(shape).numel() for shape in shapes)
    work = Work(size * (2 * parameter.itemsize + gradient.itemsize + 16)) if measured else None
    return Case(name, make, work)


def fused(
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
    **_: Any,
) -> None:
    """What ``torch.optim.AdamW(fused=True)`` launches; all tensors of one dtype."""
    steps = list(torch.full((len(parameters),), float(step), device=parameters[0].device).unbind())
    torch._fused_adamw_(
        list(parameters),
        list(gradients),
        list(first),
        list(second),
        [],
        steps,
        lr=rate,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )


ODD = ((3, 5), (1,), (1023,), (4, 512), (), (0, 3))
#: Of rank 16 on every projection of an 8B model's layer, 42 million values in all.
LAYER = ((4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096))
LORA = tuple(shape for _ in range(32) for inputs, outputs in LAYER for shape in ((16, inputs), (outputs, 16)))

SPECS = (
    Spec(
        name="adamw",
        operator="adamw",
        summary="a step of AdamW over a list of tensors",
        gpu="kernels.adamw.gpu:adamw",
        reference=adamw_reference,
        plain=adamw,
        writes=("parameters", "first", "second"),
        cases=(
            _problem("none", (), F32, F32),
            _problem("odd-float32", ODD, F32, F32),
            _problem("odd-float32-scaled", ODD, F32, BF16, scaled=True),
            _problem("odd-bfloat16", ODD, BF16, BF16),
            _problem("flat-float32", ((2048,),), F32, F32),
        ),
        shapes=(
            _problem("lora-float32", LORA, F32, F32, measured=True),
            _problem("flat-float32", ((41_943_040,),), F32, F32, measured=True),
            _problem("lora-bfloat16", LORA, BF16, BF16, measured=True),
        ),
        gates=(Gate("adamw"),),
        peers={"fused AdamW": fused},
    ),
)

IMPLEMENTATIONS = {
    "adamw": (
        Implementation(
            "triton",
            "kernels.adamw.gpu:adamw",
            frozenset({"cuda"}),
            frozenset({F32, BF16}),
            frozenset({"fast", "exact"}),
        ),
        Implementation("torch", "kernels.adamw.cpu:adamw", numerics=frozenset({"fast", "exact"})),
    ),
}
