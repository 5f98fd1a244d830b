"""Matrices in few bits as the kernels read them, packed once in torch, and turned back into floats exactly.

The columns of a row are cut into blocks of four chunks. Word ``r`` of a block has, in 4 bits each, column ``r`` of
every chunk, so a chunk comes out of consecutive words by one shift; numbers of 8 bits lie in twice as many words, first
those of two chunks, then those of the others. Blocks lie one after another, each with all rows, so that what a program
reads at a time is without gaps; the scales of one row in one block are one word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["int8", "int4", "e2m1", "e4m3"]
CHUNK: dict[Kind, int] = {"int8": 32, "int4": 32, "e2m1": 16}
"""Columns of a chunk; a block has four."""
LARGEST_E4M3, LARGEST_E2M1 = 448.0, 6.0
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WORDS = {1: torch.int16, 2: torch.int32, 4: torch.int64}
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class HeldMatrix:
    """A matrix [outputs, columns] in few bits: ``numbers * scale (+ minimum)``, times the scale of its row.

    Attributes:
        kind: of its numbers: int8, int4 (0 to 15; around 8 without minima), e2m1 or e4m3.
        outputs: its rows.
        columns: of each row.
        group: columns that share a scale; 0 if a whole row does.
        values: words i16 [blocks, outputs, chunk], of int8 [blocks, outputs, 2 chunk]; or e4m3 [outputs, columns].
        scales: [blocks, outputs], a block's scales of a row in one integer: f16, those of e2m1 in e4m3; None without
            groups.
        minima: [blocks, outputs] likewise; None if numbers are around zero.
        row_scales: f32 [outputs], or [1] for all rows; None for none.
    """

    kind: Kind
    outputs: int
    columns: int
    group: int
    values: Tensor
    scales: Tensor | None = None
    minima: Tensor | None = None
    row_scales: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [one for one in (self.values, self.scales, self.minima, self.row_scales) if one is not None]

    @property
    def nbytes(self) -> int:
        """Memory of the matrix."""
        return sum(int(tensor.nbytes) for tensor in self.tensors)

    def to(self, device: torch.device | str) -> HeldMatrix:
        """The same on a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            values=self.values.to(device),
            scales=moved(self.scales),
            minima=moved(self.minima),
            row_scales=moved(self.row_scales),
        )

    def rows(self, numbers: Tensor) -> HeldMatrix:
        """numbers: [n] i64 -> the matrix of those rows."""
        across = 0 if self.kind == "e4m3" else 1

        def picked(tensor: Tensor | None, dim: int) -> Tensor | None:
            return None if tensor is None else tensor.index_select(dim, numbers)

        values, scales, minima = picked(self.values, across), picked(self.scales, 1), picked(self.minima, 1)
        of_rows = self.row_scales
        if of_rows is not None and len(of_rows) > 1:
            of_rows = of_rows[numbers]
        assert values is not None
        return HeldMatrix(self.kind, len(numbers), self.columns, self.group, values, scales, minima, of_rows)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [outputs, columns] in floats: what it stands for, rounded to ``dtype`` at each step."""
        found = self._numbers(dtype)
        if self.scales is not None:
            found = found.unflatten(1, (-1, self.group)) * self._per_group(self.scales, dtype)
            if self.minima is not None:
                found = found + self._per_group(self.minima, dtype)
            found = found.flatten(1)
        found = found[:, : self.columns]
        return found if self.row_scales is None else found * self.row_scales.to(dtype)[:, None]

    def _numbers(self, dtype: torch.dtype) -> Tensor:
        if self.kind == "e4m3":
            return self.values.to(dtype)
        words = self.values.transpose(0, 1)
        if self.kind == "int8":
            halves = words.unflatten(2, (2, -1))
            return torch.stack([halves << 8 >> 8, halves >> 8], 3).flatten(1).to(dtype)
        nibbles = torch.stack([words >> (4 * chunk) & 15 for chunk in range(4)], 2).flatten(1)
        if self.kind == "int4":
            return nibbles.to(dtype) - (8 if self.minima is None else 0)
        sizes = torch.tensor(E2M1, dtype=dtype, device=words.device)[(nibbles & 7).long()]
        return torch.where(nibbles > 7, -sizes, sizes)

    def _per_group(self, words: Tensor, dtype: torch.dtype) -> Tensor:
        stored = torch.float8_e4m3fn if self.kind == "e2m1" else torch.float16
        # Flat first: a single block's column counts as contiguous whatever its stride, and cannot be viewed.
        scales: Tensor = words.t().flatten().view(stored).unflatten(0, (self.outputs, -1))
        return scales.to(dtype)[:, :, None]


def pack_int8(numbers: Tensor, scales: Tensor, group: int) -> HeldMatrix:
    """numbers: i8 [outputs, columns], scales: [outputs, columns / group], or [outputs] with ``group`` 0."""
    outputs, columns = numbers.shape
    halves = _blocks(numbers, 128).unflatten(2, (2, 2, 32)).to(torch.int32)
    words = (halves[:, :, :, 0] & 255 | halves[:, :, :, 1] << 8).to(torch.int16)
    values = words.flatten(2).transpose(0, 1).contiguous()
    if not group:
        return HeldMatrix("int8", outputs, columns, 0, values, row_scales=scales.float().contiguous())
    return HeldMatrix("int8", outputs, columns, group, values, _words(scales.half(), 128 // group))


def pack_int4(numbers: Tensor, scales: Tensor, group: int, minima: Tensor | None = None) -> HeldMatrix:
    """numbers: u8 [outputs, columns] of 0 to 15, scales and minima: [outputs, columns / group]."""
    outputs, columns = numbers.shape
    low = None if minima is None else _words(minima.half(), 128 // group)
    return HeldMatrix("int4", outputs, columns, group, _nibbles(numbers, 32), _words(scales.half(), 128 // group), low)


def pack_nvfp4(codes: Tensor, scales: Tensor, overall: Tensor) -> HeldMatrix:
    """codes: u8 [outputs, columns], e2m1 each; scales: e4m3 [outputs, columns / 16]; overall: f32 [1]."""
    outputs, columns = codes.shape
    return HeldMatrix(
        "e2m1", outputs, columns, 16, _nibbles(codes, 16), _words(scales, 4), row_scales=overall.float().reshape(1)
    )


def quantize_int8(weight: Tensor, group: int = 0) -> HeldMatrix:
    """weight: [outputs, columns] -> its nearest in int8, a scale for each row or for each ``group`` columns."""
    groups = weight.float().unflatten(1, (-1, group or weight.shape[1]))
    scales = groups.abs().amax(-1) / 127
    scales = scales.half() if group else scales
    numbers = _nearest(groups, scales[..., None]).clamp_(-127, 127).to(torch.int8).flatten(1)
    return pack_int8(numbers, scales if group else scales[:, 0], group)


def quantize_int4(weight: Tensor, group: int = 128, *, minima: bool = False) -> HeldMatrix:
    """weight: [outputs, columns] -> its nearest in 4 bits, around zero or from each group's smallest number on."""
    groups = weight.float().unflatten(1, (-1, group))
    if minima:
        low = groups.amin(-1).half()
        scales = ((groups.amax(-1) - low.float()) / 15).half()
        numbers = _nearest(groups - low.float()[..., None], scales[..., None]).clamp_(0, 15)
        return pack_int4(numbers.to(torch.uint8).flatten(1), scales, group, low)
    scales = (groups.abs().amax(-1) / 7).half()
    numbers = _nearest(groups, scales[..., None]).clamp_(-8, 7) + 8
    return pack_int4(numbers.to(torch.uint8).flatten(1), scales, group)


