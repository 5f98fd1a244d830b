"""Measures operators beside their peers: first whether they are right, then how long they take, within a time.

Each row is on disk as soon as it is known, so that a run that ends early is gone on with by the next. What fails is a
row that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.spec import Arguments, Case, Function, Maker, Spec, Work
from kernels.testing import measured
from kernels.testing.ceilings import Ceilings, measure_ceilings
from kernels.testing.check import check
from kernels.testing.measured import CEILINGS, OURS, Row, Stamp
from kernels.testing.timing import GraphTimer, Timer, Timing

LEAST_S, MOST_S = 0.3, 4.0
"""Seconds that one problem is measured for, over all ways; drawing it and compiling come on top."""

MOST_SETS = 256
USUAL_CACHE = 50 << 20
COMPILED = "torch.compile"
PLAIN = "torch"

Report = Callable[[Row], None]


class DeviceMaker(Maker):
    """Draws on the device: what is measured must be large, and need not be the same everywhere."""

    def __init__(self, device: str | torch.device, seed: int = 0) -> None:
        super().__init__(device, seed)
        self._there = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
        """Normal numbers drawn on the device."""
        # In pieces of rows, so that a float32 copy of a large tensor is never whole in memory.
        values = torch.empty(shape, dtype=dtype, device=self.device)
        for piece in values.split(max(1, (1 << 28) // max(1, values[:1].numel()))) if values.dim() else (values,):
            drawn = torch.randn(piece.shape, generator=self._there, device=self.device)
            piece.copy_((drawn * scale).to(dtype))
        return values

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        """Integers drawn on the device, from ``low`` up to ``high`` - 1."""
        return torch.randint(low, high, shape, generator=self._there, device=self.device).to(dtype)


@dataclass(frozen=True)
class Budget:
    """When a run must be over.

    Attributes:
        ends_s: on the clock of ``time.monotonic``.
    """

    ends_s: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        """From now on."""
        return cls(time.monotonic() + seconds)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be begun."""
        return time.monotonic() >= self.ends_s

    def share(self, problems: int) -> float:
        """Seconds for the next of so many problems. Half of what is left is for drawing and compiling."""
        left = max(0.0, self.ends_s - time.monotonic())
        return min(MOST_S, max(LEAST_S, left / 2 / max(1, problems)))


