"""The learning rate of each step: a linear rise, then a linear fall to zero."""

from __future__ import annotations


def learning_rate(step: int, steps: int, *, peak: float, warmup_steps: int) -> float:
    """The rate of ``step`` (from 0) of ``steps``.

    It rises over ``warmup_steps`` (its first value is above zero), reaches ``peak``, and would be zero one step after
    the last.
    """
    warmup_steps = min(warmup_steps, steps)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return peak * (steps - step) / (steps - warmup_steps)