def quantize_nvfp4(weight: Tensor) -> HeldMatrix:
    """weight: [outputs, columns], columns a multiple of 16 -> its nearest in e2m1 with e4m3 scales of 16 columns."""
    groups = weight.float().unflatten(1, (-1, 16))
    peaks = groups.abs().amax(-1)
    overall = peaks.amax().clamp_min(1e-30) / (LARGEST_E4M3 * LARGEST_E2M1)
    scales = (peaks / (overall * LARGEST_E2M1)).clamp_max(LARGEST_E4M3).to(torch.float8_e4m3fn)
    ratios = groups / (scales.float() * overall).clamp_min(1e-30)[..., None]
    halves = torch.tensor([(low + high) / 2 for low, high in pairwise(E2M1)], device=weight.device)
    codes = torch.bucketize(ratios.abs(), halves).to(torch.uint8) | (ratios < 0).to(torch.uint8) << 3
    return pack_nvfp4(codes.flatten(1), scales, overall)


def quantize_fp8(weight: Tensor, *, whole: bool = False) -> HeldMatrix:
    """weight: [outputs, columns] -> e4m3 with a scale for each row, or one for the ``whole`` matrix."""
    exact = weight.float()
    peaks = exact.abs().amax().reshape(1) if whole else exact.abs().amax(1)
    scales = (peaks / LARGEST_E4M3).clamp_min(1e-30)
    values = (exact / scales[:, None]).clamp_(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)
    return HeldMatrix("e4m3", weight.shape[0], weight.shape[1], 0, values, row_scales=scales)


