"""Which implementation of an operator answers a call: a table for each operator and one rule, nothing is timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from kernels.numerics import exact
from kernels.spec import Function, Spec, resolve

Backend = Literal["triton", "c", "torch", "reference"]
Numerics = Literal["fast", "exact"]
Shape = Mapping[str, int]

#: Folders that have a ``spec.py`` with ``SPECS`` and ``IMPLEMENTATIONS``.
OPERATORS = (
    "adamw",
    "causal_attention",
    "grouped_moe",
    "linear",
    "linear_cross_entropy",
    "lora",
    "paged_attention",
    "policy_loss",
    "quantized_linear",
    "rms_norm",
    "rope",
    "sampling",
    "softmax",
    "swiglu",
)

_PREFERRED: ContextVar[Backend | None] = ContextVar("preferred", default=None)


def _any_shape(shape: Shape) -> bool:
    return True


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operator.

    Attributes:
        backend: what it is written in; ``torch`` is differentiable.
        function: ``module:function``, imported when it is first chosen.
        devices: types of devices it runs on; empty for all.
        dtypes: of the operator's first tensor; empty for all.
        numerics: that it keeps. One that gives a row the same bits in any batch keeps both.
        fits: whether it takes a problem of that shape.
    """

    backend: Backend
    function: str
    devices: frozenset[str] = frozenset()
    dtypes: frozenset[torch.dtype] = frozenset()
    numerics: frozenset[str] = frozenset({"fast"})
    fits: Callable[[Shape], bool] = _any_shape

    def takes(self, shape: Shape, dtype: torch.dtype, device: str, numerics: str) -> bool:
        """Whether it can answer such a call."""
        return (
            (not self.devices or device in self.devices)
            and (not self.dtypes or dtype in self.dtypes)
            and numerics in self.numerics
            and self.fits(shape)
        )

    def load(self) -> Function:
        """The function itself."""
        return _loaded(self.function)


_loaded = lru_cache(maxsize=None)(resolve)


def select(op: str, shape: Shape, dtype: torch.dtype, device: str, numerics: Numerics) -> Implementation:
    """The implementation of ``op`` for a problem: the first of its table that takes it.

    Args:
        op: name of a spec.
        shape: of the problem, by the names that the operator's table uses.
        dtype: of its first tensor.
        device: type of the device, as ``cuda``.
        numerics: that the caller needs.

    Raises:
        LookupError: if there is no such operator, or none of its implementations takes the problem.
    """
    return _selected(op, tuple(sorted(shape.items())), dtype, device, numerics, _PREFERRED.get())


def answering(op: str, first: Tensor, **shape: int) -> Implementation:
    """What ``select`` finds for the numerics of this moment and the device and dtype of ``first``."""
    kind: Numerics = "exact" if exact() else "fast"
    return select(op, shape, first.dtype, first.device.type, kind)


def chosen(op: str, first: Tensor, **shape: int) -> Function:
    """The function of what is ``answering``."""
    return answering(op, first, **shape).load()


@contextmanager
def preferring(backend: Backend) -> Iterator[None]:
    """Within the block that backend answers wherever the operator has it, on whatever device: for checks and peers.

    With ``TRITON_INTERPRET=1`` this sends a CPU's tensors through the Triton kernels.
    """
    token = _PREFERRED.set(backend)
    try:
        yield
    finally:
        _PREFERRED.reset(token)


@lru_cache(maxsize=4096)
def _selected(
    op: str,
    shape: tuple[tuple[str, int], ...],
    dtype: torch.dtype,
    device: str,
    numerics: Numerics,
    preferred: Backend | None,
) -> Implementation:
    table, problem = implementations(op), dict(shape)
    for implementation in table:
        if implementation.backend == preferred and implementation.takes(problem, dtype, "cuda", numerics):
            return implementation
    for implementation in table:
        if implementation.takes(problem, dtype, device, numerics):
            return implementation
    raise LookupError(f"nothing computes {op} of {problem} in {dtype} on {device} with {numerics} numerics")


def implementations(op: str) -> tuple[Implementation, ...]:
    """The table of ``op``, in order of preference.

    Raises:
        LookupError: if there is no such operator.
    """
    found: tuple[Implementation, ...] = _module(spec(op).operator).IMPLEMENTATIONS[op]
    return found


def specs(operator: str | None = None) -> list[Spec]:
    """Every spec, or those of one folder."""
    return [found for folder in OPERATORS if operator in (None, folder) for found in _module(folder).SPECS]


def spec(op: str) -> Spec:
    """The spec called ``op``.

    Raises:
        LookupError: if there is none.
    """
    found = _by_name().get(op)
    if found is None:
        raise LookupError(f"no operator {op!r}; there are: {', '.join(_by_name())}")
    return found


@lru_cache
def _by_name() -> dict[str, Spec]:
    return {found.name: found for found in specs()}


def _module(operator: str) -> Any:
    return importlib.import_module(f"kernels.{operator}.spec")
