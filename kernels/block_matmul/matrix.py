"""Weights that stay in 4 or 8 bits: packed once into panels of 16 rows, multiplied from there."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.native import Library, Team

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 32
PANEL = 16
FLOAT = 0
"""Type number of rows of float32, which are quantised when they are packed."""


@dataclass(frozen=True)
class Format:
    """How a weight is stored: ``scale * q + minimum``, q unsigned.

    Attributes:
        bits: of q, 4 or 8.
        group: columns that share a scale, 16 or 32.
        offset: without stored minima, the minimum is ``-offset * scale``.
        has_minima: whether minima are stored.
    """

    bits: int
    group: int
    offset: int
    has_minima: bool

    def joined(self, other: Format) -> Format:
        """The smallest format that holds both exactly (up to a rounding of the minima to halves)."""
        if self == other:
            return self
        minima = self.has_minima or other.has_minima or self.offset != other.offset
        offset = 0 if minima else self.offset
        return Format(max(self.bits, other.bits), min(self.group, other.group), offset, minima)

    def block_bytes(self) -> int:
        """Bytes of 16 rows by 32 columns."""
        return self.bits * 64 + BLOCK // self.group * PANEL * 2 * (1 + self.has_minima)


INT8 = Format(8, 32, 128, False)
INT4 = Format(4, 32, 0, True)
GGUF_FORMATS = {
    2: Format(4, 32, 8, False),  # Q4_0
    3: Format(4, 32, 0, True),  # Q4_1
    6: Format(8, 32, 16, False),  # Q5_0
    7: Format(8, 32, 0, True),  # Q5_1
    8: INT8,  # Q8_0
    10: Format(4, 16, 0, True),  # Q2_K
    11: Format(4, 16, 4, False),  # Q3_K
    12: Format(4, 32, 0, True),  # Q4_K
    13: Format(8, 32, 0, True),  # Q5_K
    14: Format(8, 16, 32, False),  # Q6_K
}
"""By ``ggml_type``: the format that holds that type's numbers as they are."""


@dataclass(frozen=True)
class Rows:
    """Rows of one stored tensor, in the order in which they are wanted.

    Attributes:
        data: [rows, bytes per row] as the file has them, or [rows, columns] float32.
        kind: ``ggml_type`` number, ``FLOAT`` for float32.
        order: [n] i64, which rows; None for all of them in order.
    """

    data: Bytes | Floats
    kind: int
    order: npt.NDArray[np.int64] | None = None

    def addresses(self) -> npt.NDArray[np.int64]:
        """Where each wanted row begins in memory."""
        order = np.arange(len(self.data)) if self.order is None else self.order
        return np.asarray(self.data.ctypes.data + order * self.data.strides[0], np.int64)


class CMatrix(ctypes.Structure):
    """``matrix`` of cpu.h."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("has_minima", ctypes.c_int64),
        ("wide", ctypes.c_int64),
        ("panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class CQuantized(ctypes.Structure):
    """``quantized`` of cpu.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("values", "low", "scales", "sums32", "sums16"))


