"""A frozen matrix that is held in 8 or 4 bits and turned into floats at each use: any device, any torch.

It saves memory, not time. Where the compiled kernels run, ``PackedLinear`` multiplies the packed weights themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.linear import linear

GROUP = 32
"""Columns that share a scale."""


class FewBitsLinear:
    """``x @ W.T + bias``; differentiable in x.

    Eight bits are signed around zero with a scale per group; four bits are 0 to 15 with a scale and a minimum.

    Args:
        weight: [out, in], ``in`` a multiple of 32, in any float format.
        bits: 8 or 4.
        bias: [out] or None.
    """

    def __init__(self, weight: Tensor, bits: int, bias: Tensor | None = None) -> None:
        self._bias = bias
        groups = weight.float().unflatten(-1, (-1, GROUP))
        self._minimum: Tensor | None = None
        if bits == 8:
            self._scale = (groups.abs().amax(-1, keepdim=True) / 127).half()
            self._values = _nearest(groups, self._scale).clamp_(-127, 127).to(torch.int8)
        else:
            low = groups.amin(-1, keepdim=True).half()
            self._scale = ((groups.amax(-1, keepdim=True) - low.float()) / 15).half()
            numbers = _nearest(groups - low.float(), self._scale).clamp_(0, 15).to(torch.uint8)
            self._values = numbers[..., : GROUP // 2] | numbers[..., GROUP // 2 :] << 4
            self._minimum = low

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        held = (self._values, self._scale, self._minimum)
        return sum(int(tensor.nbytes) for tensor in held if tensor is not None)

    def to(self, device: torch.device) -> FewBitsLinear:
        """Itself, moved."""
        self._values, self._scale = self._values.to(device), self._scale.to(device)
        self._minimum = None if self._minimum is None else self._minimum.to(device)
        self._bias = None if self._bias is None else self._bias.to(device)
        return self

    def rows(self, numbers: Tensor) -> Tensor:
        """numbers: [N] i64 -> those rows, [N, in] float32."""
        minimum = None if self._minimum is None else self._minimum[numbers]
        return _whole(self._values[numbers], self._scale[numbers], minimum, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [T, in] -> [T, out] in x's dtype."""
        weight = _whole(self._values, self._scale, self._minimum, x.dtype)
        return linear(x, weight, None if self._bias is None else self._bias.to(x.dtype))


def _nearest(numbers: Tensor, scale: Tensor) -> Tensor:
    """Multiples of ``scale``, as stored, nearest to the numbers."""
    return (numbers / scale.float().clamp_min(1e-30)).round_()


def _whole(values: Tensor, scale: Tensor, minimum: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[rows, groups, 32 or 16 bytes] -> [rows, columns]."""
    if minimum is None:
        return (values.to(dtype) * scale.to(dtype)).flatten(-2)
    numbers = torch.cat([values & 15, values >> 4], -1).to(dtype)
    return (minimum.to(dtype) + numbers * scale.to(dtype)).flatten(-2)
