"""Tensors to the device and back without making the host wait: through pinned memory, in the order of the stream."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of ``values``, which lie on the host, on ``device``; the copy is only queued."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def moved(value: T, device: torch.device) -> T:
    """A dataclass with every tensor in it, at any depth, moved as by ``on_device``; itself on a CPU."""
    return value if device.type == "cpu" else _moved(value, device)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return on_device(value, device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: _moved(getattr(value, item.name), device) for item in fields(value)})
    return value


class Arriving:
    """A tensor on its way to the host.

    Args:
        tensor: on the device; it may be overwritten by what is queued later.
    """

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            self._host, self._event = tensor.clone(), None
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def read(self) -> Tensor:
        """The values, on the host; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
