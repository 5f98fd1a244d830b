"""An adapter in training: float32 master weights in one flat vector, a copy in the model's dtype that computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models import Adapter


class TrainableAdapter:
    """Applies a LoRA adapter to every row, differentiably; implements ``engine.models.Adapters``.

    Attributes:
        master: all weights, [n] f32: for each (layer, target) in order, A [rank, in] and then B [out, rank].
    """

    def __init__(self, adapter: Adapter, *, dtype: torch.dtype, device: torch.device) -> None:
        self._adapter = adapter
        keys = list(adapter.weights)
        pieces = [piece for key in keys for piece in adapter.weights[key]]
        self.master = torch.cat([piece.detach().float().reshape(-1) for piece in pieces]).to(device)
        self._compute = torch.empty_like(self.master, dtype=dtype)
        shapes = [piece.shape for piece in pieces]
        masters, copies = _views(self.master, shapes), _views(self._compute, shapes)
        self._leaves = [leaf.requires_grad_() for leaf in masters]
        self._masters = {key: (masters[2 * i], masters[2 * i + 1]) for i, key in enumerate(keys)}
        self._copies = {key: (copies[2 * i], copies[2 * i + 1]) for i, key in enumerate(keys)}
        self.refresh()

    def refresh(self) -> None:
        """Take the master weights over into the copy that computes; call it whenever ``master`` changed."""
        self._compute.copy_(self.master)

    def apply(self, layer: int, target: str, x: Tensor, y: Tensor) -> Tensor:
        """x: [T, in], y: [T, out] -> ``y + scale * (x Aᵀ) Bᵀ``; y itself for a target that is not adapted."""
        masters = self._masters.get((layer, target))
        if masters is None:
            return y
        result: Tensor = _LowRankUpdate.apply(x, y, *masters, *self._copies[layer, target], self._adapter.scale)  # type: ignore[no-untyped-call]
        return result

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of ``loss`` in ``master``, [n] f32; several threads may ask for it at the same time."""
        return torch.cat([piece.reshape(-1) for piece in torch.autograd.grad(loss, self._leaves)])

    def to_adapter(self) -> Adapter:
        """The adapter with its present master weights, which it shares with this object."""
        weights = {key: (a.detach(), b.detach()) for key, (a, b) in self._masters.items()}
        return Adapter(self._adapter.rank, self._adapter.alpha, self._adapter.targets, weights)


class _LowRankUpdate(torch.autograd.Function):
    """Computes with the low-precision copies; its weight gradients are float32 and belong to the masters."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, a_master: Tensor, b_master: Tensor, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        low = x @ a.T
        if scale != 1.0:
            low *= scale
        ctx.save_for_backward(x, low, a, b)
        ctx.scale = scale
        return torch.addmm(y, low, b.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        d_y = gradients[0]
        d_low = d_y @ b
        if ctx.scale != 1.0:
            d_low *= ctx.scale
        d_x = d_low @ a if ctx.needs_input_grad[0] else None
        d_a = (d_low.T @ x).float()
        d_b = (low.T @ d_y).T.float()
        return d_x, d_y, d_a, d_b, None, None, None


def _views(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    """Consecutive pieces of ``flat`` in the given shapes, sharing its memory."""
    sizes = [shape.numel() for shape in shapes]
    return [piece.view(shape).detach() for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
