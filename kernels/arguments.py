"""What a kernel's launcher accepts: a wrong argument is named before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor


class ArgumentError(TypeError):
    """An operator was called with an argument that it does not take; nothing was launched.

    Attributes:
        argument: its name.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument}: {message}")
        self.argument = argument


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on CPU tensors (``TRITON_INTERPRET=1`` at import)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require(
    argument: str,
    tensor: Tensor,
    *,
    dtypes: Sequence[torch.dtype],
    shape: Sequence[int | None],
    beside: Tensor | None = None,
    contiguous: bool = False,
) -> None:
    """Raise unless ``tensor`` is what a launcher takes.

    Args:
        argument: its name in the message.
        tensor: what was given.
        dtypes: that are accepted.
        shape: extents that it must have; None for any.
        beside: a tensor on whose device it must lie.
        contiguous: whether all of it must be without gaps; else only its last dimension must be.

    Raises:
        ArgumentError: naming the argument and what is accepted.
    """
    if tensor.dtype not in dtypes:
        raise ArgumentError(argument, f"is {_short(tensor.dtype)}; accepted: {', '.join(map(_short, dtypes))}")
    fits = tensor.dim() == len(shape) and all(
        want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if extent is None else str(extent) for extent in shape)
        raise ArgumentError(argument, f"has the shape {list(tensor.shape)}; accepted: [{wanted}]")
    if contiguous and not tensor.is_contiguous():
        raise ArgumentError(argument, f"has the strides {tensor.stride()}; accepted: contiguous")
    if tensor.dim() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ArgumentError(argument, f"has the strides {tensor.stride()}; accepted: the last one is 1")
    if beside is not None and tensor.device != beside.device:
        raise ArgumentError(argument, f"is on {tensor.device}; accepted: {beside.device}, as the others")
    if tensor.device.type != "cuda" and not (interpreting() or tensor.is_meta):
        raise ArgumentError(argument, f"is on {tensor.device}; accepted: a GPU")


def within(argument: str, value: float, low: float, high: float) -> None:
    """Raise unless ``low <= value <= high``.

    Raises:
        ArgumentError: naming the argument.
    """
    if not low <= value <= high:
        raise ArgumentError(argument, f"is {value}; accepted: {low} to {high}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
