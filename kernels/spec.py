"""What an operator is to its checks: the truth, problems to solve, their least cost, and who else solves them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Function = Callable[..., Any]


class Maker:
    """Draws a problem's tensors on one device from one seed; on ``meta`` it makes shapes alone.

    Everything is drawn on the CPU first, so a problem is the same on every device.
    """

    def __init__(self, device: str | torch.device, seed: int = 0) -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
        """Normal values with the standard deviation ``scale``."""
        if self.device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=self.device)
        values = torch.randn(shape, generator=self._generator) * scale
        return values.to(dtype).to(self.device)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Uniform integers, ``low <= value < high``."""
        if self.device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=self.device)
        return torch.randint(low, high, shape, generator=self._generator).to(dtype).to(self.device)

    def permutation(self, count: int, *, dtype: torch.dtype = torch.int32) -> Tensor:
        """The numbers below ``count`` in random order."""
        if self.device.type == "meta":
            return torch.empty(count, dtype=dtype, device=self.device)
        return torch.randperm(count, generator=self._generator).to(dtype).to(self.device)

    def tensor(self, values: Any, *, dtype: torch.dtype = torch.int32) -> Tensor:
        """Given values."""
        return torch.tensor(values, dtype=dtype).to(self.device)


@dataclass(frozen=True)
class Work:
    """The least that a problem costs: what must be moved and computed, whoever solves it.

    Attributes:
        bytes: read from and written to device memory.
        flops: of matrix products in 16 bits.
        flops_8bit: of matrix products in 8 bits.
        exponentials: on the special function units.
    """

    bytes: int
    flops: int = 0
    flops_8bit: int = 0
    exponentials: int = 0


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        name: short, as in ``8192x4096-bf16``.
        make: its arguments, by name, drawn from a ``Maker``.
        work: what it costs at least; of the problems that are measured.
    """

    name: str
    make: Callable[[Maker], Arguments]
    work: Work | None = None


@dataclass(frozen=True)
class Gate:
    """What a kernel's machine code must show, besides no stack and shared memory that fits.

    Attributes:
        kernel: function name of the kernel.
        wide_loads: whether it must read 16 bytes at a time.
        tensor_cores: instructions of which at least one must be there (``HGMMA``, ``QGMMA``, ``HMMA``); empty for none.
        max_registers: of a thread.
    """

    kernel: str
    wide_loads: bool = True
    tensor_cores: tuple[str, ...] = ()
    max_registers: int = 255


#: Relative Frobenius distance from float64 that an output of a dtype may have.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 5e-3,
    torch.float8_e4m3fn: 4e-2,
    torch.float8_e5m2: 8e-2,
}


@dataclass(frozen=True)
class Spec:
    """An operator's contract: the reference is the truth, and every implementation answers the same call.

    ``reference``, ``plain`` and the implementations take the same arguments by name, and their results are compared
    one by one: what is returned, then what is written into the arguments named in ``writes``.

    Attributes:
        name: of the operator, unique.
        operator: folder whose ``configs`` it uses.
        summary: what it computes, in a line.
        gpu: ``module:function`` of the Triton launcher.
        reference: the truth, in float64; leaves its arguments alone and returns what ``writes`` names as well.
        plain: the same in torch operators of the working dtype: the yardstick of errors, and a peer.
        cases: small problems, for the interpreter; odd sizes, one row, none at all.
        shapes: problems of an 8B model's size, with their work: compiled ahead of time and measured.
        writes: arguments that are written in place, tensors or lists of them.
        gates: for each kernel that it launches.
        peers: other implementations, by name, for the benchmark; they take the same arguments.
        tolerance: relative Frobenius distances that differ from ``TOLERANCE``.
    """

    name: str
    operator: str
    summary: str
    gpu: str
    reference: Function
    plain: Function
    cases: tuple[Case, ...]
    shapes: tuple[Case, ...]
    writes: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    peers: Mapping[str, Function] = field(default_factory=dict)
    tolerance: Mapping[torch.dtype, float] = field(default_factory=dict)

    def launcher(self) -> Function:
        """The Triton launcher, imported now."""
        return resolve(self.gpu)

    def allowed(self, dtype: torch.dtype) -> float:
        """Relative Frobenius distance from the reference that an output of ``dtype`` may have."""
        return {**TOLERANCE, **self.tolerance}.get(dtype, 0.0)

    def outputs(self, function: Function, arguments: Arguments) -> tuple[Tensor, ...]:
        """What ``function`` returns and writes for ``arguments``, which it may change."""
        result = function(**arguments)
        returned = () if result is None else result if isinstance(result, tuple) else (result,)
        return (*returned, *(tensor for name in self.writes for tensor in tensors_in(arguments[name])))


def tensors_in(value: Any) -> list[Tensor]:
    """A tensor, or those of a list; none in anything else."""
    if isinstance(value, Tensor):
        return [value]
    return [item for item in value if isinstance(item, Tensor)] if isinstance(value, (list, tuple)) else []


def resolve(path: str) -> Function:
    """The function that ``module:function`` names."""
    module, _, name = path.partition(":")
    function: Function = getattr(importlib.import_module(module), name)
    return function
