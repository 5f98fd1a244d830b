"""Whose adapter a row uses, and where the adapters' weights lie: nothing is stacked, padded or copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from kernels.arguments import ArgumentError

Pair = tuple[Tensor, Tensor]
Slices = tuple[tuple[Pair | None, ...], ...]


@dataclass(frozen=True, eq=False)
class LoraTable:
    """Adapters of projections that share their input, whose outputs lie side by side in one tensor.

    Attributes:
        pairs: for each of these projections and each adapter A [rank, in] and B [out, rank], or None if it has none.
        scales: of the adapters, on their updates.
        widths: columns of the projections' outputs, in order.
        fetch: makes ``entries`` and ``factors``, which only a GPU's kernels ask for.
    """

    pairs: Slices
    scales: Sequence[float]
    widths: tuple[int, ...]
    fetch: Callable[[], tuple[Tensor, Tensor]]

    @cached_property
    def on_device(self) -> tuple[Tensor, Tensor]:
        """Entries [projections, 2 + 3 * adapters] i64 and the scales [adapters] f32.

        An entry has the first column and the number of columns in the output, then the addresses of A, the addresses
        of B, and the ranks; 0 for None.

        Raises:
            ArgumentError: for weights that do not fit together.
        """
        return self.fetch()

    @cached_property
    def max_rank(self) -> int:
        """The largest rank; 0 without any adapter."""
        return max((pair[0].shape[0] for row in self.pairs for pair in row if pair is not None), default=0)

    @cached_property
    def unit(self) -> int:
        """The largest of 8, 4, 2 and 1 that divides every rank and width: how much a load may take at once."""
        numbers = [pair[0].shape[0] for row in self.pairs for pair in row if pair is not None]
        return next(unit for unit in (8, 4, 2, 1) if not any(number % unit for number in (*numbers, *self.widths)))

    @cached_property
    def kinds(self) -> set[tuple[torch.dtype, int]]:
        """Dtype and columns of every A."""
        return {(pair[0].dtype, pair[0].shape[1]) for row in self.pairs for pair in row if pair is not None}


class RowOwners:
    """The adapter of every row of a batch.

    Args:
        segments: (number of rows, number of their adapter or -1 for none), in batch order.
        device: where the batch is.

    Attributes:
        tokens: rows in all.
        groups: adapters with their rows: a slice where these are neighbours, else their indices.
    """

    def __init__(self, segments: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> None:
        self._segments, self._device = segments, device
        rows: dict[int, list[int]] = {}
        start = 0
        for count, number in segments:
            if number >= 0 and count:
                rows.setdefault(number, []).extend(range(start, start + count))
            start += count
        self.tokens = start
        self.groups = [(number, _rows(own, device)) for number, own in rows.items()]

    @classmethod
    def at(cls, index: Tensor) -> RowOwners:
        """Of rows whose adapters stand in ``index`` [tokens] i32, at the time of each use: for recorded launches."""
        owners = cls([], index.device)
        owners.tokens, owners.index = len(index), index
        return owners

    @cached_property
    def index(self) -> Tensor:
        """[tokens] i32: the adapter's number of each row, -1 for none."""
        numbers = torch.tensor([number for _, number in self._segments], dtype=torch.int32)
        counts = torch.tensor([count for count, _ in self._segments], dtype=torch.int64)
        return numbers.repeat_interleave(counts).to(self._device, non_blocking=True)


class LoraTables:
    """A table for every projection that one of the adapters changes; one copy to the device serves all of them.

    Args:
        adapters: A and B by projection, contiguous, all of one dtype.
        scales: of the adapters.
        device: where batch and weights are.
    """

    def __init__(
        self, adapters: Sequence[Mapping[Any, Pair]], scales: Sequence[float], device: torch.device | str
    ) -> None:
        self._adapters, self._scales, self._device = adapters, scales, device

    def get(self, key: Any) -> LoraTable | None:
        """The table of the projection ``key``; None if no adapter changes it."""
        row = tuple(adapter.get(key) for adapter in self._adapters)
        width = next((pair[1].shape[0] for pair in row if pair is not None), None)
        return None if width is None else LoraTable((row,), self._scales, (width,), partial(self._fetch, key))

    def _fetch(self, key: Any) -> tuple[Tensor, Tensor]:
        places, entries, factors = self._on_device
        return entries[places[key] : places[key] + 1], factors

    @cached_property
    def _on_device(self) -> tuple[dict[Any, int], Tensor, Tensor]:
        keys = {key: place for place, key in enumerate(dict.fromkeys(key for one in self._adapters for key in one))}
        rows = [tuple(adapter.get(key) for adapter in self._adapters) for key in keys]
        columns = [(0, next(pair[1].shape[0] for pair in row if pair is not None)) for row in rows]
        return keys, _entries(rows, columns, self._device), _factors(self._scales, self._device)


def table_of(slices: Slices, scales: Sequence[float], widths: Sequence[int], device: torch.device | str) -> LoraTable:
    """A table of projections that share their input, as q, k and v do; see ``LoraTable``."""

    def fetch() -> tuple[Tensor, Tensor]:
        columns = list(zip(accumulate(widths, initial=0), widths, strict=False))
        return _entries(slices, columns, device), _factors(scales, device)

    return LoraTable(slices, scales, tuple(widths), fetch)


def _factors(scales: Sequence[float], device: torch.device | str) -> Tensor:
    return torch.tensor(scales, dtype=torch.float32).to(device, non_blocking=True)


def _entries(
    rows: Sequence[tuple[Pair | None, ...]], columns: Sequence[tuple[int, int]], device: torch.device | str
) -> Tensor:
    """The entries of ``LoraTable.on_device``, for projections with such first columns and widths."""
    for row, (_, width) in zip(rows, columns, strict=True):
        for pair in row:
            if pair is not None:
                _check(pair, width, torch.device(device).type)
    fields = [
        [
            *place,
            *(0 if pair is None else pair[0].data_ptr() for pair in row),
            *(0 if pair is None else pair[1].data_ptr() for pair in row),
            *(0 if pair is None else pair[0].shape[0] for pair in row),
        ]
        for row, place in zip(rows, columns, strict=True)
    ]
    return torch.tensor(fields, dtype=torch.int64).to(device, non_blocking=True)


def _check(pair: Pair, width: int, device: str) -> None:
    down, up = pair
    if down.dim() != 2 or not down.shape[0] or up.shape != (width, down.shape[0]):
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise ArgumentError(
            "table", f"has the shapes {shapes}; accepted: A [rank, in] and B [{width}, rank], not empty"
        )
    if down.dtype is not up.dtype:
        raise ArgumentError("table", f"has {down.dtype} beside {up.dtype}; accepted: one dtype")
    if not (down.is_contiguous() and up.is_contiguous()):
        raise ArgumentError("table", "has weights with gaps; accepted: contiguous")
    if device == "cuda" and (down.data_ptr() % 16 or up.data_ptr() % 16 or not (down.is_cuda and up.is_cuda)):
        raise ArgumentError("table", "has weights off the GPU or at odd addresses; accepted: multiples of 16 bytes")


def _rows(numbers: list[int], device: torch.device | str) -> slice | Tensor:
    """A slice when the rows are neighbours, else their indices."""
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return torch.tensor(numbers, device=device)
