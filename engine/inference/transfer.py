"""Tensors to the device and back without making the host wait: through pinned memory, in the order of the stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of ``values``, which lie on the host, on ``device``; the copy is only queued."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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
