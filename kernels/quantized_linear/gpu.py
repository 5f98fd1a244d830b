"""Launches the products with held matrices. A row has the same bits in any batch: parts of a sum have one size."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.quantized_linear import kernel
from kernels.quantized_linear.held import CHUNK, WORDS, HeldMatrix
from kernels.tuned import tuned

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
OPERATOR = "quantized_linear"
MAX_COLUMNS = 32_768


def quantized_linear(x: Tensor, weight: HeldMatrix, bias: Tensor | None = None, *, float32_out: bool = False) -> Tensor:
    """``x @ weight.T + bias``; weights become floats exactly, and are scaled behind the product, in float32.

    Args:
        x: [rows, columns] bf16, f16 or f32.
        weight: of int8, int4 or e2m1.
        bias: [outputs] of x's dtype, or None.
        float32_out: give float32 instead of rounding to x's dtype.

    Returns:
        [rows, outputs].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("x", x, dtypes=FLOATS, shape=(None, weight.columns))
    _require_words(weight, x)
    out = _Result(x, None, weight, bias, torch.float32 if float32_out else x.dtype)
    rows, outputs = out.sums.shape
    if not rows or not outputs:
        return out.sums
    facts = {"bytes": x.element_size(), "rows": rows, "outputs": outputs, "minima": int(weight.minima is not None)}
    config = dict(tuned(OPERATOR, "few_bits_linear", **facts))
    blocks, chunk = weight.values.shape[0], CHUNK[weight.kind]
    parts, partials = out.parts(bool(config.pop("APART")), blocks, config["PART"])
    scales = weight.values if weight.scales is None else weight.scales
    minima = scales if weight.minima is None else weight.minima
    grid = (-(-outputs // config["BLOCK_N"]), -(-rows // config["BLOCK_M"]), parts)
    kernel.few_bits_linear[grid](
        x, weight.values, scales, minima, out.row_scales, out.bias, partials, rows, outputs, weight.columns,
        x.stride(0), out.row_scales_stride, blocks, KIND=weight.kind, CHUNK=chunk, PER_SCALE=weight.group // chunk,
        SCALE_BITS=8 if weight.kind == "e2m1" else 16, HAS_MINIMA=weight.minima is not None,
        HAS_ROW_SCALES=weight.row_scales is not None, HAS_BIAS=bias is not None,
        WHOLE=weight.columns % (4 * chunk) == 0, APART=partials is not out.sums, **config,
    )  # fmt: skip
    return out.added(partials)


def held_floats(values: Tensor, weight: HeldMatrix, dtype: torch.dtype) -> Tensor:
    """The matrix in floats, rounded once.

    Args:
        values: those of the matrix, by whose device and dtype the implementation is chosen.
        weight: of int8, int4 or e2m1.
        dtype: of the result: bf16, f16 or f32.

    Returns:
        [outputs, columns].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    _require_words(weight, values)
    outputs, columns, chunk = weight.outputs, weight.columns, CHUNK[weight.kind]
    out = torch.empty((outputs, columns), dtype=dtype, device=values.device)
    if not outputs:
        return out
    config = tuned(OPERATOR, "held_floats", outputs=outputs)
    scales = values if weight.scales is None else weight.scales
    of_rows = values if weight.row_scales is None else weight.row_scales
    kernel.held_floats[(-(-outputs // config["BLOCK_N"]), values.shape[0])](
        values, scales, scales if weight.minima is None else weight.minima, of_rows, out, outputs, columns,
        int(weight.row_scales is not None and len(weight.row_scales) > 1), KIND=weight.kind, CHUNK=chunk,
        PER_SCALE=weight.group // chunk, SCALE_BITS=8 if weight.kind == "e2m1" else 16,
        HAS_MINIMA=weight.minima is not None, HAS_ROW_SCALES=weight.row_scales is not None, **config,
    )  # fmt: skip
    return out


def scaled_linear(
    x: Tensor,
    x_scales: Tensor,
    weight: HeldMatrix,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """``(x * x_scales) @ weight.T + bias`` with both factors in fp8.

    Args:
        x: e4m3 [rows, columns].
        x_scales: f32 [rows].
        weight: of e4m3, with scales of its rows or of all of it.
        bias: [outputs] of ``dtype``, or None.
        dtype: of the result.

    Returns:
        [rows, outputs].

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("x", x, dtypes=(torch.float8_e4m3fn,), shape=(None, weight.columns))
    require("x_scales", x_scales, dtypes=(torch.float32,), shape=(len(x),), beside=x, contiguous=True)
    if weight.kind != "e4m3" or weight.row_scales is None:
        raise ArgumentError("weight", f"is of {weight.kind}; accepted: e4m3 with row_scales")
    shape = (weight.outputs, weight.columns)
    require("weight.values", weight.values, dtypes=(x.dtype,), shape=shape, beside=x, contiguous=True)
    out = _Result(x, x_scales, weight, bias, dtype)
    rows, outputs = out.sums.shape
    if not rows or not outputs:
        return out.sums
    config = dict(tuned(OPERATOR, "scaled_linear", rows=rows, outputs=outputs))
    blocks = -(-weight.columns // config["BLOCK_K"])
    parts, partials = out.parts(bool(config.pop("APART")), blocks, config["PART"])
    grid = (-(-outputs // config["BLOCK_N"]), -(-rows // config["BLOCK_M"]), parts)
    kernel.scaled_linear[grid](
        x, x_scales, weight.values, out.row_scales, out.bias, partials, rows, outputs, weight.columns, x.stride(0),
        out.row_scales_stride, HAS_BIAS=bias is not None, WHOLE=weight.columns % config["BLOCK_K"] == 0,
        APART=partials is not out.sums, **config,
    )  # fmt: skip
    return out.added(partials)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [rows, columns] bf16, f16 or f32 -> its nearest in e4m3 [rows, columns], and the scale of each row, f32.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    require("x", x, dtypes=FLOATS, shape=(None, None))
    rows, columns = x.shape
    within("x's columns", columns, 1, MAX_COLUMNS)
    # Made as bytes: torch does not fill fresh memory of fp8, as checks want it.
    values = torch.empty((rows, columns), dtype=torch.uint8, device=x.device).view(torch.float8_e4m3fn)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        config = tuned(OPERATOR, "quantize_rows", columns=columns)
        block = 1 << max(4, (columns - 1).bit_length())
        kernel.quantize_rows[(rows,)](x, values, scales, columns, x.stride(0), BLOCK=block, **config)
    return values, scales


class _Result:
    """Where a product goes, and what is done to its finished sums: by its kernel, or behind the sum of the parts.

    Attributes:
        sums: [rows, outputs], the result.
        row_scales: of the matrix, or something that is not read: a kernel wants a pointer.
        row_scales_stride: 0 if all rows share one.
        bias: likewise.
    """

    def __init__(
        self, x: Tensor, x_scales: Tensor | None, weight: HeldMatrix, bias: Tensor | None, dtype: torch.dtype
    ) -> None:
        given, outputs = weight.row_scales, weight.outputs
        if given is not None:
            require("weight.row_scales", given, dtypes=(torch.float32,), shape=(None,), beside=x)
            if len(given) not in (1, outputs):
                raise ArgumentError("weight.row_scales", f"has {len(given)}; accepted: 1 or {outputs}")
        if bias is not None:
            require("bias", bias, dtypes=FLOATS, shape=(outputs,), beside=x, contiguous=True)
        self._x_scales, self._has_row_scales, self._has_bias = x_scales, given is not None, bias is not None
        self.row_scales = x if given is None else given
        self.row_scales_stride = int(given is not None and len(given) > 1)
        self.bias = x if bias is None else bias
        self.sums = torch.empty((len(x), outputs), dtype=dtype, device=x.device)

    def parts(self, apart: bool, blocks: int, part: int) -> tuple[int, Tensor]:
        """Into how many parts a sum is cut, and where they go: f32 [parts, rows, outputs], or the result itself."""
        if not apart:
            return 1, self.sums
        count = -(-blocks // part)
        return count, torch.empty((count, *self.sums.shape), dtype=torch.float32, device=self.sums.device)

    def added(self, partials: Tensor) -> Tensor:
        """The result, once the parts are added in order."""
        if partials is not self.sums:
            parts, rows, outputs = partials.shape
            config = tuned(OPERATOR, "add_parts", outputs=outputs)
            kernel.add_parts[(-(-outputs // config["BLOCK"]), rows)](
                partials, partials if self._x_scales is None else self._x_scales, self.row_scales, self.bias,
                self.sums, rows, outputs, self.row_scales_stride, parts, HAS_X_SCALES=self._x_scales is not None,
                HAS_ROW_SCALES=self._has_row_scales, HAS_BIAS=self._has_bias, **config,
            )  # fmt: skip
        return self.sums


def _require_words(weight: HeldMatrix, x: Tensor) -> None:
    if weight.kind not in CHUNK:
        raise ArgumentError("weight", f"is of {weight.kind}; accepted: {', '.join(CHUNK)}")
    chunk, outputs = CHUNK[weight.kind], weight.outputs
    blocks, words = -(-weight.columns // (4 * chunk)), 2 * chunk if weight.kind == "int8" else chunk
    shape = (blocks, outputs, words)
    require("weight.values", weight.values, dtypes=(torch.int16,), shape=shape, beside=x, contiguous=True)
    for name, given in (("weight.scales", weight.scales), ("weight.minima", weight.minima)):
        if given is not None:
            require(name, given, dtypes=tuple(WORDS.values()), shape=(blocks, outputs), beside=x, contiguous=True)
