"""What a device can do at most, measured in the same run as the operators, and the least time a problem takes there."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kernels.spec import Work
from kernels.testing.timing import GraphTimer

COPIED_BYTES = 1 << 30
SIZE = 8192
SECONDS = 1.5
NODES = 200
EXPONENTIALS_PER_CLOCK = 16
"""Of a multiprocessor: its special function units."""


@dataclass(frozen=True)
class Ceilings:
    """The rates of one device.

    Attributes:
        copy_bytes_s: bytes read and written by a copy of 1 GiB, in a second.
        matmul_flops_s: of a bfloat16 product of two 8192² matrices.
        matmul_8bit_flops_s: the same of fp8; 0 where torch has none for the device.
        exponentials_s: on the special function units, from clock and count; 0 where the clock is not known.
        node_us: one empty kernel in a CUDA graph: nothing takes less.
        launch_us: one empty kernel launched by the host.
    """

    copy_bytes_s: float
    matmul_flops_s: float
    matmul_8bit_flops_s: float = 0.0
    exponentials_s: float = 0.0
    node_us: float = 0.0
    launch_us: float = 0.0

    def floor_us(self, work: Work) -> float | None:
        """The least time for ``work``: its slowest part at the ceiling; None if it needs a rate that is not known."""
        parts = [
            (work.bytes, self.copy_bytes_s),
            (work.flops, self.matmul_flops_s),
            (work.flops_8bit, self.matmul_8bit_flops_s),
        ]
        if self.exponentials_s:
            parts.append((work.exponentials, self.exponentials_s))
        if any(amount and not rate for amount, rate in parts):
            return None
        return max([self.node_us, *(amount / rate * 1e6 for amount, rate in parts if amount)])


def measure_ceilings(timer: GraphTimer) -> Ceilings:
    """Measure them on the current GPU."""
    return Ceilings(
        copy_bytes_s=2 * COPIED_BYTES / _copy_s(timer),
        matmul_flops_s=2 * SIZE**3 / _matmul_s(timer),
        matmul_8bit_flops_s=_matmul_8bit_flops_s(timer),
        exponentials_s=_exponentials_s(),
        node_us=_node_us(timer),
        launch_us=_launch_us(),
    )


def _copy_s(timer: GraphTimer) -> float:
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return timer.measure([lambda: target.copy_(source)], SECONDS).us * 1e-6


def _matmul_s(timer: GraphTimer) -> float:
    left, right = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return timer.measure([lambda: left @ right], SECONDS).us * 1e-6


def _matmul_8bit_flops_s(timer: GraphTimer) -> float:
    left, right = (torch.randn(SIZE, SIZE, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones((), device="cuda")

    def product() -> torch.Tensor:
        return torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    try:
        return 2 * SIZE**3 / (timer.measure([product], SECONDS).us * 1e-6)
    except (RuntimeError, TypeError, ValueError):
        return 0.0


def _exponentials_s() -> float:
    properties = torch.cuda.get_device_properties()
    clock_hz = float(getattr(properties, "clock_rate", 0)) * 1e3
    return float(properties.multi_processor_count * EXPONENTIALS_PER_CLOCK) * clock_hz


def _node_us(timer: GraphTimer) -> float:
    number = torch.zeros(1, device="cuda")
    return timer.measure([number.zero_] * NODES, SECONDS / 3).us


def _launch_us() -> float:
    number = torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(NODES):
        number.zero_()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / NODES * 1e6
