"""Compiles every launch to machine code without a GPU, and reads from it what decides about speed.

An operator's ordinary launcher runs on meta tensors of an 8B model's shapes; each launch is compiled for the target
instead of run, with the specialisation it would have on the device. That a launcher gets through also shows that it
reads nothing back from the device. Needs Triton without ``TRITON_INTERPRET``, and the tools that its wheel carries.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.numerics import numerics
from kernels.registry import implementations, preferring
from kernels.spec import Case, Gate, Maker, Spec
from kernels.tuned import Config, forced, kernels_of, space

SM90 = GPUTarget("cuda", 90, 32)
GFX942 = GPUTarget("hip", "gfx942", 64)
SHARED_BYTES = 232_448
OPTIONS = ("num_warps", "num_stages")
TENSOR_CORES = ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA")
COUNTED = (*TENSOR_CORES, "LDGSTS", "UTMALDG", "UTMASTG", "USETMAXREG", "LDL", "STL")
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Launch:
    """One kernel as it was compiled.

    Attributes:
        kernel: function name.
        config: that it was launched with, by name.
        compiled: Triton's result, or what went wrong.
    """

    kernel: str
    config: Config
    compiled: Any


@dataclass(frozen=True)
class Code:
    """What the machine code of one launch shows.

    Attributes:
        registers: of a thread.
        stack: bytes of a thread that spilled or are indexed.
        shared: bytes of a block's shared memory.
        wide_loads: whether some global load moves 16 bytes.
        counts: how often the counted instructions occur.
        target: it was compiled for.
    """

    registers: int
    stack: int
    shared: int
    wide_loads: bool
    counts: dict[str, int]
    target: str

    @property
    def tensor_cores(self) -> str:
        """The instructions that multiply matrices, as ``HGMMA*8``."""
        return " ".join(f"{name}*{self.counts[name]}" for name in TENSOR_CORES if self.counts.get(name))


@dataclass(frozen=True)
class Row:
    """A line of the table: one operator, problem, kernel and configuration."""

    op: str
    case: str
    kernel: str
    config: str
    registers: int
    stack: int
    shared: int
    tensor_cores: str
    wide_loads: str
    gfx942: str
    verdict: str


def compile_spec(spec: Spec) -> Iterator[Row]:
    """Every launch of the spec's large problems, as configured, then with each configuration of the table's space.

    The configurations are compiled at the first problem only: they change the code, a problem's size does not. What is
    launched under exact numerics is among the rows if it differs.
    """
    seen: set[tuple[str, str, str]] = set()
    kinds = [kind for kind in ("fast", "exact") if kind in implementations(spec.name)[0].numerics]
    for number, case in enumerate(spec.shapes):
        alternatives = list(_alternatives(spec)) if number == 0 else []
        for kind, config_of in [*((kind, (None, None)) for kind in kinds), *((kinds[0], one) for one in alternatives)]:
            # What a launcher calls in turn must be a GPU's as well, whatever tensors of ``meta`` would take.
            with numerics(kind), preferring("triton") if kind == "exact" else nullcontext():
                rows = _compile_case(spec, case, *config_of)
            for row in rows:
                key = (row.kernel, row.case, row.config)
                if key not in seen:
                    seen.add(key)
                    yield row


def _alternatives(spec: Spec) -> Iterator[tuple[str, Config]]:
    gated = {gate.kernel for gate in spec.gates}
    for kernel in kernels_of(spec.operator):
        if kernel in gated or not gated:
            yield from ((kernel, config) for config in space(spec.operator, kernel))


def _compile_case(spec: Spec, case: Case, kernel: str | None, config: Config | None) -> list[Row]:
    def launches(target: GPUTarget) -> list[Launch]:
        if kernel is None or config is None:
            return compiled(lambda: spec.launcher()(**case.make(Maker("meta"))), target)
        with forced(kernel, config):
            return compiled(lambda: spec.launcher()(**case.make(Maker("meta"))), target)

    others = {(launch.kernel, _written(launch.config)): launch for launch in launches(GFX942)}
    gates = {gate.kernel: gate for gate in spec.gates}
    return [
        _row(spec, case, launch, gates.get(launch.kernel), others.get((launch.kernel, _written(launch.config))))
        for launch in launches(SM90)
        if kernel is None or launch.kernel == kernel
    ]


def _row(spec: Spec, case: Case, launch: Launch, gate: Gate | None, other: Launch | None) -> Row:
    amd = "not reached" if other is None else "ok" if not isinstance(other.compiled, str) else other.compiled
    name, config = launch.kernel, _written(launch.config)
    if isinstance(launch.compiled, str):
        return Row(spec.name, case.name, name, config, 0, 0, 0, "", "", amd, f"does not compile: {launch.compiled}")
    code = read_code(launch.compiled)
    wide = "yes" if code.wide_loads else "no"
    size = (code.registers, code.stack, code.shared)
    verdict = "; ".join(failures(code, gate)) or "ok"
    return Row(spec.name, case.name, name, config, *size, code.tensor_cores, wide, amd, verdict)


def failures(code: Code, gate: Gate | None) -> list[str]:
    """Why the code does not pass; empty if it does."""
    gate = gate or Gate("", wide_loads=False)
    wanted = gate.tensor_cores
    checks = {
        f"compiled for {code.target}": code.target != "sm_90a",
        f"{code.stack} bytes of stack": code.stack > 0,
        "spills": bool(code.counts.get("LDL") or code.counts.get("STL")),
        f"{code.shared} bytes of shared memory": code.shared > SHARED_BYTES,
        f"{code.registers} registers": code.registers > gate.max_registers,
        "no load of 16 bytes": gate.wide_loads and not code.wide_loads,
        f"none of {', '.join(wanted)}": bool(wanted) and not any(code.counts.get(name) for name in wanted),
    }
    return [reason for reason, failed in checks.items() if failed]


def compiled(work: Callable[[], Any], target: GPUTarget = SM90) -> list[Launch]:
    """Every kernel that ``work`` launches, compiled for ``target`` instead of run."""
    launches: list[Launch] = []
    with _instead_of_running(target, launches):
        work()
    return launches


class _Target:
    """What Triton asks of a driver before a launch."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        return None

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def assemble_tensormap_to_arg(self, *arguments: Any) -> Any:
        return arguments


@contextmanager
def _instead_of_running(target: GPUTarget, launches: list[Launch]) -> Iterator[None]:
    before, stock = driver._active, JITFunction.run

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        self.device_caches.clear()
        config = {name: value for name, value in named.items() if name.isupper() or name in OPTIONS}
        try:
            result = stock(self, *arguments, grid=grid, warmup=True, **named)
            result = result.result() if hasattr(result, "result") else result
        except Exception as error:  # noqa: BLE001 - whatever a compiler throws is the row's verdict
            result = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        launches.append(Launch(self.__name__, config, result))

    driver.set_active(_Target(target))
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = stock
        driver._active = before


def read_code(kernel: Any) -> Code:
    """What the machine code of a compiled kernel shows."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    resources = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in COUNTED}
    target = re.search(r"\.target (\S+)", kernel.asm["ptx"])
    return Code(
        registers=resources.get("REG", 0),
        stack=resources.get("STACK", 0),
        shared=int(kernel.metadata.shared),
        wide_loads=bool(re.search(r"\bLDG\S*\.128\b|\bLDGSTS\S*\.128\b|\bUTMALDG\b", code)),
        counts={name: count for name, count in counts.items() if count},
        target=target.group(1).rstrip(",") if target else "",
    )


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([BINARIES / name, *arguments], capture_output=True, text=True, check=True).stdout


def _written(config: Config) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(config.items()))
