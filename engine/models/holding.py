"""Holding a model's matrices in few bits, for every family: each slot that is a projection becomes a product."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from engine.models.few_bits import GGUF_KINDS, FewBitsLinear
from engine.models.layer import Product, Slot
from engine.models.weights import Weights
from kernels.block_matmul import FLOAT, GGUF_FORMATS, Arena, Matrix, PackedLinear, Rows
from kernels.native import Library

COLUMNS = 32
GATES = ("router", "shared_gate", "recurrent_gates")
"""Small matrices of which a small error goes a long way; they stay in floats."""
ENDS = ("embedding", "head")
"""They get 8 bits, and activations of 15."""


@dataclass(frozen=True)
class Holding:
    """How matrices are held.

    Attributes:
        bits: 8 or 4; None leaves what a GGUF file has in 4 to 8 bits as it is, and everything else in floats.
        library: compiled kernels, which multiply what is packed on a CPU; without them, and on a GPU, None.
        fast: activations have 8 bits instead of 15 where that costs little.
        trained: gradients go through; embedding and head stay in floats.
    """

    bits: int | None
    library: Library | None
    fast: bool = False
    trained: bool = False
    arena: Arena = field(default_factory=Arena, compare=False)

    def takes(self, name: str, slot: Slot) -> bool:
        """Whether this slot of a layer is held in few bits."""
        if name in GATES or name.endswith("_bias") or slot.dtype is not None or len(slot.shape) < 2:
            return False
        if slot.shape[-1] % COLUMNS or (self.trained and slot.shape[-2] % COLUMNS):
            return False
        return self.bits is not None or len(slot.shape) == 2

    def product(self, name: str, weight: Tensor, bias: Tensor | None, stored: list[Rows] | None = None) -> Product:
        """A matrix as a product.

        Args:
            name: of the slot.
            weight: [out, in] float32.
            bias: [out] or None.
            stored: the same rows as the file has them, if they can be packed like that.
        """
        bits = 8 if name in ENDS else self.bits or 8
        if self.library is None:
            return FewBitsLinear.stored(stored, bias) if stored else FewBitsLinear.rounded(weight, bits, bias)
        columns, int15 = weight.shape[1], not self.fast or name in ("qkv", *ENDS)
        parts = stored or [Rows(np.ascontiguousarray(weight.numpy()), FLOAT)]
        added = None if bias is None else bias.float().numpy()
        forward = Matrix.pack(self.library, parts, columns, bits=bits, bias=added, int15=int15, arena=self.arena)
        if not self.trained:
            return PackedLinear(self.library, forward)
        turned = Rows(np.ascontiguousarray(weight.T.numpy()), FLOAT)
        backward = Matrix.pack(self.library, [turned], weight.shape[0], int15=True, arena=self.arena)
        return PackedLinear(self.library, forward, backward)

    def experts(self, name: str, weight: Tensor, bias: Tensor | None) -> list[Product]:
        """weight: [experts, out, in] float32, bias: [experts, out] or None -> each expert's product."""
        return [self.product(name, one, None if bias is None else bias[at]) for at, one in enumerate(weight)]

    def stored(self, weights: Weights, names: list[str], columns: int) -> list[Rows] | None:
        """The matrices of these names as the file has them, if it has all of them in formats that can be packed."""
        kinds = {weights.kind(name) for name in names}
        if not packable(kinds, self.library):
            return None
        return [weights.rows(name, columns) for name in names]


def packable(kinds: Set[int | None], library: Library | None) -> bool:
    """Whether matrices of these ``ggml_type`` numbers, stacked in one, are multiplied as a file has them.

    On a GPU and without compiled kernels they must be of one kind.
    """
    if library is not None:
        return kinds <= GGUF_FORMATS.keys()
    return len(kinds) == 1 and kinds <= GGUF_KINDS.keys()
