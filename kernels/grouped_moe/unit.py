"""What an expert does between its two products."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.pointwise import sigmoid
from kernels.swiglu import swiglu


@dataclass(frozen=True)
class GatedUnit:
    """``gate * sigmoid(gate * sharpness) * (up + offset)``, the gate clamped from above, the other half on both sides.

    Attributes:
        sharpness: of the gate.
        limit: of both halves; None for none.
        offset: added to the half that is gated.
    """

    sharpness: float = 1.0
    limit: float | None = None
    offset: float = 0.0

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: [rows, ffn] -> [rows, ffn]."""
        if self == SWIGLU:
            return swiglu(gate, up)
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        return gate * sigmoid(gate * self.sharpness) * (up + self.offset)


SWIGLU = GatedUnit()
