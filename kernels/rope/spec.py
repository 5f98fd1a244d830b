"""Contracts of rotary embedding: alone, backward, and on the way into paged memory."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.registry import Implementation
from kernels.rope.cpu import FP8, apply_rope, rope_backward, write_turned
from kernels.rope.reference import apply_rope_reference, rope_backward_reference, rope_paged_write_reference
from kernels.rope.tables import rope_tables
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32
PAGE = 16


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tables(maker: Maker, tokens: int, width: int, dtype: torch.dtype) -> Arguments:
    """Of random positions, as a model has them."""
    positions = maker.integers(0, 4000, tokens, dtype=torch.int64)
    frequencies = (10_000.0 ** (-torch.arange(0, width, 2).float() / width)).to(maker.device)
    cosine, sine = rope_tables(positions, frequencies, dtype)
    return {"cosine": cosine, "signed_sine": sine}


def _turn(name: str, tokens: int, heads: int, width: int, dtype: torch.dtype, *, measured: bool = False) -> Case:
    """The first heads of a tensor that holds one more, called ``name``."""

    def make(maker: Maker) -> Arguments:
        values = maker.normal(tokens, heads + 1, width, dtype=dtype)[:, :heads]
        return {name: values, **_tables(maker, tokens, width, dtype)}

    work = Work(2 * tokens * (heads + 1) * width * dtype.itemsize) if measured else None
    return Case(f"{tokens}x{heads}x{width}-{_short(dtype)}", make, work)


def _write(
    tokens: int,
    heads: tuple[int, int],
    width: int,
    pages: int,
    dtype: torch.dtype,
    cache: torch.dtype,
    *,
    scales: int | None = None,
    measured: bool = False,
) -> Case:
    """Slices of one projection's output, and slots in random order; ``heads``: of queries, of keys."""
    own, shared = heads

    def make(maker: Maker) -> Arguments:
        parts = maker.normal(tokens, own + 2 * shared, width, dtype=dtype, scale=3.0).split((own, shared, shared), 1)
        held = maker.normal(2, shared, pages, PAGE, width, dtype=cache)
        page_scales = None if scales is None else maker.normal(2, scales, dtype=F32).abs() + 0.05
        return {
            **dict(zip(("query", "key", "value"), parts, strict=True)),
            **_tables(maker, tokens, width, dtype),
            "slots": maker.permutation(pages * PAGE, dtype=torch.int64)[:tokens],
            "pages": held,
            "scales": page_scales,
        }

    moved = tokens * width * ((2 * own + 2 * shared + 2) * dtype.itemsize + 2 * shared * cache.itemsize)
    name = f"{tokens}x{own}/{shared}x{width}-{_short(dtype)}-{_short(cache)}{'' if scales is None else f'-{scales}'}"
    return Case(name, make, Work(moved) if measured else None)


def _write_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    signed_sine: Tensor,
    slots: Tensor,
    pages: Tensor,
    scales: Tensor | None = None,
) -> Tensor:
    """Every slot is one; so nothing is read back from the device."""
    write_turned(key, value, cosine, signed_sine, slots, pages, scales)
    return apply_rope(query, cosine, signed_sine)


SMALL = ((0, 2, 64), (1, 1, 2), (5, 3, 64), (7, 20, 96), (2, 32, 128))
LARGE = ((1, 40, 128), (128, 40, 128), (8192, 40, 128))

SPECS = (
    Spec(
        name="rope",
        operator="rope",
        summary="heads turned by their positions",
        gpu="kernels.rope.gpu:rope",
        reference=apply_rope_reference,
        plain=apply_rope,
        cases=tuple(_turn("heads", *size, dtype) for size in SMALL for dtype in (BF16, F32)),
        shapes=tuple(_turn("heads", *size, BF16, measured=True) for size in LARGE),
        gates=(Gate("rope"),),
    ),
    Spec(
        name="rope_backward",
        operator="rope",
        summary="gradient of the heads before they were turned",
        gpu="kernels.rope.gpu:rope_backward",
        reference=rope_backward_reference,
        plain=rope_backward,
        cases=tuple(_turn("gradient", *size, dtype) for size in SMALL for dtype in (BF16, F32)),
        shapes=(_turn("gradient", 8192, 32, 128, BF16, measured=True),),
        gates=(Gate("rope"),),
    ),
    Spec(
        name="rope_paged_write",
        operator="rope",
        summary="queries and keys turned, keys and values into pages",
        gpu="kernels.rope.gpu:rope_paged_write",
        reference=rope_paged_write_reference,
        plain=_write_plain,
        writes=("pages",),
        cases=(
            _write(0, (4, 2), 64, 2, BF16, BF16),
            _write(1, (1, 1), 2, 1, BF16, BF16),
            _write(10, (4, 2), 64, 2, BF16, BF16),
            _write(9, (6, 3), 80, 2, F32, F32),
            _write(9, (6, 3), 80, 2, BF16, FP8),
            _write(10, (4, 2), 64, 2, BF16, FP8, scales=1),
            _write(5, (12, 6), 96, 2, F32, FP8, scales=6),
        ),
        shapes=(
            *(_write(tokens, (32, 8), 128, 1024, BF16, BF16, measured=True) for tokens in (1, 128, 8192)),
            *(_write(tokens, (32, 8), 128, 1024, BF16, FP8, scales=8, measured=True) for tokens in (128, 8192)),
        ),
        gates=(Gate("rope_paged_write"),),
    ),
)

_GPU = frozenset({"cuda"})
_BOTH = frozenset({"fast", "exact"})
_FLOATS = frozenset({BF16, torch.float16, F32})

IMPLEMENTATIONS = {
    "rope": (
        Implementation("triton", "kernels.rope.gpu:rope", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.rope.cpu:apply_rope", numerics=_BOTH),
    ),
    "rope_backward": (
        Implementation("triton", "kernels.rope.gpu:rope_backward", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.rope.cpu:rope_backward", numerics=_BOTH),
    ),
    "rope_paged_write": (
        Implementation("triton", "kernels.rope.gpu:rope_paged_write", _GPU, _FLOATS, _BOTH),
        Implementation("torch", "kernels.rope.cpu:rope_paged_write", numerics=_BOTH),
    ),
}
