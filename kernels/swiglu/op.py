"""SwiGLU, by whichever implementation fits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.numerics import exact, refuse_gradients
from kernels.registry import answering, chosen


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up: [..., ffn] of one dtype (views are fine) -> ``silu(gate) * up``; differentiable unless exact."""
    if exact():
        refuse_gradients(gate, up)
    found = answering("swiglu", gate, width=gate.shape[-1])
    wanted = torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad)
    if wanted and found.backend != "torch":
        result: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
        return result
    active: Tensor = found.load()(gate, up)
    return active


class _SwiGlu(torch.autograd.Function):
    """Keeps its inputs alone; the activation is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        active: Tensor = chosen("swiglu", gate, width=gate.shape[-1])(gate, up)
        return active

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        both: tuple[Tensor, Tensor] = chosen("swiglu_backward", gate, width=gate.shape[-1])(
            gradients[0].contiguous(), gate, up
        )
        return both