@dataclass(frozen=True)
class Bench:
    """One run.

    Attributes:
        device: that the tensors are on.
        timer: what measures.
        ceilings: of the device.
        cache_bytes: of its last cache.
        stamp: of the rows.
        path: the file.
        report: told of every row.
    """

    device: str
    timer: Timer
    ceilings: Ceilings
    cache_bytes: int
    stamp: Stamp
    path: Path
    report: Report

    def run(self, specs: Sequence[Spec], budget: Budget, *, again: bool = False) -> bool:
        """Measure what is not in the file yet; False if the time did not suffice, or the device has failed.

        Args:
            specs: in this order.
            budget: after it nothing is begun.
            again: measure also what the file has from the same code and versions.
        """
        self._forget({spec.name for spec in specs}, again=again)
        for row in self._ceiling_rows():
            self._keep(row)
        done = {row.key for row in measured.read(self.path)}
        left = sum(len(problems(spec)) for spec in specs)
        for spec in specs:
            wrong: str | None = None
            checked = False
            for case, work in problems(spec):
                left -= 1
                ways = [way for way in ways_of(spec, case) if (spec.name, case.name, way) not in done]
                if not ways:
                    continue
                if budget.over:
                    return False
                if not checked and OURS in ways:
                    wrong, checked = self._wrong(spec), True
                if not self._measure(spec, case, work, ways, budget.share(left + 1), wrong):
                    return False
        return True

    def _forget(self, ops: set[str], *, again: bool) -> None:
        """Drop rows that are to be measured, and those of other code or versions, of these operators."""
        rows = measured.read(self.path)
        kept = [
            row for row in rows if row.op != CEILINGS and (row.op not in ops or (self.stamp.same(row) and not again))
        ]
        measured.write(kept, self.path)

    def _wrong(self, spec: Spec) -> str | None:
        """What is wrong with the operator on this device; None if all its small problems come out right."""
        for case in spec.cases:
            try:
                check(spec, case, self.device)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the row's verdict
                return f"wrong: {_said(error)}"
        return None

    def _measure(
        self, spec: Spec, case: Case, work: Work, ways: Sequence[str], seconds: float, wrong: str | None
    ) -> bool:
        """Rows for these ways; False if the device does not answer any more, and the rest is for another process."""
        try:
            sets = list(self._sets(case))
        except Exception as error:  # noqa: BLE001
            for way in ways:
                self._keep(self._row(spec.name, case.name, way, f"cannot be drawn: {_said(error)}", None, work))
            return self.timer.usable()
        for way in ways:
            verdict, timing = wrong if way == OURS and wrong else "ok", None
            if verdict == "ok":
                try:
                    timing = self._time(function_of(spec, way), sets, seconds / len(ways))
                except Exception as error:  # noqa: BLE001 - a peer that does not run is a row that says so
                    verdict = f"failed: {_said(error)}"
            self._keep(self._row(spec.name, case.name, way, verdict, timing, work))
            if verdict != "ok" and not self.timer.usable():
                return False
        return True

    def _time(self, function: Function, sets: Sequence[Arguments], seconds: float) -> Timing:
        with torch.no_grad():
            return self.timer.measure([partial(function, **given) for given in sets], seconds)

    def _sets(self, case: Case) -> Iterator[Arguments]:
        """The problem's arguments, copied until they are twice the cache: no call finds its own there."""
        first = case.make(DeviceMaker(self.device))
        yield first
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(first))
        for _ in range(min(MOST_SETS, -(-2 * self.cache_bytes // max(1, size))) - 1):
            yield {name: _copied(value) for name, value in first.items()}

    def _ceiling_rows(self) -> list[Row]:
        found, size = self.ceilings, 8192
        product = {
            "matmul 8192³ bf16": found.matmul_flops_s,
            "matmul 8192³ fp8": found.matmul_8bit_flops_s,
        }
        nothing = Work(0)
        rows = [self._row(CEILINGS, "copy", "torch", "ok", None, nothing, gb_s=found.copy_bytes_s / 1e9)]
        for name, rate in product.items():
            verdict = "ok" if rate else "torch has none for this device"
            us = 2 * size**3 / rate * 1e6 if rate else None
            timing = Timing(us, 0, "graph") if us else None
            rows.append(self._row(CEILINGS, name, "torch", verdict, timing, Work(0, 2 * size**3)))
        for name, us in (("kernel in a graph", found.node_us), ("kernel launched", found.launch_us)):
            rows.append(self._row(CEILINGS, name, "torch", "ok", Timing(us, 0, "graph"), nothing))
        return rows

    def _row(
        self, op: str, case: str, way: str, verdict: str, timing: Timing | None, work: Work, gb_s: float | None = None
    ) -> Row:
        us = timing.us if timing else None
        flops = work.flops + work.flops_8bit
        floor = None if op == CEILINGS else self.ceilings.floor_us(work)
        return Row(
            op, case, way, verdict, us,
            gb_s=work.bytes / us / 1e3 if us and work.bytes else gb_s,
            tflop_s=flops / us / 1e6 if us and flops else None,
            floor_us=floor,
            repeats=timing.repeats if timing else 0,
            how=timing.how if timing else "",
            **{name: getattr(self.stamp, name) for name in ("sources", "torch", "triton", "commit", "date")},
        )  # fmt: skip

    def _keep(self, row: Row) -> None:
        measured.append(row, self.path)
        self.report(row)


def problems(spec: Spec) -> list[tuple[Case, Work]]:
    """The problems of a spec that are measured."""
    return [(case, case.work) for case in spec.shapes if case.work is not None]


def ways_of(spec: Spec, case: Case) -> list[str]:
    """Who solves a problem: we, plain torch, the spec's peers, and at the largest problem plain torch compiled."""
    largest, _ = max(problems(spec), key=lambda problem: problem[1].bytes)
    named = [OURS, PLAIN, *spec.peers]
    if case is largest and not any("compile" in name for name in spec.peers):
        named.append(COMPILED)
    return named


def function_of(spec: Spec, way: str) -> Function:
    """What that way calls."""
    if way == OURS:
        return spec.launcher()
    if way == PLAIN:
        return spec.plain
    if way == COMPILED:
        compiled: Function = torch.compile(spec.plain, dynamic=False)
        return compiled
    return spec.peers[way]


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(_copied(item) for item in value) if type(value) in (list, tuple) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inside for tensor in _tensors(item)]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def measure_gpu(specs: Sequence[Spec], seconds: float, *, again: bool) -> bool:
    """Measure on the current GPU, into its files; False if it must be gone on with."""
    budget, timer = Budget.of(seconds), GraphTimer()
    device = torch.cuda.get_device_name()
    path = measured.path_of(device)
    cache = int(getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0)) or USUAL_CACHE
    stamp = measured.stamp(datetime.now(UTC).date().isoformat())
    bench = Bench("cuda", timer, measure_ceilings(timer), cache, stamp, path, lambda row: print(_line(row), flush=True))
    complete = bench.run(specs, budget, again=again)
    rows = measured.read(path)
    measured.write(rows, path)
    path.with_suffix(".md").write_text(measured.markdown(rows, device), encoding="utf-8")
    print(f"{path} and {path.with_suffix('.md').name}{'' if complete else '; not all of it: run it again to go on'}")
    return complete


def _line(row: Row) -> str:
    figure = "" if row.us is None else f"{row.us:10.1f} µs"
    rate = f"{row.gb_s:8.0f} GB/s" if row.gb_s else ""
    floor = f"{100 * row.floor_us / row.us:4.0f} % of floor" if row.floor_us and row.us else ""
    return f"{row.op:26} {row.case:28} {row.way:20} {figure} {rate} {floor} {row.verdict if row.us is None else ''}"
