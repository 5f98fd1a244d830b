"""``python -m kernels list | test [OP] | aot [OP] | bench [OP]``: look at, check, compile and measure operators.

``OP`` is an operator's folder. ``test`` runs in Triton's interpreter, and on the GPU too if there is one. ``aot``
compiles every launch for sm_90a without a GPU, says what the machine code shows, and keeps it in ``results/aot.csv``;
with ``--check`` it leaves the file alone and fails on any difference from it. ``bench`` needs a GPU: it checks, then
measures every operator beside its peers and the device's ceilings, into ``results/<device>.csv`` and ``.md``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from kernels import registry
from kernels.spec import Spec

HERE = Path(__file__).parent
Operator = Annotated[str | None, typer.Argument(metavar="OP", help="folder of an operator; all without it")]

RUN_S = 450.0
"""Of a benchmark over all operators, so that it ends within eight minutes."""

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command("list")
def show() -> None:
    """Every operator, and what computes it, in order of preference."""
    for spec in registry.specs():
        ways = ", ".join(_way(found) for found in registry.implementations(spec.name))
        print(f"{spec.name:24} {spec.summary}\n{'':24} {ways}")


@app.command()
def test(operator: Operator = None) -> None:
    """Run an operator's tests in the interpreter, then on the GPU if there is one."""
    import torch

    _known(operator)
    folder = HERE / operator if operator else HERE
    modes = ["1", *(["0"] if torch.cuda.is_available() else [])]
    for mode in modes:
        print(f"== {'interpreter' if mode == '1' else torch.cuda.get_device_name()}", flush=True)
        environment = {**os.environ, "TRITON_INTERPRET": mode}
        done = subprocess.run([sys.executable, "-m", "pytest", str(folder)], env=environment, check=False)
        if done.returncode:
            raise typer.Exit(done.returncode)


@app.command()
def aot(
    operator: Operator = None,
    check: Annotated[bool, typer.Option(help="compare with the table instead of writing it")] = False,
) -> None:
    """Compile every launch for sm_90a and gfx942, without a GPU."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise typer.BadParameter("TRITON_INTERPRET=1 is set: the interpreter compiles nothing; unset it")
    from kernels.testing import aot as compiler
    from kernels.testing import table

    rows = []
    for spec in _known(operator):
        for row in compiler.compile_spec(spec):
            rows.append(row)
            print(
                f"{row.op:22} {row.case:22} {row.kernel:22} {row.config:40} {row.registers:3} registers "
                f"{row.shared:6} B shared {row.tensor_cores:10} {row.verdict}",
                flush=True,
            )
    failed = [row for row in rows if row.verdict != "ok"]
    if check:
        changed = table.differences(rows)
        print("\n".join(changed) or "as in the table")
        raise typer.Exit(bool(changed or failed))
    ops = {row.op for row in rows}
    table.write([*rows, *(row for row in table.read() if operator and row.op not in ops)])
    print(f"{len(rows)} rows, {len(failed)} failed")
    raise typer.Exit(bool(failed))


@app.command()
def bench(
    operator: Operator = None,
    again: Annotated[bool, typer.Option(help="measure also what the table has from the same code")] = False,
    seconds: Annotated[float, typer.Option(help="after so many nothing more is begun")] = RUN_S,
) -> None:
    """Measure every operator on this machine's GPU; a second run goes on where the first was stopped."""
    specs = _known(operator)
    import torch

    if not torch.cuda.is_available():
        print("there is no CUDA GPU here: nothing was measured, and nothing was written", file=sys.stderr)
        raise typer.Exit(1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise typer.BadParameter("TRITON_INTERPRET=1 is set: the interpreter's times mean nothing; unset it")
    from kernels.testing import bench as measuring

    raise typer.Exit(0 if measuring.measure_gpu(specs, seconds, again=again) else 1)


def _known(operator: str | None) -> list[Spec]:
    if operator is not None and operator not in registry.OPERATORS:
        raise typer.BadParameter(f"no operator {operator!r}; there are: {', '.join(registry.OPERATORS)}")
    return registry.specs(operator)


def _way(found: registry.Implementation) -> str:
    where = "/".join(sorted(found.devices)) or "any device"
    return f"{found.backend} ({where}, {'/'.join(sorted(found.numerics))})"


if __name__ == "__main__":
    app()
