"""AdamW, by whichever implementation fits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kernels.registry import chosen


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
    """One step with decoupled weight decay, as ``torch.optim.AdamW`` takes it; all but the gradients change in place.

    Args:
        parameters: any shapes, f32 or bf16, all of one dtype.
        gradients: of the same shapes, f32 or bf16, all of one dtype.
        first: running means of the gradients, of the same shapes, f32.
        second: running means of their squares, of the same shapes, f32.
        step: number of this step, from 1.
        rate: learning rate.
        betas: how much the two means keep at each step.
        eps: added to the root of the second moment.
        weight_decay: share of a parameter that it loses, times the rate.
        scale: [] f32, a factor on every gradient that is read on the device, to clip them without waiting for it.
    """
    if not parameters:
        return
    step_all = chosen("adamw", parameters[0])
    step_all(
        parameters,
        gradients,
        first,
        second,
        step=step,
        rate=rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        scale=scale,
    )
