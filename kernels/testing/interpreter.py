"""Repairs Triton's interpreter, which computes bfloat16 wrongly without a word (seen in 3.6.0 and 3.9.0).

It keeps bfloat16 as 16-bit integers and does arithmetic on the bits, truncates float32 to bfloat16 instead of rounding,
rounds to fp8 wrongly where the mantissa carries, dies on loops over tensors with numpy 2.4, and asks for a GPU as soon
as a kernel has several configurations. ``install()`` once, with ``TRITON_INTERPRET=1``, before any kernel is launched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

Array = NDArray[Any]

FLOATS = {
    tl.float64: torch.float64,
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
SATURATED = {tl.float8e4nv: 448.0, tl.float8e5: 57344.0}
SIGNED_NUMPY: dict[int, Any] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
UNSIGNED_NUMPY: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED_TORCH = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}

_stock_convert = interpreter._convert_float


def install() -> None:
    """Repair the interpreter of this process; a second call does nothing."""
    builder = interpreter.InterpreterBuilder
    if getattr(builder, "bfloat16_repaired", False):
        return
    builder.bfloat16_repaired = True
    interpreter._convert_float = _convert_float
    _repair_casts(builder)
    _repair_arithmetic(builder)
    _repair_dot(builder)
    _repair_reductions()
    _repair_loop_bounds()
    _keep_first_configuration()


def _convert_float(data: Array, source: Any, target: Any, rounding: Any = None) -> Array:
    """As the hardware converts: to nearest even, saturating towards fp8."""
    if source not in FLOATS or target not in FLOATS or rounding == interpreter._ir.ROUNDING_MODE.RTZ:
        return np.asarray(_stock_convert(data, source, target, rounding))
    values = _as_torch(data, source)
    if target in SATURATED:
        values = values.float().clamp(-SATURATED[target], SATURATED[target])
    bits = target.primitive_bitwidth
    stored = values.to(FLOATS[target]).reshape(-1).view(SIGNED_TORCH[bits]).numpy()
    return np.asarray(stored.view(UNSIGNED_NUMPY[bits]).reshape(np.shape(data)))


def _as_torch(data: Array, dtype: Any) -> torch.Tensor:
    """The interpreter's bits as a tensor of their real dtype (a copy)."""
    copied = np.array(data, copy=True, order="C")
    flat = torch.from_numpy(copied.reshape(-1).view(SIGNED_NUMPY[dtype.primitive_bitwidth]))
    return flat.view(FLOATS[dtype]).reshape(copied.shape)


def _is_bfloat16(handle: Any) -> bool:
    return isinstance(handle, interpreter.TensorHandle) and handle.dtype.scalar == tl.bfloat16


def _upcast(data: Array) -> Array:
    return (np.asarray(data).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(data))


def _narrowed(data: Array) -> Array:
    return _convert_float(np.asarray(data, dtype=np.float32), tl.float32, tl.bfloat16)


def _as_float32(handle: Any) -> Any:
    return interpreter.TensorHandle(_upcast(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _as_bfloat16(handle: Any) -> Any:
    if handle.dtype.scalar != tl.float32 or handle.data.dtype == np.bool_:
        return handle
    return interpreter.TensorHandle(_narrowed(handle.data), tl.bfloat16)


def _through_float32(operation: Callable[..., Any]) -> Callable[..., Any]:
    """``operation`` of the builder, computed in float32 where an operand is bfloat16."""

    def repaired(self: Any, *operands: Any) -> Any:
        if not any(map(_is_bfloat16, operands)):
            return operation(self, *operands)
        return _as_bfloat16(operation(self, *map(_as_float32, operands)))

    return repaired


def _repair_casts(builder: Any) -> None:
    stock = builder.cast_impl

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        have, want = source.dtype.scalar, target.scalar
        if have == tl.bfloat16 and want not in (tl.float32, tl.bfloat16):
            return stock(self, _as_float32(source), target)
        if want == tl.bfloat16 and have not in (tl.float32, tl.bfloat16):
            upcast = stock(self, source, tl.float32)
            return interpreter.TensorHandle(_narrowed(upcast.data), tl.bfloat16)
        return stock(self, source, target)

    builder.cast_impl = cast_impl
    if not hasattr(builder, "get_bf16"):
        builder.get_bf16 = lambda self, value: interpreter.TensorHandle(
            _narrowed(np.array([value], np.float32)), tl.bfloat16
        )


def _repair_arithmetic(builder: Any) -> None:
    builder.binary_op = _through_float32(builder.binary_op)
    builder.unary_op = _through_float32(builder.unary_op)
    builder.create_fma = _through_float32(builder.create_fma)
    stock = builder.ternary_op
    upcast = _through_float32(stock)

    def ternary_op(self: Any, first: Any, second: Any, third: Any, op: Any) -> Any:
        # A selection moves bits and computes nothing; its condition is no number.
        return (stock if op is np.where else upcast)(self, first, second, third, op)

    builder.ternary_op = ternary_op


def _repair_dot(builder: Any) -> None:
    stock = builder.create_dot

    def create_dot(self: Any, left: Any, right: Any, sums: Any, *rest: Any) -> Any:
        floats = left.dtype.scalar in FLOATS and right.dtype.scalar in FLOATS
        if sums.dtype.scalar != tl.float32 or not floats:
            return stock(self, left, right, sums, *rest)
        # In float64, rounded once: BLAS orders its sums by a tile's height, the hardware does not.
        factors = (_as_torch(side.data, side.dtype.scalar).double().numpy() for side in (left, right))
        return interpreter.TensorHandle(np.matmul(*factors).astype(np.float32) + sums.data, tl.float32)

    builder.create_dot = create_dot


def _repair_reductions() -> None:
    for kind in (interpreter.ReduceOps, interpreter.ScanOps):

        def apply_impl(self: Any, operands: Any, stock: Callable[..., Any] = kind.apply_impl) -> Any:
            if not any(operand.dtype.scalar == tl.bfloat16 for operand in operands):
                return stock(self, operands)
            result = stock(self, tuple(_upcast_operand(self, operand) for operand in operands))
            if isinstance(result, (tuple, list)):
                return type(result)(_narrow_result(self, item) for item in result)
            return _narrow_result(self, result)

        kind.apply_impl = apply_impl


def _upcast_operand(operation: Any, operand: Any) -> Any:
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    return operation.to_tensor(_upcast(operand.handle.data), tl.float32)


def _narrow_result(operation: Any, result: Any) -> Any:
    if result.dtype.scalar != tl.float32:
        return result
    narrow = _narrowed(result.handle.data)
    return operation.to_tensor(narrow if result.shape else narrow.reshape(-1)[0], tl.bfloat16)


def _repair_loop_bounds() -> None:
    """numpy 2.4 refuses ``int()`` of an array with one element, which Triton 3.6 does for loops over tensors."""
    stock = interpreter._patch_lang_tensor

    def patched(tensor: Any, *rest: Any) -> None:
        stock(tensor, *rest)
        for name in ("__index__", "__int__"):
            if hasattr(tensor, name):
                setattr(tensor, name, lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    interpreter._patch_lang_tensor = patched


def _keep_first_configuration() -> None:
    stock = Autotuner.__init__

    def created(self: Any, *arguments: Any, **named: Any) -> None:
        stock(self, *arguments, **named)
        self.configs = self.configs[:1]

    Autotuner.__init__ = created
