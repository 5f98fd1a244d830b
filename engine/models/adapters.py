"""Low-rank adapters, applied beside frozen weights and never merged into them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.catalog import ModelConfig
from fw_sdk.types import FwError
from kernels.lora import LoraTables, RowOwners, lora, update


class Adapters(Protocol):
    """What a model calls after each projection that an adapter may change."""

    def apply(self, layer: int, target: str, inputs: Tensor, outputs: Tensor) -> Tensor:
        """inputs: [T, in] of projection ``target``, outputs: [T, out] of it -> [T, out] with the update added."""
        ...


@dataclass(frozen=True, eq=False)
class Adapter:
    """One LoRA adapter: each changed projection gets ``alpha / rank * B @ A`` added.

    Attributes:
        rank: inner dimension.
        alpha: scale times rank.
        targets: names out of ``engine.catalog.TARGETS``.
        weights: (layer, target) -> (A [rank, in], B [out, rank]).
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    weights: dict[tuple[int, str], tuple[Tensor, Tensor]]

    @property
    def scale(self) -> float:
        """Factor on the update."""
        return self.alpha / self.rank

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.nbytes for tensor in self.parameters())

    def parameters(self) -> list[Tensor]:
        """Every A and B, in a fixed order."""
        return [tensor for pair in self.weights.values() for tensor in pair]

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Adapter:
        """The same adapter in another format or on another device, detached from any gradient."""
        weights = {
            key: (down.detach().to(device, dtype), up.detach().to(device, dtype))
            for key, (down, up) in self.weights.items()
        }
        return Adapter(self.rank, self.alpha, self.targets, weights)


def new_adapter(config: ModelConfig, rank: int, alpha: float, targets: Sequence[str], seed: int) -> Adapter:
    """An adapter that changes nothing yet: A uniform as PEFT initialises it, B zero; float32, on the CPU, trainable.

    Raises:
        FwError: ``invalid_argument`` for a target that the model does not have or a rank below 1.
    """
    unknown = [target for target in targets if target not in config.targets]
    if unknown or not targets or rank < 1:
        raise FwError(
            "invalid_argument",
            f"This model has no target '{unknown[0]}'."
            if unknown
            else "An adapter needs a target and a rank of at least 1.",
            not_done="No adapter was made.",
            hint=f"targets are {', '.join(config.targets)}",
            param="targets",
        )
    generator = torch.Generator().manual_seed(seed)
    ordered = tuple(target for target in config.targets if target in targets)
    weights = {}
    for layer in range(config.layers):
        for target in (name for name in ordered if name in config.layer_targets(layer)):
            inputs, outputs = config.target_shape(target)
            bound = 1 / math.sqrt(inputs)
            down = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
            weights[layer, target] = (down.requires_grad_(), torch.zeros(outputs, rank, requires_grad=True))
    return Adapter(rank, alpha, ordered, weights)


class SingleAdapter:
    """One adapter for every row; differentiable in the adapter's weights and in the inputs."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def apply(self, layer: int, target: str, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Add the adapter's update to every row: inputs [T, in], outputs [T, out] -> [T, out]."""
        pair = self.adapter.weights.get((layer, target))
        return outputs if pair is None else update(pair, self.adapter.scale, inputs, outputs)


class MixedAdapters:
    """Rows of several adapters and of the base in one batch; for inference.

    Args:
        segments: (number of rows, their adapter or None for the base), in batch order.
        device: where the batch is.
    """

    def __init__(self, segments: Iterable[tuple[int, Adapter | None]], device: torch.device | str = "cpu") -> None:
        listed = list(segments)
        adapters = list(dict.fromkeys(adapter for _, adapter in listed if adapter is not None))
        numbers: dict[Adapter | None, int] = {adapter: number for number, adapter in enumerate(adapters)}
        self._rows = RowOwners([(count, numbers.get(adapter, -1)) for count, adapter in listed], device)
        self._tables = _tables(adapters, device)

    @classmethod
    def at(cls, adapters: Sequence[Adapter], index: Tensor) -> MixedAdapters:
        """Of rows whose adapters stand in ``index``, at the time of each use; where the operator is a GPU's kernel.

        Args:
            adapters: that a row may use.
            index: [T] i32, each row's slot among them, -1 for the base.
        """
        mixed = cls([], index.device)
        mixed._rows, mixed._tables = RowOwners.at(index), _tables(adapters, index.device)
        return mixed

    def apply(self, layer: int, target: str, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Add each row's own adapter to it; ``outputs`` may be changed in place. Rows of the base stay as they are."""
        assert len(inputs) == self._rows.tokens, "the batch has other rows than the segments"
        table = self._tables.get((layer, target))
        return outputs if table is None else lora(inputs, outputs, table, self._rows)


def _tables(adapters: Sequence[Adapter], device: torch.device | str) -> LoraTables:
    return LoraTables([one.weights for one in adapters], [one.scale for one in adapters], device)
