"""A frozen matrix that is held in 8 or 4 bits: any device, any torch.

On a GPU it is multiplied as it is held. On a CPU it becomes floats at each use, which saves memory and no time; where
the compiled kernels run, ``PackedLinear`` multiplies the packed weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kernels.block_matmul import Rows
from kernels.quantized_linear import HeldMatrix, from_gguf, quantize_int4, quantize_int8, quantized_linear

GROUP = 32
"""Columns that share a scale."""
GGUF_KINDS = {2: "q4_0", 3: "q4_1", 8: "q8_0"}
"""By ``ggml_type``: what is held as a file has it."""


class FewBitsLinear:
    """``x @ W.T + bias``; differentiable in x.

    Args:
        matrix: W [out, in].
        bias: [out] or None.
    """

    def __init__(self, matrix: HeldMatrix, bias: Tensor | None = None) -> None:
        self._matrix, self._bias = matrix, bias

    @classmethod
    def rounded(cls, weight: Tensor, bits: int, bias: Tensor | None = None) -> FewBitsLinear:
        """Nearest to a matrix: eight bits are signed around zero, four have a scale and a minimum, per group.

        Args:
            weight: [out, in], ``in`` a multiple of 32, in any float format.
            bits: 8 or 4.
            bias: [out] or None.
        """
        matrix = quantize_int8(weight, GROUP) if bits == 8 else quantize_int4(weight, GROUP, minima=True)
        return cls(matrix, bias)

    @classmethod
    def stored(cls, parts: Sequence[Rows], bias: Tensor | None = None) -> FewBitsLinear:
        """parts: of one of ``GGUF_KINDS``, one below the other, as the file has them; bias: [out] or None."""
        rows = [part.data if part.order is None else part.data[part.order] for part in parts]
        return cls(from_gguf(torch.from_numpy(np.concatenate(rows)), GGUF_KINDS[parts[0].kind]), bias)

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self._matrix.nbytes

    def to(self, device: torch.device) -> FewBitsLinear:
        """Itself, moved: a tied embedding and head stay one."""
        self._matrix = self._matrix.to(device)
        self._bias = None if self._bias is None else self._bias.to(device)
        return self

    def rows(self, numbers: Tensor) -> Tensor:
        """numbers: [N] i64 -> those rows, [N, in] float32."""
        return self._matrix.rows(numbers).dense()

    def __call__(self, x: Tensor, *, float32_out: bool = False) -> Tensor:
        """x: [T, in] -> [T, out] in x's dtype, or in float32 if ``float32_out``."""
        bias = None if self._bias is None else self._bias.to(x.dtype)
        return quantized_linear(x, self._matrix, bias, float32_out=float32_out)