def from_gguf(stored: Tensor, kind: str) -> HeldMatrix:
    """Rows of a GGUF file, repacked without a rounding.

    Args:
        stored: u8 [outputs, bytes of a row].
        kind: q4_0, q4_1 or q8_0.
    """
    outputs = len(stored)
    blocks = stored.view(outputs, -1, {"q4_0": 18, "q4_1": 20, "q8_0": 34}[kind])
    scales = blocks[..., :2].contiguous().view(torch.float16)[..., 0]
    if kind == "q8_0":
        return pack_int8(blocks[..., 2:].contiguous().view(torch.int8).flatten(1), scales, 32)
    minima = blocks[..., 2:4].contiguous().view(torch.float16)[..., 0] if kind == "q4_1" else None
    pairs = blocks[..., -16:]
    numbers = torch.cat([pairs & 15, pairs >> 4], -1).flatten(1)
    return pack_int4(numbers, scales, 32, minima)


def _nearest(numbers: Tensor, scales: Tensor) -> Tensor:
    """Multiples of the scales, as stored, nearest to the numbers."""
    nearest: Tensor = (numbers / scales.float().clamp_min(1e-30)).round_()
    return nearest


def _blocks(numbers: Tensor, width: int) -> Tensor:
    """[outputs, columns] -> [outputs, blocks, width], filled up with zeros."""
    blocks: Tensor = functional.pad(numbers, (0, -numbers.shape[1] % width)).unflatten(1, (-1, width))
    return blocks


def _nibbles(numbers: Tensor, chunk: int) -> Tensor:
    """[outputs, columns] of 4 bits -> words i16 [blocks, outputs, chunk]."""
    parts = _blocks(numbers, 4 * chunk).unflatten(2, (4, chunk)).to(torch.int32)
    words = parts[:, :, 0] | parts[:, :, 1] << 4 | parts[:, :, 2] << 8 | parts[:, :, 3] << 12
    packed: Tensor = words.to(torch.int16).transpose(0, 1).contiguous()
    return packed


def _words(scales: Tensor, each: int) -> Tensor:
    """[outputs, groups] -> [blocks, outputs] integers of ``each`` scales, the first in the lowest bits."""
    bits = scales.contiguous().view(torch.uint8 if scales.element_size() == 1 else torch.int16)
    parts = _blocks(bits, each).contiguous()
    return parts.view(WORDS[each * scales.element_size() // 2])[..., 0].t().contiguous()
