"""Rows that share their prefix, laid out whole for kernels that know only rows: and back, gradients too.

Only attention sees the copies. A copy of the prefix has the values of the first one, and its results are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, within


@dataclass(frozen=True)
class WholeRows:
    """The layout with every row whole, R tokens in all, of a batch of T that has the prefix once.

    Attributes:
        lengths: tokens of each row.
        prefix: tokens of the shared prefix.
        source: [R] i64, which token of the batch stands there.
        place: [T] i64, where each token of the batch stands; those of the prefix in the first row.
        copies: [rows * prefix] i64, where the prefix's tokens stand in all rows.
    """

    lengths: tuple[int, ...]
    prefix: int
    source: Tensor
    place: Tensor
    copies: Tensor

    def spread(self, tensor: Tensor) -> Tensor:
        """[T, …] -> [R, …]."""
        return tensor.index_select(0, self.source)

    def gather(self, tensor: Tensor) -> Tensor:
        """[R, …] -> [T, …]: of the prefix the first row's."""
        return tensor.index_select(0, self.place)

    def spread_gradient(self, gradient: Tensor) -> Tensor:
        """[T, …] -> [R, …], the way back of ``gather``: what nobody used has none."""
        return gradient.new_zeros(len(self.source), *gradient.shape[1:]).index_copy_(0, self.place, gradient)

    def gather_gradient(self, gradient: Tensor) -> Tensor:
        """[R, …] -> [T, …], the way back of ``spread``: all rows' of the prefix, added in float32 in their order."""
        found = self.gather(gradient)
        each = gradient.index_select(0, self.copies).view(-1, self.prefix, *gradient.shape[1:])
        found[: self.prefix] = each.sum(0, dtype=torch.float32)
        return found


def whole_rows(segment_lengths: Sequence[int], prefix: int, tokens: int, device: torch.device) -> WholeRows | None:
    """The layout of ``tokens`` with the prefix once and the segments behind it; None if nothing is shared.

    Raises:
        ArgumentError: if they do not sum to ``tokens``.
    """
    within("shared_prefix", prefix, 0, tokens)
    if not prefix:
        return None
    if prefix + sum(segment_lengths) != tokens:
        found = f"sum to {sum(segment_lengths)}"
        raise ArgumentError("segment_lengths", f"{found}; accepted: {tokens - prefix}, the tokens behind the prefix")
    return _layout(tuple(segment_lengths) or (0,), prefix, device)


@lru_cache(maxsize=4)
def _layout(segments: tuple[int, ...], prefix: int, device: torch.device) -> WholeRows:
    """Every layer of a batch asks for the same."""
    shared, source, place, copies = list(range(prefix)), list[int](), list(range(prefix)), list[int]()
    behind = prefix
    for length in segments:
        copies += range(len(source), len(source) + prefix)
        place += range(len(source) + prefix, len(source) + prefix + length)
        source += [*shared, *range(behind, behind + length)]
        behind += length
    moved = (torch.tensor(rows, dtype=torch.int64).to(device) for rows in (source, place, copies))
    return WholeRows(tuple(prefix + length for length in segments), prefix, *moved)