class Quantized:
    """Room for ``tokens`` rows of ``columns`` activations in 8 or 15 bits."""

    def __init__(self, tokens: int, columns: int) -> None:
        tokens = -(-tokens // 16) * 16
        blocks = tokens * (columns // BLOCK)
        self._arrays = (
            *(aligned(tokens * columns, np.int8) for _ in range(2)),
            *(aligned(count, np.float32) for count in (blocks, blocks, 2 * blocks)),
        )
        self.c = CQuantized(*(array.ctypes.data for array in self._arrays))


class Matrix:
    """A packed matrix [rows, columns] with an optional bias [rows].

    Attributes:
        rows, columns: its shape.
        format: how it is stored.
        int15: whether activations have 15 bits instead of 8.
        nbytes: memory it takes.
        c: what C functions get.
    """

    def __init__(self, shape: tuple[int, int], form: Format, panels: Bytes, bias: Floats | None, int15: bool) -> None:
        self.rows, self.columns = shape
        self.format, self.int15 = form, int15
        self.nbytes = panels.nbytes
        self._panels = panels
        self._bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
        self.c = CMatrix(
            *shape,
            *(form.bits, form.group, form.offset, form.has_minima, int15),
            panels.ctypes.data,
            None if self._bias is None else self._bias.ctypes.data,
        )

    @classmethod
    def pack(
        cls,
        library: Library,
        parts: Sequence[Rows],
        columns: int,
        *,
        bits: int = 8,
        bias: Floats | None = None,
        int15: bool = False,
        arena: Arena | None = None,
    ) -> Matrix:
        """Pack the parts, one below the other.

        Args:
            library: compiled kernels.
            parts: at least one; ``columns`` must be a multiple of 32.
            columns: of every row.
            bits: to which rows of floats are quantised, 4 or 8.
            bias: [rows].
            int15: multiply it with activations of 15 bits instead of 8: nearly exact, for less than twice the work.
            arena: where the weights shall lie.

        Raises:
            ValueError: for columns that do not fit or an unknown kind.
        """
        if columns % BLOCK or columns < BLOCK:
            raise ValueError(f"{columns} columns are not a multiple of {BLOCK}")
        formats = {FLOAT: INT8 if bits == 8 else INT4, **GGUF_FORMATS}
        unknown = [part.kind for part in parts if part.kind not in formats]
        if unknown:
            raise ValueError(f"rows of the type {unknown[0]} cannot be packed")
        form = formats[parts[0].kind]
        for part in parts[1:]:
            form = form.joined(formats[part.kind])
        addresses = np.concatenate([part.addresses() for part in parts])
        kinds = np.concatenate([np.full(len(part.addresses()), part.kind, np.int32) for part in parts])
        panels = (arena or Arena()).zeros(-(-len(addresses) // PANEL) * (columns // BLOCK) * form.block_bytes())
        matrix = cls((len(addresses), columns), form, panels, bias, int15)
        failed = library.function("pack")(
            ctypes.byref(matrix.c), ctypes.c_void_p(addresses.ctypes.data), ctypes.c_void_p(kinds.ctypes.data)
        )
        assert not failed, "the kinds were checked above"
        return matrix

    def row(self, library: Library, index: int) -> Floats:
        """One row as float32: [columns]."""
        out = np.empty(self.columns, np.float32)
        library.function("block_row")(ctypes.byref(self.c), ctypes.c_int64(index), ctypes.c_void_p(out.ctypes.data))
        return out


def multiply(
    library: Library,
    matrix: Matrix,
    x: Floats,
    *,
    variant: str | None = None,
    threads: int = 1,
) -> Floats:
    """x @ matrix.T + bias, alone.

    Args:
        library: compiled kernels.
        matrix: [rows, columns].
        x: [tokens, columns] float32.
        variant: the instruction set; the best by default.
        threads: that share the work.

    Returns:
        [tokens, rows] float32.
    """
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != matrix.columns:
        raise ValueError(f"x is {x.shape}, the matrix needs [tokens, {matrix.columns}]")
    out = np.full((len(x), matrix.rows), np.nan, np.float32)
    team = Team(library, threads, variant)
    multiply_into(library, matrix, x, out, Quantized(len(x), matrix.columns), team, variant)
    return out


def multiply_into(
    library: Library,
    matrix: Matrix,
    x: Floats,
    out: Floats,
    space: Quantized,
    team: Team,
    variant: str | None = None,
) -> None:
    """Multiply into ``out`` [tokens, rows], with room and threads that are there already."""
    library.function("block_matmul", variant)(
        ctypes.byref(matrix.c),
        ctypes.c_void_p(x.ctypes.data),
        ctypes.c_int64(len(x)),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.byref(space.c),
        team.address,
    )


def aligned(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """``count`` zeros that begin at a cache line; memory that nobody touches is not taken."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)


class Arena:
    """Memory for many matrices, in large pages where the system has them.

    A decoding step reads every weight once; through small pages it would spend half of its time in address translation.
    Matrices are smaller than a large page, so they must lie beside each other.
    """

    CHUNK_BYTES = 1 << 25
    HUGE_BYTES = 1 << 21

    def __init__(self) -> None:
        self._free: Bytes = np.zeros(0, np.uint8)

    def zeros(self, nbytes: int) -> Bytes:
        """``nbytes`` zeros that begin at a cache line. They live as long as somebody refers to them."""
        wanted = -(-nbytes // 64) * 64
        if wanted > len(self._free):
            self._free = _large_pages(max(wanted, self.CHUNK_BYTES), self.HUGE_BYTES)
        taken, self._free = self._free[:nbytes], self._free[wanted:]
        return taken


def _large_pages(nbytes: int, alignment: int) -> Bytes:
    memory = mmap.mmap(-1, nbytes + alignment, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes]
