"""A frozen projection: products with packed weights forward, and for training with their transpose backward."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from kernels.block_matmul.matrix import Matrix, Quantized, multiply_into
from kernels.native import Library, Team


class PackedLinear:
    """``x @ W.T + bias`` with W packed; differentiable in x alone, if at all. May be called from several threads.

    Args:
        library: compiled kernels.
        forward: W [out, in], with its bias.
        backward: W transposed, [in, out]. It may hold fewer digits than W: it only carries gradients. None for a
            projection that is never trained through.

    Attributes:
        nbytes: memory of the weights.
    """

    def __init__(self, library: Library, forward: Matrix, backward: Matrix | None = None) -> None:
        self._library, self._forward, self._backward = library, forward, backward
        self.nbytes = forward.nbytes + (backward.nbytes if backward else 0)

    def rows(self, numbers: Tensor) -> Tensor:
        """numbers: [N] i64 -> those rows of W, [N, in] float32."""
        found = [torch.from_numpy(self._forward.row(self._library, number)) for number in numbers.tolist()]
        return torch.stack(found) if found else torch.empty(0, self._forward.columns)

    def to(self, device: torch.device) -> PackedLinear:
        """Itself: packed weights are multiplied on the CPU alone."""
        assert device.type == "cpu", "packed weights cannot be moved"
        return self

    def __call__(self, x: Tensor, *, float32_out: bool = False) -> Tensor:
        """x: [T, in] on the CPU -> [T, out] in x's dtype, or in float32 if ``float32_out``."""
        result: Tensor = _Product.apply(x.float() if float32_out else x, self)  # type: ignore[no-untyped-call]
        return result

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out], without a gradient."""
        return _multiply(self._library, self._forward, x)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the output, [T, out], to that of the input, [T, in]."""
        assert self._backward is not None, "this projection was loaded for inference"
        return _multiply(self._library, self._backward, gradient)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedLinear) -> Tensor:
        ctx.packed = packed
        return packed.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.packed.backward(gradients[0]), None


class _Room(threading.local):
    """What one thread computes products with: room for activations, and a team of as many threads as torch gives it."""

    def __init__(self) -> None:
        self._space: Quantized | None = None
        self._values = 0
        self._team: tuple[int, Team] | None = None

    def space(self, tokens: int, columns: int) -> Quantized:
        values = -(-tokens // 16) * 16 * columns
        if self._space is None or values > self._values:
            self._space, self._values = Quantized(tokens, columns), values
        return self._space

    def team(self, library: Library) -> Team:
        threads = torch.get_num_threads()
        if self._team is None or self._team[0] != threads:
            self._team = threads, Team(library, threads)
        return self._team[1]


_ROOM = _Room()


def _multiply(library: Library, matrix: Matrix, x: Tensor) -> Tensor:
    values = x.detach().to(torch.float32).contiguous()
    out = torch.empty(len(x), matrix.rows)
    space, team = _ROOM.space(len(x), matrix.columns), _ROOM.team(library)
    multiply_into(library, matrix, values.numpy(), out.numpy(), space, team)
    return out.to(x.dtype)
