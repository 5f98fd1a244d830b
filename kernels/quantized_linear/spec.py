"""Contracts of the products with held matrices: weights alone in few bits, both sides in fp8, and rounding to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from kernels.quantized_linear import cpu
from kernels.quantized_linear.held import (
    HeldMatrix,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
    quantize_nvfp4,
)
from kernels.quantized_linear.reference import (
    held_floats_reference,
    quantize_rows_reference,
    quantized_linear_reference,
    scaled_linear_reference,
)
from kernels.registry import Implementation, Shape
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
CUDA = frozenset({"cuda"})
FLOATS = frozenset({BF16, F16, F32})
BOTH = frozenset({"fast", "exact"})
DENSE_ROWS = 1024
"""From so many rows on a product computes more than it reads: in fast numerics the matrix is turned into floats once,
and multiplied as such."""

HOLD: Mapping[str, Callable[[Tensor], HeldMatrix]] = {
    "int8": quantize_int8,
    "int8g32": lambda weight: quantize_int8(weight, 32),
    "int8g128": lambda weight: quantize_int8(weight, 128),
    "int4g32": lambda weight: quantize_int4(weight, 32),
    "int4g64": lambda weight: quantize_int4(weight, 64),
    "int4g128": lambda weight: quantize_int4(weight, 128),
    "int4g32min": lambda weight: quantize_int4(weight, 32, minima=True),
    "int4g128min": lambda weight: quantize_int4(weight, 128, minima=True),
    "nvfp4": quantize_nvfp4,
    "fp8": quantize_fp8,
    "fp8whole": lambda weight: quantize_fp8(weight, whole=True),
}
BITS = {"int8": 8, "int8g32": 8.5, "int4g128": 4.125, "int4g32": 4.5, "int4g32min": 5, "nvfp4": 4.5, "fp8": 8}
"""Of a weight, with its share of the scales; of the kinds that are measured."""


def _problem(kind: str, rows: int, outputs: int, columns: int, dtype: torch.dtype = BF16, bias: bool = False) -> Case:
    """x [rows, columns] times a matrix [outputs, columns] that is held as ``kind``."""

    def make(maker: Maker) -> Arguments:
        x = maker.normal(rows, columns, dtype=dtype)
        weight = HOLD[kind](maker.normal(outputs, columns, dtype=F32, scale=0.1))
        drawn: Arguments = {"x": x, "weight": weight, "bias": maker.normal(outputs, dtype=dtype) if bias else None}
        if weight.kind == "e4m3":
            x8, x_scales = cpu.quantize_rows(x)
            drawn = {**drawn, "x": x8, "x_scales": x_scales}
        return drawn

    flops = 2 * rows * outputs * columns
    read = int(outputs * columns * BITS.get(kind, 0) / 8) + rows * columns * (1 if kind == "fp8" else 2)
    work = Work(read + 2 * rows * outputs, **{"flops_8bit" if kind == "fp8" else "flops": flops})
    name = f"{kind}-{rows}x{outputs}x{columns}{'' if dtype is BF16 else '-' + str(dtype).removeprefix('torch.')}"
    return Case(name + ("-bias" if bias else ""), make, work)


def _rows(rows: int, columns: int, dtype: torch.dtype = BF16) -> Case:
    work = Work(rows * columns * 3 + rows * 4)
    name = f"{rows}x{columns}-{str(dtype).removeprefix('torch.')}"
    return Case(name, lambda maker: {"x": maker.normal(rows, columns, dtype=dtype)}, work)


def _floats(kind: str, outputs: int, columns: int, dtype: torch.dtype = BF16) -> Case:
    def make(maker: Maker) -> Arguments:
        weight = HOLD[kind](maker.normal(outputs, columns, dtype=F32))
        return {"values": weight.values, "weight": weight, "dtype": dtype}

    work = Work(int(outputs * columns * (BITS.get(kind, 0) / 8 + 2)))
    return Case(f"{kind}-{outputs}x{columns}-{str(dtype).removeprefix('torch.')}", make, work)


def _torch_scaled(x: Tensor, x_scales: Tensor, weight: HeldMatrix, bias: Tensor | None) -> Tensor:
    scales = weight.row_scales
    assert scales is not None
    across = scales[None, :].expand(1, weight.outputs).contiguous()
    product: Tensor = torch._scaled_mm(x, weight.values.t(), x_scales[:, None], across, bias=bias, out_dtype=BF16)
    return product


SMALL = (
    ("int8", 0, 64, 128, BF16, False),
    ("int8", 1, 70, 160, BF16, True),
    ("int8g32", 20, 64, 160, BF16, True),
    ("int8g128", 3, 64, 128, F16, False),
    ("int4g32", 70, 130, 160, BF16, False),
    ("int4g64", 5, 64, 192, BF16, True),
    ("int4g128", 2, 40, 1280, BF16, False),
    ("int4g32min", 17, 64, 160, BF16, True),
    ("int4g32min", 70, 64, 64, F32, False),
    ("int4g128min", 1, 64, 256, F32, True),
    ("nvfp4", 2, 64, 592, BF16, True),
    ("nvfp4", 40, 64, 64, F32, False),
)
SMALL_FP8 = (
    ("fp8", 0, 64, 128, BF16, False),
    ("fp8", 1, 70, 160, BF16, True),
    ("fp8whole", 20, 64, 1056, BF16, True),
    ("fp8", 130, 130, 128, BF16, False),
)
DECODE, PREFILL = (16, 4096, 4096), (4096, 28672, 4096)
LARGE = (
    *(("int4g128", *size) for size in (DECODE, (1, 28672, 4096), (64, 4096, 14336), PREFILL)),
    *((kind, *size) for kind in ("int4g32", "int4g32min", "int8", "nvfp4") for size in (DECODE, PREFILL)),
    ("int8g32", *DECODE),
)
LARGE_FP8 = tuple(("fp8", *size) for size in (DECODE, (64, 28672, 4096), PREFILL))

SPECS = (
    Spec(
        name="quantized_linear",
        operator="quantized_linear",
        summary="x @ weight.T + bias, the weight in int8, int4 or NVFP4",
        gpu="kernels.quantized_linear.gpu:quantized_linear",
        reference=quantized_linear_reference,
        plain=cpu.quantized_linear,
        cases=tuple(_problem(*size) for size in SMALL),
        shapes=tuple(_problem(*size) for size in LARGE),
        gates=(Gate("few_bits_linear", tensor_cores=("HGMMA",)), Gate("add_parts")),
        peers={"floats and cuBLAS": cpu.quantized_linear},
    ),
    Spec(
        name="scaled_linear",
        operator="quantized_linear",
        summary="x @ weight.T + bias, both in fp8 with scales of rows",
        gpu="kernels.quantized_linear.gpu:scaled_linear",
        reference=scaled_linear_reference,
        plain=cpu.scaled_linear,
        cases=tuple(_problem(*size) for size in SMALL_FP8),
        shapes=tuple(_problem(*size) for size in LARGE_FP8),
        gates=(Gate("scaled_linear", tensor_cores=("QGMMA",)), Gate("add_parts")),
        peers={"_scaled_mm": _torch_scaled},
    ),
    Spec(
        name="held_floats",
        operator="quantized_linear",
        summary="a weight in int8, int4 or NVFP4, in floats",
        gpu="kernels.quantized_linear.gpu:held_floats",
        reference=held_floats_reference,
        plain=cpu.held_floats,
        cases=(
            *(_floats(kind, 70, 160) for kind in ("int8", "int8g32", "int4g32min", "nvfp4")),
            _floats("int4g64", 1, 192, F32),
        ),
        shapes=tuple(_floats(kind, 28672, 4096) for kind in ("int4g128", "int8", "nvfp4")),
        gates=(Gate("held_floats"),),
    ),
    Spec(
        name="quantize_rows",
        operator="quantized_linear",
        summary="rows in fp8, a scale for each",
        gpu="kernels.quantized_linear.gpu:quantize_rows",
        reference=quantize_rows_reference,
        plain=cpu.quantize_rows,
        cases=(_rows(0, 64), _rows(1, 100), _rows(7, 2500, F32), _rows(9, 64, F16)),
        shapes=(_rows(16, 4096), _rows(8192, 14336)),
        gates=(Gate("quantize_rows"),),
    ),
)


def _few_rows(shape: Shape) -> bool:
    return shape["rows"] < DENSE_ROWS


IMPLEMENTATIONS = {
    "quantized_linear": (
        Implementation("triton", SPECS[0].gpu, CUDA, FLOATS, BOTH, _few_rows),
        Implementation("triton", SPECS[0].gpu, CUDA, FLOATS, frozenset({"exact"})),
        Implementation("torch", "kernels.quantized_linear.cpu:quantized_linear", numerics=BOTH),
    ),
    "scaled_linear": (
        Implementation("triton", SPECS[1].gpu, CUDA, numerics=BOTH),
        Implementation("torch", "kernels.quantized_linear.cpu:scaled_linear", numerics=BOTH),
    ),
    "held_floats": (
        Implementation("triton", SPECS[2].gpu, CUDA, numerics=BOTH),
        Implementation("torch", "kernels.quantized_linear.cpu:held_floats", numerics=BOTH),
    ),
    "quantize_rows": (
        Implementation("triton", SPECS[3].gpu, CUDA, FLOATS, BOTH),
        Implementation("torch", "kernels.quantized_linear.cpu:quantize_rows", numerics=BOTH),
    ),
}
