"""Which numerics the operators compute in.

``fast``: torch's own operators, whose sums may take another order when the batch has another shape. ``exact``: our
kernels, where the bits of a row depend on that row alone, on a CPU and without gradients. One rule for all of them, so
that a model's forward is written once:

    with numerics("exact"):
        hidden = model(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, is_grad_enabled

_EXACT: ContextVar[bool] = ContextVar("exact", default=False)


@contextmanager
def numerics(kind: str) -> Iterator[None]:
    """Within the block the operators compute ``fast`` or ``exact``; this thread's or task's only."""
    token = _EXACT.set({"fast": False, "exact": True}[kind])
    try:
        yield
    finally:
        _EXACT.reset(token)


def exact() -> bool:
    """Whether operators must give a row the same bits in any batch."""
    return _EXACT.get()


def refuse_gradients(*tensors: Tensor | None) -> None:
    """Raise if a result would need a gradient, which the exact kernels do not carry.

    Raises:
        RuntimeError: if one of the tensors requires it.
    """
    if is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise RuntimeError("exact numerics carry no gradient: compute under torch.no_grad()")
