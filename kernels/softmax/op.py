"""Softmax and what is made of it, by whichever implementation fits; gradients go through torch's operators."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.numerics import exact, refuse_gradients
from kernels.registry import chosen
from kernels.softmax import cpu
from kernels.spec import Function


def softmax(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width] f32, shares that sum to 1; differentiable unless exact."""
    shares: Tensor = _function("softmax", x, cpu.softmax)(x)
    return shares


def log_softmax(x: Tensor) -> Tensor:
    """x: [..., width] -> [..., width] f32, the logarithms of ``softmax``; differentiable unless exact."""
    logarithms: Tensor = _function("log_softmax", x, cpu.log_softmax)(x)
    return logarithms


def log_sum_exp(x: Tensor) -> Tensor:
    """x: [..., width] -> [...] f32, the logarithm of the sum of the exponentials; differentiable unless exact."""
    logarithm: Tensor = _function("log_sum_exp", x, cpu.log_sum_exp)(x)
    return logarithm


def logprob_gather(logits: Tensor, targets: Tensor, entropy: bool = False) -> tuple[Tensor, ...]:
    """What scoring needs of each row; without gradients.

    Args:
        logits: [N, width].
        targets: [N] i64, below the width; a negative one stands for none.
        entropy: whether it is wanted too.

    Returns:
        [N] f32 each: the targets' log-probabilities (0 without a target), the rows' log-sum-exp and, if wanted, their
        entropies in nats.

    Raises:
        LookupError: for entropies under exact numerics on a CPU.
        RuntimeError: if a gradient is wanted.
    """
    refuse_gradients(logits)
    gather = chosen("logprob_gather", logits, width=logits.shape[-1], entropy=int(entropy))
    found: tuple[Tensor, ...] = gather(logits, targets, entropy)
    return found


def _function(op: str, x: Tensor, differentiable: Function) -> Function:
    if exact():
        refuse_gradients(x)
    elif torch.is_grad_enabled() and x.requires_grad:
        return differentiable
    return chosen(op, x, width=x.shape[-1])
